import { VarveError } from '../base/errors.ts'
import { SEGMENT_SLOT_COUNT } from '../base/units.ts'
import { PLACE_ALIAS, aliasSlot } from '../format/directory.ts'
import { DATA_SLOT_END, DATA_SLOT_FIRST } from '../format/segment.ts'
import type { SegmentStore } from './segment-store.ts'

export interface BlockAddress {
  segment: number
  slot: number
}

/** Tried for one block: more of them damaged at once is no accident of one place. */
const COPY_COUNT_MAX = 8

/** One number for an address. */
export function addressKey(segment: number, slot: number): number {
  return segment * SEGMENT_SLOT_COUNT + slot
}

/**
 * Where blocks with a recorded checksum may lie, too. Made only when there is damage: it goes
 * through the tables of all segments. Also learns which aliases lead to what is damaged.
 */
export class EqualBlocks {
  readonly #copies: Map<number, BlockAddress[]> = new Map()
  /** Aliases by where they point, for damaged addresses only. */
  readonly aliases: { from: BlockAddress; to: BlockAddress }[] = []
  readonly #damaged: Set<number>

  /** `damaged`: keys of addresses, whose aliases are looked for, too. */
  constructor(damaged: Iterable<number>) {
    this.#damaged = new Set(damaged)
  }

  want(checksums: Uint32Array, slot: number): void {
    this.#copies.set(hashKey(checksums, slot), [])
  }

  /** Ascending: an alias points downwards, so one pass finds those that lead to damage. */
  async gather(store: SegmentStore, pace: () => Promise<void>): Promise<void> {
    for (const id of store.ids()) {
      await pace()
      if (!store.has(id)) continue
      const table = await store.loadTable(id).catch((error: unknown) => {
        if (!(error instanceof VarveError)) throw error
        return null
      })
      if (table === null) continue
      for (let slot = DATA_SLOT_FIRST; slot < DATA_SLOT_END; slot += 1) {
        if (!table.hasBlock(slot)) continue
        if (table.places !== null && table.kindOf(slot) === PLACE_ALIAS) {
          const to = {
            segment: table.places[2 * slot],
            slot: aliasSlot(table.places[2 * slot + 1]),
          }
          this.#noteAlias({ segment: id, slot }, to)
        }
        const copies = this.#copies.get(hashKey(table.checksums, slot))
        if (copies === undefined || copies.length >= COPY_COUNT_MAX) continue
        if (!this.#damaged.has(addressKey(id, slot))) copies.push({ segment: id, slot })
      }
    }
  }

  copiesOf(checksums: Uint32Array, slot: number): readonly BlockAddress[] {
    return this.#copies.get(hashKey(checksums, slot)) ?? []
  }

  #noteAlias(from: BlockAddress, to: BlockAddress): void {
    if (!this.#damaged.has(addressKey(to.segment, to.slot))) return
    this.#damaged.add(addressKey(from.segment, from.slot))
    this.aliases.push({ from, to })
  }
}

/** 53 bits of a checksum: whoever reads a copy holds it against the whole. */
function hashKey(checksums: Uint32Array, slot: number): number {
  return (checksums[2 * slot + 1] & 0x1fffff) * 2 ** 32 + checksums[2 * slot]
}
