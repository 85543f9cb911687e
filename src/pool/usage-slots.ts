/** For each slot of each segment met, the set of owners that reach it: 64 KiB a segment. */
import { SEGMENT_SLOT_COUNT } from '../base/units.ts'
import type { OwnerSets } from './usage-owners.ts'

export class SlotOwners {
  readonly #sets: OwnerSets
  readonly #segments: Map<number, Uint32Array> = new Map()
  #last = -1
  #lastSlots: Uint32Array = new Uint32Array(0)

  constructor(sets: OwnerSets) {
    this.#sets = sets
  }

  /** `owners` reach the slot, too. */
  add(segment: number, slot: number, owners: number): void {
    if (segment !== this.#last) this.#open(segment)
    const slots = this.#lastSlots
    const before = slots[slot]
    if (before === 0) slots[slot] = owners
    else if (before !== owners) slots[slot] = this.#sets.union(before, owners)
  }

  /** The sets of a segment by slot, 0 where nobody reaches; null when nobody reaches any. */
  of(segment: number): Uint32Array | null {
    return this.#segments.get(segment) ?? null
  }

  /** The segment is dealt with. */
  drop(segment: number): void {
    this.#segments.delete(segment)
    this.#last = -1
  }

  segmentIds(): number[] {
    return [...this.#segments.keys()]
  }

  #open(segment: number): void {
    let slots = this.#segments.get(segment)
    if (slots === undefined) {
      slots = new Uint32Array(SEGMENT_SLOT_COUNT)
      this.#segments.set(segment, slots)
    }
    this.#last = segment
    this.#lastSlots = slots
  }
}

/** Which slots of settled segments are zeros: a bit each. */
export class ZeroSlots {
  readonly #segments: Map<number, Uint32Array> = new Map()
  #last = -1
  #lastBits: Uint32Array | null = null

  add(segment: number, slot: number): void {
    let bits = this.#segments.get(segment)
    if (bits === undefined) {
      bits = new Uint32Array(SEGMENT_SLOT_COUNT / 32)
      this.#segments.set(segment, bits)
    }
    bits[slot >>> 5] |= 1 << (slot & 31)
  }

  has(segment: number, slot: number): boolean {
    if (segment !== this.#last) {
      this.#last = segment
      this.#lastBits = this.#segments.get(segment) ?? null
    }
    return this.#lastBits !== null && ((this.#lastBits[slot >>> 5] >>> (slot & 31)) & 1) === 1
  }
}

/** A count for each set of owners. */
export class SetCounts {
  #counts: Float64Array = new Float64Array(1024)

  add(set: number, count: number): void {
    if (set >= this.#counts.length) {
      const longer = new Float64Array(2 ** Math.ceil(Math.log2(set + 1)))
      longer.set(this.#counts)
      this.#counts = longer
    }
    this.#counts[set] += count
  }

  get(set: number): number {
    return set < this.#counts.length ? this.#counts[set] : 0
  }
}
