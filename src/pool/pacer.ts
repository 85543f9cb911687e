import { OperatingError } from '../base/errors.ts'
import type { Codecs } from '../base/codec.ts'
import type { Io } from '../io/io.ts'

/** What guests have asked for so far; counted by their disks. */
export interface GuestActivity {
  operationCount: number
}

/** Of the engine's time, while guests use it, background work takes at most an eighth. */
const SHARE_DENOMINATOR = 8
/** Guests that were quiet for so long are idle. */
const IDLE_AFTER_MS = 20

/**
 * Keeps background work out of the guests' way. While nobody else uses the pool it only gives up
 * the thread between steps; otherwise it sleeps, too, so that a request seldom meets a step.
 */
export class Pacer {
  readonly #io: Io
  readonly #codecs: Codecs
  readonly #guests: GuestActivity
  readonly #signals: readonly (AbortSignal | undefined)[]
  readonly #isPaused: () => boolean
  #seenCount: number
  #busyUntilMs = 0
  #stepStartedMs: number

  constructor(
    io: Io,
    codecs: Codecs,
    guests: GuestActivity,
    signals: readonly (AbortSignal | undefined)[],
    isPaused: () => boolean,
  ) {
    this.#io = io
    this.#codecs = codecs
    this.#guests = guests
    this.#signals = signals
    this.#isPaused = isPaused
    this.#seenCount = guests.operationCount
    this.#stepStartedMs = io.nowMs()
  }

  /** Throws `canceled` when the work is not wanted any more. */
  verifyWanted(): void {
    if (this.#signals.every((signal) => signal?.aborted !== true)) return
    throw new OperatingError('canceled', 'it was canceled')
  }

  /** Resolves when the next step may begin. Rejects `canceled`. */
  readonly pace = async (): Promise<void> => {
    this.verifyWanted()
    const nowMs = this.#io.nowMs()
    if (this.#guests.operationCount !== this.#seenCount) this.#busyUntilMs = nowMs + IDLE_AFTER_MS
    this.#seenCount = this.#guests.operationCount
    const isBusy = nowMs < this.#busyUntilMs
    this.#codecs.setGentle(isBusy)
    if (isBusy) {
      const stepMs = nowMs - this.#stepStartedMs
      await this.#sleep(Math.max(1, stepMs * (SHARE_DENOMINATOR - 1)))
      this.verifyWanted()
    } else {
      await this.#io.pause()
    }
    while (this.#isPaused()) {
      await this.#sleep(IDLE_AFTER_MS)
      this.verifyWanted()
    }
    this.#stepStartedMs = this.#io.nowMs()
  }

  /**
   * Ends early when the work is given up: a pool that closes waits for it, and a timer alone keeps
   * no process alive, which then ended in the middle of closing.
   */
  #sleep(delayMs: number): Promise<void> {
    return new Promise((resolve) => {
      const end = (): void => {
        cancel()
        for (const signal of this.#signals) signal?.removeEventListener('abort', end)
        resolve()
      }
      const cancel = this.#io.setTimer(delayMs, end)
      for (const signal of this.#signals) signal?.addEventListener('abort', end)
    })
  }
}
