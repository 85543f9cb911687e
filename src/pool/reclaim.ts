/**
 * Mark and sweep: gives back the space of what no disk refers to any more, beside running guests.
 *
 * Why nothing live is ever swept. The open segment is sealed and a checkpoint fixes the state; let
 * M be that moment. Mark walks every map as it was at M (they are immutable from then on). Only
 * segments sealed before M are swept. An address in such a segment that is unmarked was reachable
 * from no disk at M; nothing can make it reachable again, since maps gain only addresses of later
 * segments (I1), roots that existed at M, and addresses copied from maps of which this holds. The
 * durable superblock is the checkpoint of M or a later one, on both pages, so no recovery refers to
 * it either, nor does a copy that is replayed: it was made after M. And reads that looked the
 * address up before M have ended: a grace period is waited for.
 */
import { CorruptionError, OperatingError } from '../base/errors.ts'
import { BLOCK_SIZE_BYTES } from '../base/units.ts'
import type { PartAddress } from '../format/catalogue.ts'
import { DATA_SLOT_END, DATA_SLOT_FIRST } from '../format/segment.ts'
import { rootAddress, rootAt } from '../map/map-root.ts'
import type { MapRoot } from '../map/map-root.ts'
import type { Checkpointer } from './checkpoint.ts'
import type { PoolCore } from './core.ts'
import { MarkBitmap } from './mark.ts'
import type { ReclaimProgress, ReclaimReport } from './types.ts'

/** A hole smaller than this is not worth a system call and an extent: 64 KiB. */
const PUNCH_SLOT_COUNT_MIN = 16

export interface ImportsInProgress {
  roots(): MapRoot[]
  segmentIds(): number[]
}

interface Fixed {
  roots: { segment: number; slot: number }[]
  parts: readonly PartAddress[]
  sweepableIds: number[]
}

export async function reclaim(
  core: PoolCore,
  checkpointer: Checkpointer,
  imports: ImportsInProgress,
  signal: AbortSignal | undefined,
  progress: (progress: ReclaimProgress) => void,
): Promise<ReclaimReport> {
  progress({ phase: 'checkpoint', done: 0, total: 1 })
  const physicalBeforeBytes = await core.store.physicalBytes()
  const fixed = await fixState(core, checkpointer, imports)
  const marked = await mark(core, fixed, signal, progress)
  await core.cohorts.grace()
  const swept = await sweep(core, fixed, marked, signal, progress)
  await core.space.refresh()
  return {
    liveBytes: marked.markedCount * BLOCK_SIZE_BYTES,
    ...swept,
    physicalBeforeBytes,
    physicalAfterBytes: await core.store.physicalBytes(),
  }
}

async function fixState(
  core: PoolCore,
  checkpointer: Checkpointer,
  imports: ImportsInProgress,
): Promise<Fixed> {
  const { log, store, catalogue, space } = core
  await space.withReserve(() => log.sealOpen())
  let fixed: Fixed | null = null
  await checkpointer.run({
    full: true,
    atFixed: () => {
      const roots = []
      for (const disk of catalogue.disks()) roots.push(rootAddress(disk.root))
      for (const root of imports.roots()) roots.push(rootAddress(root))
      const busy = new Set([...imports.segmentIds(), log.openSegmentId, log.spareSegmentId])
      fixed = {
        roots: roots.filter((root) => root !== null),
        parts: [],
        sweepableIds: store.ids().filter((id) => !busy.has(id) && store.get(id).sealed),
      }
    },
  })
  const parts = [...checkpointer.chain]
  // The other superblock page too must not name what is going to be swept.
  await checkpointer.run()
  if (fixed === null) throw new CorruptionError('catalogue-corrupt', 'no state was fixed')
  return { ...(fixed as Fixed), parts: [...parts, ...checkpointer.chain] }
}

async function mark(
  core: PoolCore,
  fixed: Fixed,
  signal: AbortSignal | undefined,
  progress: (progress: ReclaimProgress) => void,
): Promise<MarkBitmap> {
  const marked = new MarkBitmap()
  for (const part of fixed.parts) marked.blocks(part.segment, part.slot, part.blockCount)
  let done = 0
  for (const { segment, slot } of fixed.roots) {
    verifyWanted(signal)
    await core.tables.walk(rootAt(segment, slot), marked)
    done += 1
    progress({ phase: 'mark', done, total: fixed.roots.length })
  }
  return marked
}

async function sweep(
  core: PoolCore,
  fixed: Fixed,
  marked: MarkBitmap,
  signal: AbortSignal | undefined,
  progress: (progress: ReclaimProgress) => void,
): Promise<{ deletedSegmentCount: number; punchedBytes: number }> {
  let deletedSegmentCount = 0
  let punchedBytes = 0
  let done = 0
  for (const id of fixed.sweepableIds) {
    verifyWanted(signal)
    if (marked.hasAny(id)) {
      punchedBytes += await punchDead(core, id, marked)
    } else {
      await core.store.delete(id)
      deletedSegmentCount += 1
    }
    done += 1
    progress({ phase: 'sweep', done, total: fixed.sweepableIds.length })
  }
  if (deletedSegmentCount > 0) await core.store.syncFolder()
  return { deletedSegmentCount, punchedBytes }
}

/** Punches the runs of dead slots of a segment that is partly live. Returns what came back. */
async function punchDead(core: PoolCore, id: number, marked: MarkBitmap): Promise<number> {
  const { store } = core
  const before = await store.allocatedBytes(id)
  let start = DATA_SLOT_FIRST
  let punched = false
  for (let slot = DATA_SLOT_FIRST; slot <= DATA_SLOT_END; slot += 1) {
    if (slot < DATA_SLOT_END && !marked.isMarked(id, slot)) continue
    if (slot - start >= PUNCH_SLOT_COUNT_MIN) {
      // On some filesystems a hole takes a block first.
      const from = start
      await core.space.withReserve(() => store.punch(id, from, slot - from))
      punched = true
    }
    start = slot + 1
  }
  return punched ? Math.max(0, before - (await store.allocatedBytes(id))) : 0
}

function verifyWanted(signal: AbortSignal | undefined): void {
  if (signal?.aborted === true) throw new OperatingError('canceled', 'reclaim was canceled')
}
