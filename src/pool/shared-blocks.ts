/**
 * Which stored blocks have a place in one map only, and there in one place: those that can be
 * moved by whoever has that map. Everything else that refers to a block would go on doing so where
 * it was, and it would be stored twice.
 */
import { rootAddress, rootAt } from '../map/map-root.ts'
import type { MapRoot } from '../map/map-root.ts'
import type { MapVisitor } from '../map/page-tables.ts'
import type { SegmentStore } from '../segment/segment-store.ts'
import type { Checkpointer } from './checkpoint.ts'
import type { PoolCore } from './core.ts'
import type { Disk } from './disk.ts'
import { MarkBitmap, walkAliases } from './mark.ts'
import type { AliasVisitor } from './mark.ts'
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
   * again.
   */
  addAliases(store: SegmentStore, pace: () => Promise<void>): Promise<void> {
    const visitor: AliasVisitor = {
      alias: (segment, slot, targetSegment, targetSlot) => {
        this.shared.mark(segment, slot)
        this.#once.mark(targetSegment, targetSlot)
        this.shared.mark(targetSegment, targetSlot)
      },
      unreadable: () => this.unreadable(),
    }
    return walkAliases(store, this.#once, visitor, pace)
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
