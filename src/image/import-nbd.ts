/**
 * What an NBD server shows, into a volume: holes are not read, several reads are in flight, and
 * blocks are written in order.
 */
import { BLOCK_SIZE_BYTES, MIB } from '../base/units.ts'
import { throwIfCanceled } from './import-raw.ts'
import type { BlockSink, CopyOptions } from './import-raw.ts'
import type { BlockMap } from './format/facts.ts'
import type { ImageExtent } from './nbd-client.ts'

/** What the copy needs of an `NbdClient`. */
export interface ImageReader {
  readonly sizeBytes: number
  read(offsetBytes: number, target: Uint8Array): Promise<void>
  extents(offsetBytes: number, lengthBytes: number): Promise<ImageExtent[]>
}

/** A reader whose holes are told by the image's own table. */
export class MappedReader implements ImageReader {
  readonly #reader: ImageReader
  readonly #map: BlockMap

  constructor(reader: ImageReader, map: BlockMap) {
    this.#reader = reader
    this.#map = map
  }

  get sizeBytes(): number {
    return this.#reader.sizeBytes
  }

  read(offsetBytes: number, target: Uint8Array): Promise<void> {
    return this.#reader.read(offsetBytes, target)
  }

  extents(offsetBytes: number, lengthBytes: number): Promise<ImageExtent[]> {
    const { blockBytes } = this.#map
    const limitBytes = offsetBytes + lengthBytes
    const first = Math.floor(offsetBytes / blockBytes)
    const zero = this.#isZero(first)
    let end = first + 1
    while (end * blockBytes < limitBytes && this.#isZero(end) === zero) end += 1
    const endBytes = Math.min(end * blockBytes, limitBytes)
    return Promise.resolve([{ lengthBytes: endBytes - offsetBytes, zero }])
  }

  #isZero(block: number): boolean {
    return ((this.#map.bits[block >>> 3] >>> (block & 7)) & 1) === 0
  }
}

const CHUNK_BYTES = MIB
const READS_IN_FLIGHT = 8
/** A length in the protocol is 32 bits; a multiple of any block size. */
const STATUS_BYTES_MAX = 0xc0000000

interface Chunk {
  offsetBytes: number
  lengthBytes: number
}

interface Reading {
  chunk: Chunk
  buffer: Buffer
  read: Promise<Error | null>
}

/** Resolves to the bytes that were read. */
export async function importNbd(
  reader: ImageReader,
  sink: BlockSink,
  options: CopyOptions,
): Promise<number> {
  const totalBytes = reader.sizeBytes
  const buffers: Buffer[] = Array.from({ length: READS_IN_FLIGHT }, () => Buffer.alloc(CHUNK_BYTES))
  const chunks = dataChunks(reader, options)
  const ahead: Reading[] = []
  let dataBytes = 0
  let isExhausted = false
  try {
    for (;;) {
      for (let free = buffers.pop(); free !== undefined; free = buffers.pop()) {
        const next = isExhausted ? null : await chunks.next()
        if (next === null || next.done === true) {
          isExhausted = true
          buffers.push(free)
          break
        }
        ahead.push(startRead(reader, next.value, free))
      }
      const first = ahead.shift()
      if (first === undefined) break
      buffers.push(first.buffer)
      const failure = await first.read
      if (failure !== null) throw failure
      throwIfCanceled(options.signal)
      const { offsetBytes, lengthBytes } = first.chunk
      const paddedBytes = Math.ceil(lengthBytes / BLOCK_SIZE_BYTES) * BLOCK_SIZE_BYTES
      first.buffer.fill(0, lengthBytes, paddedBytes)
      await sink.write(offsetBytes, first.buffer.subarray(0, paddedBytes))
      dataBytes += lengthBytes
      options.progress?.({ doneBytes: offsetBytes + lengthBytes, totalBytes })
    }
  } finally {
    await Promise.all(ahead.map(({ read }) => read))
  }
  options.progress?.({ doneBytes: totalBytes, totalBytes })
  return dataBytes
}

function startRead(reader: ImageReader, chunk: Chunk, buffer: Buffer): Reading {
  const read = reader.read(chunk.offsetBytes, buffer.subarray(0, chunk.lengthBytes)).then(
    () => null,
    (error: unknown) => error as Error,
  )
  return { chunk, buffer, read }
}

/** The data in chunks that begin and end on blocks, but for the end of the image. */
async function* dataChunks(reader: ImageReader, options: CopyOptions): AsyncGenerator<Chunk> {
  const totalBytes = reader.sizeBytes
  let startBytes = 0
  let endBytes = 0
  for await (const extent of dataExtents(reader, options)) {
    const from = extent.offsetBytes - (extent.offsetBytes % BLOCK_SIZE_BYTES)
    const until = Math.ceil((extent.offsetBytes + extent.lengthBytes) / BLOCK_SIZE_BYTES)
    // Extents of 512-byte sectors may share a block.
    if (from > endBytes) {
      yield* cut(startBytes, endBytes)
      startBytes = from
    }
    endBytes = Math.min(until * BLOCK_SIZE_BYTES, totalBytes)
    while (endBytes - startBytes >= CHUNK_BYTES) {
      yield { offsetBytes: startBytes, lengthBytes: CHUNK_BYTES }
      startBytes += CHUNK_BYTES
    }
  }
  yield* cut(startBytes, endBytes)
}

function* cut(startBytes: number, endBytes: number): Generator<Chunk> {
  if (endBytes > startBytes) yield { offsetBytes: startBytes, lengthBytes: endBytes - startBytes }
}

async function* dataExtents(reader: ImageReader, options: CopyOptions): AsyncGenerator<Chunk> {
  const totalBytes = reader.sizeBytes
  for (let at = 0; at < totalBytes;) {
    throwIfCanceled(options.signal)
    for (const extent of await reader.extents(at, Math.min(STATUS_BYTES_MAX, totalBytes - at))) {
      if (!extent.zero) yield { offsetBytes: at, lengthBytes: extent.lengthBytes }
      at += extent.lengthBytes
    }
    options.progress?.({ doneBytes: at, totalBytes })
  }
}
