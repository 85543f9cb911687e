/**
 * A simulated disk: folders and files that survive a crash only as far as they were synced.
 *
 * Names are seen twice like data: each folder has the entries that running code sees and the ones
 * that survive. A creation, rename or removal is one change; a rename is atomic. After a crash
 * each change not covered by a folder sync has happened or not, independently, except that
 * changes to one name keep their order. A file sync does not make the file's name durable.
 *
 * Faults are plain data and can be combined; each says itself in the trace when it strikes.
 */
import { assert } from '../base/assert.ts'
import { Errno, OperatingError } from '../base/errors.ts'
import type { Prng } from '../base/prng.ts'
import { SIM_PAGE_BYTES, SimFileData } from './sim-file.ts'
import type { SimDoom, SimLossPolicy, SimSpace } from './sim-file.ts'

/**
 * Something that goes wrong. It strikes operations on paths that contain `path` (empty: all),
 * after letting `skip` of them pass, `times` times.
 */
export type SimFault = { path: string; skip: number; times: number } & (
  | { kind: 'write-error'; errno: number }
  | { kind: 'sync-error'; errno: number }
  | { kind: 'read-error'; errno: number; offsetBytes: number; lengthBytes: number }
  /** A page of the write is answered for by the next sync, and then not what was written. */
  | { kind: 'lost-write' | 'torn-write' | 'misdirected-write' }
)

type DoomKind = 'lost-write' | 'torn-write' | 'misdirected-write'
const DOOM_KINDS: readonly DoomKind[] = ['lost-write', 'torn-write', 'misdirected-write']

const BY_FILE_CHANCE = 0.2

export interface SimCrashOptions {
  /** `power`: what was not synced is at the mercy of the seed; `process`: the page cache stays. */
  kind: 'power' | 'process'
  /** How a power failure treats what was not synced; absent: as is drawn. */
  loss?: SimLossPolicy
}

interface FolderNode {
  kind: 'folder'
  entries: Map<string, SimNode>
  durableEntries: Map<string, SimNode>
}

export interface FileNode {
  kind: 'file'
  data: SimFileData
}

type SimNode = FolderNode | FileNode

interface NameSlot {
  folder: FolderNode
  name: string
  /** What the name leads to after the change; null removes it. */
  node: SimNode | null
}

interface NameChange {
  slots: NameSlot[]
}

function fail(errno: number, path: string): OperatingError {
  const name = Object.entries(Errno).find(([, value]) => value === errno)?.[0] ?? `errno ${errno}`
  const code = errno === Errno.ENOENT ? 'not-found' : errno === Errno.EEXIST ? 'exists' : 'io'
  return new OperatingError(errno === Errno.ENOSPC ? 'no-space' : code, `${name}: ${path}`, {
    errno,
    hint: 'this is a simulated disk; see its trace',
  })
}

function newFolder(): FolderNode {
  return { kind: 'folder', entries: new Map(), durableEntries: new Map() }
}

/** Draws how a power failure treats what was not synced; every crash has a character of its own. */
function drawLoss(prng: Prng): SimLossPolicy {
  return {
    grain: prng.pick(['page', 'sector']),
    keepChance: prng.pick([0, 0.1, 0.5, 0.9, 0.99, 1]),
    inOrder: prng.chance(0.4),
  }
}

/** Calm synchronous state; when and whether its results are seen is the business of `SimIo`. */
export class SimDisk {
  #prng: Prng
  readonly #trace: (line: string) => void
  readonly #space: SimSpace
  /** Where removed files are counted: without limit, and nobody asks. */
  readonly #limbo: SimSpace = { usedPages: 0, capacityPages: Infinity }
  readonly #root: FolderNode = newFolder()
  readonly #locks = new Map<string, string>()
  readonly #faults: SimFault[] = []
  #pendingNames: NameChange[] = []
  /** How often faults of each kind have struck. */
  readonly strikeCounts: Map<string, number> = new Map()
  readonly #dooms = new Map<Uint8Array, { kind: DoomKind; path: string }>()
  /** Pages damaged so far. */
  damageCount = 0

  constructor(prng: Prng, capacityBytes: number, trace: (line: string) => void) {
    this.#prng = prng
    this.#trace = trace
    this.#space = { usedPages: 0, capacityPages: Math.floor(capacityBytes / SIM_PAGE_BYTES) }
  }

  get usedBytes(): number {
    return this.#space.usedPages * SIM_PAGE_BYTES
  }

  get capacityBytes(): number {
    return this.#space.capacityPages * SIM_PAGE_BYTES
  }

  /** Space comes and goes while the pool runs; below what is used, nothing new fits. */
  setCapacity(capacityBytes: number): void {
    this.#space.capacityPages = Math.floor(capacityBytes / SIM_PAGE_BYTES)
  }

  /** What the disk draws from now on comes from `prng`. */
  reseed(prng: Prng): void {
    this.#prng = prng
  }

  addFault(fault: SimFault): void {
    this.#faults.push({ ...fault })
  }

  clearFaults(): void {
    this.#faults.length = 0
  }

  /** The errno (positive) of a fault that strikes now, or 0. */
  strike(kind: SimFault['kind'], path: string, offsetBytes = 0, lengthBytes = 0): number {
    for (const fault of this.#faults) {
      if (fault.kind !== kind || fault.times <= 0 || !path.includes(fault.path)) continue
      if (fault.kind === 'read-error') {
        const isApart =
          offsetBytes + lengthBytes <= fault.offsetBytes ||
          offsetBytes >= fault.offsetBytes + fault.lengthBytes
        if (isApart) continue
      }
      if (fault.skip > 0) {
        fault.skip -= 1
        continue
      }
      fault.times -= 1
      const errno = 'errno' in fault ? fault.errno : 0
      this.#say(kind, `fault ${kind} errno=${errno} ${path} at ${offsetBytes}+${lengthBytes}`)
      return errno === 0 ? 1 : errno
    }
    return 0
  }

  /** Faults that strike again and again, and have not yet done so for the last time. */
  get hasFaults(): boolean {
    return this.#faults.some((fault) => fault.times > 0)
  }

  /** Every file that running code sees, by its path. */
  files(): Map<string, FileNode> {
    const found = new Map<string, FileNode>()
    const visit = (folder: FolderNode, path: string): void => {
      for (const [name, node] of folder.entries) {
        if (node.kind === 'folder') visit(node, `${path}/${name}`)
        else found.set(`${path}/${name}`, node)
      }
    }
    visit(this.#root, '')
    return found
  }

  /** Puts `bytes` in the place of a page, as nobody asked; false where that cannot be. */
  damage(kind: string, path: string, pageIndex: number, bytes: Uint8Array): boolean {
    const { data } = this.openFile(path, 'write')
    if (!data.damage(pageIndex, bytes)) return false
    this.damageCount += 1
    this.#say(kind, `${kind}: page ${pageIndex} of ${path} is not what was written`)
    return true
  }

  /** Pages that are not what they should be, by path. */
  damaged(): { path: string; pageIndex: number }[] {
    return [...this.files()].flatMap(([path, { data }]) =>
      data.damagedPages.map((pageIndex) => ({ path, pageIndex })),
    )
  }

  /** Somebody was given bytes that are not what they should be. */
  noteDamagedRead(): void {
    this.strikeCounts.set('damaged-read', (this.strikeCounts.get('damaged-read') ?? 0) + 1)
  }

  /** Puts back what was damaged, also in files that a crash would bring back. */
  heal(): void {
    let pageCount = 0
    const visit = (folder: FolderNode): void => {
      for (const node of [...folder.entries.values(), ...folder.durableEntries.values()]) {
        if (node.kind === 'folder') visit(node)
        else pageCount += node.data.heal()
      }
    }
    visit(this.#root)
    if (pageCount > 0) this.#trace(`healed: ${pageCount} pages`)
  }

  #say(kind: string, line: string): void {
    this.strikeCounts.set(kind, (this.strikeCounts.get(kind) ?? 0) + 1)
    this.#trace(line)
  }

  /** Writes, struck or not; a struck write leaves a random part of itself behind. */
  write(node: FileNode, path: string, offsetBytes: number, bytes: Uint8Array): number {
    const errno = this.strike('write-error', path, offsetBytes, bytes.length)
    if (errno === 0) return this.#writeWhole(node, path, offsetBytes, bytes)
    node.data.write(offsetBytes, bytes.subarray(0, this.#prng.below(bytes.length + 1)))
    return -errno
  }

  #writeWhole(node: FileNode, path: string, offsetBytes: number, bytes: Uint8Array): number {
    const kind = DOOM_KINDS.find(
      (one) => this.#faults.length > 0 && this.strike(one, path, offsetBytes, bytes.length) !== 0,
    )
    if (kind === undefined) return node.data.write(offsetBytes, bytes)
    const firstPage = Math.floor(offsetBytes / SIM_PAGE_BYTES)
    const pageCount = Math.ceil((offsetBytes + bytes.length) / SIM_PAGE_BYTES) - firstPage
    const pageIndex = firstPage + this.#prng.below(Math.max(1, pageCount))
    const wrong = Uint8Array.from(node.data.page(pageIndex) ?? new Uint8Array(SIM_PAGE_BYTES))
    const result = node.data.write(offsetBytes, bytes)
    const written = node.data.page(pageIndex)
    if (kind === 'torn-write' && written !== null) {
      const keptBytes = 512 * this.#prng.between(1, SIM_PAGE_BYTES / 512 - 1)
      wrong.set(written.subarray(0, keptBytes))
    }
    this.#dooms.set(wrong, { kind, path })
    node.data.doom(pageIndex, wrong)
    return result
  }

  /** A sync answers for what will not be there. */
  #strikeDoomed(node: FileNode, { pageIndex, right, wrong }: SimDoom): void {
    const doom = this.#dooms.get(wrong)
    if (doom === undefined || Buffer.compare(right, wrong) === 0) return
    this.#dooms.delete(wrong)
    if (!node.data.damage(pageIndex, wrong)) return
    this.damageCount += 1
    this.#trace(`${doom.kind} revealed: page ${pageIndex} of ${doom.path}`)
    if (doom.kind !== 'misdirected-write') return
    const others = [...this.files()].filter(([, { data }]) => data.sizeBytes >= SIM_PAGE_BYTES)
    const [path, { data }] = this.#prng.pick(others)
    const pages = [...data.pageIndexes]
    if (pages.length === 0) return
    this.damage('misdirected-landing', path, this.#prng.pick(pages), Uint8Array.from(right))
  }

  /** Ends a sync of everything up to `sequence`. */
  sync(node: FileNode, path: string, sequence: number): number {
    const errno = this.strike('sync-error', path)
    if (errno === 0) {
      for (const doom of node.data.commit(sequence)) this.#strikeDoomed(node, doom)
      return 0
    }
    node.data.failCommit(drawLoss(this.#prng), this.#prng)
    return -errno
  }

  openFile(path: string, mode: 'read' | 'write' | 'create'): FileNode {
    const { folder, name } = this.#locate(path)
    const found = folder.entries.get(name)
    if (mode !== 'create') {
      if (found === undefined) throw fail(Errno.ENOENT, path)
      if (found.kind !== 'file') throw fail(Errno.EINVAL, path)
      return found
    }
    if (found !== undefined) throw fail(Errno.EEXIST, path)
    const node: FileNode = { kind: 'file', data: new SimFileData(this.#space) }
    this.#change([{ folder, name, node }])
    return node
  }

  list(path: string): string[] {
    return [...this.#mustFolder(path).entries.keys()].sort()
  }

  createDirectory(path: string): void {
    const { folder, name } = this.#locate(path)
    if (folder.entries.has(name)) throw fail(Errno.EEXIST, path)
    this.#change([{ folder, name, node: newFolder() }])
  }

  rename(from: string, to: string): void {
    const source = this.#locate(from)
    const target = this.#locate(to)
    const node = source.folder.entries.get(source.name)
    if (node === undefined) throw fail(Errno.ENOENT, from)
    if (source.folder === target.folder && source.name === target.name) return
    this.#change([
      { ...source, node: null },
      { ...target, node },
    ])
  }

  remove(path: string): void {
    const { folder, name } = this.#locate(path)
    const node = folder.entries.get(name)
    if (node === undefined) throw fail(Errno.ENOENT, path)
    // ENOTEMPTY has no name in our table: it crosses no interface.
    if (node.kind === 'folder' && node.entries.size > 0) throw fail(39, path)
    this.#change([{ folder, name, node: null }])
  }

  mustExist(path: string): void {
    this.#mustFolder(path)
  }

  /** Makes every change of a name in `path` durable, and what those names depend on. */
  syncDirectory(path: string): void {
    const folder = this.#mustFolder(path)
    const wanted = new Set<NameChange>()
    const later = [...this.#pendingNames].reverse()
    for (const change of later) {
      const isHere = change.slots.some((slot) => slot.folder === folder)
      const isNeeded = [...wanted].some((other) => this.#shareName(change, other))
      if (isHere || isNeeded) wanted.add(change)
    }
    for (const change of this.#pendingNames) if (wanted.has(change)) this.#applyDurable(change)
    this.#pendingNames = this.#pendingNames.filter((change) => !wanted.has(change))
  }

  /** Takes the lock, or returns the text its holder left. */
  tryLock(path: string, holder: string): string | null {
    const held = this.#locks.get(path)
    if (held !== undefined) return held
    const { folder, name } = this.#locate(path)
    if (!folder.entries.has(name)) this.openFile(path, 'create')
    this.#locks.set(path, holder)
    return null
  }

  unlock(path: string): void {
    this.#locks.delete(path)
  }

  /** Everything running is gone, and locks with it; in a power failure also what was not synced. */
  crash(options: SimCrashOptions): void {
    this.#locks.clear()
    this.#dooms.clear()
    if (options.kind === 'process') {
      this.#trace('crash of the process: the page cache stays')
      return
    }
    const loss = options.loss ?? drawLoss(this.#prng)
    // Of some files everything has been written back, and of others nothing.
    const isByFile = options.loss === undefined && this.#prng.chance(BY_FILE_CHANCE)
    this.#trace(
      `power failure: grain=${loss.grain} keep=${isByFile ? 'by file' : loss.keepChance} ` +
        `inOrder=${loss.inOrder} names=${this.#pendingNames.length}`,
    )
    this.#crashNames(loss)
    this.#moveAll(this.#root, this.#limbo)
    this.#adoptDurable(this.#root, () => {
      if (!isByFile) return loss
      return { grain: 'page', inOrder: false, keepChance: this.#prng.pick([0, 1]) }
    })
    this.#moveAll(this.#root, this.#space)
    // What was freed and comes back has been taken by nobody: a filesystem hands out what was freed
    // once that is durable.
    this.#space.capacityPages = Math.max(this.#space.capacityPages, this.#space.usedPages)
  }

  /** Turns over one bit of a file, in the cache and on the disk. */
  flipBit(path: string, offsetBytes: number, bit: number): void {
    this.#trace(`bit ${bit} flipped in ${path} at ${offsetBytes}`)
    this.openFile(path, 'write').data.flipBit(offsetBytes, bit)
  }

  #crashNames(loss: SimLossPolicy): void {
    const lost: NameChange[] = []
    for (const change of this.#pendingNames) {
      const isOrphan = lost.some((other) => this.#shareName(change, other))
      if (isOrphan || !this.#prng.chance(loss.keepChance)) lost.push(change)
      else this.#applyDurable(change)
    }
    this.#pendingNames = []
  }

  #adoptDurable(folder: FolderNode, lossOfNext: () => SimLossPolicy): void {
    folder.entries = new Map(folder.durableEntries)
    for (const node of folder.entries.values()) {
      if (node.kind === 'folder') this.#adoptDurable(node, lossOfNext)
      else node.data.crash(lossOfNext(), this.#prng)
    }
  }

  #moveAll(folder: FolderNode, space: SimSpace): void {
    for (const node of folder.entries.values()) {
      if (node.kind === 'folder') this.#moveAll(node, space)
      else node.data.moveTo(space)
    }
  }

  #change(slots: NameSlot[]): void {
    for (const { folder, name, node } of slots) {
      const before = folder.entries.get(name)
      if (before?.kind === 'file') before.data.moveTo(this.#limbo)
      if (node === null) folder.entries.delete(name)
      else folder.entries.set(name, node)
      if (node?.kind === 'file') node.data.moveTo(this.#space)
    }
    this.#pendingNames.push({ slots })
  }

  #applyDurable(change: NameChange): void {
    for (const { folder, name, node } of change.slots) {
      if (node === null) folder.durableEntries.delete(name)
      else folder.durableEntries.set(name, node)
    }
  }

  #shareName(left: NameChange, right: NameChange): boolean {
    return left.slots.some((one) =>
      right.slots.some((other) => one.folder === other.folder && one.name === other.name),
    )
  }

  #mustFolder(path: string): FolderNode {
    let node: SimNode = this.#root
    for (const part of path.split('/').filter((piece) => piece !== '')) {
      if (node.kind !== 'folder') throw fail(20, path)
      const next = node.entries.get(part)
      if (next === undefined) throw fail(Errno.ENOENT, path)
      node = next
    }
    if (node.kind !== 'folder') throw fail(20, path)
    return node
  }

  #locate(path: string): { folder: FolderNode; name: string } {
    assert(path.startsWith('/'), `a simulated path is absolute: ${path}`)
    const parts = path.split('/').filter((piece) => piece !== '')
    const name = parts.pop()
    if (name === undefined) throw fail(Errno.EINVAL, path)
    return { folder: this.#mustFolder(parts.join('/')), name }
  }
}
