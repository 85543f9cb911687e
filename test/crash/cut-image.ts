/** One of the states that a power cut may leave, drawn by a seed; and it as a real folder. */
import { closeSync, ftruncateSync, mkdirSync, openSync, writevSync } from 'node:fs'
import { join } from 'node:path'
import type { Prng } from '../../src/base/prng.ts'
import type { Io } from '../../src/io/io.ts'
import type { CutDisk, CutFile, Entry, PageState, Transaction } from './cut-disk.ts'
import { PAGE_BYTES, applyNames, folderOf } from './cut-disk.ts'

const SECTOR_BYTES = 512
const SECTORS_PER_PAGE = PAGE_BYTES / SECTOR_BYTES
/** IOV_MAX of Linux. */
const PIECES_PER_CALL_MAX = 1024

/** How luck was distributed, of all that was not durable. */
export interface CutStyle {
  /** Names as a journal keeps them, or each on its own. */
  namesInOrder: boolean
  /** Chance of a transaction; in order, where the journal ends. */
  nameChance: number
  /**
   * `each`: any state of any page. `until`: all was written back up to some moment, nothing after.
   * `one-lost`, `one-kept`: all pages are as last written but one, or as last synced but one.
   */
  data: 'none' | 'all' | 'each' | 'until' | 'one-lost' | 'one-kept'
  pageChance: number
  /** That a page with several states was on its way. */
  tornChance: number
}

export interface ImageFile {
  sizeBytes: number
  allottedBytes: number
  pages: Map<number, Uint8Array>
}

/** By path; parents come before what is in them. */
export interface Image {
  folders: string[]
  files: Map<string, ImageFile>
}

export function drawStyle(prng: Prng): CutStyle {
  return {
    namesInOrder: prng.chance(0.5),
    nameChance: prng.pick([0, 0.2, 0.5, 0.8, 1]),
    data: prng.pick(['none', 'all', 'each', 'each', 'until', 'until', 'one-lost', 'one-kept']),
    pageChance: prng.pick([0.1, 0.5, 0.9]),
    tornChance: prng.pick([0, 0.05, 0.5]),
  }
}

/** `at`: the moment of the cut, to which `disk` has advanced. */
export function cutImage(disk: CutDisk, at: number, style: CutStyle, prng: Prng): Image {
  const kept = drawTransactions(disk, style, prng)
  const names = new Map(disk.durable)
  const punched: Punched = new Map()
  const allotted = new Map<number, number>()
  for (const one of disk.transactions) {
    const { what } = one
    if (what.kind === 'punch') punched.set(one.at, drawPunch(kept.has(one), what, prng))
    if (!kept.has(one)) continue
    if (what.kind === 'allocate') allotted.set(what.file, what.offsetBytes + what.lengthBytes)
    applyNames(names, what, disk.files)
  }
  const image: Image = { folders: [], files: new Map() }
  const paths = [...names.keys()].sort()
  const isThere = (folder: string): boolean => folder === '' || image.folders.includes(folder)
  const drawing = new PageDrawing(style, prng, punched, at)
  const files: [string, CutFile][] = []
  for (const path of paths) {
    const entry = names.get(path) as Entry
    // The folder itself is there; what was in one that was lost is not.
    if (path === '' || !isThere(folderOf(path))) continue
    if (entry.kind === 'folder') image.folders.push(path)
    else files.push([path, entry.file])
  }
  drawing.chooseOne(files.map(([, file]) => file))
  for (const [path, file] of files) {
    const allottedBytes = Math.max(file.allottedBytes, allotted.get(file.number) ?? 0)
    image.files.set(path, { ...drawing.draw(file), allottedBytes })
  }
  return image
}

function drawTransactions(disk: CutDisk, style: CutStyle, prng: Prng): ReadonlySet<Transaction> {
  const kept = new Set<Transaction>()
  if (style.namesInOrder) {
    const open = disk.transactions.filter((one) => one.at > disk.journalAt)
    for (const one of disk.transactions) if (one.at <= disk.journalAt) kept.add(one)
    const count = style.nameChance === 0.5 ? prng.below(open.length + 1) : open.length
    const end = style.nameChance === 0 ? 0 : count
    for (const one of open.slice(0, end)) kept.add(one)
    return kept
  }
  const lostNames = new Set<string>()
  for (const one of disk.transactions) {
    const { what } = one
    const names = 'path' in what ? [what.path, ...('to' in what ? [what.to] : [])] : []
    const isPossible = names.every((name) => !lostNames.has(name))
    if (isPossible && prng.chance(style.nameChance)) kept.add(one)
    else for (const name of names) lostNames.add(name)
  }
  return kept
}

/** Pages that a punch has reached: from `first` to before `end`. */
type Punched = Map<number, { first: number; end: number }>

function drawPunch(
  isKept: boolean,
  { offsetBytes, lengthBytes }: { offsetBytes: number; lengthBytes: number },
  prng: Prng,
): { first: number; end: number } {
  const first = offsetBytes / PAGE_BYTES
  const end = (offsetBytes + lengthBytes) / PAGE_BYTES
  if (isKept) return { first, end }
  const within = first + prng.below(end - first + 1)
  return prng.pick([
    { first, end: first },
    { first, end: within },
    { first: within, end },
  ])
}

class PageDrawing {
  readonly #style: CutStyle
  readonly #prng: Prng
  readonly #punched: Punched
  /** Of `until`. */
  readonly #untilAt: number
  /** Of `one-lost` and `one-kept`. */
  #one: { file: CutFile; pageIndex: number } | null = null

  constructor(style: CutStyle, prng: Prng, punched: Punched, at: number) {
    this.#style = style
    this.#prng = prng
    this.#punched = punched
    // Mostly shortly before the cut: what is older is durable anyway.
    this.#untilAt = at - prng.below(Math.min(at, prng.pick([5, 50, 500])) + 1)
  }

  chooseOne(files: readonly CutFile[]): void {
    const dirty = files.filter((file) => file.dirtyPages.size > 0)
    if (dirty.length === 0) return
    const file = this.#prng.pick(dirty)
    this.#one = { file, pageIndex: this.#prng.pick([...file.dirtyPages]) }
  }

  draw(file: CutFile): { sizeBytes: number; pages: Map<number, Uint8Array> } {
    const pages = new Map<number, Uint8Array>()
    let { sizeBytes } = file.sizes[0]
    for (const [pageIndex, states] of file.pages) {
      if (states.length === 1) {
        const { bytes } = states[0]
        if (bytes !== null) pages.set(pageIndex, bytes)
        continue
      }
      const { bytes, newest } = this.#drawPage(file, pageIndex, states)
      if (bytes === null) continue
      pages.set(pageIndex, bytes)
      if (newest.at < 0 || newest === states[0]) continue
      const known = file.sizes.findLast((size) => size.at <= newest.at)?.sizeBytes ?? 0
      sizeBytes = Math.max(sizeBytes, Math.min((pageIndex + 1) * PAGE_BYTES, known))
    }
    return { sizeBytes, pages }
  }

  /** `newest`: the latest state that any sector is of. */
  #drawPage(
    file: CutFile,
    pageIndex: number,
    states: readonly PageState[],
  ): { bytes: Uint8Array | null; newest: PageState } {
    const { lowest, highest } = this.#allowed(pageIndex, states)
    const chosen = this.#choose(file, pageIndex, states, lowest, highest)
    const isTorn = highest > lowest && this.#prng.chance(this.#style.tornChance)
    if (!isTorn) return { bytes: states[chosen].bytes, newest: states[chosen] }
    const later = chosen > lowest ? chosen : this.#prng.between(lowest + 1, highest)
    const earlier = this.#prng.between(lowest, later - 1)
    const newest = states[later]
    if (newest.bytes === null) return { bytes: null, newest }
    return { bytes: this.#mixed(states[earlier].bytes, newest.bytes), newest }
  }

  /** Between the last punch that has reached the page and the first that has not. */
  #allowed(pageIndex: number, states: readonly PageState[]): { lowest: number; highest: number } {
    let lowest = 0
    let highest = states.length - 1
    for (const [index, { punch }] of states.entries()) {
      if (index === 0 || punch === null) continue
      const range = this.#punched.get(punch)
      // No longer among the transactions: durable.
      if (range === undefined || (pageIndex >= range.first && pageIndex < range.end)) {
        lowest = index
      } else {
        highest = index - 1
        break
      }
    }
    return { lowest, highest }
  }

  #choose(
    file: CutFile,
    pageIndex: number,
    states: readonly PageState[],
    lowest: number,
    highest: number,
  ): number {
    const isOne = this.#one?.file === file && this.#one.pageIndex === pageIndex
    const { data, pageChance } = this.#style
    if (data === 'none') return lowest
    if (data === 'all') return highest
    if (data === 'one-lost') return isOne ? lowest : highest
    if (data === 'one-kept') return isOne ? highest : lowest
    if (data === 'until') {
      const index = states.findLastIndex((state) => state.at <= this.#untilAt)
      return Math.min(highest, Math.max(lowest, index))
    }
    return this.#prng.chance(pageChance) ? this.#prng.between(lowest, highest) : lowest
  }

  #mixed(earlier: Uint8Array | null, later: Uint8Array): Uint8Array {
    const mixed = new Uint8Array(PAGE_BYTES)
    if (earlier !== null) mixed.set(earlier)
    const sectors = this.#prng.between(1, 2 ** SECTORS_PER_PAGE - 2)
    for (let sector = 0; sector < SECTORS_PER_PAGE; sector += 1) {
      if ((sectors & (1 << sector)) === 0) continue
      const start = sector * SECTOR_BYTES
      mixed.set(later.subarray(start, start + SECTOR_BYTES), start)
    }
    return mixed
  }
}

/** Makes a real folder of it; `folder` must not exist. */
export async function writeImage(io: Io, image: Image, folder: string): Promise<void> {
  mkdirSync(folder)
  for (const path of image.folders) mkdirSync(join(folder, path))
  for (const [path, file] of image.files) {
    const fd = openSync(join(folder, path), 'wx', 0o600)
    try {
      for (const { startPage, pieces } of runsOf(file.pages)) {
        writevSync(fd, pieces, startPage * PAGE_BYTES)
      }
      ftruncateSync(fd, file.sizeBytes)
    } finally {
      closeSync(fd)
    }
    if (file.allottedBytes > 0) await allot(io, join(folder, path), file.allottedBytes)
  }
}

async function allot(io: Io, path: string, lengthBytes: number): Promise<void> {
  const file = await io.open(path, 'write')
  try {
    await io.allocate(file, 0, lengthBytes)
  } finally {
    await io.close(file)
  }
}

/** Pages that lie one behind the other, as many as one call takes. */
function* runsOf(
  pages: ReadonlyMap<number, Uint8Array>,
): Generator<{ startPage: number; pieces: Uint8Array[] }> {
  let startPage = 0
  let pieces: Uint8Array[] = []
  for (const pageIndex of [...pages.keys()].sort((a, b) => a - b)) {
    const isNext = pageIndex === startPage + pieces.length && pieces.length < PIECES_PER_CALL_MAX
    if (!isNext) {
      if (pieces.length > 0) yield { startPage, pieces }
      startPage = pageIndex
      pieces = []
    }
    pieces.push(pages.get(pageIndex) as Uint8Array)
  }
  if (pieces.length > 0) yield { startPage, pieces }
}
