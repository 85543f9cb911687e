import type { PoolCore } from './core.ts'
import type { Scrub } from './scrub.ts'
import type { UpkeepStatus } from './types.ts'

const DAY_MS = 24 * 60 * 60 * 1000
/** How often it looks whether one is due; also how long after opening, at the earliest. */
const LOOK_INTERVAL_MS = 60_000

/** Begins a scrub by itself when the last one is long enough ago, or was stopped on its way. */
export class ScrubSchedule {
  readonly #core: PoolCore
  readonly #scrub: Scrub
  readonly #everyDays: number
  readonly #createdMs: number
  readonly #upkeep: () => UpkeepStatus
  #cancelTimer: (() => void) | null = null
  #running: Promise<void> | null = null
  #isClosed = false
  /** A run that an earlier process began; one that somebody stopped since is his to go on with. */
  #mayResume = true

  /** `createdMs`: of the pool; the first one is due as long after that. */
  constructor(
    core: PoolCore,
    scrub: Scrub,
    everyDays: number,
    createdMs: number,
    upkeep: () => UpkeepStatus,
  ) {
    this.#core = core
    this.#scrub = scrub
    this.#everyDays = everyDays
    this.#createdMs = createdMs
    this.#upkeep = upkeep
    scrub.everyDays = everyDays
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
      // What goes wrong is told by whoever asks next; a run that was stopped is gone on with.
      this.#running = this.#look()
        .catch(() => undefined)
        .finally(() => {
          this.#running = null
          this.#lookLater()
        })
    })
  }

  async #look(): Promise<void> {
    if (this.#core.log.failure !== 0 || this.#upkeep().isPaused) return
    const { phase, running, last } = await this.#scrub.status()
    if (phase !== null) return
    const sinceMs = last?.endedMs ?? this.#createdMs
    const isDue = this.#core.io.wallClockMs() - sinceMs >= this.#everyDays * DAY_MS
    const isLeft = running !== null && this.#mayResume
    this.#mayResume = false
    if (!isLeft && !isDue) return
    await this.#scrub.run({ rateBytes: null }, undefined, () => undefined)
  }
}
