/**
 * When to wait for the next completion inside the ring instead of going back to the event loop.
 * A wait that ends with a completion saves a wake-up through epoll (7 to 10 µs); one that ends
 * without costs its length. So waiting is bought with credit: each turn earns one, an idle wait
 * takes back what several turns have earned, and without credit nobody waits.
 */

/** Longer than a client on the same host needs to answer, too short to be noticed by a timer. */
const WAIT_MICROS = 50
const CREDIT_MAX = 64
const IDLE_COST = 16

export class WaitPolicy {
  #credit = 0
  #idleWaits = 0

  /** `idleWaits`: how many waits have ended without a completion, ever. Returns µs to wait. */
  turnEnded(idleWaits: number): number {
    const isIdle = idleWaits !== this.#idleWaits
    this.#idleWaits = idleWaits
    this.#credit = isIdle
      ? Math.max(this.#credit - IDLE_COST, 0)
      : Math.min(this.#credit + 1, CREDIT_MAX)
    return this.#credit > IDLE_COST ? WAIT_MICROS : 0
  }
}
