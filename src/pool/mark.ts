import { assert } from '../base/assert.ts'
import { VarveError } from '../base/errors.ts'
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
  #keptUpTo = 0

  /**
   * Of what cannot be read nobody knows what it refers to: all segments up to `segment` count as
   * marked, in all their slots.
   */
  keepUpTo(segment: number): void {
    this.#keptUpTo = Math.max(this.#keptUpTo, segment)
  }

  /** Whether nothing of the segment may be given up, whatever is marked in it. */
  isKept(segment: number): boolean {
    return segment <= this.#keptUpTo
  }

  /** Everything could be read: what is not marked, nobody refers to. */
  get isCertain(): boolean {
    return this.#keptUpTo === 0
  }

  /** A node may refer to any segment: one of a higher id can have been filled before it. */
  unreadable(): void {
    this.keepUpTo(Infinity)
  }

  /** Slots marked. */
  get markedCount(): number {
    return this.#markedCount
  }

  isMarked(segment: number, slot: number): boolean {
    return this.isKept(segment) || this.isReached(segment, slot)
  }

  /** As `isMarked`, without what is only kept. */
  isReached(segment: number, slot: number): boolean {
    const words = this.#segments.get(segment)
    return words !== undefined && ((words[slot >>> 5] >>> (slot & 31)) & 1) === 1
  }

  /** True when anything in the segment is marked. */
  hasAny(segment: number): boolean {
    return this.isKept(segment) || this.#segments.has(segment)
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

/** Told of every alias that is marked when it is met, and of directories that cannot be read. */
export interface AliasVisitor {
  alias(segment: number, slot: number, targetSegment: number, targetSlot: number): void
  unreadable(segment: number): void
}

/** Marks what marked aliases point to, and what that points to in turn. */
export function markAliases(
  store: SegmentStore,
  marked: MarkBitmap,
  pace: () => Promise<void>,
): Promise<void> {
  const visitor: AliasVisitor = {
    alias: (_segment, _slot, targetSegment, targetSlot) => {
      marked.mark(targetSegment, targetSlot)
    },
    // Its aliases may lead to anything below.
    unreadable: (segment) => marked.keepUpTo(segment),
  }
  return walkAliases(store, marked, visitor, pace)
}

/**
 * Shows the visitor the marked aliases. One points downwards, so one pass from the highest segment
 * to the lowest, and within each from its last slot to its first, sees every alias after all that
 * lead to it: a visitor that marks targets is shown those of them that are aliases, too.
 */
export async function walkAliases(
  store: SegmentStore,
  marked: MarkBitmap,
  visitor: AliasVisitor,
  pace: () => Promise<void>,
): Promise<void> {
  for (const id of store.ids().reverse()) {
    if (!store.has(id) || !marked.hasAny(id)) continue
    const places = await tryPlaces(store, id)
    if (places === 'unreadable') visitor.unreadable(id)
    if (places === null || places === 'unreadable') continue
    for (let slot = DATA_SLOT_END - 1; slot >= DATA_SLOT_FIRST; slot -= 1) {
      const word1 = places[2 * slot + 1]
      if (placeKind(word1) !== PLACE_ALIAS || !marked.isMarked(id, slot)) continue
      const target = aliasSlot(word1)
      assert(isLower(places[2 * slot], target, id, slot), 'an alias points downwards')
      visitor.alias(id, slot, places[2 * slot], target)
    }
    await pace()
  }
}

/** Where the slots of a segment are, if it may have aliases; null: it has none. */
async function tryPlaces(
  store: SegmentStore,
  id: number,
): Promise<Uint32Array | null | 'unreadable'> {
  try {
    const footer = await store.tryFooter(id)
    if (footer === null) return store.get(id).sealed ? 'unreadable' : null
    if ((footer.settled?.aliasCount ?? 0) === 0) return null
    return (await store.loadTable(id)).places
  } catch (error) {
    if (!(error instanceof VarveError)) throw error
    return 'unreadable'
  }
}
