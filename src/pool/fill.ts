import type { FillState } from './types.ts'

/** Back below the threshold by so much before it counts as crossed back. */
const HYSTERESIS_PERCENT = 5
/** With less than this for guests a pool is full, whether anybody was refused or not. */
const FULL_BELOW_BYTES: number = 1024 * 1024

export const WARN_PERCENT_DEFAULT = 85

/**
 * How full a pool is, without flapping: `warn` from the threshold on, `full` from the first write
 * that was refused; each ends only when there is clearly more room than when it began.
 */
export class FillGauge {
  readonly warnPercent: number
  #state: FillState = 'ok'
  #percent = 0
  #freeBytes = Infinity
  #refusedBytes = 0
  #isDiskRefusing = false
  /** What the disk said it had when it refused, once it was asked. */
  #deniedBytes: number | null = null

  constructor(warnPercent: number) {
    this.warnPercent = warnPercent
  }

  get state(): FillState {
    return this.#state
  }

  /** Of what guests may use, 0 to 100; 100 only when nothing is left. */
  get percent(): number {
    return this.#percent
  }

  /** A guest was refused this many bytes. */
  noteRefused(lengthBytes: number): void {
    this.#refusedBytes = Math.max(this.#refusedBytes, lengthBytes)
    this.#judge()
  }

  /** The disk refused what it was thought to have room for; until it takes something or grows. */
  get isDiskRefusing(): boolean {
    return this.#isDiskRefusing
  }

  noteDisk(accepts: boolean): void {
    this.#isDiskRefusing = !accepts
    this.#deniedBytes = null
    this.#judge()
  }

  /** `freeBytes` of the `totalBytes` that guests may have in all. */
  update(freeBytes: number, totalBytes: number): void {
    this.#freeBytes = freeBytes
    const used = totalBytes === 0 ? 1 : (totalBytes - freeBytes) / totalBytes
    this.#percent = freeBytes === 0 ? 100 : Math.min(99, Math.max(0, Math.floor(used * 100)))
    if (freeBytes > this.#refusedBytes + FULL_BELOW_BYTES) this.#refusedBytes = 0
    if (this.#isDiskRefusing) {
      this.#deniedBytes ??= freeBytes
      this.#isDiskRefusing = freeBytes <= this.#deniedBytes + FULL_BELOW_BYTES
    }
    this.#judge()
  }

  #judge(): void {
    const isTight = this.#freeBytes < FULL_BELOW_BYTES * (this.#state === 'full' ? 2 : 1)
    const warnFrom = this.warnPercent - (this.#state === 'ok' ? 0 : HYSTERESIS_PERCENT)
    if (this.#refusedBytes > 0 || this.#isDiskRefusing || isTight) this.#state = 'full'
    else this.#state = this.#percent >= warnFrom ? 'warn' : 'ok'
  }
}
