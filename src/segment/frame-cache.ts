/**
 * Decoded frames of settled segments, in memory under a byte budget. They are found by where they
 * lie, so everyone who reads the same address, through whichever clone, shares one copy; and a
 * frame that is read block by block is decoded once. Those that are stored as their blocks are
 * never come here.
 */
import { LRUCache } from 'lru-cache'
import { assert, must } from '../base/assert.ts'
import type { Codec, Codecs } from '../base/codec.ts'
import { FRAME_BYTES_MAX } from '../base/codec.ts'
import { OperatingError } from '../base/errors.ts'
import { BLOCK_SIZE_BYTES } from '../base/units.ts'
import { ARENA_PIECE_BYTES_MAX } from '../io/arena.ts'
import { BuddyArena } from '../io/buddy-arena.ts'
import type { Io, IoCompletion } from '../io/io.ts'
import { PagePool } from './page-pool.ts'
import type { SegmentState } from './segment-state.ts'
import { frameBlockCount, frameCodec, frameOffset, frameStoredBytes } from '../format/directory.ts'

/** Loads in flight; 2 MiB of the arena. Whoever comes later waits. */
const LOAD_COUNT = 32
/** A frame's offset in its file takes 26 bits; what is left of a number's 53 numbers the files. */
const KEY_FACTOR = 2 ** 26

/** The frame cannot be read or decoded. */
export const FRAME_LOST = -1
/** The frame was decoded right where its one waiter wants it. */
export const FRAME_PLACED = -2

/** Told where in the cache's memory a frame lies; valid until the call returns. */
export interface FrameWaiter {
  /** Or `FRAME_LOST`, or `FRAME_PLACED`. */
  frameReady(tag: number, memoryOffset: number): void
}

type DecodeArgs = Parameters<Codecs['decode']> extends [Codec, ...infer Rest] ? Rest : never

interface CachedFrame {
  memoryOffset: number
  rawBytes: number
}

export class FrameCache {
  readonly #io: Io
  readonly #codecs: Codecs
  readonly #arena: BuddyArena
  readonly #frames: LRUCache<number, CachedFrame>
  readonly #loads: Map<number, FrameLoad> = new Map()
  readonly #staging: PagePool
  readonly #freeLoads: FrameLoad[] = []
  #decodedCount = 0

  /** `budgetBytes`: of decoded frames; at least two of the longest reads are held. */
  constructor(io: Io, codecs: Codecs, budgetBytes: number) {
    this.#io = io
    this.#codecs = codecs
    const pieceCount = Math.max(2, Math.ceil(budgetBytes / ARENA_PIECE_BYTES_MAX))
    // Not touched before it is used: memory nobody reads into is not resident.
    this.#arena = new BuddyArena(Buffer.allocUnsafeSlow(pieceCount * ARENA_PIECE_BYTES_MAX))
    this.#frames = new LRUCache({
      // Every frame has at least one block.
      max: this.#arena.sizeBytes / BLOCK_SIZE_BYTES,
      dispose: (frame): void => this.#arena.free(frame.memoryOffset, frame.rawBytes),
    })
    this.#staging = new PagePool(io.arena, LOAD_COUNT, FRAME_BYTES_MAX)
  }

  get memory(): Buffer {
    return this.#arena.memory
  }

  /** Frames decoded so far. */
  get decodedCount(): number {
    return this.#decodedCount
  }

  /** Where the decoded frame lies in `memory`, or -1. Valid until the next load. */
  find(state: SegmentState, offsetBytes: number): number {
    return this.#frames.get(keyOf(state, offsetBytes))?.memoryOffset ?? -1
  }

  /** What is in memory of a frame is not what its file has any more. */
  forget(state: SegmentState, offsetBytes: number): void {
    this.#frames.delete(keyOf(state, offsetBytes))
  }

  isLoading(state: SegmentState, offsetBytes: number): boolean {
    return this.#loads.has(keyOf(state, offsetBytes))
  }

  /** Waits for a frame that is being loaded. */
  join(state: SegmentState, offsetBytes: number, waiter: FrameWaiter, tag: number): void {
    const load = must(this.#loads.get(keyOf(state, offsetBytes)), 'a frame being loaded')
    load.addWaiter(offsetBytes, waiter, tag, FRAME_LOST)
  }

  /** Begins to load frames that lie one behind the other; see {@link FrameLoad.addFrame}. */
  beginLoad(state: SegmentState): FrameLoad {
    const load = this.#freeLoads.pop() ?? new FrameLoad(this, this.#io)
    load.begin(state)
    return load
  }

  /** Reads what was added to the load. Waiters are told in a later turn. */
  submit(load: FrameLoad): void {
    for (const offsetBytes of load.offsets) {
      this.#loads.set(keyOf(load.state, offsetBytes), load)
    }
    const staging = this.#staging.tryTake()
    if (staging >= 0) load.read(staging)
    else void this.#staging.take().then((offset) => load.read(offset))
  }

  /** Decodes what was read, and tells the waiters. */
  finish(load: FrameLoad, staging: number, result: number): void {
    let at = staging
    const wholeBytes = load.storedBytes
    const { state, offsets } = load
    for (let i = 0; i < offsets.length; i += 1) {
      this.#loads.delete(keyOf(state, offsets[i]))
      const memoryOffset = result === wholeBytes ? this.#decode(load, i, at) : FRAME_LOST
      at += frameStoredBytes(load.words[2 * i + 1])
      load.tell(i, memoryOffset)
    }
    this.#staging.give(staging)
    load.end()
    this.#freeLoads.push(load)
  }

  /** Nothing may be loading. */
  close(): void {
    assert(this.#loads.size === 0, 'no frame is being loaded')
    this.#frames.clear()
    this.#staging.release(this.#io.arena)
  }

  #decode(load: FrameLoad, index: number, at: number): number {
    const word0 = load.words[2 * index]
    const word1 = load.words[2 * index + 1]
    const storedBytes = frameStoredBytes(word1)
    const rawBytes = frameBlockCount(word1) * BLOCK_SIZE_BYTES
    const source = this.#io.arena.memory
    const codec = frameCodec(word0) as Codec
    const placeOffset = load.places[index]
    if (placeOffset >= 0) {
      const args: DecodeArgs = [source, at, storedBytes, source, placeOffset, rawBytes]
      return this.#tryDecode(codec, args) ? FRAME_PLACED : FRAME_LOST
    }
    const memoryOffset = this.#allocate(rawBytes)
    const args: DecodeArgs = [source, at, storedBytes, this.memory, memoryOffset, rawBytes]
    if (!this.#tryDecode(codec, args)) {
      this.#arena.free(memoryOffset, rawBytes)
      return FRAME_LOST
    }
    this.#frames.set(keyOf(load.state, frameOffset(word0)), { memoryOffset, rawBytes })
    return memoryOffset
  }

  /** A codec that this host lacks makes the block unreadable, not the pool fall over. */
  #tryDecode(codec: Codec, args: DecodeArgs): boolean {
    try {
      this.#decodedCount += 1
      return this.#codecs.decode(codec, ...args)
    } catch (error) {
      if (error instanceof OperatingError) return false
      throw error
    }
  }

  #allocate(rawBytes: number): number {
    for (;;) {
      const offset = this.#arena.allocate(rawBytes)
      if (offset >= 0) return offset
      assert(this.#frames.size > 0, 'an empty cache has room for one frame')
      this.#frames.pop()
    }
  }
}

/** One read of frames that lie one behind the other, and who waits for which. Recycled. */
export class FrameLoad implements IoCompletion {
  readonly #cache: FrameCache
  readonly #io: Io
  #state: SegmentState | null = null
  readonly offsets: number[] = []
  /** The place of each, two words. */
  readonly words: number[] = []
  /** Where in the arena the one waiter for it wants all of it, or `FRAME_LOST`. */
  readonly places: number[] = []
  storedBytes = 0
  readonly #waiters: FrameWaiter[] = []
  readonly #tags: number[] = []
  readonly #indexes: number[] = []
  #staging = 0

  constructor(cache: FrameCache, io: Io) {
    this.#cache = cache
    this.#io = io
  }

  get state(): SegmentState {
    return must(this.#state, 'the segment being read')
  }

  /** Those who wait for its frames keep the segment's file open. */
  begin(state: SegmentState): void {
    assert(this.#state === null, 'a load is recycled after its end')
    this.#state = state
  }

  /** Adds the frame if it lies behind the last one and there is room. */
  addFrame(word0: number, word1: number): boolean {
    const storedBytes = frameStoredBytes(word1)
    const offsetBytes = frameOffset(word0)
    if (this.offsets.length > 0) {
      if (offsetBytes !== this.offsets[0] + this.storedBytes) return false
      if (this.storedBytes + storedBytes > FRAME_BYTES_MAX) return false
    }
    this.offsets.push(offsetBytes)
    this.words.push(word0, word1)
    this.places.push(FRAME_LOST)
    this.storedBytes += storedBytes
    return true
  }

  /** `placeOffset`: where in the arena it wants the whole frame, if nobody else waits for it. */
  addWaiter(offsetBytes: number, waiter: FrameWaiter, tag: number, placeOffset: number): void {
    const index = this.offsets.indexOf(offsetBytes)
    this.places[index] = this.#indexes.includes(index) ? FRAME_LOST : placeOffset
    this.#waiters.push(waiter)
    this.#tags.push(tag)
    this.#indexes.push(index)
  }

  read(staging: number): void {
    this.#staging = staging
    const file = must(this.state.file, 'the open segment file')
    this.#io.read(file, this.offsets[0], staging, this.storedBytes, this, 0)
  }

  ioComplete(_tag: number, result: number): void {
    this.#cache.finish(this, this.#staging, result)
  }

  tell(index: number, memoryOffset: number): void {
    for (let i = 0; i < this.#waiters.length; i += 1) {
      if (this.#indexes[i] === index) this.#waiters[i].frameReady(this.#tags[i], memoryOffset)
    }
  }

  end(): void {
    this.#state = null
    this.offsets.length = 0
    this.words.length = 0
    this.places.length = 0
    this.storedBytes = 0
    this.#waiters.length = 0
    this.#tags.length = 0
    this.#indexes.length = 0
  }
}

function keyOf(state: SegmentState, offsetBytes: number): number {
  return state.serial * KEY_FACTOR + offsetBytes
}
