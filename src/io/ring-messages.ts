/**
 * Messages of a device through the ring. One read always waits for the device to become readable
 * (a poll linked to it, so that both take one trip into the kernel); beside it go as many reads
 * that do not wait as the last batch had messages, so that a busy device is emptied in one call
 * and an idle one costs nothing. A read that finds nothing costs a fraction of a system call.
 *
 * The descriptor is nonblocking because a poll that says "readable" is no promise: a request can
 * be withdrawn before the read, which would then hang in the kernel. What a read does that finds
 * nothing is the kernel's choice: older ones answer -EAGAIN, later ones let it wait for the next
 * message as well. So the end cancels all reads, not only the one that was meant to wait.
 */
import { assert } from '../base/assert.ts'
import { Errno } from '../base/errors.ts'
import type { Binding } from '../native/binding.ts'
import type { IoCompletion, TurnHook } from './io.ts'
import type { MessageDevice, MessageOwner } from './messages.ts'
import type { Ring, Waiter } from './ring.ts'

/** Beside the one that waits. */
const EXTRA_READS_MAX = 31
const NO_SLOT = -1
const PIECES_PER_SLOT = 2

export class RingMessages implements MessageDevice, IoCompletion, TurnHook {
  readonly #fd: number
  readonly #owner: MessageOwner
  readonly #ring: Ring
  readonly #binding: Binding
  readonly #pairs = new Uint32Array(2 * PIECES_PER_SLOT)
  /** Reads beside the leader, next time. */
  #extraCount = 0
  /** Of the reads begun together: how many found a message. */
  #foundCount = 0
  #missedCount = 0
  #inFlightCount = 0
  #sendingCount = 0
  /** The read that waits; NO_SLOT while there is none. */
  #leader = NO_SLOT
  /** In the ring, by the owner's slot: of the read into it; NO_SLOT while there is none. */
  readonly #reads: number[] = []
  #isClosing = false
  #isEnded = false
  /** Negative errno of the device's end. */
  #failure = 0

  constructor(fd: number, owner: MessageOwner, ring: Ring, binding: Binding) {
    this.#fd = fd
    this.#owner = owner
    this.#ring = ring
    this.#binding = binding
    ring.atTurnEnd(this)
  }

  resume(): void {
    if (this.#leader === NO_SLOT) this.#ring.atTurnEnd(this)
  }

  send(pairs: Uint32Array, count: number, tag: number): void {
    assert(!this.#isEnded, 'an ended device is not sent to')
    this.#sendingCount += 1
    this.#ring.put(this.#fd, pairs, count, this.#sent, tag)
  }

  close(): void {
    this.#cancelReads()
    // The end is told in a turn of its own, never inside this call.
    this.#ring.atTurnEnd(this)
  }

  ioComplete(slot: number, result: number): void {
    this.#inFlightCount -= 1
    this.#reads[slot] = NO_SLOT
    if (slot === this.#leader) this.#leader = NO_SLOT
    if (result > 0) {
      this.#foundCount += 1
      this.#owner.message(slot, result)
    } else {
      this.#owner.returnSlot(slot)
      this.#judge(result)
    }
    this.#ring.atTurnEnd(this)
  }

  turnEnd(): void {
    if (this.#isEnded) return
    if (this.#isClosing || this.#failure !== 0) {
      this.#endIfIdle()
      return
    }
    // The last batch goes on until all of it has come back.
    if (this.#leader !== NO_SLOT) return
    if (this.#missedCount > 0) this.#extraCount = Math.min(this.#foundCount, EXTRA_READS_MAX)
    else this.#extraCount = Math.min(2 * this.#extraCount + 1, EXTRA_READS_MAX)
    this.#foundCount = 0
    this.#missedCount = 0
    for (let count = this.#extraCount; count > 0; count--) {
      if (!this.#take(null)) return
    }
    this.#take(this.#poll)
  }

  readonly #sent: IoCompletion = {
    ioComplete: (tag, result) => {
      this.#sendingCount -= 1
      this.#owner.sent(tag, result)
      if (this.#isClosing || this.#failure !== 0) this.#ring.atTurnEnd(this)
    },
  }

  readonly #poll: Waiter = {
    slot: NO_SLOT,
    ioComplete: () => {
      this.#poll.slot = NO_SLOT
      if (this.#isClosing) this.#ring.atTurnEnd(this)
    },
  }

  #judge(result: number): void {
    if (result === -Errno.EAGAIN) {
      this.#missedCount += 1
      return
    }
    // Interrupted, withdrawn between poll and read, or cancelled: nothing is wrong with the device.
    if (result === -Errno.EINTR || result === -Errno.ENOENT || result === -Errno.ECANCELED) return
    this.#failure ||= result === 0 ? -Errno.ENODEV : result
  }

  #take(waiter: Waiter | null): boolean {
    const slot = this.#owner.takeSlot()
    if (slot === NO_SLOT) return false
    this.#owner.describeSlot(slot, this.#pairs)
    this.#inFlightCount += 1
    if (waiter !== null) this.#leader = slot
    this.#reads[slot] = this.#ring.take(this.#fd, this.#pairs, PIECES_PER_SLOT, this, slot, waiter)
    return true
  }

  /** All of them, once: those beside the leader may be waiting as well. */
  #cancelReads(): void {
    if (this.#isClosing) return
    this.#isClosing = true
    if (this.#poll.slot !== NO_SLOT) this.#ring.cancel(this.#poll.slot)
    this.#reads.forEach((read) => {
      if (read !== NO_SLOT) this.#ring.cancel(read)
    })
  }

  #endIfIdle(): void {
    this.#cancelReads()
    // The number of a closed descriptor can become another file's.
    if (this.#inFlightCount > 0 || this.#sendingCount > 0 || this.#poll.slot !== NO_SLOT) return
    this.#isEnded = true
    this.#binding.closeFd(this.#fd)
    this.#owner.ended(this.#failure)
  }
}
