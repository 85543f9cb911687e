/**
 * What runs have met of what settling and reclaiming can meet: what did not happen was not tested.
 * Counted from outside, by standing in front of the methods where it shows.
 */
import { PLACE_ALIAS, PLACE_WORD_FIRST, placeKind } from '../../src/format/directory.ts'
import { TABLE_PAGE_SLOT_COUNT, TABLE_PAGE_SLOT_SHIFT } from '../../src/format/segment.ts'
import { References } from '../../src/pool/references.ts'
import { Turnover } from '../../src/pool/turnover.ts'
import type { ReclaimReport } from '../../src/pool/types.ts'
import { SegmentStore } from '../../src/segment/segment-store.ts'
import { interpose } from '../support/interpose.ts'

/** Takes thousands of seeds; `test/unit/pool/settle.test.ts` brings them about. */
const RARE: readonly string[] = ['resolvedChainCount', 'chainCount', 'aliasProbeCount']

export class Coverage {
  /** Runs of reclaim and settle that ended by themselves. */
  runCount = 0
  canceledRunCount = 0
  /** Runs that ended when so much had been overwritten that one was due. */
  turnoverCount = 0
  settledCount = 0
  /** Blocks that lay scattered, and were written anew in order. */
  orderedBlockCount = 0
  resettledCount = 0
  deletedCount = 0
  skippedCount = 0
  aliasBlockCount = 0
  zeroBlockCount = 0
  droppedBlockCount = 0
  /** An alias's target turned out to be an alias, and was replaced by where that leads. */
  resolvedChainCount = 0
  /** An import was not allowed to refer to a block, for a run had not marked it. */
  refusedMatchCount = 0
  /** Bytes compared, outside of any run, in a settled segment … */
  settledProbeCount = 0
  /** … and there at an alias. */
  aliasProbeCount = 0
  committedImportCount = 0
  abortedImportCount = 0
  /** Pools looked at in detail, and what was seen there. */
  walkedCount = 0
  chainCount = 0
  duplicateCount = 0

  /** Every count by its name. */
  counts(): Record<string, number> {
    return Object.fromEntries(Object.entries(this) as [string, number][])
  }

  addReport(report: ReclaimReport): void {
    this.runCount += 1
    this.deletedCount += report.deletedSegmentCount
    this.skippedCount += report.skippedSegmentCount
    this.settledCount += report.settledSegmentCount
    this.orderedBlockCount += report.orderedBytes / 4096
    this.aliasBlockCount += report.duplicateBytes / 4096
    this.zeroBlockCount += report.zeroBytes / 4096
    this.droppedBlockCount += report.droppedBytes / 4096
  }

  /** What should have happened in some hundreds of seeds, and did not, by name. */
  missing(): string[] {
    return Object.entries(this)
      .filter(([name, count]) => count === 0 && !RARE.includes(name))
      .map(([name]) => name)
  }
}

/** Counts into `coverage` until the returned function is called. */
export function watchPool(coverage: Coverage): () => void {
  const store = SegmentStore.prototype
  const undo = [
    interpose(
      store,
      'resolve',
      (original) =>
        async function (this: SegmentStore, segment, slot) {
          const end = await original.call(this, segment, slot)
          if (end.segment !== segment || end.slot !== slot) coverage.resolvedChainCount += 1
          return end
        },
    ),
    interpose(
      store,
      'replace',
      (original) =>
        function (this: SegmentStore, id, ...rest) {
          if (this.get(id).isSettled) coverage.resettledCount += 1
          original.call(this, id, ...rest)
        },
    ),
    interpose(
      store,
      'read',
      (original) =>
        function (this: SegmentStore, segment, slot, count, at, completion, tag, isProbe) {
          if (isProbe === true) noteProbe(coverage, this, segment, slot)
          original.call(this, segment, slot, count, at, completion, tag, isProbe)
        },
    ),
    interpose(
      Turnover.prototype,
      'ended',
      (original) =>
        function (this: Turnover, appendedBytes, report) {
          if (report !== null && this.isDue(appendedBytes)) coverage.turnoverCount += 1
          original.call(this, appendedBytes, report)
        },
    ),
    interpose(
      References.prototype,
      'admits',
      (original) =>
        function (this: References, ...args) {
          const isAdmitted = original.apply(this, args)
          if (!isAdmitted) coverage.refusedMatchCount += 1
          return isAdmitted
        },
    ),
  ]
  return () => {
    for (const one of undo) one()
  }
}

function noteProbe(coverage: Coverage, store: SegmentStore, segment: number, slot: number): void {
  const state = store.has(segment) ? store.get(segment) : null
  if (state?.isSettled !== true) return
  coverage.settledProbeCount += 1
  const page = state.pages[slot >> TABLE_PAGE_SLOT_SHIFT]
  const word = PLACE_WORD_FIRST + 2 * (slot & (TABLE_PAGE_SLOT_COUNT - 1)) + 1
  if (page !== null && placeKind(page[word]) === PLACE_ALIAS) coverage.aliasProbeCount += 1
}
