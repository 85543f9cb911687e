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

export interface RemoveReport {
  removed: string[]
  /** Null unless it was a dry run: removing is quick whatever the size, counting is not. */
  freedBytes: number | null
}

export interface ReclaimReport {
  liveBytes: number
  deletedSegmentCount: number
  punchedBytes: number
  physicalBeforeBytes: number
  physicalAfterBytes: number
}

export interface ReclaimProgress {
  phase: 'checkpoint' | 'mark' | 'sweep'
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

export interface ImportRequest {
  /** The new volume. */
  name: string
  /** Absolute path of a regular file or block device; null: the bytes come as a stream. */
  path: string | null
  /** Null: the image's size, rounded up to 512. A stream has none and must be given one. */
  sizeBytes: number | null
  labels: Record<string, string>
}

export interface ImportReport {
  volume: VolumeInfo
  /** Length of the image. */
  imageBytes: number
  /** Bytes of it that were read; the rest were holes of the file. */
  dataBytes: number
}

export interface ExportRequest {
  /** Any disk. */
  name: string
  /** Absolute path of a regular file or block device; null: the bytes go to a stream. */
  path: string | null
  /** Replace a file, or write over a block device, that is already there. */
  overwrite: boolean
}

export interface ExportReport {
  name: string
  imageBytes: number
  /** Bytes that were written because they are not zero. */
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
