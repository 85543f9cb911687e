/** Images in and out of a pool that this process has open. */
import { createReadStream } from 'node:fs'
import type { FileHandle } from 'node:fs/promises'
import { join } from 'node:path'
import type { ByteOutput, ExportCall, ImportCall } from '../api/service.ts'
import type * as shape from '../api/shapes.ts'
import { must } from '../base/assert.ts'
import { OperatingError } from '../base/errors.ts'
import { TIB } from '../base/units.ts'
import { NbdServer } from '../export/nbd/server.ts'
import type { ExportTarget } from '../export/target.ts'
import { Container } from '../image/container.ts'
import { convert, verifyConvertible } from '../image/convert.ts'
import type { WrittenFormat } from '../image/convert.ts'
import { startDeadline } from '../image/deadline.ts'
import { decompress } from '../image/decompress.ts'
import { exportRaw } from '../image/export-raw.ts'
import { FileSink } from '../image/file-sink.ts'
import { FileBytes, verifyVirtualSize } from '../image/image-bytes.ts'
import { SECTOR_SIZE_BYTES, imageFileKind, imageSize, volumeSizeOf } from '../image/image-file.ts'
import { compressionOf, detectFormat, isContainer } from '../image/image-format.ts'
import type { Compression, ContainerFormat, ImageFormat } from '../image/image-format.ts'
import { openReadable } from '../image/image-tree.ts'
import { importFile, importStream } from '../image/import-raw.ts'
import type { HoleSeeker } from '../image/import-raw.ts'
import { makePrivateFolder } from '../image/private-folder.ts'
import type { Io } from '../io/io.ts'
import type { BulkImport } from '../pool/types.ts'
import type { OpenPool } from './local-service.ts'

/** Of what is not raw: a few bytes of it may claim, or become, anything. */
const SIZE_BYTES_MAX: number = 64 * TIB
const TIMEOUT_MS = 86_400_000
/** One for each of the threads that QEMU decompresses on. */
const CPU_PER_SECOND = 4
/** The server ends with its only client. */
const SERVER_GRACE_MS = 1000
const STREAM_CHUNK_BYTES = 1048576

/** An import whose time is running. */
interface ImportTask {
  request: shape.ImportRequest
  call: ImportCall
  signal: AbortSignal
}

type Pool = Pick<OpenPool, 'beginImport' | 'volume' | 'openTarget'>

export class LocalImages {
  readonly #pool: Pool
  readonly #io: Io
  readonly #seeker: HoleSeeker | null

  /** `seeker`: null on a host that cannot be asked for holes. */
  constructor(pool: Pool, io: Io, seeker: HoleSeeker | null) {
    this.#pool = pool
    this.#io = io
    this.#seeker = seeker
  }

  async importImage(request: shape.ImportRequest, call: ImportCall): Promise<shape.ImportReport> {
    const deadline = startDeadline(call.signal, request.timeoutMs ?? TIMEOUT_MS)
    const { signal } = deadline
    try {
      const task = { request, call: { ...call, signal }, signal }
      return request.path === null
        ? await this.#importStream(task)
        : await this.#importPath(task, request.path)
    } finally {
      deadline.clear()
    }
  }

  async exportImage(request: shape.ExportRequest, call: ExportCall): Promise<shape.ExportReport> {
    const format = request.format ?? 'raw'
    const isCompressed = request.isCompressed === true
    if (format === 'raw' && isCompressed) {
      throw new OperatingError('usage', 'raw images are not compressed', {
        hint: 'Give --format qcow2, or compress the file: varve export DISK - | zstd',
      })
    }
    const target = await this.#openQuiet(request.name)
    const deadline = startDeadline(call.signal, request.timeoutMs ?? TIMEOUT_MS)
    const timed = { ...call, signal: deadline.signal }
    try {
      const imageBytes = target.sizeBytes
      if (format !== 'raw') verifyConvertible(format, isCompressed, imageBytes)
      const dataBytes =
        format === 'raw'
          ? await this.#exportRaw(target, request, timed)
          : await this.#convert(target, request, format, timed)
      return { name: request.name, imageBytes, dataBytes }
    } finally {
      target.close()
      deadline.clear()
    }
  }

  async #importPath(task: ImportTask, path: string): Promise<shape.ImportReport> {
    const { request, call, signal } = task
    const file = await openReadable(path)
    try {
      const imageBytes = await imageSize(file, path)
      const format = request.format ?? (await formatOf(file, path, imageBytes, signal))
      if (isContainer(format)) return await this.#importContainer(task, path, format)
      const compression = compressionOf(format)
      if (compression !== null) {
        return await this.#importCompressed(task, compression, compressedFile(task, file))
      }
      if (request.sizeBytesMax !== undefined) verifyVirtualSize(imageBytes, request.sizeBytesMax)
      const sizeBytes = fittingSize(request, path, imageBytes)
      return await this.#fill(request, sizeBytes, imageBytes, (bulk) =>
        importFile(file, imageBytes, this.#seeker, bulk, this.#io.arena, call),
      )
    } finally {
      await file.close()
    }
  }

  async #importStream(task: ImportTask): Promise<shape.ImportReport> {
    const { request, call } = task
    const format: ImageFormat = request.format ?? 'raw'
    if (isContainer(format)) {
      throw new OperatingError('usage', `a ${format} image cannot come through a pipe`, {
        hint: 'Put it into a file: its parts are read in no order.',
      })
    }
    const input = must(call.input, 'the input of an import')
    const compression = compressionOf(format)
    if (compression !== null) return this.#importCompressed(task, compression, input)
    const { sizeBytes } = request
    if (sizeBytes === null) {
      throw new OperatingError('usage', 'a stream does not say how long it is', {
        hint: 'Give the size of the volume with --size.',
      })
    }
    let imageBytes = 0
    const report = await this.#fill(request, sizeBytes, 0, async (bulk) => {
      imageBytes = await importStream(input, sizeBytes, bulk, call)
      return imageBytes
    })
    return { ...report, imageBytes }
  }

  /** Only its end says how long it is: the volume gets its size when it gets its name. */
  async #importCompressed(
    task: ImportTask,
    compression: Compression,
    input: AsyncIterable<Uint8Array>,
  ): Promise<shape.ImportReport> {
    const { request, call, signal } = task
    const { progress } = call
    const limitBytes = request.sizeBytesMax ?? SIZE_BYTES_MAX
    const isSized = request.sizeBytes !== null
    const sizeBytes = request.sizeBytes ?? limitBytes - (limitBytes % SECTOR_SIZE_BYTES)
    let imageBytes = 0
    const update =
      request.path === null && progress !== undefined
        ? (at: shape.CopyProgress): void => progress(isSized ? at : { ...at, totalBytes: 0 })
        : undefined
    const fill = async (bulk: BulkImport): Promise<number> => {
      const plain = decompress(input, compression, signal)
      const options = { signal, progress: update }
      const option = isSized ? '--size' : '--max-size'
      imageBytes = await importStream(plain, sizeBytes, bulk, options, option)
      return imageBytes
    }
    const commitSize = (): number => (isSized ? sizeBytes : volumeSizeOf(imageBytes))
    const report = await this.#fill(request, sizeBytes, 0, fill, commitSize)
    return { ...report, imageBytes }
  }

  async #importContainer(
    task: ImportTask,
    path: string,
    format: ContainerFormat,
  ): Promise<shape.ImportReport> {
    const { request, call, signal } = task
    const seconds = (request.timeoutMs ?? TIMEOUT_MS) / 1000
    const container = await Container.open(path, format, {
      allowBacking: request.allowBacking ?? null,
      sizeBytesMax: request.sizeBytesMax ?? SIZE_BYTES_MAX,
      cpuSecondsMax: seconds * CPU_PER_SECOND,
      signal,
    })
    try {
      const imageBytes = container.sizeBytes
      const sizeBytes = fittingSize(request, path, imageBytes)
      return await this.#fill(request, sizeBytes, imageBytes, (bulk) => container.copy(bulk, call))
    } finally {
      await container.close()
    }
  }

  /** Nothing stays behind when `fill` fails. `commitSize`: where only the end tells the size. */
  async #fill(
    request: shape.ImportRequest,
    sizeBytes: number,
    imageBytes: number,
    fill: (bulk: BulkImport) => Promise<number>,
    commitSize: () => number = () => sizeBytes,
  ): Promise<shape.ImportReport> {
    verifyVolumeSize(sizeBytes)
    const { name, labels } = request
    const bulk = await this.#pool.beginImport({ name, sizeBytes, labels })
    try {
      const dataBytes = await fill(bulk)
      verifyVolumeSize(commitSize())
      return { volume: await bulk.commit(commitSize()), imageBytes, dataBytes }
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
    return exportRaw(target, this.#io.arena, output, call)
  }

  async #exportRaw(
    target: ExportTarget,
    request: shape.ExportRequest,
    call: ExportCall,
  ): Promise<number> {
    if (request.path === null) {
      return this.#copyOut(target, must(call.output, 'the output of an export'), call)
    }
    const sink = await FileSink.create(request.path, target.sizeBytes, request.overwrite)
    try {
      const dataBytes = await this.#copyOut(target, sink, call)
      await sink.commit()
      return dataBytes
    } catch (error) {
      await sink.abort()
      throw error
    }
  }

  /** qemu-img reads the disk from a server of its own, on a socket that only it can reach. */
  async #convert(
    target: ExportTarget,
    request: shape.ExportRequest,
    format: WrittenFormat,
    call: ExportCall,
  ): Promise<number> {
    const { name, path, overwrite } = request
    if (path === null) {
      throw new OperatingError('usage', `a ${format} image cannot go through a pipe`, {
        hint: 'Name a file: its parts are written in no order.',
      })
    }
    const folder = await makePrivateFolder()
    let server: NbdServer | null = null
    try {
      const socketPath = join(folder.path, 'nbd')
      const { sizeBytes } = target
      const directory = {
        list: () => [{ name, sizeBytes, readOnly: true }],
        open: (asked: string) => (asked === name ? this.#pool.openTarget(name, 'export') : null),
      }
      const addresses = [{ kind: 'unix', path: socketPath, mode: 0o600 } as const]
      server = await NbdServer.start(this.#io, directory, { addresses })
      const isCompressed = request.isCompressed === true
      const asked = { socketPath, exportName: name, sizeBytes, format, isCompressed }
      return await convert({ ...asked, path, overwrite }, call)
    } finally {
      await server?.close(SERVER_GRACE_MS)
      await folder.remove()
    }
  }
}

/** A device is what its users wrote to it, and is not asked what it is. */
async function formatOf(
  file: FileHandle,
  path: string,
  imageBytes: number,
  signal: AbortSignal,
): Promise<ImageFormat> {
  if (imageFileKind(await file.stat()) === 'block-device') return 'raw'
  return detectFormat(path, new FileBytes(file, imageBytes, signal))
}

/** Progress is told in bytes of the file: how many will come out of it nobody knows. */
async function* compressedFile({ call }: ImportTask, file: FileHandle): AsyncGenerator<Uint8Array> {
  const totalBytes = (await file.stat()).size
  let doneBytes = 0
  const stream = createReadStream('', {
    fd: file.fd,
    autoClose: false,
    start: 0,
    highWaterMark: STREAM_CHUNK_BYTES,
  })
  for await (const bytes of stream as AsyncIterable<Buffer>) {
    doneBytes += bytes.length
    call.progress?.({ doneBytes, totalBytes: Math.max(totalBytes, doneBytes) })
    yield bytes
  }
}

function fittingSize(request: shape.ImportRequest, path: string, imageBytes: number): number {
  const sizeBytes = request.sizeBytes ?? volumeSizeOf(imageBytes)
  if (sizeBytes >= imageBytes) return sizeBytes
  throw new OperatingError('usage', `${path} has ${imageBytes} bytes and does not fit --size`, {
    hint: 'Give a larger --size, or none to take the size of the image.',
  })
}

function verifyVolumeSize(sizeBytes: number): void {
  if (sizeBytes > 0 && sizeBytes % SECTOR_SIZE_BYTES === 0) return
  throw new OperatingError('usage', `a volume of ${sizeBytes} bytes cannot be`, {
    hint: 'A size is a multiple of 512 bytes, and more than none.',
  })
}
