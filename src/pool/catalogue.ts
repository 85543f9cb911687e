/**
 * Everything that has a name, in memory, and the one function that changes it: `apply`, used
 * alike when an operation has just been journalled and when recovery replays it. It decides
 * nothing: who calls it has checked that the operation is allowed.
 */
import { BLOCK_SIZE_BYTES } from '../base/units.ts'
import type { CatalogueLine, CatalogueOperation, DiskState } from '../format/catalogue.ts'
import { SHARED_ZERO, catalogueCorrupt, sharedCount } from '../format/catalogue.ts'
import { KIND_UNMAPPED, KIND_ZERO } from '../format/node.ts'
import { EntryKind, grownSizeBytes } from '../format/record.ts'
import { emptyRoot, rootAddress, rootAt } from '../map/map-root.ts'
import type { MapRoot } from '../map/map-root.ts'
import type { PageTables } from '../map/page-tables.ts'
import { Disk } from './disk.ts'

type CreateOperation = Extract<CatalogueOperation, { op: 'create' }>
type SnapshotOperation = Extract<CatalogueOperation, { op: 'snapshot' }>
type ShareOperation = Extract<CatalogueOperation, { op: 'share' }>
type CloneOperation = Extract<CatalogueOperation, { op: 'clone' }>

export class Catalogue {
  readonly #tables: PageTables
  readonly #disks: Map<number, Disk> = new Map()
  readonly #volumes: Map<string, Disk> = new Map()
  /** Ids that went since the last checkpoint and that it knows. */
  #removedIds: number[] = []
  #nextEpoch = 1
  #nextDiskId = 1
  readonly #clock: () => number
  /** What changed disks are stamped with. */
  #nowMs: number

  /** `clock` tells milliseconds since 1970. */
  constructor(tables: PageTables, clock: () => number) {
    this.#tables = tables
    this.#clock = clock
    this.#nowMs = wholeMs(clock())
  }

  /** Looks at the clock; changes applied from now on happened at this moment. */
  readClock(): void {
    this.#nowMs = wholeMs(this.#clock())
  }

  get nextDiskId(): number {
    return this.#nextDiskId
  }

  reserveIdsBelow(nextDiskId: number): void {
    this.#nextDiskId = Math.max(this.#nextDiskId, nextDiskId)
  }

  /** A number no map state had before. */
  newEpoch(): number {
    const epoch = this.#nextEpoch
    this.#nextEpoch += 1
    return epoch
  }

  /** Volumes by name. */
  volumes(): Disk[] {
    return [...this.#volumes.values()].sort((a, b) => (a.name < b.name ? -1 : 1))
  }

  disks(): IterableIterator<Disk> {
    return this.#disks.values()
  }

  get diskCount(): number {
    return this.#disks.size
  }

  tryDisk(id: number): Disk | null {
    return this.#disks.get(id) ?? null
  }

  /** The disk is there, and shares no more than when `shareCount` was its count. */
  isUnshared(disk: Disk, shareCount: number): boolean {
    return this.tryDisk(disk.id) === disk && disk.shareCount === shareCount
  }

  tryVolume(name: string): Disk | null {
    return this.#volumes.get(name) ?? null
  }

  /** `volume` or `volume@snapshot`. */
  nameOf(disk: Disk): string {
    if (!disk.isSnapshot) return disk.name
    return `${this.#mustDisk(disk.volumeId).name}@${disk.name}`
  }

  /** Blocks, a range or a size of a record entry. The map's nodes must be resident. */
  applyEntry(
    diskId: number,
    kind: number,
    blockIndex: number,
    count: number,
    segment: number,
    slot: number,
  ): void {
    const disk = this.#mustDisk(diskId)
    this.#noteModified(disk)
    if (kind === EntryKind.data) {
      this.#tables.setBlocks(disk.root, disk.epoch, blockIndex, count, segment, slot)
    } else if (kind === EntryKind.grow) {
      disk.sizeBytes = Math.max(disk.sizeBytes, grownSizeBytes(blockIndex, count))
    } else {
      const mapKind = kind === EntryKind.zero ? KIND_ZERO : KIND_UNMAPPED
      this.#tables.setKind(disk.root, disk.epoch, blockIndex, count, mapKind)
    }
  }

  /** Blocks that an operation changes, which must be resident first; null for most operations. */
  changedBy(
    operation: CatalogueOperation,
  ): { disk: Disk; blockIndex: number; count: number } | null {
    if (operation.op === 'share') {
      const { id, blockIndex, runs } = operation
      return { disk: this.#mustDisk(id), blockIndex, count: sharedCount(runs) }
    }
    if (operation.op !== 'resize') return null
    const disk = this.#mustDisk(operation.id)
    const blockIndex = Math.ceil(operation.sizeBytes / BLOCK_SIZE_BYTES)
    const count = disk.blockCount - blockIndex
    return count > 0 ? { disk, blockIndex, count } : null
  }

  apply(operation: CatalogueOperation): void {
    switch (operation.op) {
      case 'create':
        this.#applyCreate(operation)
        return
      case 'snapshot':
        this.#applySnapshot(operation)
        return
      case 'clone':
        this.#applyClone(operation)
        return
      case 'restore':
        this.#applyRestore(operation.volumeId, operation.snapshotId)
        return
      case 'remove':
        for (const id of operation.ids) this.#remove(this.#mustDisk(id))
        return
      case 'rename':
        this.#applyRename(this.#mustDisk(operation.id), operation.name)
        return
      case 'resize':
        this.#applyResize(operation)
        return
      case 'share':
        this.#applyShare(operation)
        return
      case 'hold':
      case 'release': {
        const disk = this.#mustDisk(operation.id)
        disk.changed = true
        if (operation.op === 'hold') disk.holds.add(operation.tag)
        else disk.holds.delete(operation.tag)
      }
    }
  }

  /** Takes in a line of a checkpointed catalogue part, oldest part first. */
  load(line: CatalogueLine): void {
    if ('removed' in line) {
      for (const id of line.removed) {
        const disk = this.#disks.get(id)
        if (disk !== undefined) this.#forget(disk)
      }
      return
    }
    const state = line.disk
    const before = this.#disks.get(state.id)
    const root = state.root === null ? emptyRoot() : rootAt(state.root[0], state.root[1])
    const disk = new Disk(state, root, this.newEpoch())
    disk.changed = false
    if (before !== undefined) {
      for (const [name, snapshot] of before.snapshots) disk.snapshots.set(name, snapshot)
      this.#forget(before)
    }
    this.#add(disk)
  }

  /** What must hold of all that was loaded. Throws `catalogue-corrupt`. */
  verify(): void {
    for (const disk of this.#disks.values()) {
      if (this.#siblings(disk).get(disk.name) === disk) continue
      throw catalogueCorrupt(`two disks are named "${disk.name}"`)
    }
  }

  /** Lines of every disk, or of those that changed since the last checkpoint. Needs clean maps. */
  lines(all: boolean): CatalogueLine[] {
    const lines: CatalogueLine[] = []
    // Volumes before their snapshots, snapshots oldest first: the order `load` needs.
    const order = [...this.#disks.values()].sort(
      (a, b) => Number(a.isSnapshot) - Number(b.isSnapshot) || a.id - b.id,
    )
    for (const disk of order) {
      if (all || disk.changed) lines.push({ disk: stateOf(disk) })
    }
    if (!all && this.#removedIds.length > 0) lines.push({ removed: [...this.#removedIds] })
    return lines
  }

  /** The lines just taken are part of a checkpoint being written. */
  noteCheckpoint(): void {
    for (const disk of this.#disks.values()) disk.changed = false
    this.#removedIds = []
  }

  #applyCreate(operation: CreateOperation): void {
    const { root } = operation
    this.#addNew(
      {
        id: operation.id,
        name: operation.name,
        kind: 'volume',
        volumeId: operation.id,
        sizeBytes: operation.sizeBytes,
        createdMs: operation.createdMs,
        modifiedMs: operation.createdMs,
        originId: null,
        labels: operation.labels,
        holds: [],
      },
      root === null ? emptyRoot() : rootAt(root[0], root[1]),
    )
  }

  #applySnapshot(operation: SnapshotOperation): void {
    for (const { id, volumeId, name } of operation.snapshots) {
      const volume = this.#mustVolume(volumeId)
      const root = this.#tables.copyRoot(volume.root)
      volume.epoch = this.newEpoch()
      volume.shareCount += 1
      this.#addNew(
        {
          id,
          name,
          kind: 'snapshot',
          volumeId,
          sizeBytes: volume.sizeBytes,
          createdMs: operation.createdMs,
          modifiedMs: volume.modifiedMs,
          originId: null,
          labels: {},
          holds: [],
        },
        root,
      )
    }
  }

  #applyClone(operation: CloneOperation): void {
    const source = this.#mustDisk(operation.sourceId)
    for (const { id, name } of operation.clones) {
      this.#addNew(
        {
          id,
          name,
          kind: 'volume',
          volumeId: id,
          sizeBytes: source.sizeBytes,
          createdMs: operation.createdMs,
          modifiedMs: operation.createdMs,
          originId: source.id,
          labels: { ...source.labels },
          holds: [],
        },
        this.#tables.copyRoot(source.root),
      )
    }
    source.epoch = this.newEpoch()
    source.shareCount += 1
  }

  #applyRestore(volumeId: number, snapshotId: number): void {
    const volume = this.#mustVolume(volumeId)
    const snapshot = this.#mustDisk(snapshotId)
    if (!snapshot.isSnapshot) throw catalogueCorrupt(`disk id ${snapshotId} is no snapshot`)
    const root = this.#tables.copyRoot(snapshot.root)
    this.#tables.releaseRoot(volume.root)
    volume.root = root
    volume.epoch = this.newEpoch()
    volume.shareCount += 1
    volume.sizeBytes = snapshot.sizeBytes
    this.#noteModified(volume)
  }

  #applyRename(disk: Disk, name: string): void {
    const names = this.#siblings(disk)
    verifyName(name, names)
    names.delete(disk.name)
    disk.name = name
    names.set(name, disk)
    disk.changed = true
  }

  #applyResize(operation: Extract<CatalogueOperation, { op: 'resize' }>): void {
    const unmapped = this.changedBy(operation)
    const disk = this.#mustDisk(operation.id)
    if (unmapped !== null) {
      const { blockIndex, count } = unmapped
      this.#tables.setKind(disk.root, disk.epoch, blockIndex, count, KIND_UNMAPPED)
    }
    disk.sizeBytes = operation.sizeBytes
    this.#noteModified(disk)
  }

  #applyShare({ id, blockIndex, runs }: ShareOperation): void {
    const disk = this.#mustDisk(id)
    const { root, epoch } = disk
    disk.shareCount += 1
    // First of all, so that whole subtrees go unseen and only the ends must be in memory.
    this.#tables.setKind(root, epoch, blockIndex, sharedCount(runs), KIND_UNMAPPED)
    let block = blockIndex
    for (const [count, segment, slot] of runs) {
      if (segment !== 0) this.#tables.setBlocks(root, epoch, block, count, segment, slot)
      else if (slot === SHARED_ZERO) this.#tables.setKind(root, epoch, block, count, KIND_ZERO)
      block += count
    }
    this.#noteModified(disk)
  }

  #noteModified(disk: Disk): void {
    disk.modifiedMs = this.#nowMs
    disk.changed = true
  }

  #addNew(state: Omit<DiskState, 'root'>, root: MapRoot): void {
    if (this.#disks.has(state.id)) throw catalogueCorrupt(`disk id ${state.id} is used twice`)
    const disk = new Disk(state, root, this.newEpoch())
    verifyName(state.name, this.#siblings(disk))
    this.#add(disk)
    this.reserveIdsBelow(state.id + 1)
  }

  #add(disk: Disk): void {
    this.#siblings(disk).set(disk.name, disk)
    this.#disks.set(disk.id, disk)
  }

  /** The disks among which its name is its own. */
  #siblings(disk: Disk): Map<string, Disk> {
    return disk.isSnapshot ? this.#mustVolume(disk.volumeId).snapshots : this.#volumes
  }

  #remove(disk: Disk): void {
    this.#forget(disk)
    this.#tables.releaseRoot(disk.root)
    this.#removedIds.push(disk.id)
  }

  #forget(disk: Disk): void {
    this.#disks.delete(disk.id)
    const names = disk.isSnapshot ? this.#disks.get(disk.volumeId)?.snapshots : this.#volumes
    if (names?.get(disk.name) === disk) names.delete(disk.name)
  }

  #mustVolume(id: number): Disk {
    const disk = this.#mustDisk(id)
    if (disk.isSnapshot) throw catalogueCorrupt(`disk id ${id} is no volume`)
    return disk
  }

  #mustDisk(id: number): Disk {
    const disk = this.#disks.get(id)
    if (disk === undefined)
      throw catalogueCorrupt(`disk id ${id} is referred to but does not exist`)
    return disk
  }
}

function verifyName(name: string, siblings: ReadonlyMap<string, Disk>): void {
  if (siblings.has(name)) throw catalogueCorrupt(`two disks are named "${name}"`)
}

/** The last moment that a `Date` can show. */
const TIME_MS_MAX = 8.64e15

/** Times in the catalogue are whole, not before 1970 and not past all calendars. */
export function wholeMs(timeMs: number): number {
  return Math.min(TIME_MS_MAX, Math.max(0, Math.floor(timeMs)))
}

function stateOf(disk: Disk): DiskState {
  const address = rootAddress(disk.root)
  return {
    id: disk.id,
    name: disk.name,
    kind: disk.kind,
    volumeId: disk.volumeId,
    sizeBytes: disk.sizeBytes,
    root: address === null ? null : [address.segment, address.slot],
    createdMs: disk.createdMs,
    modifiedMs: disk.modifiedMs,
    originId: disk.originId,
    labels: disk.labels,
    holds: [...disk.holds],
  }
}
