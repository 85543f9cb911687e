/**
 * Which states of a folder a power cut may leave, by what POSIX promises and what the filesystems
 * do that pools are kept on. Nothing is taken from the simulated disk, so that a mistake about the
 * world made there is not made again here.
 *
 * **Data.** A write changes pages of the page cache. The kernel writes any dirty page back whenever
 * it likes, as it is then. So, a page at a time, the disk holds the page as it was at the last
 * fsync that completed or as it was after any later write; which one has nothing to do with other
 * pages, of the same write even. A page may be on its way when the power fails: then each sector of
 * 512 bytes is of either of two such states. fsync(2) and fdatasync(2) cover what was written
 * before they were *called*, and only once they have returned 0.
 *
 * **Size.** It follows the data (delayed allocation: ext4 and XFS move the size on disk when the
 * data is there). A page within the size that was never written back reads as zeros.
 *
 * **Holes.** Punching is a transaction of the filesystem, or several, one extent after another: a
 * part of the range from either end may be gone. A page is then a hole or not, never torn.
 *
 * **Names.** Creating, renaming and removing happen whole or not at all. POSIX makes them durable
 * by an fsync of the folder that began after they had returned. Two rules for what is not:
 *
 * - *in order*, as of a journal (ext4, XFS): transactions become durable in the order they were
 *   made, those before a durable one included; and the fsync of a new file takes its name along.
 * - *at will*, as POSIX leaves it and a log tree (btrfs) comes close to it: each on its own, but
 *   never one without an earlier one that it needs, that is, of the same name.
 *
 * Space that was allotted (fallocate) and no data follows the rule of names.
 */
import type { TracedChange, TracedSync, TraceEntry } from './power-trace.ts'

export const PAGE_BYTES = 4096

/** What a page held from some moment on. */
export interface PageState {
  /** Moment of the change; -1: since before. */
  at: number
  /** Null: a hole. */
  bytes: Uint8Array | null
  /** Of a punch: the number of its transaction. */
  punch: number | null
}

export class CutFile {
  readonly number: number
  /** At least one state of each page that ever held anything; the first of them is durable. */
  readonly pages: Map<number, PageState[]> = new Map()
  /** Pages of more than one state. */
  readonly dirtyPages: Set<number> = new Set()
  /** (moment, size) of every growth; the first is durable. */
  sizes: { at: number; sizeBytes: number }[] = [{ at: -1, sizeBytes: 0 }]
  /** Allotted from the start of the file on, and durably so. */
  allottedBytes = 0

  constructor(number: number) {
    this.number = number
  }

  get sizeBytes(): number {
    return this.sizes[this.sizes.length - 1].sizeBytes
  }

  write(at: number, offsetBytes: number, bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length;) {
      const within = (offsetBytes + done) % PAGE_BYTES
      const count = Math.min(PAGE_BYTES - within, bytes.length - done)
      const pageIndex = (offsetBytes + done - within) / PAGE_BYTES
      const part = bytes.subarray(done, done + count)
      this.#push(pageIndex, { at, bytes: this.#patched(pageIndex, within, part), punch: null })
      done += count
    }
    const endBytes = offsetBytes + bytes.length
    if (endBytes > this.sizeBytes) this.sizes.push({ at, sizeBytes: endBytes })
  }

  punch(at: number, punch: number, firstPage: number, endPage: number): void {
    for (const [pageIndex, states] of this.pages) {
      const isThere = states[states.length - 1].bytes !== null
      const isWithin = pageIndex >= firstPage && pageIndex < endPage
      if (isWithin && isThere) this.#push(pageIndex, { at, bytes: null, punch })
    }
  }

  /** Everything before `at` is durable, but for punches that, says `isOpen`, had not ended. */
  sync(at: number, isOpen: (punch: number) => boolean): void {
    for (const pageIndex of this.dirtyPages) {
      const states = this.pages.get(pageIndex) ?? []
      let base = 0
      for (let i = 1; i < states.length; i += 1) {
        const { punch } = states[i]
        if (states[i].at > at || (punch !== null && isOpen(punch))) break
        base = i
      }
      states.splice(0, base)
      if (states.length === 1) this.dirtyPages.delete(pageIndex)
    }
    const base = this.sizes.findLastIndex((size) => size.at <= at)
    this.sizes.splice(0, base)
  }

  #push(pageIndex: number, state: PageState): void {
    const states = this.pages.get(pageIndex)
    if (states === undefined) {
      this.pages.set(pageIndex, [{ at: -1, bytes: null, punch: null }, state])
    } else {
      states.push(state)
    }
    this.dirtyPages.add(pageIndex)
  }

  #patched(pageIndex: number, within: number, part: Uint8Array): Uint8Array {
    if (part.length === PAGE_BYTES) return part
    const page = new Uint8Array(PAGE_BYTES)
    const before = this.pages.get(pageIndex)?.at(-1)?.bytes
    if (before !== undefined && before !== null) page.set(before)
    page.set(part, within)
    return page
  }
}

/** One transaction of the filesystem: a change of names, of allotted space, a punch. */
export interface Transaction {
  /** Moment it began: its number. */
  readonly at: number
  readonly what: TracedChange
  /** Moment it had returned; Infinity: not yet. */
  endedAt: number
  isDurable: boolean
}

/** What a name leads to. */
export type Entry = { kind: 'file'; file: CutFile } | { kind: 'folder' }

export class CutDisk {
  /** As of the last durable transaction of each name. */
  readonly durable: Map<string, Entry>
  readonly files: Map<number, CutFile> = new Map()
  /** Those that are not durable, in the order they began, and durable ones between them. */
  transactions: Transaction[] = []
  /** What is before it is durable where a journal is kept in order. */
  journalAt = -1
  readonly #entries: readonly TraceEntry[]
  readonly #refused: Set<number> = new Set()
  #at = 0

  /** `durable`: what is there at the beginning, all of it durable. */
  constructor(entries: readonly TraceEntry[], durable: ReadonlyMap<string, Entry> = new Map()) {
    this.#entries = entries
    this.durable = new Map(durable)
    for (const entry of durable.values()) {
      if (entry.kind === 'file') this.files.set(entry.file.number, entry.file)
    }
    for (const entry of entries) {
      if (entry.kind === 'end' && !entry.isDone) this.#refused.add(entry.of)
    }
  }

  /** Goes on to the moment before entry `at`. */
  advance(at: number): void {
    for (; this.#at < at; this.#at += 1) {
      const entry = this.#entries[this.#at]
      if (entry.kind === 'begin') this.#begin(this.#at, entry.what)
      else if (entry.kind === 'end' && entry.isDone) this.#end(entry.of)
    }
  }

  #begin(at: number, what: TracedChange | TracedSync): void {
    if (this.#refused.has(at) || what.kind === 'sync' || what.kind === 'syncdir') return
    if (what.kind === 'write') {
      this.#file(what.file).write(at, what.offsetBytes, what.bytes)
      return
    }
    if (what.kind === 'create') this.files.set(what.file, new CutFile(what.file))
    if (what.kind === 'punch') {
      const firstPage = Math.ceil(what.offsetBytes / PAGE_BYTES)
      const endPage = Math.floor((what.offsetBytes + what.lengthBytes) / PAGE_BYTES)
      this.#file(what.file).punch(at, at, firstPage, endPage)
    }
    this.transactions.push({ at, what, endedAt: Infinity, isDurable: false })
  }

  #end(begunAt: number): void {
    const entry = this.#entries[begunAt]
    if (entry.kind !== 'begin') return
    const { what } = entry
    if (what.kind === 'sync') this.#sync(begunAt, what.file)
    else if (what.kind === 'syncdir') this.#syncFolder(begunAt, what.path)
    const transaction = this.transactions.find((one) => one.at === begunAt)
    if (transaction !== undefined) transaction.endedAt = this.#at
  }

  #sync(begunAt: number, number: number): void {
    const file = this.#file(number)
    const isOpen = (punch: number): boolean =>
      this.transactions.some((one) => one.at === punch && one.endedAt > begunAt)
    file.sync(begunAt, isOpen)
    for (const one of this.transactions) {
      const { what } = one
      if (one.endedAt > begunAt || !('file' in what) || what.file !== number) continue
      // Its name is not promised by POSIX; see "in order".
      this.journalAt = Math.max(this.journalAt, one.at)
      if (what.kind === 'create') continue
      one.isDurable = true
      if (what.kind === 'allocate') allot(file, what.offsetBytes + what.lengthBytes)
    }
    this.#forget()
  }

  #syncFolder(begunAt: number, path: string): void {
    for (const one of this.transactions) {
      if (one.isDurable || one.endedAt > begunAt) continue
      if (!('path' in one.what) || folderOf(one.what.path) !== path) continue
      one.isDurable = true
      this.journalAt = Math.max(this.journalAt, one.at)
      applyNames(this.durable, one.what, this.files)
    }
    this.#forget()
  }

  #forget(): void {
    this.transactions = this.transactions.filter((one) => !one.isDurable)
  }

  #file(number: number): CutFile {
    const file = this.files.get(number)
    if (file === undefined) throw new Error(`file ${number} was never made`)
    return file
  }
}

function allot(file: CutFile, endBytes: number): void {
  file.allottedBytes = Math.max(file.allottedBytes, endBytes)
}

export function folderOf(path: string): string {
  const slash = path.lastIndexOf('/')
  return slash < 0 ? '' : path.slice(0, slash)
}

/** What a change does to names, whatever else it does. */
export function applyNames(
  names: Map<string, Entry>,
  what: TracedChange,
  files: ReadonlyMap<number, CutFile>,
): void {
  if (what.kind === 'create') {
    const file = files.get(what.file)
    if (file !== undefined) names.set(what.path, { kind: 'file', file })
  } else if (what.kind === 'mkdir') {
    names.set(what.path, { kind: 'folder' })
  } else if (what.kind === 'remove') {
    names.delete(what.path)
  } else if (what.kind === 'rename') {
    const entry = names.get(what.path)
    names.delete(what.path)
    if (entry !== undefined) names.set(what.to, entry)
  }
}
