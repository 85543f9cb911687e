/** `PoolService` on a pool that this process has open. */
import type { ExportCall, ImportCall, LongCall, PoolService } from '../api/service.ts'
import type * as shape from '../api/shapes.ts'
import type { DeviceService } from '../api/device-service.ts'
import { OperatingError } from '../base/errors.ts'
import type { ExportEntry, ExportTarget } from '../export/target.ts'
import { throwIfCanceled } from '../image/import-raw.ts'
import type { HoleSeeker } from '../image/import-raw.ts'
import type { Io } from '../io/io.ts'
import type { DiffExtent, PoolOperations } from '../pool/types.ts'
import { LocalImages } from './local-images.ts'
import { importRootfs } from './local-rootfs.ts'

/** What the services here need of an open pool. */
export interface OpenPool extends PoolOperations {
  /** Null: no such disk. */
  openTarget(name: string, client: string): ExportTarget | null
  list(): ExportEntry[]
  close(): Promise<void>
}

/** Where the pool is mounted; the daemon's `FuseMounts`. */
export interface Filesystems {
  mount(request: shape.FuseRequest): Promise<shape.MountedFilesystem>
  unmount(path: string, isForced: boolean): Promise<void>
}

/** Where disks are offered over vhost-user; the daemon's `VhostSockets`. */
export interface DiskSockets {
  offer(request: shape.SocketRequest): Promise<shape.ExportSocket>
  withdraw(name: string): Promise<shape.ExportSocket[]>
  /** Disks came or went; never rejects. */
  refresh(): Promise<void>
}

export interface ServedDevices extends DeviceService {
  /** Shows a volume's new size to the users of its device; never rejects. */
  resized(name: string): Promise<void>
}

export interface LocalServiceParts {
  pool: OpenPool
  io: Io
  /** Null on a host that cannot be asked for holes: everything is read. */
  seeker: HoleSeeker | null
  status: () => shape.ServeStatus
  /** Null where no daemon is there to serve them for as long as they are used. */
  devices: ServedDevices | null
  /** Null in a process that does not outlive one command. */
  filesystems: Filesystems | null
  /** Null in such a process, and on a host that cannot pass descriptors. */
  sockets: DiskSockets | null
  close: () => Promise<void>
}

export class LocalService implements PoolService {
  readonly #parts: LocalServiceParts
  readonly #pool: OpenPool
  readonly #images: LocalImages
  #closing: Promise<void> | null = null

  constructor(parts: LocalServiceParts) {
    this.#parts = parts
    this.#pool = parts.pool
    this.#images = new LocalImages(parts.pool, parts.io, parts.seeker)
  }

  status(): Promise<shape.ServeStatus> {
    return Promise.resolve(this.#parts.status())
  }
  info(): Promise<shape.PoolInfo> {
    return this.#pool.info()
  }
  volumes(): Promise<shape.VolumeInfo[]> {
    return this.#pool.volumes()
  }
  volume(name: string): Promise<shape.VolumeInfo> {
    return this.#pool.volume(name)
  }
  create(request: shape.CreateVolume): Promise<shape.VolumeInfo> {
    return this.#shown(this.#pool.create(request))
  }
  snapshot(names: string[]): Promise<shape.SnapshotInfo[]> {
    return this.#shown(this.#pool.snapshot(names))
  }
  clone(source: string, names: string[]): Promise<shape.VolumeInfo[]> {
    return this.#shown(this.#pool.clone(source, names))
  }
  restore(name: string): Promise<shape.VolumeInfo> {
    return this.#pool.restore(name)
  }
  remove(
    request: shape.RemoveRequest,
    call: LongCall<shape.UsageProgress> = {},
  ): Promise<shape.RemoveReport> {
    return this.#shown(this.#pool.remove(request, call.signal, call.progress))
  }
  rename(from: string, to: string): Promise<void> {
    return this.#shown(this.#pool.rename(from, to))
  }
  scrubStatus(): Promise<shape.ScrubStatus> {
    return this.#pool.scrubStatus()
  }
  upkeep(isPaused: boolean | null): Promise<shape.UpkeepStatus> {
    return Promise.resolve(this.#pool.upkeep(isPaused))
  }
  async resize(request: shape.ResizeRequest): Promise<shape.VolumeInfo> {
    const { name, sizeBytes, allowShrink } = request
    const volume = await this.#pool.resize(name, sizeBytes, allowShrink)
    await this.#parts.devices?.resized(name)
    return volume
  }
  hold(name: string, tag: string): Promise<void> {
    return this.#pool.hold(name, tag)
  }
  release(name: string, tag: string): Promise<void> {
    return this.#pool.release(name, tag)
  }
  async fuseMount(request: shape.FuseRequest): Promise<shape.MountedFilesystem> {
    return this.#mustFilesystems().mount(request)
  }
  async fuseUnmount(path: string, force: boolean): Promise<void> {
    await this.#mustFilesystems().unmount(path, force)
  }
  async exportSocket(request: shape.SocketRequest): Promise<shape.ExportSocket> {
    return this.#mustSockets().offer(request)
  }
  async withdrawSocket(name: string): Promise<shape.ExportSocket[]> {
    return this.#mustSockets().withdraw(name)
  }

  async attach(request: shape.AttachRequest): Promise<shape.DeviceInfo> {
    return this.#mustDevices().attach(request)
  }
  async detach(target: string): Promise<shape.DeviceInfo[]> {
    return this.#mustDevices().detach(target)
  }
  async devices(): Promise<shape.DeviceInfo[]> {
    return this.#parts.devices?.devices() ?? []
  }
  async mount(request: shape.MountRequest): Promise<shape.MountInfo> {
    return this.#mustDevices().mount(request)
  }
  async umount(target: string): Promise<shape.MountInfo[]> {
    return this.#mustDevices().umount(target)
  }
  async mkfs(request: shape.MkfsRequest): Promise<shape.MkfsReport> {
    return this.#mustDevices().mkfs(request)
  }

  #mustDevices(): ServedDevices {
    const { devices } = this.#parts
    if (devices !== null) return devices
    throw new OperatingError('unsupported', 'devices and mounts need a daemon to serve them', {
      hint: 'Start `varve serve` as root, then run the command again.',
    })
  }

  async *diff(from: string | null, to: string, signal?: AbortSignal): AsyncGenerator<DiffExtent> {
    for await (const extent of this.#pool.diff(from, to)) {
      throwIfCanceled(signal)
      yield extent
    }
  }

  reclaim(call: LongCall<shape.ReclaimProgress>): Promise<shape.ReclaimReport> {
    return this.#pool.reclaim(call.signal, call.progress)
  }

  usage(
    request: shape.UsageRequest,
    call: LongCall<shape.UsageProgress>,
  ): Promise<shape.UsageReport> {
    return this.#pool.usage(request.by, call.signal, call.progress)
  }

  scrub(
    request: shape.ScrubRequest,
    call: LongCall<shape.ScrubProgress>,
  ): Promise<shape.ScrubReport> {
    return this.#pool.scrub(request, call.signal, call.progress)
  }

  settle(
    request: shape.SettleRequest,
    call: LongCall<shape.ReclaimProgress>,
  ): Promise<shape.ReclaimReport> {
    return this.#pool.settle(request.compression, call.signal, call.progress)
  }

  importImage(request: shape.ImportRequest, call: ImportCall): Promise<shape.ImportReport> {
    const { rootfs } = request
    const importImage = this.#images.importImage.bind(this.#images)
    if (rootfs === undefined) return this.#shown(importImage(request, call))
    return this.#shown(importRootfs(request, rootfs, call, importImage))
  }
  exportImage(request: shape.ExportRequest, call: ExportCall): Promise<shape.ExportReport> {
    return this.#images.exportImage(request, call)
  }

  close(): Promise<void> {
    this.#closing ??= this.#parts.close()
    return this.#closing
  }

  /** Has the sockets follow the disks before whoever asked for a change is answered. */
  async #shown<T>(change: Promise<T>): Promise<T> {
    const result = await change
    await this.#parts.sockets?.refresh()
    return result
  }

  #mustSockets(): DiskSockets {
    if (this.#parts.sockets !== null) return this.#parts.sockets
    throw new OperatingError('unsupported', 'nobody is there to serve a socket', {
      hint: 'Start `varve serve`, on a host with io_uring and the addon.',
    })
  }

  #mustFilesystems(): Filesystems {
    if (this.#parts.filesystems !== null) return this.#parts.filesystems
    throw new OperatingError('unsupported', 'no daemon serves this pool', {
      hint: 'A filesystem needs a process that stays: start `varve serve`.',
    })
  }
}
