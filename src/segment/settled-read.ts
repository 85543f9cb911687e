import { must } from '../base/assert.ts'
import { Errno } from '../base/errors.ts'
import { BLOCK_SIZE_BYTES } from '../base/units.ts'
import {
  PLACE_ALIAS,
  PLACE_DEAD,
  PLACE_FRAME,
  PLACE_WORD_FIRST,
  PLACE_ZERO,
  aliasSlot,
  findPlaceFault,
  frameBlockCount,
  frameIndex,
  frameOffset,
  isPlainFrame,
  placeKind,
  plainBlockOffset,
} from '../format/directory.ts'
import { TABLE_PAGE_SLOT_COUNT, TABLE_PAGE_SLOT_SHIFT } from '../format/segment.ts'
import type { IoCompletion } from '../io/io.ts'
import { FRAME_LOST, FRAME_PLACED } from './frame-cache.ts'
import type { FrameCache, FrameWaiter } from './frame-cache.ts'
import type { SegmentState } from './segment-state.ts'
import type { SegmentStore } from './segment-store.ts'
import type { Verified } from './verify-batch.ts'
import { BATCHED_BLOCK_COUNT_MAX } from './verify-batch.ts'

/** Adjacent frames are read at once: nobody asks for more slots than a MiB has. */
const GROUP_SHIFT = 16
/** A read of so many blocks takes whole frames to where they are wanted: 64 KiB. */
const STREAM_BLOCK_COUNT = 16

/**
 * A checked read of consecutive slots of a settled segment. Each slot's place says where its bytes
 * come from: a frame (from the cache, or read and decoded), another address, or nowhere. All parts
 * run side by side; when the last is there, every block is held against its checksum. Recycled by
 * the store, as `BlockRead` is.
 */
export class SettledRead implements IoCompletion, FrameWaiter, Verified {
  readonly #store: SegmentStore
  readonly #frames: FrameCache
  #state: SegmentState | null = null
  #slot = 0
  #count = 0
  #arenaOffset = 0
  #completion: IoCompletion | null = null
  #tag = 0
  #isProbe = false
  /** Parts under way, and one for the submission itself. */
  #pendingCount = 0
  #result = 0
  /** Two words a block, then two checksum words a block: pages may leave the cache meanwhile. */
  #places: Uint32Array = new Uint32Array(2 * TABLE_PAGE_SLOT_COUNT)
  #checksums: Uint32Array = new Uint32Array(2 * TABLE_PAGE_SLOT_COUNT)

  constructor(store: SegmentStore, frames: FrameCache) {
    this.#store = store
    this.#frames = frames
  }

  /** The state is pinned by the caller, open, and its directory pages for the range are here. */
  start(
    state: SegmentState,
    slot: number,
    count: number,
    arenaOffset: number,
    completion: IoCompletion,
    tag: number,
    isProbe: boolean,
  ): void {
    this.#state = state
    this.#slot = slot
    this.#count = count
    this.#arenaOffset = arenaOffset
    this.#completion = completion
    this.#tag = tag
    this.#isProbe = isProbe
    this.#result = 0
    this.#copyPlaces(state)
    this.#pendingCount = 1
    this.#submit(state)
    this.#partDone(0)
  }

  /** An alias's target has been read (tag 0), or blocks that lie as they are; see `#readPlain`. */
  ioComplete(tag: number, result: number): void {
    const blocks = tag >>> GROUP_SHIFT
    if (blocks === 0 || result === blocks * BLOCK_SIZE_BYTES) {
      this.#partDone(Math.min(0, result))
      return
    }
    const slot = this.#slot + (tag & ((1 << GROUP_SHIFT) - 1))
    const fact = result < 0 ? `the read failed with errno ${-result}` : 'the read fell short'
    this.#noteDamage(slot, fact)
    this.#partDone(-Errno.EIO)
  }

  /** A frame is there; `tag` says for which blocks. */
  frameReady(tag: number, memoryOffset: number): void {
    if (memoryOffset === FRAME_PLACED) {
      this.#partDone(0)
      return
    }
    if (memoryOffset === FRAME_LOST) {
      const slot = this.#slot + (tag & ((1 << GROUP_SHIFT) - 1))
      this.#noteDamage(slot, 'its frame cannot be read or decoded')
      this.#partDone(-Errno.EIO)
      return
    }
    this.#copyOut(tag & ((1 << GROUP_SHIFT) - 1), tag >>> GROUP_SHIFT, memoryOffset)
    this.#partDone(0)
  }

  #copyPlaces(state: SegmentState): void {
    if (this.#places.length < 2 * this.#count) {
      this.#places = new Uint32Array(2 * this.#count)
      this.#checksums = new Uint32Array(2 * this.#count)
    }
    for (let i = 0; i < this.#count; i += 1) {
      const slot = this.#slot + i
      const page = must(state.pages[slot >> TABLE_PAGE_SLOT_SHIFT], 'the directory page')
      const word = 2 * (slot & (TABLE_PAGE_SLOT_COUNT - 1))
      this.#checksums[2 * i] = page[word]
      this.#checksums[2 * i + 1] = page[word + 1]
      this.#places[2 * i] = page[PLACE_WORD_FIRST + word]
      this.#places[2 * i + 1] = page[PLACE_WORD_FIRST + word + 1]
    }
  }

  #submit(state: SegmentState): void {
    const places = this.#places
    let at = 0
    while (at < this.#count) {
      const word1 = places[2 * at + 1]
      const kind = placeKind(word1)
      const fault = kind === PLACE_DEAD ? 'no block lies there' : this.#placeFault(state, at)
      if (fault !== null) {
        this.#noteDamage(this.#slot + at, fault)
        this.#result = -Errno.EIO
        return
      }
      if (kind === PLACE_ZERO) at += this.#zero(at)
      else if (kind === PLACE_ALIAS) at += this.#follow(at)
      else if (isPlainFrame(word1)) at += this.#readPlain(state, at)
      else at += this.#loadFrames(state, at)
    }
  }

  #zero(at: number): number {
    const start = this.#arenaOffset + at * BLOCK_SIZE_BYTES
    this.#store.io.arena.memory.fill(0, start, start + BLOCK_SIZE_BYTES)
    return 1
  }

  /** Reads what a run of aliases to consecutive slots points to. */
  #follow(at: number): number {
    const places = this.#places
    const segment = places[2 * at]
    const slot = aliasSlot(places[2 * at + 1])
    let count = 1
    while (
      at + count < this.#count &&
      places[2 * (at + count)] === segment &&
      placeKind(places[2 * (at + count) + 1]) === PLACE_ALIAS &&
      aliasSlot(places[2 * (at + count) + 1]) === slot + count
    ) {
      count += 1
    }
    this.#pendingCount += 1
    const offset = this.#arenaOffset + at * BLOCK_SIZE_BYTES
    this.#store.read(segment, slot, count, offset, this, 0, this.#isProbe)
    return count
  }

  /**
   * Blocks that did not get shorter lie in their frames as they are: only those that are wanted
   * are read, right to where they are wanted, and the page cache is cache enough.
   */
  #readPlain(state: SegmentState, first: number): number {
    const places = this.#places
    const offsetBytes = plainBlockOffset(places[2 * first])
    let blocks = 1
    while (
      first + blocks < this.#count &&
      placeKind(places[2 * (first + blocks) + 1]) === PLACE_FRAME &&
      isPlainFrame(places[2 * (first + blocks) + 1]) &&
      plainBlockOffset(places[2 * (first + blocks)]) === offsetBytes + blocks * BLOCK_SIZE_BYTES &&
      this.#placeFault(state, first + blocks) === null
    ) {
      blocks += 1
    }
    const file = must(state.file, 'the open segment file')
    const arenaOffset = this.#arenaOffset + first * BLOCK_SIZE_BYTES
    const tag = (blocks << GROUP_SHIFT) | first
    this.#pendingCount += 1
    this.#store.io.read(file, offsetBytes, arenaOffset, blocks * BLOCK_SIZE_BYTES, this, tag)
    return blocks
  }

  #placeFault(state: SegmentState, at: number): string | null {
    return findPlaceFault(state.id, this.#slot + at, this.#places[2 * at], this.#places[2 * at + 1])
  }

  /**
   * Takes what the cache has; what it has not, and lies one behind the other, is read at once.
   * Returns the number of slots dealt with.
   */
  #loadFrames(state: SegmentState, first: number): number {
    const places = this.#places
    let at = first
    let load = null
    while (at < this.#count && placeKind(places[2 * at + 1]) === PLACE_FRAME) {
      const word0 = places[2 * at]
      const word1 = places[2 * at + 1]
      if (isPlainFrame(word1) || this.#placeFault(state, at) !== null) break
      const offset = frameOffset(word0)
      const blocks = this.#blocksOf(at)
      const tag = (blocks << GROUP_SHIFT) | at
      const cached = this.#frames.find(state, offset)
      if (cached >= 0) {
        this.#copyOut(at, blocks, cached)
      } else if (this.#frames.isLoading(state, offset)) {
        this.#pendingCount += 1
        this.#frames.join(state, offset, this, tag)
      } else {
        load ??= this.#frames.beginLoad(state)
        if (load.offsets.at(-1) !== offset && !load.addFrame(word0, word1)) break
        this.#pendingCount += 1
        // What streams by is not kept: it would push out what many read.
        const isWhole = this.#count >= STREAM_BLOCK_COUNT && blocks === frameBlockCount(word1)
        const place = isWhole ? this.#arenaOffset + at * BLOCK_SIZE_BYTES : FRAME_LOST
        load.addWaiter(offset, this, tag, place)
      }
      at += blocks
    }
    if (load !== null) this.#frames.submit(load)
    return at - first
  }

  /** How many blocks from `at` on are the following ones of the same frame. */
  #blocksOf(at: number): number {
    const places = this.#places
    const word1 = places[2 * at + 1]
    const offset = frameOffset(places[2 * at])
    const index = frameIndex(places[2 * at])
    let count = 1
    while (
      at + count < this.#count &&
      places[2 * (at + count) + 1] === word1 &&
      frameOffset(places[2 * (at + count)]) === offset &&
      frameIndex(places[2 * (at + count)]) === index + count
    ) {
      count += 1
    }
    return count
  }

  #copyOut(at: number, blocks: number, memoryOffset: number): void {
    const from = memoryOffset + frameIndex(this.#places[2 * at]) * BLOCK_SIZE_BYTES
    const to = this.#arenaOffset + at * BLOCK_SIZE_BYTES
    this.#frames.memory.copy(
      this.#store.io.arena.memory,
      to,
      from,
      from + blocks * BLOCK_SIZE_BYTES,
    )
  }

  #partDone(result: number): void {
    if (result < 0) this.#result = result
    this.#pendingCount -= 1
    if (this.#pendingCount > 0) return
    if (this.#result < 0) {
      this.#finish()
    } else if (this.#count <= BATCHED_BLOCK_COUNT_MAX) {
      const { verifyBatch } = this.#store
      verifyBatch.add(this.#arenaOffset, this.#count, this.#checksums, 0, this)
    } else {
      this.verified(false)
    }
  }

  verified(areSound: boolean): void {
    if (!areSound) this.#verify()
    this.#finish()
  }

  #verify(): void {
    const { checksum, io } = this.#store
    const { memory } = io.arena
    const sums = this.#checksums
    const bad = checksum.verifyBlocks(memory, this.#arenaOffset, this.#count, sums, 0)
    if (bad === -1) return
    this.#forgetFrames()
    this.#noteDamage(this.#slot + bad, 'the block does not match its checksum')
    this.#result = -Errno.EIO
  }

  /** What was decoded is wrong: whoever reads next shall see what the disk says then. */
  #forgetFrames(): void {
    const state = must(this.#state, 'the segment being read')
    for (let at = 0; at < this.#count; at += 1) {
      if (placeKind(this.#places[2 * at + 1]) !== PLACE_FRAME) continue
      this.#frames.forget(state, frameOffset(this.#places[2 * at]))
    }
  }

  #noteDamage(slot: number, fact: string): void {
    if (this.#isProbe) return
    this.#store.noteDamage(must(this.#state, 'the segment being read').id, slot, fact)
  }

  #finish(): void {
    const completion = must(this.#completion, 'the reader')
    const state = must(this.#state, 'the segment being read')
    const result = this.#result
    const tag = this.#tag
    this.#state = null
    this.#completion = null
    this.#store.recycleSettled(this)
    this.#store.unpin(state)
    completion.ioComplete(tag, result)
  }
}
