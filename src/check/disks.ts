/**
 * The disks of a pool as the checkpoint has them and as the replayed log changes them. A disk is
 * a map root and what has been laid over it since.
 */
import { BLOCK_SIZE_BYTES, blocksOf } from '../base/units.ts'
import type { CatalogueLine, CatalogueOperation, RootAddress } from '../format/catalogue.ts'
import { MAP_BLOCK_COUNT } from '../format/node.ts'
import type { Overlay, OverlayFactory, Span } from './overlay.ts'
import type { Findings } from './report.ts'

export interface Disk {
  readonly id: number
  name: string
  readonly kind: 'volume' | 'snapshot'
  /** The volume a snapshot belongs to; a volume's own id. */
  readonly volumeId: number
  sizeBytes: number
  root: RootAddress
  overlay: Overlay
}

type ShareOperation = Extract<CatalogueOperation, { op: 'share' }>

export class Disks {
  readonly #disks = new Map<number, Disk>()
  readonly #goneIds = new Set<number>()
  /** Snapshots that came before their volume, which is told already. */
  readonly #orphanIds = new Set<number>()
  readonly #overlays: OverlayFactory
  readonly #findings: Findings
  /** No disk with a higher id existed at the checkpoint. */
  readonly #nextDiskId: number
  /** Part of the catalogue is lost, so a disk that is not here may well exist. */
  isIncomplete = false

  constructor(overlays: OverlayFactory, nextDiskId: number, findings: Findings) {
    this.#overlays = overlays
    this.#nextDiskId = nextDiskId
    this.#findings = findings
  }

  all(): Iterable<Disk> {
    return this.#disks.values()
  }

  get(id: number): Disk | null {
    return this.#disks.get(id) ?? null
  }

  /** Whether a disk with this id is known to have existed. */
  wasRemoved(id: number): boolean {
    return this.#goneIds.has(id) || (id >= 1 && id < this.#nextDiskId && !this.#disks.has(id))
  }

  /** `volume` or `volume@snapshot`. */
  nameOf(disk: Disk): string {
    if (disk.kind === 'volume' || disk.name.includes('@')) return disk.name
    return `${this.get(disk.volumeId)?.name ?? `#${disk.volumeId}`}@${disk.name}`
  }

  /** A line of a checkpoint, at `where`. */
  applyLine(line: CatalogueLine, where: string): void {
    if ('removed' in line) {
      for (const id of line.removed) this.#remove(id)
      return
    }
    const { id, name, kind, volumeId, sizeBytes, root } = line.disk
    const isOrphan = kind === 'snapshot' && this.get(volumeId)?.kind !== 'volume'
    if (isOrphan && !this.isIncomplete) {
      this.#orphanIds.add(id)
      this.#findings.errors.add('snapshot-orphan', where, `there is no volume ${volumeId} yet`)
    }
    this.#goneIds.delete(id)
    const overlay = this.#overlays.empty
    this.#disks.set(id, { id, name, kind, volumeId, sizeBytes, root, overlay })
  }

  /** Lays a span over a disk's map. */
  overlay(disk: Disk, span: Span): void {
    disk.overlay = this.#overlays.with(disk.overlay, span)
  }

  applyOperation(operation: CatalogueOperation, where: string): void {
    switch (operation.op) {
      case 'create': {
        const { id, name, sizeBytes, root } = operation
        const overlay = this.#overlays.empty
        this.#add({ id, name, kind: 'volume', volumeId: id, sizeBytes, root, overlay }, where)
        return
      }
      case 'snapshot':
        for (const { id, volumeId, name } of operation.snapshots) {
          const volume = this.#find(volumeId, 'volume', where)
          if (volume !== null) this.#add({ ...volume, id, name, kind: 'snapshot' }, where)
        }
        return
      case 'clone': {
        const source = this.#find(operation.sourceId, null, where)
        if (source === null) return
        for (const { id, name } of operation.clones) {
          this.#add({ ...source, id, name, kind: 'volume', volumeId: id }, where)
        }
        return
      }
      case 'restore':
        this.#restore(operation.volumeId, operation.snapshotId, where)
        return
      case 'remove':
        for (const id of operation.ids) {
          if (this.#find(id, null, where) !== null) this.#remove(id)
        }
        return
      case 'rename': {
        const disk = this.#find(operation.id, null, where)
        if (disk !== null) disk.name = operation.name
        return
      }
      case 'resize':
        this.#resize(operation.id, operation.sizeBytes, where)
        return
      case 'share':
        this.#share(operation, where)
        return
      case 'hold':
      case 'release':
        // Holds keep people from deleting; they have no bearing on what is where.
        this.#find(operation.id, null, where)
    }
  }

  /** Ids and roots that the checkpoint could not have had. */
  verifyCheckpoint(nextSegmentId: number): void {
    for (const disk of this.#disks.values()) {
      const where = `disk "${this.nameOf(disk)}"`
      if (disk.id >= this.#nextDiskId) {
        const fact = `its id ${disk.id} is not below the next one, ${this.#nextDiskId}`
        this.#findings.errors.add('disk-id', where, fact)
      }
      if (disk.root !== null && disk.root[0] >= nextSegmentId) {
        const fact = `its map is in segment ${disk.root[0]}, the next one is ${nextSegmentId}`
        this.#findings.errors.add('address-missing-segment', where, fact)
      }
    }
  }

  /** What must hold of any set of disks. */
  verify(): void {
    const names = new Set<string>()
    for (const disk of this.#disks.values()) {
      const name = this.nameOf(disk)
      const where = `disk "${name}"`
      const { errors } = this.#findings
      if (names.has(name)) errors.add('disk-name', where, 'two disks have this name')
      names.add(name)
      if (disk.kind === 'volume' && disk.volumeId !== disk.id) {
        errors.add('disk-id', where, `volume ${disk.id} says it belongs to ${disk.volumeId}`)
      }
      const owner = this.get(disk.volumeId)
      if (owner === null && this.isIncomplete) continue
      if (disk.kind === 'snapshot' && owner?.kind !== 'volume' && !this.#orphanIds.has(disk.id)) {
        errors.add('snapshot-orphan', where, `there is no volume ${disk.volumeId}`)
      }
    }
  }

  #find(id: number, kind: 'volume' | 'snapshot' | null, where: string): Disk | null {
    const disk = this.get(id)
    if (disk !== null && (kind === null || disk.kind === kind)) return disk
    if (disk === null && this.isIncomplete) return null
    const fact = `there is no ${kind ?? 'disk'} with the id ${id}`
    this.#findings.errors.add('operation-unknown-disk', where, fact)
    return null
  }

  #add(disk: Disk, where: string): void {
    const { id } = disk
    if (this.#disks.has(id) || this.#goneIds.has(id)) {
      this.#findings.errors.add('disk-id', where, `the id ${id} is given a second time`)
      if (this.#disks.has(id)) return
    }
    this.#disks.set(id, disk)
  }

  #remove(id: number): void {
    this.#disks.delete(id)
    this.#goneIds.add(id)
  }

  #restore(volumeId: number, snapshotId: number, where: string): void {
    const volume = this.#find(volumeId, 'volume', where)
    const snapshot = this.#find(snapshotId, 'snapshot', where)
    if (volume === null || snapshot === null) return
    volume.root = snapshot.root
    volume.overlay = snapshot.overlay
    volume.sizeBytes = snapshot.sizeBytes
  }

  #share({ id, blockIndex, runs }: ShareOperation, where: string): void {
    const disk = this.#find(id, 'volume', where)
    if (disk === null) return
    const total = runs.reduce((sum, [count]) => sum + count, 0)
    if (blockIndex + total > blockCountOf(disk)) {
      const fact = `blocks are shared past the end of "${this.nameOf(disk)}"`
      this.#findings.errors.add('record-past-end', where, fact)
      return
    }
    let start = blockIndex
    for (const [count, segment, slot] of runs) {
      this.overlay(disk, { start, count, segment, slot: segment === 0 ? 0 : slot })
      start += count
    }
  }

  /** What a smaller size cuts off must not come back when the disk grows again. */
  #resize(id: number, sizeBytes: number, where: string): void {
    const disk = this.#find(id, 'volume', where)
    if (disk === null) return
    if (sizeBytes < disk.sizeBytes) {
      const start = Math.min(blocksOf(sizeBytes), MAP_BLOCK_COUNT)
      const count = MAP_BLOCK_COUNT - start
      if (count > 0) this.overlay(disk, { start, count, segment: 0, slot: 0 })
    }
    disk.sizeBytes = sizeBytes
  }
}

/** Blocks a disk has, bounded by what a map can address. */
export function blockCountOf(disk: Disk): number {
  return Math.min(Math.ceil(disk.sizeBytes / BLOCK_SIZE_BYTES), MAP_BLOCK_COUNT)
}
