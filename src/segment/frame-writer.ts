/**
 * Gathers blocks and writes them as frames, one behind the other. While some batches are being
 * encoded on other threads, the next is gathered.
 */
import type { Codecs } from '../base/codec.ts'
import { Codec, FRAME_BYTES_MAX } from '../base/codec.ts'
import { assert, must } from '../base/assert.ts'
import { BLOCK_SIZE_BYTES } from '../base/units.ts'
import { frameWord0, frameWord1 } from '../format/directory.ts'
import { PAGE_SIZE_BYTES } from '../format/page.ts'
import { allocateArena } from '../io/arena.ts'
import type { Io } from '../io/io.ts'

const BATCH_BYTES = 512 * 1024
/** One for each of the codecs' threads, and one to be filled. */
const BATCH_COUNT = 3
const BATCH_BLOCK_COUNT: number = BATCH_BYTES / BLOCK_SIZE_BYTES

/**
 * Raw bytes of a frame. A read of one block decodes all of it: lz4 is there for speed, zstd for
 * space.
 */
const FRAME_BYTES: Record<Codec, number> = {
  [Codec.raw]: FRAME_BYTES_MAX,
  [Codec.lz4]: FRAME_BYTES_MAX / 4,
  [Codec.zstd]: FRAME_BYTES_MAX,
}

export interface FrameSink {
  /** Writes arena memory into the file; throws when it cannot. */
  write(offsetBytes: number, arenaOffset: number, lengthBytes: number): void
  /** The slot's block is in a frame that was written. */
  setFrame(slot: number, word0: number, word1: number): void
}

interface Batch {
  source: Buffer
  slots: Uint16Array
  count: number
  /** Arena memory for what comes out. */
  target: number
  lengths: Uint32Array
  encoding: Promise<number> | null
}

export class FrameWriter {
  readonly #io: Io
  readonly #codecs: Codecs
  readonly #codec: Codec
  readonly #sink: FrameSink
  readonly #batches: readonly Batch[]
  readonly #free: Batch[]
  /** In the order in which they will be written. */
  readonly #encoding: Batch[] = []
  #filling: Batch
  #offsetBytes: number = PAGE_SIZE_BYTES

  private constructor(io: Io, codecs: Codecs, codec: Codec, sink: FrameSink, batches: Batch[]) {
    this.#io = io
    this.#codecs = codecs
    this.#codec = codec
    this.#sink = sink
    this.#batches = batches
    this.#free = [...batches]
    this.#filling = must(this.#free.pop(), 'a batch to fill')
  }

  static async create(io: Io, codecs: Codecs, codec: Codec, sink: FrameSink): Promise<FrameWriter> {
    const batches: Batch[] = []
    for (let i = 0; i < BATCH_COUNT; i += 1) {
      batches.push({
        source: Buffer.allocUnsafe(BATCH_BYTES),
        slots: new Uint16Array(BATCH_BLOCK_COUNT),
        count: 0,
        target: await allocateArena(io.arena, BATCH_BYTES),
        lengths: new Uint32Array(BATCH_BLOCK_COUNT),
        encoding: null,
      })
    }
    return new FrameWriter(io, codecs, codec, sink, batches)
  }

  /** Of all frames written so far. */
  get storedBytes(): number {
    return this.#offsetBytes - PAGE_SIZE_BYTES
  }

  /** Copies one block of the arena. Waits when all batches are full. */
  async add(slot: number, arenaOffset: number): Promise<void> {
    const batch = this.#filling
    const at = batch.count * BLOCK_SIZE_BYTES
    this.#io.arena.memory.copy(batch.source, at, arenaOffset, arenaOffset + BLOCK_SIZE_BYTES)
    batch.slots[batch.count] = slot
    batch.count += 1
    if (batch.count === BATCH_BLOCK_COUNT) await this.#encodeFilled()
  }

  /** Writes what is left. */
  async finish(): Promise<void> {
    if (this.#filling.count > 0) await this.#encodeFilled()
    while (this.#encoding.length > 0) await this.#writeOldest()
  }

  /** Gives the memory back once no other thread uses it. */
  async close(): Promise<void> {
    for (const batch of this.#batches) {
      await batch.encoding?.catch(() => undefined)
      this.#io.arena.free(batch.target, BATCH_BYTES)
    }
  }

  async #encodeFilled(): Promise<void> {
    const batch = this.#filling
    batch.encoding = this.#codecs.encode(
      this.#codec,
      batch.source,
      0,
      batch.count * BLOCK_SIZE_BYTES,
      FRAME_BYTES[this.#codec],
      this.#io.arena.memory,
      batch.target,
      batch.lengths,
    )
    // Awaited by the next to write; a failure before that must not go unhandled.
    batch.encoding.catch(() => undefined)
    this.#encoding.push(batch)
    if (this.#free.length === 0) await this.#writeOldest()
    this.#filling = must(this.#free.pop(), 'a batch that was written')
  }

  async #writeOldest(): Promise<void> {
    const batch = must(this.#encoding.shift(), 'a batch being encoded')
    const storedBytes = await must(batch.encoding, 'its encoding')
    batch.encoding = null
    this.#sink.write(this.#offsetBytes, batch.target, storedBytes)
    this.#placeAll(batch, storedBytes)
    batch.count = 0
    this.#free.push(batch)
  }

  #placeAll(batch: Batch, storedBytes: number): void {
    const frameBlockCount = FRAME_BYTES[this.#codec] / BLOCK_SIZE_BYTES
    const startBytes = this.#offsetBytes
    for (let first = 0, i = 0; first < batch.count; first += frameBlockCount, i += 1) {
      const blockCount = Math.min(frameBlockCount, batch.count - first)
      const frame = {
        offsetBytes: this.#offsetBytes,
        storedBytes: batch.lengths[i],
        blockCount,
        codec: batch.lengths[i] === blockCount * BLOCK_SIZE_BYTES ? Codec.raw : this.#codec,
      }
      const word1 = frameWord1(frame)
      for (let index = 0; index < blockCount; index += 1) {
        this.#sink.setFrame(batch.slots[first + index], frameWord0(frame, index), word1)
      }
      this.#offsetBytes += frame.storedBytes
    }
    assert(this.#offsetBytes === startBytes + storedBytes, 'the frames’ lengths add up')
  }
}
