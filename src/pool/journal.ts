import { OperatingError } from '../base/errors.ts'
import { BLOCK_SIZE_BYTES } from '../base/units.ts'
import type { CatalogueOperation } from '../format/catalogue.ts'
import { NO_PART, PART_PAYLOAD_BYTES_MAX, PartKind, encodePart } from '../format/catalogue.ts'
import { EntryKind } from '../format/record.ts'
import { Lookup } from '../map/page-tables.ts'
import type { PoolCore } from './core.ts'
import { verifyHealthy } from './core.ts'
import { poolFull } from './space.ts'

/** Journals one catalogue operation and applies it; resolves when it is durable. */
export async function journal(
  core: PoolCore,
  decide: () => CatalogueOperation,
  applied: () => void = () => undefined,
): Promise<void> {
  await journalSoon(core, decide, applied)
  await settle(core)
}

/** Resolves when everything journalled so far is durable. */
export async function settle(core: PoolCore): Promise<void> {
  await core.log.syncs.settle()
  verifyHealthy(core)
}

/**
 * As {@link journal}, but resolves when the operation is in the log and applied; within the call
 * itself where nothing has to be waited for. Like a write it is durable with the next flush: that
 * waits for every record below `log.nextSequence`, and this is one of them.
 *
 * `decide` looks at the catalogue and returns the operation, or throws why not. It runs in the
 * same synchronous stretch as the append and the apply, so what it found is still so. It may run
 * more than once, when the log or the map has to be waited for; null: there is nothing to do.
 * `applied` runs in that stretch too, right after the change: from then on the operation counts,
 * durable or not. `isAdmitted`: it ends what was begun while there was room, and is not refused.
 */
export async function journalSoon(
  core: PoolCore,
  decide: () => CatalogueOperation | null,
  applied: () => void = () => undefined,
  isAdmitted = false,
): Promise<void> {
  const { appender, catalogue } = core
  for (;;) {
    verifyHealthy(core)
    const missing = new Lookup()
    const isDone = await appender.retrying(() => {
      const decided = decide()
      if (decided === null) return true
      if (!isAdmitted) verifyRoom(core, decided)
      if (!isResident(core, decided, missing)) return false
      const payload = JSON.stringify(decided)
      verifySize(payload)
      appender.writePart(EntryKind.operation, encodePart(PartKind.operation, NO_PART, payload))
      catalogue.readClock()
      catalogue.apply(decided)
      applied()
      return true
    })
    if (isDone) return
    await core.tables.fault(missing)
  }
}

/** What makes space may use all that is left; what takes it leaves room for that (I9). */
function verifyRoom(core: PoolCore, operation: CatalogueOperation): void {
  const { op } = operation
  if (op === 'remove' || op === 'release' || core.space.admitsSmall(BLOCK_SIZE_BYTES)) return
  throw poolFull()
}

function isResident(core: PoolCore, operation: CatalogueOperation, missing: Lookup): boolean {
  const changed = core.catalogue.changedBy(operation)
  if (changed === null) return true
  const { disk, blockIndex, count } = changed
  return core.tables.tryReside(disk.root, blockIndex, count, missing)
}

function verifySize(payload: string): void {
  if (Buffer.byteLength(payload) <= PART_PAYLOAD_BYTES_MAX) return
  throw new OperatingError('out-of-range', 'too many names in one step', {
    hint: 'a step takes about a megabyte of names; do it in several',
  })
}
