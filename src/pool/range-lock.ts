import { assert } from '../base/assert.ts'
import { MAP_BLOCK_COUNT } from '../format/node.ts'
import type { Disk } from './disk.ts'

/** Stands for the size of a disk, as if it were a block behind all others. */
export const SIZE_BLOCK: number = MAP_BLOCK_COUNT

/** Blocks of a disk, from `firstBlock` to `endBlock`, exclusive. */
export interface BlockRange {
  readonly disk: Disk
  readonly firstBlock: number
  readonly endBlock: number
}

export function rangesMeet(one: BlockRange, other: BlockRange): boolean {
  return (
    one.disk === other.disk && one.firstBlock < other.endBlock && other.firstBlock < one.endBlock
  )
}

/**
 * Ranges of blocks that one operation has to itself for more than a turn, in the write queue's
 * order: it is granted when everything that came before it and meets the ranges is in the log, and
 * what comes after it and meets them waits until it is released.
 */
export class RangeLock {
  readonly ranges: readonly BlockRange[]
  readonly #granted: (lock: RangeLock) => void
  readonly #released: (lock: RangeLock) => void
  #state: 'waiting' | 'held' | 'released' = 'waiting'

  constructor(
    ranges: readonly BlockRange[],
    granted: (lock: RangeLock) => void,
    released: (lock: RangeLock) => void,
  ) {
    this.ranges = ranges
    this.#granted = granted
    this.#released = released
  }

  get isWaiting(): boolean {
    return this.#state === 'waiting'
  }

  meets(range: BlockRange): boolean {
    return this.ranges.some((own) => rangesMeet(own, range))
  }

  grant(): void {
    assert(this.#state === 'waiting', 'a lock is granted once')
    this.#state = 'held'
    this.#granted(this)
  }

  /** Those who wait go on at the end of the turn. */
  release(): void {
    assert(this.#state === 'held', 'a lock is released by who holds it, once')
    this.#state = 'released'
    this.#released(this)
  }
}
