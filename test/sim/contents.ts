/**
 * What is written, as stamps a sector. Much of it has been written before: by the same step or an
 * earlier one, to disks that may be gone by now, in runs that lie as they lay or are cut anew. So
 * there is something to deduplicate, with neighbours, and dead blocks are met again.
 */
import type { Prng } from '../../src/base/prng.ts'
import { COMMON_BLOCK_COUNT, SECTORS_PER_BLOCK, commonStamp } from './stamps.ts'

/** Runs remembered: enough that old ones have been deleted, settled, or deleted and settled. */
const RUN_COUNT_MAX = 64
const NOTHING = new Uint32Array(0)

export class Contents {
  readonly #step: () => Prng
  readonly #newStamp: () => number
  readonly #repeatWeight: number
  readonly #runs: Uint32Array[] = []
  #dictated: Uint32Array = NOTHING

  /** `step`: what the step under way draws from. `repeatWeight`: of what is new, 4. */
  constructor(step: () => Prng, newStamp: () => number, repeatWeight: number) {
    this.#step = step
    this.#newStamp = newStamp
    this.#repeatWeight = repeatWeight
  }

  get #prng(): Prng {
    return this.#step()
  }

  /** What is drawn next begins with this. */
  dictate(sectors: Uint32Array): void {
    this.#dictated = sectors
  }

  /** Stamps for `blockCount` blocks. */
  draw(blockCount: number): Uint32Array {
    const sectors = this.#draw(blockCount)
    sectors.set(this.#dictated.subarray(0, sectors.length))
    this.#dictated = NOTHING
    if (this.#runs.length < RUN_COUNT_MAX) this.#runs.push(sectors)
    else this.#runs[this.#prng.below(RUN_COUNT_MAX)] = sectors
    return sectors
  }

  #draw(blockCount: number): Uint32Array {
    const repeat = this.#runs.length === 0 ? 0 : this.#repeatWeight
    const kind = this.#prng.weighted([4, 3, repeat, 1, repeat / 2])
    if (kind === 2) return this.#repeat(blockCount)
    if (kind === 4) return this.#splice(blockCount)
    if (kind === 3) return new Uint32Array(blockCount * SECTORS_PER_BLOCK)
    const first = kind === 1 ? this.#prng.below(COMMON_BLOCK_COUNT) : -1
    return this.#fresh(blockCount, first)
  }

  /** Stamps that no other block has. */
  fresh(blockCount: number): Uint32Array {
    return this.#fresh(blockCount, -1)
  }

  /** New stamps; or, from `commonBlock` on, those that every run has. */
  #fresh(blockCount: number, commonBlock: number): Uint32Array {
    return Uint32Array.from({ length: blockCount * SECTORS_PER_BLOCK }, (_, index) => {
      if (commonBlock < 0) return this.#newStamp()
      const block = commonBlock + Math.floor(index / SECTORS_PER_BLOCK)
      return commonStamp(block % COMMON_BLOCK_COUNT, index % SECTORS_PER_BLOCK)
    })
  }

  /** Parts of earlier runs, one behind the other, with a new block here and there. */
  #repeat(blockCount: number): Uint32Array {
    const prng = this.#prng
    const sectors = new Uint32Array(blockCount * SECTORS_PER_BLOCK)
    for (let block = 0; block < blockCount;) {
      const run = prng.pick(this.#runs)
      const runBlocks = run.length / SECTORS_PER_BLOCK
      const from = prng.below(runBlocks)
      const count = Math.min(runBlocks - from, blockCount - block)
      const end = (from + count) * SECTORS_PER_BLOCK
      sectors.set(run.subarray(from * SECTORS_PER_BLOCK, end), block * SECTORS_PER_BLOCK)
      block += count
      if (block >= blockCount || !prng.chance(0.2)) continue
      sectors.set(this.#fresh(1, -1), block * SECTORS_PER_BLOCK)
      block += 1
    }
    return sectors
  }

  /**
   * What two or three earlier runs of one length, long ones rather, have at the same places, now of
   * one and now of another: as versions of an image have.
   */
  #splice(blockCount: number): Uint32Array {
    const prng = this.#prng
    const [one, other] = [prng.pick(this.#runs), prng.pick(this.#runs)]
    const first = one.length > other.length ? one : other
    const alike = this.#runs.filter((run) => run.length === first.length)
    const runs = [first, prng.pick(alike), prng.pick(alike)]
    const sectors = this.#fresh(blockCount, -1)
    let run = first
    for (let block = 0; block < blockCount; block += 1) {
      if (prng.chance(0.3)) run = prng.pick(runs)
      const start = block * SECTORS_PER_BLOCK
      sectors.set(run.subarray(start, start + SECTORS_PER_BLOCK), start)
    }
    return sectors
  }
}
