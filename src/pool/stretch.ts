import { BLOCK_SIZE_BYTES } from '../base/units.ts'
import { ARENA_PIECE_BYTES_MAX } from '../io/arena.ts'
import { addressRun } from '../segment/dedup.ts'

/** What is looked at, and moved, at once: half a leaf, and what one piece of the arena holds. */
export const STRETCH_BLOCK_COUNT: number = ARENA_PIECE_BYTES_MAX / BLOCK_SIZE_BYTES

/**
 * Mean length of a run, 64 KiB, from which on a stretch is not scattered. Reading in sequence costs
 * about 6 % of a 128 KiB read for each run beyond the first: with runs of 16 blocks a read meets
 * three, and has nine tenths of its rate; with single blocks it meets 32, and has a third.
 */
const RUN_BLOCK_COUNT_MIN = 16
/** With fewer runs there is little to gain. */
const RUN_COUNT_MIN = 8
/**
 * Runs before, for each that is left after: else what cannot be moved would have what lies between
 * it moved again by every settle. The log cuts a stretch in three at most, by the ends of records
 * and of a segment, so what was moved is never scattered.
 */
const RUNS_JOINED_MIN = 4

/** Blocks of a stretch, from `index` on. */
export interface StretchRun {
  index: number
  count: number
}

/** Where the blocks of a MiB of a volume are, and which of them can be moved. */
export class Stretch {
  /** Two words a block, segment and slot; zeros: it has no address. */
  readonly addresses: Uint32Array = new Uint32Array(2 * STRETCH_BLOCK_COUNT)
  readonly #isFixed: Uint8Array = new Uint8Array(STRETCH_BLOCK_COUNT)

  clear(): void {
    this.addresses.fill(0)
    this.#isFixed.fill(0)
  }

  setRun(index: number, count: number, segment: number, slot: number): void {
    for (let i = 0; i < count; i += 1) {
      this.addresses[2 * (index + i)] = segment
      this.addresses[2 * (index + i) + 1] = slot + i
    }
  }

  /** These stay where they are. */
  fix(index: number, count: number): void {
    this.#isFixed.fill(1, index, index + count)
  }

  /** Blocks that can be moved, one behind the other in the volume. */
  movable(): StretchRun[] {
    const runs: StretchRun[] = []
    for (let index = 0; index < STRETCH_BLOCK_COUNT; index += 1) {
      if (!this.#isMovable(index)) continue
      const last = runs.at(-1)
      if (last !== undefined && last.index + last.count === index) last.count += 1
      else runs.push({ index, count: 1 })
    }
    return runs
  }

  /** The same, cut where their addresses are not one behind the other. */
  movableAddresses(): StretchRun[] {
    return this.movable().flatMap(({ index, count }) => {
      const runs: StretchRun[] = []
      for (let at = index; at < index + count; at += runs[runs.length - 1].count) {
        runs.push({ index: at, count: addressRun(this.addresses, at, index + count) })
      }
      return runs
    })
  }

  get isScattered(): boolean {
    let mappedCount = 0
    let runCount = 0
    let fixedRunCount = 0
    for (let index = 0; index < STRETCH_BLOCK_COUNT; index += 1) {
      if (this.addresses[2 * index] === 0) continue
      mappedCount += 1
      const isNext = index > 0 && this.#follows(index)
      if (!isNext) runCount += 1
      const isFixed = this.#isFixed[index] === 1
      if (isFixed && !(isNext && this.#isFixed[index - 1] === 1)) fixedRunCount += 1
    }
    const leftCount = fixedRunCount + this.movable().length
    return (
      runCount >= RUN_COUNT_MIN &&
      mappedCount < runCount * RUN_BLOCK_COUNT_MIN &&
      runCount >= leftCount * RUNS_JOINED_MIN
    )
  }

  #isMovable(index: number): boolean {
    return this.addresses[2 * index] !== 0 && this.#isFixed[index] === 0
  }

  #follows(index: number): boolean {
    const { addresses } = this
    return (
      addresses[2 * index] === addresses[2 * index - 2] &&
      addresses[2 * index + 1] === addresses[2 * index - 1] + 1
    )
  }
}
