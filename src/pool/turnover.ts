import { SEGMENT_SIZE_BYTES } from '../base/units.ts'
import type { ReclaimReport } from './types.ts'

/** A run that gave back less than this part of what was appended was too early. */
const WORTH_DENOMINATOR = 4
/** As often as what is live is appended, at most, between two runs. */
const PATIENCE_MAX = 8

/**
 * Says when guests that never rest have overwritten so much that whole segments of the log must be
 * dead. Nobody else would give those back before the guests are idle or the disk is nearly full;
 * and the log would go on in new files, which cost several times as much as those that are kept of
 * segments that are gone (`RecycledFiles`).
 *
 * What it costs is a walk over all that is live. So as much as is live has to be appended before
 * the next one: then no block that is written pays for more than one that is marked, however much
 * the pool holds. Where the guests' writes are scattered, hardly a segment is ever dead as a whole:
 * each run that brings little doubles the wait.
 */
export class Turnover {
  readonly #bytesMin: number
  #liveBytes = 0
  #patience = 1
  #atBytes: number

  /** `bytesMin`: appended bytes between two runs at least, however little is live. */
  constructor(bytesMin: number, appendedBytes: number) {
    this.#bytesMin = bytesMin
    this.#atBytes = appendedBytes
  }

  isDue(appendedBytes: number): boolean {
    const waitBytes = Math.max(this.#bytesMin, this.#liveBytes) * this.#patience
    return appendedBytes - this.#atBytes >= waitBytes
  }

  /** A run, of whatever kind, that began at `appendedBytes` is over; null: it failed. */
  ended(appendedBytes: number, report: ReclaimReport | null): void {
    const sinceBytes = appendedBytes - this.#atBytes
    const deadBytes = (report?.deletedSegmentCount ?? 0) * SEGMENT_SIZE_BYTES
    const isWorth = deadBytes * WORTH_DENOMINATOR >= sinceBytes
    this.#patience = isWorth ? 1 : Math.min(PATIENCE_MAX, 2 * this.#patience)
    this.#liveBytes = report?.liveBytes ?? this.#liveBytes
    this.#atBytes = appendedBytes
  }
}
