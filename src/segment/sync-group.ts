import { assert, must } from '../base/assert.ts'
import type { Io, IoCompletion } from '../io/io.ts'
import type { SegmentState } from './segment-state.ts'
import type { SegmentStore } from './segment-store.ts'

/** Waits for the log to be durable up to a sequence. */
export interface DurableWaiter {
  /** Result: 0, or the -errno of the sync that failed. */
  durable(tag: number, result: number): void
}

interface Waiting {
  sequence: number
  /** The first round that may answer it; 0: any. */
  round: number
  waiter: DurableWaiter
  tag: number
}

/**
 * Group commit: makes everything written so far durable with one fdatasync for each segment
 * written since the last time (usually one), however many clients asked. At most one round is in
 * flight; requests that come meanwhile share the next.
 *
 * Ordering: a round covers the sequence reached when it *started*, so a flush is answered only
 * when a sync that began after its writes has ended. Several segments may be synced side by side
 * in one round: nothing is answered until all are done, and recovery stops at the first gap.
 */
export class SyncGroup implements IoCompletion {
  readonly #io: Io
  readonly #store: SegmentStore
  readonly #unsynced: Set<SegmentState> = new Set()
  #waiting: Waiting[] = []
  #inFlight = 0
  #round = 0
  #roundStates: SegmentState[] = []
  #roundSequence = 0
  #roundResult = 0
  #written = 0
  #durable = 0
  /** 0, or the -errno of the first sync that failed; nothing is durable after that (I10). */
  #failure = 0

  constructor(io: Io, store: SegmentStore) {
    this.#io = io
    this.#store = store
  }

  /** Every record below this sequence is durable. */
  get durableSequence(): number {
    return this.#durable
  }

  get failure(): number {
    return this.#failure
  }

  /** Begins at `sequence` with everything before it durable. */
  reset(sequence: number): void {
    assert(this.#inFlight === 0 && this.#unsynced.size === 0, 'a log begins with nothing unsynced')
    this.#written = sequence
    this.#durable = sequence
  }

  /** `state` has data that no sync covers; records below `sequence` are written. */
  noteWritten(state: SegmentState, sequence: number): void {
    this.#written = sequence
    if (this.#unsynced.has(state)) return
    this.#unsynced.add(state)
    state.pinCount += 1
  }

  /** Calls back when every record below `sequence` is durable; never inside this call. */
  wait(sequence: number, waiter: DurableWaiter, tag: number): void {
    if (this.#failure !== 0 || this.#durable >= sequence) {
      void Promise.resolve().then(() => waiter.durable(tag, this.#failure))
      return
    }
    this.#waiting.push({ sequence, round: 0, waiter, tag })
    if (this.#inFlight === 0) this.#startRound()
  }

  /**
   * Resolves when everything written so far is durable, footers too, which have no sequence of
   * their own. Result: 0 or -errno.
   */
  settle(): Promise<number> {
    if (this.#failure !== 0) return Promise.resolve(this.#failure)
    if (this.#unsynced.size === 0 && this.#inFlight === 0) return Promise.resolve(0)
    return new Promise((resolve) => {
      const waiter = { durable: (_tag: number, result: number): void => resolve(result) }
      // What is not in the round under way is in the next one.
      const round = this.#unsynced.size === 0 ? this.#round : this.#round + 1
      this.#waiting.push({ sequence: this.#written, round, waiter, tag: 0 })
      if (this.#inFlight === 0) this.#startRound()
    })
  }

  /** Lets go of the segments of a log that failed. */
  async close(): Promise<void> {
    if (this.#inFlight > 0) await this.settle()
    for (const state of this.#unsynced) this.#store.unpin(state)
    this.#unsynced.clear()
  }

  ioComplete(tag: number, result: number): void {
    if (result < 0) this.#roundResult = result
    const state = must(this.#roundStates[tag], 'the segment being synced')
    this.#store.unpin(state)
    this.#inFlight -= 1
    if (this.#inFlight === 0) this.#endRound()
  }

  #startRound(): void {
    this.#round += 1
    this.#roundSequence = this.#written
    this.#roundResult = 0
    this.#roundStates = [...this.#unsynced]
    this.#unsynced.clear()
    this.#inFlight = this.#roundStates.length
    assert(this.#inFlight > 0, 'what is not durable lies in an unsynced segment')
    this.#roundStates.forEach((state, tag) => {
      this.#io.sync(must(state.file, 'the written segment file'), this, tag)
    })
  }

  #endRound(): void {
    if (this.#roundResult < 0) {
      // After a failed fsync the kernel may have dropped the dirty pages: a second one that
      // succeeds proves nothing. So the failure is final until the pool is reopened.
      this.#failure = this.#roundResult
    } else {
      this.#durable = this.#roundSequence
    }
    const waiting = this.#waiting
    // A waiter that is told may start the next round, which covers none of these.
    const round = this.#round
    this.#waiting = []
    for (const one of waiting) {
      const isCovered = one.sequence <= this.#durable && one.round <= round
      const done = this.#failure !== 0 || isCovered
      if (done) one.waiter.durable(one.tag, this.#failure)
      else this.#waiting.push(one)
    }
    if (this.#waiting.length > 0 && this.#inFlight === 0) this.#startRound()
  }
}
