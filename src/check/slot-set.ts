/** A set of addresses as one bitmap a segment: 2 KiB for each segment that has any. */
import { SEGMENT_SLOT_COUNT } from '../base/units.ts'

const WORD_COUNT = SEGMENT_SLOT_COUNT / 32

export class SlotSet {
  readonly #bitmaps = new Map<number, Uint32Array>()
  #size = 0

  /** Addresses in the set. */
  get size(): number {
    return this.#size
  }

  /** Segments that hold any, in no order. */
  segments(): Iterable<number> {
    return this.#bitmaps.keys()
  }

  hasSegment(segment: number): boolean {
    return this.#bitmaps.has(segment)
  }

  has(segment: number, slot: number): boolean {
    const bitmap = this.#bitmaps.get(segment)
    return bitmap !== undefined && (bitmap[slot >>> 5] & (1 << (slot & 31))) !== 0
  }

  add(segment: number, slot: number, count: number): void {
    let bitmap = this.#bitmaps.get(segment)
    if (bitmap === undefined) {
      bitmap = new Uint32Array(WORD_COUNT)
      this.#bitmaps.set(segment, bitmap)
    }
    for (let at = slot; at < slot + count; at += 1) {
      const bit = 1 << (at & 31)
      if ((bitmap[at >>> 5] & bit) !== 0) continue
      bitmap[at >>> 5] |= bit
      this.#size += 1
    }
  }
}
