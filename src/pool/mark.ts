import { assert } from '../base/assert.ts'
import { SEGMENT_SLOT_COUNT } from '../base/units.ts'
import { PLACE_ALIAS, aliasSlot, isLower, placeKind } from '../format/directory.ts'
import { DATA_SLOT_END, DATA_SLOT_FIRST } from '../format/segment.ts'
import type { MapVisitor } from '../map/page-tables.ts'
import type { SegmentStore } from '../segment/segment-store.ts'

const WORDS = SEGMENT_SLOT_COUNT / 32

/**
 * One bit for each slot of each segment met: 2 KiB a segment, a 32,768th of what it describes.
 * It is also the set of nodes already visited.
 */
export class MarkBitmap implements MapVisitor {
  readonly #segments: Map<number, Uint32Array> = new Map()
  #markedCount = 0

  /** Slots marked. */
  get markedCount(): number {
    return this.#markedCount
  }

  isMarked(segment: number, slot: number): boolean {
    const words = this.#segments.get(segment)
    return words !== undefined && ((words[slot >>> 5] >>> (slot & 31)) & 1) === 1
  }

  /** True when anything in the segment is marked. */
  hasAny(segment: number): boolean {
    return this.#segments.has(segment)
  }

  enterNode(segment: number, slot: number): boolean {
    return this.mark(segment, slot)
  }

  blocks(segment: number, slot: number, count: number): void {
    for (let i = 0; i < count; i += 1) this.mark(segment, slot + i)
  }

  /** True when it was not marked before. */
  mark(segment: number, slot: number): boolean {
    let words = this.#segments.get(segment)
    if (words === undefined) {
      words = new Uint32Array(WORDS)
      this.#segments.set(segment, words)
    }
    const bit = 1 << (slot & 31)
    if ((words[slot >>> 5] & bit) !== 0) return false
    words[slot >>> 5] |= bit
    this.#markedCount += 1
    return true
  }
}

/**
 * Marks what marked aliases point to, and what that points to in turn. An alias points downwards,
 * so one pass from the highest segment to the lowest, and within each from its last slot to its
 * first, sees every alias after all that lead to it.
 */
export async function markAliases(
  store: SegmentStore,
  marked: MarkBitmap,
  pace: () => Promise<void>,
): Promise<void> {
  for (const id of store.ids().reverse()) {
    if (!store.has(id) || !marked.hasAny(id)) continue
    if (!(await store.hasAliases(id))) continue
    const { places } = await store.loadTable(id)
    if (places === null) continue
    for (let slot = DATA_SLOT_END - 1; slot >= DATA_SLOT_FIRST; slot -= 1) {
      const word1 = places[2 * slot + 1]
      if (placeKind(word1) !== PLACE_ALIAS || !marked.isMarked(id, slot)) continue
      const target = aliasSlot(word1)
      assert(isLower(places[2 * slot], target, id, slot), 'an alias points downwards')
      marked.mark(places[2 * slot], target)
    }
    await pace()
  }
}
