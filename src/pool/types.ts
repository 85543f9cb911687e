/**
 * What the pool tells and takes, in the shapes the API and the command line show. Sizes are
 * bytes, times are milliseconds since 1970. A *disk name* is `volume` or `volume@snapshot`.
 */
import type { ScrubTotals } from '../format/scrub-state.ts'

export interface SnapshotInfo {
  /** `volume@snapshot`. */
  name: string
  volume: string
  snapshot: string
  sizeBytes: number
  /** Bytes that have a block of their own in its map. */
  mappedBytes: number
  createdMs: number
  /** When its bytes last changed. */
  modifiedMs: number
  holds: string[]
}

export interface VolumeInfo {
  name: string
  id: number
  sizeBytes: number
  mappedBytes: number
  createdMs: number
  /** When its bytes last changed. */
  modifiedMs: number
  /** The disk it was cloned from, while that is known: `volume` or `volume@snapshot`. */
  origin: string | null
  labels: Record<string, string>
  holds: string[]
  /** Clients that have it open now. */
  clients: string[]
  snapshots: SnapshotInfo[]
}

/** `full`: guests were refused for want of space, and there is not clearly more by now. */
export type FillState = 'ok' | 'warn' | 'full'

export interface Fill {
  state: FillState
  /** Of what guests may use, 0 to 100. */
  percent: number
  /** From where on it is `warn`. */
  warnPercent: number
}

export interface PoolInfo {
  id: string
  path: string
  formatVersion: number
  createdMs: number
  /** Of all volumes. */
  logicalBytes: number
  /** Of all volumes, shared blocks counted as often as they are mapped. */
  mappedBytes: number
  /** What the pool's files take on their disk. */
  physicalBytes: number
  /** 0: no limit but the disk's. */
  capacityBytes: number
  freeBytes: number
  fill: Fill
  volumeCount: number
  snapshotCount: number
  segmentCount: number
  /** Null, or why the pool stopped taking writes. */
  failure: string | null
}

export interface CreateVolume {
  name: string
  sizeBytes: number
  labels?: Record<string, string>
}

export interface RemoveRequest {
  names: string[]
  /** Also the snapshots of a named volume. Without it a volume that has any is refused. */
  recursive: boolean
  /** Remove nothing, say what it would free. */
  dryRun: boolean
}

export interface RemoveReport {
  removed: string[]
  /**
   * Of a dry run: stored bytes that no other disk reaches, which reclaims after a removal give
   * back. Null after a removal: it is one record whatever the size, and counting is not.
   */
  freedBytes: number | null
}

/** What was done to segments. */
export interface SweepReport {
  deletedSegmentCount: number
  punchedBytes: number
  settledSegmentCount: number
  /** Left as they were: damaged, or no room to rewrite them. */
  skippedSegmentCount: number
  /** Blocks of zeros in settled segments; they take no space now. */
  zeroBytes: number
  /** Blocks in settled segments that lie elsewhere, too; they are stored once now. */
  duplicateBytes: number
  /** Blocks that nothing referred to, in settled segments. */
  droppedBytes: number
  /** What was compressed, before … */
  encodedFromBytes: number
  /** … and after. */
  encodedToBytes: number
}

export interface ReclaimReport extends SweepReport {
  /** Scattered blocks of volumes that were written anew, in order; only by a settle. */
  orderedBytes: number
  /** Blocks reachable from any disk. */
  liveBytes: number
  physicalBeforeBytes: number
  physicalAfterBytes: number
}

/** `off`: frames are stored as they are. */
export type Compression = 'off' | 'lz4' | 'zstd'

export type ScrubCode =
  | 'superblock-torn' // one of its two pages is unreadable; a crash leaves that, too
  | 'fingerprints-corrupt' // the index of what is stored; it is made anew
  | 'scrub-state-corrupt' // where a run had come to; it begins at the beginning
  | 'segment-unreadable' // its file cannot be opened
  | 'segment-header-corrupt'
  | 'segment-footer-corrupt'
  | 'segment-table-corrupt' // a page of the checksums or of the directory
  | 'record-corrupt' // the header of a record that no recovery needs
  | 'padding-corrupt' // bytes that mean nothing are not zero
  | 'node-corrupt' // a sound block that cannot be part of a map
  | 'frame-corrupt' // blocks encoded together that cannot be decoded
  | 'block-corrupt'

/** A part of a disk, `volume` or `volume@snapshot`. */
export interface AffectedRange {
  disk: string
  offsetBytes: number
  lengthBytes: number
}

export interface ScrubFinding {
  code: ScrubCode
  message: string
  /** A place in the pool: `superblock`, `segment 3 slot 17`. */
  where: string
  /**
   * `healed`: it is as it was. `lost`: nobody has the bytes; reads of them fail until they are
   * written anew. `unused`: nothing refers to them.
   */
  outcome: 'healed' | 'lost' | 'unused'
  /** What of which disks is hit; a bounded number of ranges. */
  affected: AffectedRange[]
}

export interface ScrubReport extends ScrubTotals {
  endedMs: number
  /** It went on where an earlier run was stopped; findings are those since. */
  isResumed: boolean
  findings: ScrubFinding[]
  /** Beyond those listed. */
  suppressedCount: number
}

export interface ScrubProgress {
  phase: 'maps' | 'segments' | 'heal'
  done: number
  total: number
}

export interface ScrubStatus {
  /** Of the run going on; null: none is. */
  phase: ScrubProgress['phase'] | null
  done: number
  total: number
  isPaused: boolean
  /** Days between two runs that begin by themselves; null: only when asked for. */
  everyDays: number | null
  /** Of the run that is under way, going on or stopped; null: there is none. */
  running: ScrubTotals | null
  /** Of the last that came to its end. */
  last: (ScrubTotals & { endedMs: number }) | null
}

export interface ScrubRequest {
  /** Most that is read in a second, or null. */
  rateBytes: number | null
}

/** How the work below the address stands. */
export interface UpkeepStatus {
  /** What is settled with when guests are idle; null: only when asked for. */
  idle: Compression | null
  isPaused: boolean
  /** Of the run under way; null: none is. */
  phase: ReclaimProgress['phase'] | null
  done: number
  total: number
}

/**
 * Who takes what of the stored bytes, of a disk or of a set of disks, as
 * docs/decisions/2026-11-25-accounting.md defines it. With the size in whole blocks:
 * logical = thin + zero + clone + dedup + compression + (amortised − metadata).
 */
export interface Usage {
  /** Sum of the sizes; a snapshot counts as the disk it is. */
  logicalBytes: number
  /** Blocks mapped, as often as they are. */
  mappedBytes: number
  /** Different stored blocks that are reached, map nodes too, before compression. */
  referencedBytes: number
  /** The same, as stored: exclusive and shared. */
  storedBytes: number
  /** What no disk outside the set reaches: what removing the set frees. */
  exclusiveBytes: number
  sharedBytes: number
  /** Each stored block divided among the disks that reach it: adds up over disks. */
  amortisedBytes: number
  /** Of amortised, what only maps take. */
  metadataBytes: number
  thinBytes: number
  zeroBytes: number
  cloneBytes: number
  dedupBytes: number
  compressionBytes: number
}

export interface UsageRow extends Usage {
  /** Of the disk or the volume, or the label's value; null: volumes without the label. */
  name: string | null
  volumeCount: number
  snapshotCount: number
}

/** Of all disks as one set. Amortised + internal + overhead = physical. */
export interface PoolUsage extends Usage {
  volumeCount: number
  snapshotCount: number
  /** The catalogue, imports that are not finished. */
  internalBytes: number
  /**
   * Headers, tables, directories, what is dead and not yet reclaimed, what was just written.
   * Negative where the filesystem below compresses.
   */
  overheadBytes: number
  /** What the segments take on their disk. */
  physicalBytes: number
  /** Set aside besides, for when the disk is full. */
  reserveBytes: number
}

export interface UsageReport {
  /** What a row is: `disk`, `volume` (with its snapshots) or `label:KEY`. */
  by: string
  rows: UsageRow[]
  pool: PoolUsage
}

export interface UsageProgress {
  phase: 'checkpoint' | 'maps' | 'segments'
  done: number
  total: number
}

export interface DiffExtent {
  offsetBytes: number
  lengthBytes: number
  /** `data`: the later disk has a block here; `zero`: it reads as zeros. */
  kind: 'data' | 'zero'
}

export interface ReclaimProgress {
  /** `order` counts MiB of volumes, `mark` maps, the last two segments. */
  phase: 'order' | 'checkpoint' | 'mark' | 'sweep' | 'settle'
  done: number
  total: number
}

/** A volume being filled outside the log; nothing of it is visible until `commit`. */
export interface BulkImport {
  /**
   * Adds `bytes` (whole blocks) at `offsetBytes` (a multiple of 4096); ranges ascend and do not
   * overlap. Zero blocks are found and left unmapped. `bytes` may be reused when it resolves.
   */
  write(offsetBytes: number, bytes: Uint8Array): Promise<void>
  /**
   * Makes it durable and gives it its name. `sizeBytes`: of the volume, where it was not known at
   * the beginning; not less than what was written. Without it, the size that was asked for.
   */
  commit(sizeBytes?: number): Promise<VolumeInfo>
  /** Gives everything back. Idempotent, also after a failure. */
  abort(): Promise<void>
}

/** The control operations of an open pool. Each rejects with a VarveError. */
export interface PoolOperations {
  info(): Promise<PoolInfo>
  /** Every volume with its snapshots, by name. */
  volumes(): Promise<VolumeInfo[]>
  volume(name: string): Promise<VolumeInfo>
  create(request: CreateVolume): Promise<VolumeInfo>
  /** `names`: `volume@snapshot` each, of different volumes; all in one record, all or nothing. */
  snapshot(names: string[]): Promise<SnapshotInfo[]>
  /** `source`: any disk; all `names` in one step, all or nothing. */
  clone(source: string, names: string[]): Promise<VolumeInfo[]>
  /** `name`: `volume@snapshot`. The volume becomes what the snapshot is; newer snapshots stay. */
  restore(name: string): Promise<VolumeInfo>
  /** `signal` and `progress` are for a dry run, which counts; a removal is one record. */
  remove(
    request: RemoveRequest,
    signal?: AbortSignal,
    progress?: (progress: UsageProgress) => void,
  ): Promise<RemoveReport>
  /** A volume (`to`: a volume name) or a snapshot (`to`: `volume@snapshot` of the same volume). */
  rename(from: string, to: string): Promise<void>
  resize(name: string, sizeBytes: number, allowShrink: boolean): Promise<VolumeInfo>
  hold(name: string, tag: string): Promise<void>
  release(name: string, tag: string): Promise<void>
  /** What differs between two disks; `from` null: everything mapped in `to`. Ascending, merged. */
  diff(from: string | null, to: string): AsyncIterable<DiffExtent>
  reclaim(
    signal?: AbortSignal,
    progress?: (progress: ReclaimProgress) => void,
  ): Promise<ReclaimReport>
  /**
   * As `reclaim`, and rewrites every sealed segment that is not settled yet. What lies scattered is
   * written in order first, as far as there is room.
   */
  settle(
    compression: Compression,
    signal?: AbortSignal,
    progress?: (progress: ReclaimProgress) => void,
  ): Promise<ReclaimReport>
  /**
   * Reads and verifies everything the pool keeps, and heals what it can. Goes on where an earlier
   * run was stopped. Rejects `busy`, `canceled`, or the world's errors.
   */
  scrub(
    request: ScrubRequest,
    signal?: AbortSignal,
    progress?: (progress: ScrubProgress) => void,
  ): Promise<ScrubReport>
  scrubStatus(): Promise<ScrubStatus>
  /** Stops reclaiming, settling and scrubbing, lets them go on, or (null) only asks. */
  upkeep(isPaused: boolean | null): UpkeepStatus
  /** Counts who uses what; `by` as in `UsageReport`. Costs a walk over all maps. */
  usage(
    by: string,
    signal?: AbortSignal,
    progress?: (progress: UsageProgress) => void,
  ): Promise<UsageReport>
  beginImport(request: CreateVolume): Promise<BulkImport>
}
