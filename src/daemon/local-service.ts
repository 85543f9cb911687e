/** `PoolService` on a pool that this process has open. */
import { open, stat } from 'node:fs/promises'
import type { FileHandle } from 'node:fs/promises'
import type { ByteOutput, ExportCall, ImportCall, LongCall, PoolService } from '../api/service.ts'
import type * as shape from '../api/shapes.ts'
import type { DeviceService } from '../api/device-service.ts'
import { must } from '../base/assert.ts'
import { OperatingError } from '../base/errors.ts'
import type { ExportEntry, ExportTarget } from '../export/target.ts'
import { exportRaw } from '../image/export-raw.ts'
import { FileSink } from '../image/file-sink.ts'
import { SECTOR_SIZE_BYTES, imageFileKind, imageSize, volumeSizeOf } from '../image/image-file.ts'
import { importFile, importStream, throwIfCanceled } from '../image/import-raw.ts'
import type { HoleSeeker } from '../image/import-raw.ts'
import { systemError } from '../image/system-error.ts'
import type { Arena } from '../io/arena.ts'
import type { BulkImport, DiffExtent, PoolOperations } from '../pool/types.ts'

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

export interface ServedDevices extends DeviceService {
  /** Shows a volume's new size to the users of its device; never rejects. */
  resized(name: string): Promise<void>
}

export interface LocalServiceParts {
  pool: OpenPool
  arena: Arena
  /** Null on a host that cannot be asked for holes: everything is read. */
  seeker: HoleSeeker | null
  status: () => shape.ServeStatus
  /** Null where no daemon is there to serve them for as long as they are used. */
  devices: ServedDevices | null
  /** Null in a process that does not outlive one command. */
  filesystems: Filesystems | null
  close: () => Promise<void>
}

export class LocalService implements PoolService {
  readonly #parts: LocalServiceParts
  readonly #pool: OpenPool
  #closing: Promise<void> | null = null

  constructor(parts: LocalServiceParts) {
    this.#parts = parts
    this.#pool = parts.pool
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
    return this.#pool.create(request)
  }
  snapshot(names: string[]): Promise<shape.SnapshotInfo[]> {
    return this.#pool.snapshot(names)
  }
  clone(source: string, names: string[]): Promise<shape.VolumeInfo[]> {
    return this.#pool.clone(source, names)
  }
  restore(name: string): Promise<shape.VolumeInfo> {
    return this.#pool.restore(name)
  }
  remove(request: shape.RemoveRequest): Promise<shape.RemoveReport> {
    return this.#pool.remove(request)
  }
  rename(from: string, to: string): Promise<void> {
    return this.#pool.rename(from, to)
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

  async importImage(request: shape.ImportRequest, call: ImportCall): Promise<shape.ImportReport> {
    const { path } = request
    if (path === null) return this.#importStream(request, call)
    const file = await openImage(path)
    try {
      const imageBytes = await imageSize(file, path)
      const sizeBytes = request.sizeBytes ?? volumeSizeOf(imageBytes)
      if (sizeBytes < imageBytes) throw tooSmall(path, imageBytes)
      const seeker = this.#parts.seeker
      return await this.#fill(request, sizeBytes, imageBytes, (bulk) =>
        importFile(file, imageBytes, seeker, bulk, call),
      )
    } finally {
      await file.close()
    }
  }

  async exportImage(request: shape.ExportRequest, call: ExportCall): Promise<shape.ExportReport> {
    const target = await this.#openQuiet(request.name)
    const imageBytes = target.sizeBytes
    try {
      const dataBytes =
        request.path === null
          ? await this.#copyOut(target, must(call.output, 'the output of an export'), call)
          : await this.#exportToPath(target, request.path, request.overwrite, call)
      return { name: request.name, imageBytes, dataBytes }
    } finally {
      target.close()
    }
  }

  close(): Promise<void> {
    this.#closing ??= this.#parts.close()
    return this.#closing
  }

  #mustFilesystems(): Filesystems {
    if (this.#parts.filesystems !== null) return this.#parts.filesystems
    throw new OperatingError('unsupported', 'no daemon serves this pool', {
      hint: 'A filesystem needs a process that stays: start `varve serve`.',
    })
  }

  async #importStream(request: shape.ImportRequest, call: ImportCall): Promise<shape.ImportReport> {
    const { sizeBytes } = request
    if (sizeBytes === null) {
      throw new OperatingError('usage', 'a stream does not say how long it is', {
        hint: 'Give the size of the volume with --size.',
      })
    }
    const input = must(call.input, 'the input of an import')
    let imageBytes = 0
    const report = await this.#fill(request, sizeBytes, 0, async (bulk) => {
      imageBytes = await importStream(input, sizeBytes, bulk, call)
      return imageBytes
    })
    return { ...report, imageBytes }
  }

  /** Nothing stays behind when `fill` fails. */
  async #fill(
    request: shape.ImportRequest,
    sizeBytes: number,
    imageBytes: number,
    fill: (bulk: BulkImport) => Promise<number>,
  ): Promise<shape.ImportReport> {
    if (sizeBytes === 0 || sizeBytes % SECTOR_SIZE_BYTES !== 0) {
      throw new OperatingError('usage', `a volume of ${sizeBytes} bytes cannot be`, {
        hint: 'A size is a multiple of 512 bytes, and more than none.',
      })
    }
    const { name, labels } = request
    const bulk = await this.#pool.beginImport({ name, sizeBytes, labels })
    try {
      const dataBytes = await fill(bulk)
      return { volume: await bulk.commit(), imageBytes, dataBytes }
    } catch (error) {
      await bulk.abort()
      throw error
    }
  }

  /** A volume that a client may be writing to would come out as it never was. */
  async #openQuiet(name: string): Promise<ExportTarget> {
    if (!name.includes('@')) {
      const { clients } = await this.#pool.volume(name)
      if (clients.length > 0) {
        throw new OperatingError('busy', `${name} is in use by ${clients.join(', ')}`, {
          hint: `Take a snapshot, \`varve snapshot ${name}@now\`, and export that.`,
          details: { name, clients },
        })
      }
    }
    const target = this.#pool.openTarget(name, 'export')
    if (target === null) {
      throw new OperatingError('not-found', `there is no disk ${name}`, {
        hint: 'See `varve list -t all`.',
        details: { name },
      })
    }
    return target
  }

  #copyOut(target: ExportTarget, output: ByteOutput, call: ExportCall): Promise<number> {
    return exportRaw(target, this.#parts.arena, output, call)
  }

  async #exportToPath(
    target: ExportTarget,
    path: string,
    overwrite: boolean,
    call: ExportCall,
  ): Promise<number> {
    const sink = await FileSink.create(path, target.sizeBytes, overwrite)
    try {
      const dataBytes = await this.#copyOut(target, sink, call)
      await sink.commit()
      return dataBytes
    } catch (error) {
      await sink.abort()
      throw error
    }
  }
}

/** Looked at before it is opened: opening a FIFO would wait for its writer. */
async function openImage(path: string): Promise<FileHandle> {
  try {
    const kind = imageFileKind(await stat(path))
    if (kind === 'file' || kind === 'block-device') return await open(path, 'r')
  } catch (error) {
    throw systemError(`cannot read ${path}`, error)
  }
  throw new OperatingError('usage', `${path} is neither a file nor a block device`)
}

function tooSmall(path: string, imageBytes: number): OperatingError {
  return new OperatingError('usage', `${path} has ${imageBytes} bytes and does not fit --size`, {
    hint: 'Give a larger --size, or none to take the size of the image.',
  })
}
