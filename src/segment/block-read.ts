import { Errno } from '../base/errors.ts'
import { BLOCK_SIZE_BYTES } from '../base/units.ts'
import { TABLE_PAGE_SLOT_COUNT, TABLE_PAGE_SLOT_SHIFT } from '../format/segment.ts'
import type { IoCompletion } from '../io/io.ts'
import type { SegmentState } from './segment-state.ts'
import type { SegmentStore } from './segment-store.ts'
import { must } from '../base/assert.ts'
import type { Verified } from './verify-batch.ts'
import { BATCHED_BLOCK_COUNT_MAX } from './verify-batch.ts'

/**
 * One checked read of consecutive slots. Objects are recycled by the store. The usual path (file
 * open, checksums in memory) goes straight to `Io` and allocates nothing; otherwise what is
 * missing is loaded first.
 */
export class BlockRead implements IoCompletion, Verified {
  readonly #store: SegmentStore
  #state: SegmentState | null = null
  #slot = 0
  #count = 0
  #arenaOffset = 0
  #completion: IoCompletion | null = null
  #tag = 0
  #isProbe = false

  constructor(store: SegmentStore) {
    this.#store = store
  }

  start(
    state: SegmentState | null,
    segment: number,
    slot: number,
    count: number,
    arenaOffset: number,
    completion: IoCompletion,
    tag: number,
    isProbe: boolean,
  ): void {
    this.#state = state
    this.#isProbe = isProbe
    this.#slot = slot
    this.#count = count
    this.#arenaOffset = arenaOffset
    this.#completion = completion
    this.#tag = tag
    if (state === null) {
      if (!isProbe) this.#store.noteDamage(segment, slot, 'the segment is missing')
      void Promise.resolve().then(() => this.#finish(-Errno.EIO))
      return
    }
    state.pinCount += 1
    if (this.#store.isReady(state, slot, count)) this.#submit(state)
    else this.#prepareThen(state, () => this.#submit(state))
  }

  ioComplete(_tag: number, result: number): void {
    const state = must(this.#state, 'the segment being read')
    if (result !== this.#count * BLOCK_SIZE_BYTES) {
      const fact = result < 0 ? `the read failed with errno ${-result}` : 'the file is cut short'
      this.#noteDamage(state.id, this.#slot, fact)
      this.#finish(-Errno.EIO)
      return
    }
    // The table pages may have left the cache during the read.
    if (this.#store.isReady(state, this.#slot, this.#count)) this.#verifySoon(state)
    else this.#prepareThen(state, () => this.#verify(state))
  }

  verified(areSound: boolean): void {
    const state = must(this.#state, 'the segment being read')
    // The pages may have left the cache until the turn ended.
    if (areSound) this.#finish(0)
    else this.#prepareThen(state, () => this.#verify(state))
  }

  #submit(state: SegmentState): void {
    if (state.isSettled) {
      this.#handOver(state)
      return
    }
    const file = must(state.file, 'the open segment file')
    const lengthBytes = this.#count * BLOCK_SIZE_BYTES
    this.#store.io.read(
      file,
      this.#slot * BLOCK_SIZE_BYTES,
      this.#arenaOffset,
      lengthBytes,
      this,
      0,
    )
  }

  /** Only now that its footer was read it is known to be settled. */
  #handOver(state: SegmentState): void {
    const completion = must(this.#completion, 'the reader')
    this.#state = null
    this.#completion = null
    this.#store.recycle(this)
    this.#store.startSettled(
      state,
      this.#slot,
      this.#count,
      this.#arenaOffset,
      completion,
      this.#tag,
      this.#isProbe,
    )
  }

  #noteDamage(segment: number, slot: number, fact: string): void {
    if (!this.#isProbe) this.#store.noteDamage(segment, slot, fact)
  }

  #prepareThen(state: SegmentState, next: () => void): void {
    this.#store.prepare(state, this.#slot, this.#count).then(
      () => {
        // With a tiny cache one page of the range may have pushed out another.
        if (this.#store.isReady(state, this.#slot, this.#count)) next()
        else this.#prepareThen(state, next)
      },
      (error: unknown) => {
        this.#noteDamage(state.id, this.#slot, String(error))
        this.#finish(-Errno.EIO)
      },
    )
  }

  #verifySoon(state: SegmentState): void {
    const within = this.#slot & (TABLE_PAGE_SLOT_COUNT - 1)
    const isOnePage = within + this.#count <= TABLE_PAGE_SLOT_COUNT
    if (this.#count > BATCHED_BLOCK_COUNT_MAX || !isOnePage) {
      this.#verify(state)
      return
    }
    const page = must(state.pages[this.#slot >> TABLE_PAGE_SLOT_SHIFT], 'the checksum table page')
    this.#store.verifyBatch.add(this.#arenaOffset, this.#count, page, 2 * within, this)
  }

  #verify(state: SegmentState): void {
    const { checksum, io } = this.#store
    let slot = this.#slot
    let arenaOffset = this.#arenaOffset
    const end = slot + this.#count
    while (slot < end) {
      const within = slot & (TABLE_PAGE_SLOT_COUNT - 1)
      const count = Math.min(end - slot, TABLE_PAGE_SLOT_COUNT - within)
      const page = must(state.pages[slot >> TABLE_PAGE_SLOT_SHIFT], 'the checksum table page')
      const bad = checksum.verifyBlocks(io.arena.memory, arenaOffset, count, page, 2 * within)
      if (bad >= 0) {
        this.#noteDamage(state.id, slot + bad, 'the block does not match its checksum')
        this.#finish(-Errno.EIO)
        return
      }
      slot += count
      arenaOffset += count * BLOCK_SIZE_BYTES
    }
    this.#finish(0)
  }

  #finish(result: number): void {
    const state = this.#state
    const completion = must(this.#completion, 'the reader')
    const tag = this.#tag
    this.#state = null
    this.#completion = null
    this.#store.recycle(this)
    if (state !== null) this.#store.unpin(state)
    completion.ioComplete(tag, result)
  }
}
