import type { Checkpointer } from './checkpoint.ts'
import type { PoolCore } from './core.ts'
import { captureRoot } from './describe.ts'
import { MarkBitmap, markAliases } from './mark.ts'

/** What a look at all maps has found. */
export interface LiveState {
  marked: MarkBitmap
  /** Map nodes that cannot be read, or make no sense. */
  unreadable: { segment: number; slot: number }[]
}

/** Notes nodes that cannot be read, too. */
class TolerantMark extends MarkBitmap {
  readonly nodes: { segment: number; slot: number }[] = []

  override unreadable(segment?: number, slot?: number): void {
    super.unreadable()
    if (segment !== undefined && slot !== undefined) this.nodes.push({ segment, slot })
  }
}

/** Marks what any disk refers to, beside running guests. `pace` rejects to give up. */
export async function markLive(
  core: PoolCore,
  checkpointer: Checkpointer,
  pace: () => Promise<void>,
  progress: (done: number, total: number) => void,
): Promise<LiveState> {
  const marked = new TolerantMark()
  // Reclaim takes away nothing that the maps named when this began, until it has ended.
  const cohort = core.cohorts.enter()
  try {
    for (const part of checkpointer.chain) marked.blocks(part.segment, part.slot, part.blockCount)
    const disks = [...core.catalogue.disks()]
    for (const [done, disk] of disks.entries()) {
      progress(done, disks.length)
      await pace()
      if (core.catalogue.tryDisk(disk.id) !== disk) continue
      const root = captureRoot(core, disk)
      try {
        await core.tables.walk(root, marked)
      } finally {
        core.tables.releaseRoot(root)
      }
    }
    await markAliases(core.store, marked, pace)
  } finally {
    cohort.leave()
  }
  return { marked, unreadable: marked.nodes }
}
