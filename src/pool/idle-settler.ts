import { MIB } from '../base/units.ts'
import type { PoolCore } from './core.ts'

/** How often it looks whether there is something to do. */
const LOOK_INTERVAL_MS = 5000
/** Guests that asked for nothing for so long are not about to. */
const IDLE_AFTER_MS = 15_000
/** New log that makes a run worth its walk over all maps: two segments. */
const GROWTH_BYTES_MIN: number = 128 * MIB

export interface IdleSettlerOwner {
  /** Settles now; resolves when that is over. */
  settle(): Promise<unknown>
  /** False while one runs, by whomever it was begun. */
  mayRun(): boolean
  isPaused(): boolean
  /** How many removals and imports there were: each leaves something to free or to settle. */
  changeCount(): number
}

/**
 * Settles in the background: when enough has been written, imported or removed, and guests are
 * idle, or the pool is nearly full and cannot wait for that.
 */
export class IdleSettler {
  readonly #core: PoolCore
  readonly #owner: IdleSettlerOwner
  #cancelTimer: (() => void) | null = null
  #running: Promise<void> | null = null
  #isClosed = false
  #seenOperationCount = 0
  #quietSinceMs: number
  #settledBytes: number
  /** None yet: what was left unsettled when the pool was closed is worth a look. */
  #settledChangeCount = -1

  constructor(core: PoolCore, owner: IdleSettlerOwner) {
    this.#core = core
    this.#owner = owner
    this.#quietSinceMs = core.io.nowMs()
    this.#settledBytes = core.log.appendedBytes
    this.#lookLater()
  }

  /** Resolves when nothing of it runs any more; whoever closes cancels the run. */
  async close(): Promise<void> {
    this.#isClosed = true
    this.#cancelTimer?.()
    await this.#running
  }

  #lookLater(): void {
    if (this.#isClosed) return
    this.#cancelTimer = this.#core.io.setTimer(LOOK_INTERVAL_MS, () => {
      this.#cancelTimer = null
      this.#running = this.#look().finally(() => {
        this.#running = null
        this.#lookLater()
      })
    })
  }

  async #look(): Promise<void> {
    const nowMs = this.#core.io.nowMs()
    const { operationCount } = this.#core.guests
    if (operationCount !== this.#seenOperationCount) this.#quietSinceMs = nowMs
    this.#seenOperationCount = operationCount
    const isIdle = nowMs - this.#quietSinceMs >= IDLE_AFTER_MS
    const isPressed = this.#core.space.fill.state !== 'ok'
    if (!isIdle && !isPressed) return
    if (this.#core.log.failure !== 0 || this.#owner.isPaused() || !this.#owner.mayRun()) return
    if (!this.#hasWork()) return
    const bytes = this.#core.log.appendedBytes
    const changeCount = this.#owner.changeCount()
    // What goes wrong is told by whoever asks next; a run that was canceled is asked for again.
    await this.#owner.settle().then(
      () => {
        this.#settledBytes = bytes
        this.#settledChangeCount = changeCount
      },
      () => undefined,
    )
  }

  #hasWork(): boolean {
    if (this.#owner.changeCount() !== this.#settledChangeCount) return true
    return this.#core.log.appendedBytes - this.#settledBytes >= GROWTH_BYTES_MIN
  }
}
