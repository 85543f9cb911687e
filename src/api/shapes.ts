/**
 * What travels between the command line and a pool, in process or over the control socket. The
 * pool's own shapes are restated here because the API may not import the pool;
 * `daemon/contract.ts` fails to compile when the two differ. Sizes are bytes, times are
 * milliseconds since 1970.
 */
export type * from './device-shapes.ts'

export interface SnapshotInfo {
  name: string
  volume: string
  snapshot: string
  sizeBytes: number
  mappedBytes: number
  createdMs: number
  modifiedMs: number
  holds: string[]
}

export interface VolumeInfo {
  name: string
  id: number
  sizeBytes: number
  mappedBytes: number
  createdMs: number
  modifiedMs: number
  origin: string | null
  labels: Record<string, string>
  holds: string[]
  clients: string[]
  snapshots: SnapshotInfo[]
}

export interface Fill {
  state: 'ok' | 'warn' | 'full'
  percent: number
  warnPercent: number
}

export interface PoolInfo {
  id: string
  path: string
  formatVersion: number
  createdMs: number
  logicalBytes: number
  mappedBytes: number
  physicalBytes: number
  capacityBytes: number
  freeBytes: number
  fill: Fill
  volumeCount: number
  snapshotCount: number
  segmentCount: number
  failure: string | null
}

export interface CreateVolume {
  name: string
  sizeBytes: number
  labels?: Record<string, string>
}

export interface RemoveRequest {
  names: string[]
  recursive: boolean
  dryRun: boolean
}

/** A removal that is only counted. */
export interface PlanRemoval {
  names: string[]
  recursive: boolean
}

export interface RemoveReport {
  removed: string[]
  /** Null unless it was a dry run: removing is quick whatever the size, counting is not. */
  freedBytes: number | null
}

/** What a reclaim or a settle did. */
export interface ReclaimReport {
  /** Blocks reachable from any disk. */
  liveBytes: number
  /** Scattered blocks that a settle wrote anew, in their order. */
  orderedBytes: number
  deletedSegmentCount: number
  punchedBytes: number
  settledSegmentCount: number
  /** Left as they were: damaged, or no room to rewrite them. */
  skippedSegmentCount: number
  zeroBytes: number
  duplicateBytes: number
  droppedBytes: number
  encodedFromBytes: number
  encodedToBytes: number
  physicalBeforeBytes: number
  physicalAfterBytes: number
}

export interface ReclaimProgress {
  phase: 'order' | 'checkpoint' | 'mark' | 'sweep' | 'settle'
  done: number
  total: number
}

export type Compression = 'off' | 'lz4' | 'zstd'

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

export type ScrubCode =
  | 'superblock-torn'
  | 'fingerprints-corrupt'
  | 'scrub-state-corrupt'
  | 'segment-unreadable'
  | 'segment-header-corrupt'
  | 'segment-footer-corrupt'
  | 'segment-table-corrupt'
  | 'record-corrupt'
  | 'padding-corrupt'
  | 'node-corrupt'
  | 'frame-corrupt'
  | 'block-corrupt'

export interface ScrubFinding {
  code: ScrubCode
  message: string
  /** A place in the pool: `superblock`, `segment 3 slot 17`. */
  where: string
  /** `lost`: reads of what is affected fail until it is written anew. */
  outcome: 'healed' | 'lost' | 'unused'
  /** A bounded number of ranges of disks. */
  affected: { disk: string; offsetBytes: number; lengthBytes: number }[]
}

/** The counts are of findings. */
export interface ScrubTotals {
  startedMs: number
  readBytes: number
  foundCount: number
  healedCount: number
  lostCount: number
}

export interface ScrubReport extends ScrubTotals {
  endedMs: number
  isResumed: boolean
  findings: ScrubFinding[]
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
  /** Null: only when asked for. */
  everyDays: number | null
  /** Of the run that is under way, going on or stopped. */
  running: ScrubTotals | null
  /** Of the last that came to its end. */
  last: (ScrubTotals & { endedMs: number }) | null
}

export interface ScrubRequest {
  /** Most that is read in a second, or null. */
  rateBytes: number | null
}

export interface SettleRequest {
  compression: Compression
}

/**
 * Who takes what of the stored bytes; with the size in whole blocks, logical = thin + zero + clone
 * + dedup + compression + (amortised − metadata).
 */
export interface Usage {
  logicalBytes: number
  mappedBytes: number
  /** Different stored blocks that are reached, before compression … */
  referencedBytes: number
  /** … and as stored: exclusive and shared. */
  storedBytes: number
  /** What removing it would free. */
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

/** Amortised + internal + overhead = physical. */
export interface PoolUsage extends Usage {
  volumeCount: number
  snapshotCount: number
  internalBytes: number
  /** Negative where the filesystem below the pool compresses. */
  overheadBytes: number
  physicalBytes: number
  reserveBytes: number
}

export interface UsageReport {
  /** What a row is: `disk`, `volume` (with its snapshots) or `label:KEY`. */
  by: string
  rows: UsageRow[]
  pool: PoolUsage
}

export interface UsageRequest {
  by: string
}

export interface UsageProgress {
  phase: 'checkpoint' | 'maps' | 'segments'
  done: number
  total: number
}

export interface DiffExtent {
  offsetBytes: number
  lengthBytes: number
  kind: 'data' | 'zero'
}

export interface ResizeRequest {
  name: string
  sizeBytes: number
  allowShrink: boolean
}

/** A filesystem made from files, rather than an image taken as it is. */
export interface RootfsRequest {
  fs: 'ext4'
  /** `os/architecture[/variant]` of an OCI image; null: Linux on the server's machine. */
  platform: string | null
  /** Of an OCI layout with several images. */
  tag: string | null
}

/** `raw+…`: a raw image, compressed. */
export type ImageFormat =
  | 'raw'
  | 'raw+gz'
  | 'raw+zst'
  | 'raw+xz'
  | 'qcow2'
  | 'vmdk'
  | 'vhd'
  | 'vhdx'
  | 'vdi'
  | 'parallels'
  | 'bochs'
  | 'cloop'
  | 'dmg'

export type WrittenFormat = 'raw' | 'qcow2' | 'vmdk' | 'vhd' | 'vhdx' | 'vdi'

export interface ImportRequest {
  /** The new volume. */
  name: string
  /** `path` is a folder, a tar archive or an OCI image layout; a stream is an archive. */
  rootfs?: RootfsRequest | undefined
  /** Absolute path of a regular file or block device; null: the bytes come as a stream. */
  path: string | null
  /**
   * Null: the image's size, rounded up to 512. A stream that is not compressed has none and must
   * be given one.
   */
  sizeBytes: number | null
  labels: Record<string, string>
  /** Missing: what the name and the first bytes of the file agree on, else raw. */
  format?: ImageFormat
  /** Absolute path of the folder whose files the image may refer to. Missing: to none. */
  allowBacking?: string
  /** A larger disk is refused, whatever its image says or decompresses to. */
  sizeBytesMax?: number
  timeoutMs?: number
}

export interface ImportReport {
  volume: VolumeInfo
  /** Size of the disk in the image. */
  imageBytes: number
  /** Bytes of it that were read; the rest were holes of the image. */
  dataBytes: number
  /** What of the source is not in the volume, a sentence each. */
  warnings?: string[] | undefined
}

export interface ExportRequest {
  /** Any disk. */
  name: string
  /** Absolute path of a regular file or block device; null: the bytes go to a stream. */
  path: string | null
  /** Replace a file, or write over a block device, that is already there. */
  overwrite: boolean
  /** Missing: raw. Others are written to regular files only. */
  format?: WrittenFormat
  /** Of qcow2 and vmdk. */
  isCompressed?: boolean
  timeoutMs?: number
}

export interface ExportReport {
  name: string
  imageBytes: number
  /** Bytes that were written because they are not zero; of other formats than raw, the file's. */
  dataBytes: number
}

/** How far an import or export has come. */
export interface CopyProgress {
  doneBytes: number
  totalBytes: number
}

export interface ServedExport {
  name: string
  uri: string
  sizeBytes: number
  readOnly: boolean
}

export interface FuseRequest {
  /** Absolute; an existing folder. */
  path: string
  /** Users other than the daemon's may look and read. */
  allowOther: boolean
  /** `auto`: the kernel's own protocol where io_uring is to be had, else libfuse. */
  transport: 'auto' | 'native' | 'fuse-native'
}

/** A unix socket on which a virtual machine monitor finds a disk (vhost-user-blk). */
export interface SocketRequest {
  /** `volume` or `volume@snapshot`. */
  name: string
  /** Absolute; null: the server's own place for it. */
  path: string | null
  readOnly: boolean
}

export interface ExportSocket {
  name: string
  path: string
  readOnly: boolean
}

export interface MountedFilesystem {
  path: string
  transport: 'native' | 'fuse-native'
  allowOther: boolean
  /** Made by the daemon for block devices, not asked for. */
  isOwn: boolean
}

export interface ServeStatus {
  /** `embedded`: this process has the pool open itself. */
  mode: 'embedded' | 'daemon'
  processId: number
  version: string
  startedMs: number
  exports: ServedExport[]
  /** `export`: null while the client has not chosen. */
  connections: { peer: string; export: string | null }[]
  /** Where the pool is mounted as a filesystem. */
  mounts: MountedFilesystem[]
  /** As of the last look at the disk. */
  fill: Fill
}
