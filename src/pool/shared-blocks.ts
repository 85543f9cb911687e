/**
 * Which stored blocks have a place in one map only, and there in one place: those that can be
 * moved by whoever has that map. Everything else that refers to a block would go on doing so where
 * it was, and it would be stored twice.
 */
import { PLACE_ALIAS, aliasSlot, placeKind } from '../format/directory.ts'
import { DATA_SLOT_END, DATA_SLOT_FIRST } from '../format/segment.ts'
import { rootAddress, rootAt } from '../map/map-root.ts'
import type { MapRoot } from '../map/map-root.ts'
import type { MapVisitor } from '../map/page-tables.ts'
import type { SegmentStore } from '../segment/segment-store.ts'
import type { Checkpointer } from './checkpoint.ts'
import type { PoolCore } from './core.ts'
import type { Disk } from './disk.ts'
import { MarkBitmap, tryPlaces } from './mark.ts'
import type { Pacer } from './pacer.ts'

/** A volume and its `shareCount` when the sharing was as it was found. */
export interface SurveyedVolume {
  disk: Disk
  shareCount: number
}

/**
 * Two bits for each slot of each segment met, 4 KiB a segment. A node is gone into the first two
 * times it is met: the second time for all that is below it to be met twice, too.
 */
class ReferenceCounts implements MapVisitor {
  readonly #once = new MarkBitmap()
  readonly shared: MarkBitmap = new MarkBitmap()
  isCertain = true

  enterNode(segment: number, slot: number): boolean {
    return this.#refer(segment, slot)
  }

  blocks(segment: number, slot: number, count: number): void {
    for (let i = 0; i < count; i += 1) this.#refer(segment, slot + i)
  }

  unreadable(): void {
    this.isCertain = false
  }

  /**
   * What dedup has joined stays so: an alias and what it points to. Moved, it would only be joined
   * again. From the highest address to the lowest, as `markAliases` does.
   */
  async addAliases(store: SegmentStore, pace: () => Promise<void>): Promise<void> {
    for (const id of store.ids().reverse()) {
      if (!store.has(id) || !this.#once.hasAny(id)) continue
      const places = await tryPlaces(store, id)
      if (places === 'unreadable') this.isCertain = false
      if (places === null || places === 'unreadable') continue
      for (let slot = DATA_SLOT_END - 1; slot >= DATA_SLOT_FIRST; slot -= 1) {
        const word1 = places[2 * slot + 1]
        if (placeKind(word1) !== PLACE_ALIAS || !this.#once.isMarked(id, slot)) continue
        this.shared.mark(id, slot)
        this.#once.mark(places[2 * slot], aliasSlot(word1))
        this.shared.mark(places[2 * slot], aliasSlot(word1))
      }
      await pace()
    }
  }

  /** True when the address was not met twice before. */
  #refer(segment: number, slot: number): boolean {
    return this.#once.mark(segment, slot) || this.shared.mark(segment, slot)
  }
}

/**
 * Walks every map as it is at one moment. Of what is written later nothing is in `shared`, and
 * nothing has to be: a volume has it to itself, as long as its `shareCount` is the same. Null when
 * something cannot be read, since nobody knows what that refers to. Rejects `canceled`.
 */
export async function findShared(
  core: PoolCore,
  checkpointer: Checkpointer,
  imports: Iterable<{ readonly root: MapRoot }>,
  pacer: Pacer,
): Promise<{ shared: MarkBitmap; volumes: SurveyedVolume[] } | null> {
  const roots: { segment: number; slot: number }[] = []
  const volumes: SurveyedVolume[] = []
  await checkpointer.run({
    atFixed: () => {
      const disks = [...core.catalogue.disks()]
      for (const { root } of [...disks, ...imports]) {
        const address = rootAddress(root)
        if (address !== null) roots.push(address)
      }
      for (const disk of core.catalogue.volumes()) {
        volumes.push({ disk, shareCount: disk.shareCount })
      }
    },
  })
  const counts = new ReferenceCounts()
  for (const { segment, slot } of roots) {
    await core.tables.walk(rootAt(segment, slot), counts)
    await pacer.pace()
  }
  await counts.addAliases(core.store, pacer.pace)
  return counts.isCertain ? { shared: counts.shared, volumes } : null
}
