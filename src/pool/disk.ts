import type { DiskState } from '../format/catalogue.ts'
import { BLOCK_SIZE_BYTES } from '../base/units.ts'
import type { MapRoot } from '../map/map-root.ts'

/** A volume or a snapshot in memory. */
export class Disk {
  readonly id: number
  readonly kind: 'volume' | 'snapshot'
  /** Its own id for a volume. */
  readonly volumeId: number
  readonly createdMs: number
  readonly labels: Record<string, string>
  readonly holds: Set<string>
  /** What is using it now: a line of text for each export client and running job. */
  readonly users: Map<object, string> = new Map()
  /** Shrinks under way, each with the clients that may come meanwhile. */
  readonly shrinks: Map<object, (client: string) => boolean> = new Map()
  /** A volume's snapshots by their own name, oldest first. */
  readonly snapshots: Map<string, Disk> = new Map()
  /** Of a snapshot, the part after "@". */
  name: string
  sizeBytes: number
  modifiedMs: number
  originId: number | null
  root: MapRoot
  /** Who may change a dirty node in place: only the map state this number belongs to (I5). */
  epoch: number
  /** Differs from what the last checkpoint wrote. */
  changed = true
  /** Raised when another disk comes to share blocks of its map, or it comes to share another's. */
  shareCount = 0

  constructor(state: Omit<DiskState, 'root'>, root: MapRoot, epoch: number) {
    this.id = state.id
    this.kind = state.kind
    this.volumeId = state.volumeId
    this.createdMs = state.createdMs
    this.modifiedMs = state.modifiedMs
    this.labels = state.labels
    this.holds = new Set(state.holds)
    this.name = state.name
    this.sizeBytes = state.sizeBytes
    this.originId = state.originId
    this.root = root
    this.epoch = epoch
  }

  /** Blocks of the map that the size reaches, the last perhaps in part. */
  get blockCount(): number {
    return Math.ceil(this.sizeBytes / BLOCK_SIZE_BYTES)
  }

  get isSnapshot(): boolean {
    return this.kind === 'snapshot'
  }
}
