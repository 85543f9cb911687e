/**
 * What every command calls. `LocalService` (daemon) answers on a pool opened in this process,
 * `HttpService` (here) over the control socket of a daemon: same commands, same results.
 * Everything rejects with a VarveError.
 */
import type { DeviceService } from './device-service.ts'
import type {
  CopyProgress,
  CreateVolume,
  DiffExtent,
  ExportReport,
  ExportSocket,
  ExportRequest,
  FuseRequest,
  ImportReport,
  ImportRequest,
  MountedFilesystem,
  PoolInfo,
  ReclaimProgress,
  ReclaimReport,
  SettleRequest,
  UpkeepStatus,
  UsageProgress,
  UsageReport,
  UsageRequest,
  RemoveReport,
  RemoveRequest,
  ResizeRequest,
  ScrubProgress,
  ScrubReport,
  ScrubRequest,
  ScrubStatus,
  ServeStatus,
  SocketRequest,
  SnapshotInfo,
  VolumeInfo,
} from './shapes.ts'

/** In the pool's folder, where the daemon of the pool listens. */
export const CONTROL_SOCKET_NAME = 'control.sock'

/** Takes the bytes of an image in order; a hole is told as such, and is zeros. */
export interface ByteOutput {
  /** `bytes` may be reused when it resolves. */
  data(bytes: Uint8Array): Promise<void>
  zeros(lengthBytes: number): Promise<void>
}

export interface LongCall<P> {
  /** Aborting rejects with `canceled`, and nothing half-done stays. */
  signal?: AbortSignal
  progress?: (progress: P) => void
}

export interface ImportCall extends LongCall<CopyProgress> {
  /** The image, when `path` is null. */
  input?: AsyncIterable<Uint8Array>
}

export interface ExportCall extends LongCall<CopyProgress> {
  /** Where the image goes, when `path` is null. */
  output?: ByteOutput
}

export interface PoolService extends DeviceService {
  status(): Promise<ServeStatus>
  info(): Promise<PoolInfo>
  volumes(): Promise<VolumeInfo[]>
  volume(name: string): Promise<VolumeInfo>
  create(request: CreateVolume): Promise<VolumeInfo>
  snapshot(names: string[]): Promise<SnapshotInfo[]>
  clone(source: string, names: string[]): Promise<VolumeInfo[]>
  restore(name: string): Promise<VolumeInfo>
  /** `call` is for a dry run, which counts; a removal takes a moment. */
  remove(request: RemoveRequest, call?: LongCall<UsageProgress>): Promise<RemoveReport>
  rename(from: string, to: string): Promise<void>
  scrubStatus(): Promise<ScrubStatus>
  /** Stops reclaiming, settling and scrubbing, lets them go on, or (null) only asks. */
  upkeep(isPaused: boolean | null): Promise<UpkeepStatus>
  resize(request: ResizeRequest): Promise<VolumeInfo>
  hold(name: string, tag: string): Promise<void>
  release(name: string, tag: string): Promise<void>
  /** Shows the pool as a filesystem, for as long as the daemon runs. */
  fuseMount(request: FuseRequest): Promise<MountedFilesystem>
  fuseUnmount(path: string, force: boolean): Promise<void>
  /** Offers a disk on a vhost-user socket, for as long as the daemon runs. */
  exportSocket(request: SocketRequest): Promise<ExportSocket>
  /** Takes back what was offered of a disk so. */
  withdrawSocket(name: string): Promise<ExportSocket[]>
  diff(from: string | null, to: string, signal?: AbortSignal): AsyncIterable<DiffExtent>
  reclaim(call: LongCall<ReclaimProgress>): Promise<ReclaimReport>
  /** Counts who uses what. */
  usage(request: UsageRequest, call: LongCall<UsageProgress>): Promise<UsageReport>
  settle(request: SettleRequest, call: LongCall<ReclaimProgress>): Promise<ReclaimReport>
  /** Reads and verifies everything, and heals what it can. */
  scrub(request: ScrubRequest, call: LongCall<ScrubProgress>): Promise<ScrubReport>
  importImage(request: ImportRequest, call: ImportCall): Promise<ImportReport>
  exportImage(request: ExportRequest, call: ExportCall): Promise<ExportReport>
  /** Lets go of the pool or the connection. Idempotent. */
  close(): Promise<void>
}
