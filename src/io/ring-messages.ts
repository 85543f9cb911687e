/**
 * Messages of a device through the ring: a poll waits until there is one, then all there are come
 * in one call of the addon, a readv each, and the next poll goes to the kernel with the replies.
 *
 * Reads in the ring were tried and are worse. What a read does that finds nothing is the kernel's
 * choice: older ones answer -EAGAIN, later ones let it wait, so that many reads in flight are all
 * woken for each message, find nothing but for one, and end up on the kernel's worker threads.
 *
 * The descriptor is nonblocking because a poll that says "readable" is no promise: a request can
 * be withdrawn before the read, which would then hang in the kernel.
 */
import { assert } from '../base/assert.ts'
import { Errno } from '../base/errors.ts'
import type { Binding } from '../native/binding.ts'
import type { IoCompletion, TurnHook } from './io.ts'
import type { MessageDevice, MessageOwner } from './messages.ts'
import type { Ring } from './ring.ts'

/** Taken in one call. */
const BATCH_COUNT_MAX = 32
const NO_SLOT = -1
const PAIR_WORDS_PER_SLOT = 4

export class RingMessages implements MessageDevice, IoCompletion, TurnHook {
  readonly #fd: number
  readonly #owner: MessageOwner
  readonly #ring: Ring
  readonly #binding: Binding
  readonly #slots = new Int32Array(BATCH_COUNT_MAX)
  readonly #pairs = new Uint32Array(BATCH_COUNT_MAX * PAIR_WORDS_PER_SLOT)
  readonly #slotPairs: Uint32Array[] = []
  readonly #results = new Int32Array(BATCH_COUNT_MAX)
  /** How many to be ready for: one more than came last. */
  #batchCount = 1
  #sendingCount = 0
  /** The poll in the ring; NO_SLOT while there is none. */
  #waiting = NO_SLOT
  #isCancelled = false
  #isClosing = false
  #isEnded = false
  /** Negative errno of the device's end. */
  #failure = 0

  constructor(fd: number, owner: MessageOwner, ring: Ring, binding: Binding) {
    this.#fd = fd
    this.#owner = owner
    this.#ring = ring
    this.#binding = binding
    for (let index = 0; index < BATCH_COUNT_MAX; index++) {
      const start = index * PAIR_WORDS_PER_SLOT
      this.#slotPairs.push(this.#pairs.subarray(start, start + PAIR_WORDS_PER_SLOT))
    }
    ring.atTurnEnd(this)
  }

  resume(): void {
    if (this.#waiting === NO_SLOT) this.#ring.atTurnEnd(this)
  }

  send(pairs: Uint32Array, count: number, tag: number): void {
    assert(!this.#isEnded, 'an ended device is not sent to')
    this.#sendingCount += 1
    this.#ring.put(this.#fd, pairs, count, this.#sent, tag)
  }

  close(): void {
    this.#isClosing = true
    // The end is told in a turn of its own, never inside this call.
    this.#ring.atTurnEnd(this)
  }

  /** The poll has ended: there is something to read, or it was cancelled. */
  ioComplete(): void {
    this.#waiting = NO_SLOT
    this.#ring.atTurnEnd(this)
    if (!this.#isClosing && this.#failure === 0) this.#drain()
  }

  turnEnd(): void {
    if (this.#isEnded) return
    if (this.#isClosing || this.#failure !== 0) this.#endIfIdle()
    // Without a slot to put it in, no message is waited for.
    else if (this.#waiting === NO_SLOT && this.#hasSlot()) {
      this.#waiting = this.#ring.awaitReadable(this.#fd, this, 0)
    }
  }

  readonly #sent: IoCompletion = {
    ioComplete: (tag, result) => {
      this.#sendingCount -= 1
      this.#owner.sent(tag, result)
      if (this.#isClosing || this.#failure !== 0) this.#ring.atTurnEnd(this)
    },
  }

  /** Takes messages until there are none, or no slots. */
  #drain(): void {
    for (;;) {
      const wanted = this.#takeSlots(this.#batchCount)
      if (wanted === 0) return
      const taken = this.#ring.take(this.#fd, this.#pairs, wanted, this.#results)
      assert(taken >= 0, 'the addon understands what is asked')
      // Given back first: what comes may be answered at once, and need one.
      for (let index = wanted - 1; index >= taken; index--) {
        this.#owner.returnSlot(this.#slots[index])
      }
      for (let index = 0; index < taken; index++) {
        this.#owner.message(this.#slots[index], this.#results[index])
      }
      this.#batchCount = Math.min(taken + 1, BATCH_COUNT_MAX)
      if (taken === wanted) continue
      this.#judge(this.#results[taken])
      return
    }
  }

  #takeSlots(count: number): number {
    for (let index = 0; index < count; index++) {
      const slot = this.#owner.takeSlot()
      if (slot === NO_SLOT) return index
      this.#slots[index] = slot
      this.#owner.describeSlot(slot, this.#slotPairs[index])
    }
    return count
  }

  #hasSlot(): boolean {
    const slot = this.#owner.takeSlot()
    if (slot === NO_SLOT) return false
    this.#owner.returnSlot(slot)
    return true
  }

  #judge(result: number): void {
    // Interrupted, or withdrawn between poll and read: nothing is wrong with the device.
    if (result === -Errno.EAGAIN || result === -Errno.EINTR || result === -Errno.ENOENT) return
    this.#failure ||= result
  }

  #endIfIdle(): void {
    if (this.#waiting !== NO_SLOT && !this.#isCancelled) {
      this.#isCancelled = true
      this.#ring.cancel(this.#waiting)
    }
    // The number of a closed descriptor can become another file's.
    if (this.#waiting !== NO_SLOT || this.#sendingCount > 0) return
    this.#isEnded = true
    this.#binding.closeFd(this.#fd)
    this.#owner.ended(this.#failure)
  }
}
