/**
 * A raw image into a volume. Of a file, only what the filesystem says is data is read, several
 * reads ahead; zeros within the data are the sink's to find. A volume is a whole number of
 * 512-byte sectors: the end of an odd image is padded with zeros.
 */
import type { FileHandle } from 'node:fs/promises'
import { assert } from '../base/assert.ts'
import { OperatingError } from '../base/errors.ts'
import { BLOCK_SIZE_BYTES, MIB, formatSize } from '../base/units.ts'
import { allocateArena } from '../io/arena.ts'
import type { Arena } from '../io/arena.ts'
import { systemError } from './system-error.ts'

/** Where the blocks go; the pool's `BulkImport` is one. */
export interface BlockSink {
  /** Whole blocks at a multiple of the block size, ascending; `bytes` may be reused afterwards. */
  write(offsetBytes: number, bytes: Uint8Array): Promise<void>
}

/** Where a file has data and where holes, by lseek(2); or a negative errno. */
export interface HoleSeeker {
  /** First byte of data at or after `offsetBytes`; past the end when there is none. */
  seekData(fd: number, offsetBytes: number, fileSizeBytes: number): number
  /** First byte of a hole at or after `offsetBytes`; the end of the file is one. */
  seekHole(fd: number, offsetBytes: number): number
}

export interface CopyOptions {
  signal?: AbortSignal | undefined
  progress?: ((progress: { doneBytes: number; totalBytes: number }) => void) | undefined
}

const CHUNK_BYTES = MIB
/** Enough to keep a disk busy while one chunk is being hashed; four megabytes of buffer. */
const READ_AHEAD_COUNT = 4

interface Chunk {
  offsetBytes: number
  lengthBytes: number
}

/**
 * Reads `imageBytes` of `file` into `sink`; resolves to how many bytes were not holes. It is read
 * into the arena, from which the pool writes: no byte is copied in between.
 */
export async function importFile(
  file: FileHandle,
  imageBytes: number,
  seeker: HoleSeeker | null,
  sink: BlockSink,
  arena: Arena,
  options: CopyOptions,
): Promise<number> {
  const pieces = [await allocateArena(arena, CHUNK_BYTES)]
  // One has to be had; who waits for more while holding some may wait for ever.
  while (pieces.length < READ_AHEAD_COUNT) {
    const piece = arena.allocate(CHUNK_BYTES)
    if (piece < 0) break
    pieces.push(piece)
  }
  try {
    const buffers = pieces.map((at) => arena.memory.subarray(at, at + CHUNK_BYTES))
    return await copyChunks(file, imageBytes, seeker, sink, buffers, options)
  } finally {
    for (const piece of pieces) arena.free(piece, CHUNK_BYTES)
  }
}

/** Resolves or rejects when no read is in flight any more. */
async function copyChunks(
  file: FileHandle,
  imageBytes: number,
  seeker: HoleSeeker | null,
  sink: BlockSink,
  buffers: readonly Buffer[],
  options: CopyOptions,
): Promise<number> {
  const chunks = dataChunks(file.fd, imageBytes, seeker)
  const ahead: { chunk: Chunk; buffer: Buffer; read: Promise<Error | null> }[] = []
  let dataBytes = 0
  const startNext = (buffer: Buffer): void => {
    const next = chunks.next()
    if (next.done === true) return
    const read = readWhole(file, buffer, next.value).then(
      () => null,
      (error: unknown) => error as Error,
    )
    ahead.push({ chunk: next.value, buffer, read })
  }
  try {
    for (const buffer of buffers) startNext(buffer)
    for (let first = ahead[0]; first !== undefined; first = ahead[0]) {
      const failure = await first.read
      if (failure !== null) throw failure
      throwIfCanceled(options.signal)
      const { offsetBytes, lengthBytes } = first.chunk
      await sink.write(offsetBytes, padToBlock(first.buffer, lengthBytes))
      dataBytes += lengthBytes
      options.progress?.({ doneBytes: offsetBytes + lengthBytes, totalBytes: imageBytes })
      ahead.shift()
      startNext(first.buffer)
    }
  } finally {
    await Promise.all(ahead.map((entry) => entry.read))
  }
  options.progress?.({ doneBytes: imageBytes, totalBytes: imageBytes })
  return dataBytes
}

/** The file's data in chunks that begin and end on blocks, but for the end of the image. */
function* dataChunks(fd: number, imageBytes: number, seeker: HoleSeeker | null): Generator<Chunk> {
  let at = 0
  while (at < imageBytes) {
    const { startBytes, endBytes } = nextData(fd, at, imageBytes, seeker)
    for (at = startBytes; at < endBytes; at += CHUNK_BYTES) {
      yield { offsetBytes: at, lengthBytes: Math.min(CHUNK_BYTES, endBytes - at) }
    }
    at = endBytes
  }
}

/** A filesystem that cannot tell its holes (EINVAL), and a device, are all data. */
function nextData(
  fd: number,
  at: number,
  imageBytes: number,
  seeker: HoleSeeker | null,
): { startBytes: number; endBytes: number } {
  assert(at % BLOCK_SIZE_BYTES === 0, 'a chunk begins on a block')
  const none = { startBytes: imageBytes, endBytes: imageBytes }
  const all = { startBytes: at, endBytes: imageBytes }
  if (seeker === null) return all
  const data = seeker.seekData(fd, at, imageBytes)
  if (data >= imageBytes) return none
  if (data < 0) return all
  const hole = seeker.seekHole(fd, data)
  if (hole < 0) return all
  const startBytes = Math.max(at, data - (data % BLOCK_SIZE_BYTES))
  const endBytes = Math.ceil(hole / BLOCK_SIZE_BYTES) * BLOCK_SIZE_BYTES
  return { startBytes, endBytes: Math.min(endBytes, imageBytes) }
}

async function readWhole(file: FileHandle, buffer: Buffer, chunk: Chunk): Promise<void> {
  let done = 0
  while (done < chunk.lengthBytes) {
    const at = chunk.offsetBytes + done
    let bytesRead: number
    try {
      ;({ bytesRead } = await file.read(buffer, done, chunk.lengthBytes - done, at))
    } catch (error) {
      throw systemError('the image cannot be read', error)
    }
    if (bytesRead === 0) {
      throw new OperatingError('io', `the image became shorter while it was read, at ${at}`, {
        hint: 'Import it when nothing writes to it.',
      })
    }
    done += bytesRead
  }
}

/** The filled part of `buffer`, with zeros up to the end of its last block. */
function padToBlock(buffer: Buffer, lengthBytes: number): Buffer {
  const paddedBytes = Math.ceil(lengthBytes / BLOCK_SIZE_BYTES) * BLOCK_SIZE_BYTES
  buffer.fill(0, lengthBytes, paddedBytes)
  return buffer.subarray(0, paddedBytes)
}

/**
 * Reads `input` to its end into `sink`; resolves to its length. A stream has no size of its own:
 * a longer one than `sizeBytes` fails with `out-of-range`, a shorter one leaves zeros. `option`:
 * what to give more of then.
 */
export async function importStream(
  input: AsyncIterable<Uint8Array>,
  sizeBytes: number,
  sink: BlockSink,
  options: CopyOptions,
  option: '--size' | '--max-size' = '--size',
): Promise<number> {
  let filling = Buffer.alloc(CHUNK_BYTES)
  let spare = Buffer.alloc(CHUNK_BYTES)
  let filledBytes = 0
  let doneBytes = 0
  let writing: Promise<Error | null> = Promise.resolve(null)
  const writeOut = async (): Promise<void> => {
    const failure = await writing
    if (failure !== null) throw failure
    const offsetBytes = doneBytes
    const full = filling
    writing = sink.write(offsetBytes, padToBlock(full, filledBytes)).then(
      () => null,
      (error: unknown) => error as Error,
    )
    doneBytes += filledBytes
    options.progress?.({ doneBytes, totalBytes: sizeBytes })
    filling = spare
    spare = full
    filledBytes = 0
  }
  try {
    for await (const bytes of untilAborted(input, options.signal)) {
      if (doneBytes + filledBytes + bytes.length > sizeBytes) throw tooLong(sizeBytes, option)
      for (let taken = 0; taken < bytes.length;) {
        const step = Math.min(bytes.length - taken, CHUNK_BYTES - filledBytes)
        filling.set(bytes.subarray(taken, taken + step), filledBytes)
        taken += step
        filledBytes += step
        if (filledBytes === CHUNK_BYTES) await writeOut()
      }
    }
    throwIfCanceled(options.signal)
    if (filledBytes > 0) await writeOut()
  } finally {
    await writing
  }
  const failure = await writing
  if (failure !== null) throw failure
  return doneBytes
}

/** What comes of `input`; one that has stopped coming does not keep a cancelation waiting. */
async function* untilAborted(
  input: AsyncIterable<Uint8Array>,
  signal: AbortSignal | undefined,
): AsyncGenerator<Uint8Array> {
  const iterator = input[Symbol.asyncIterator]()
  let wake: () => void = () => undefined
  const aborted = new Promise<null>((resolve) => {
    wake = () => resolve(null)
  })
  signal?.addEventListener('abort', wake)
  try {
    for (;;) {
      throwIfCanceled(signal)
      const next = await Promise.race([iterator.next(), aborted])
      throwIfCanceled(signal)
      if (next === null || next.done === true) return
      yield next.value
    }
  } finally {
    signal?.removeEventListener('abort', wake)
    const returned = iterator.return?.().catch(() => undefined)
    if (signal?.aborted !== true) await returned
  }
}

function tooLong(sizeBytes: number, option: string): OperatingError {
  return new OperatingError(
    'out-of-range',
    `the stream is longer than the ${formatSize(sizeBytes)} it may have`,
    { hint: `Give a larger ${option}.` },
  )
}

export function throwIfCanceled(signal: AbortSignal | undefined): void {
  if (signal?.aborted !== true) return
  // A deadline gives its own reason; a person gives none.
  const reason: unknown = signal.reason
  throw reason instanceof OperatingError ? reason : new OperatingError('canceled', 'canceled')
}
