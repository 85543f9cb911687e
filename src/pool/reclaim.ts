/**
 * Mark and sweep: gives back the space of what no disk refers to any more, and settles, beside
 * running guests.
 *
 * Why nothing live is ever swept. The open segment is sealed and a checkpoint fixes the state; let
 * M be that moment. Mark walks every map as it was at M (they are immutable from then on), and
 * follows aliases. Only segments sealed before M are swept. An address in such a segment that is
 * unmarked was reachable from no disk at M; nothing can make it reachable again, since maps gain
 * only addresses of later segments (I1), roots that existed at M, addresses copied from maps of
 * which this holds, and addresses that `References` admits, which are marked; so are those that
 * new aliases point to. The durable superblock is the checkpoint of M or a later one, on both
 * pages, so no recovery refers to it either, nor replays a record of a segment that is settled,
 * nor does a copy that is replayed: it was made after M. And reads that looked the address up
 * before M have ended: a grace period is waited for.
 */
import type { Codec } from '../base/codec.ts'
import { CorruptionError } from '../base/errors.ts'
import { BLOCK_SIZE_BYTES } from '../base/units.ts'
import type { PartAddress } from '../format/catalogue.ts'
import { rootAddress, rootAt } from '../map/map-root.ts'
import type { MapRoot } from '../map/map-root.ts'
import type { Checkpointer } from './checkpoint.ts'
import type { PoolCore } from './core.ts'
import { MarkBitmap, markAliases } from './mark.ts'
import type { Pacer } from './pacer.ts'
import { Sweep } from './sweep.ts'
import type { ReclaimProgress, ReclaimReport } from './types.ts'

interface Fixed {
  roots: { segment: number; slot: number }[]
  parts: readonly PartAddress[]
  sweepableIds: number[]
}

export interface ReclaimRun {
  /** Null: segments that were never settled stay as they are. */
  settleWith: Codec | null
  /** For segments that have to be rewritten because much of them is dead. */
  codec: Codec
  /** Segments of which anything is live are left alone. */
  onlyDead: boolean
  /** Done first: brings what lies scattered in order, and says how many bytes that was. */
  order: (() => Promise<number>) | null
  pacer: Pacer
  progress: (progress: ReclaimProgress) => void
}

export async function reclaim(
  core: PoolCore,
  checkpointer: Checkpointer,
  imports: Iterable<{ readonly root: MapRoot }>,
  run: ReclaimRun,
): Promise<ReclaimReport> {
  core.store.verifyFolderDurable()
  const physicalBeforeBytes = await core.store.physicalBytes()
  // Before the state is fixed: what is moved is dead where it was, and can be no alias of that.
  const orderedBytes = run.order === null ? 0 : await run.order()
  run.progress({ phase: 'checkpoint', done: 0, total: 1 })
  await core.fingerprints.ready(run.pacer.pace)
  try {
    const fixed = await fixState(core, checkpointer, imports)
    const marked = await mark(core, fixed, run)
    await markAliases(core.store, marked, run.pacer.pace)
    core.references.setMarked(marked)
    const sweepable = new Set(fixed.sweepableIds)
    await core.dedupIndex.retain(
      (segment, slot) => !sweepable.has(segment) || marked.isMarked(segment, slot),
      run.pacer.pace,
    )
    await core.cohorts.grace()
    const sweep = await Sweep.begin(core, marked, run)
    try {
      await sweep.run(fixed.sweepableIds)
    } finally {
      sweep.close()
    }
    await core.space.refresh()
    return {
      liveBytes: marked.markedCount * BLOCK_SIZE_BYTES,
      orderedBytes,
      ...sweep.report,
      physicalBeforeBytes,
      physicalAfterBytes: await core.store.physicalBytes(),
    }
  } finally {
    core.references.endRun()
  }
}

async function fixState(
  core: PoolCore,
  checkpointer: Checkpointer,
  imports: Iterable<{ readonly root: MapRoot }>,
): Promise<Fixed> {
  const { log, store, catalogue, space } = core
  await space.withReserve(() => log.sealOpen())
  let fixed: Fixed | null = null
  await checkpointer.run({
    full: true,
    atFixed: () => {
      const roots = []
      for (const disk of catalogue.disks()) roots.push(rootAddress(disk.root))
      for (const { root } of imports) roots.push(rootAddress(root))
      const { unfinishedIds } = core.references
      const busy = new Set([...unfinishedIds, log.openSegmentId, log.spareSegmentId])
      const sweepableIds = store.ids().filter((id) => !busy.has(id) && store.get(id).sealed)
      core.references.beginRun(sweepableIds)
      fixed = { roots: roots.filter((root) => root !== null), parts: [], sweepableIds }
    },
  })
  if (fixed === null) throw new CorruptionError('catalogue-corrupt', 'no state was fixed')
  const parts = [...checkpointer.chain]
  // The other superblock page too must not name what is going to be swept.
  await checkpointer.run()
  return { ...(fixed as Fixed), parts: [...parts, ...checkpointer.chain] }
}

async function mark(core: PoolCore, fixed: Fixed, run: ReclaimRun): Promise<MarkBitmap> {
  const marked = new MarkBitmap()
  for (const part of fixed.parts) marked.blocks(part.segment, part.slot, part.blockCount)
  let done = 0
  for (const { segment, slot } of fixed.roots) {
    run.pacer.verifyWanted()
    await core.tables.walk(rootAt(segment, slot), marked)
    done += 1
    run.progress({ phase: 'mark', done, total: fixed.roots.length })
  }
  return marked
}
