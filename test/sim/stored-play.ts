/** What a closed pool holds: all that is needed, and, when nothing is needed, nothing. */
import { Maintenance } from './background.ts'
import { SimViolation } from './data-step.ts'
import { leaveFailed } from './fault-play.ts'
import { abortImport, joinMaintenance } from './upkeep-play.ts'
import { Crashed } from './world.ts'
import type { World } from './world.ts'

/** Parts of the catalogue that the last checkpoints replaced. */
const EXCESS_BYTES_MAX = 8192
/** Of an empty pool: what is open, what is spare, what the last checkpoint went to. */
const EMPTY_SEGMENT_COUNT_MAX = 2
const EMPTY_LIVE_COUNT_MAX = 2
const EMPTY_SEGMENT_BYTES_MAX = 524_288

/** Nothing is damaged, and nothing in flight. */
export async function judgeStored(world: World): Promise<void> {
  world.note('judge what is stored')
  world.io.disk.clearFaults()
  world.giveRoom()
  await joinMaintenance(world)
  for (const one of world.openImports.splice(0)) {
    one.stop()
    await abortImport(world, one)
  }
  // A failure that nobody had noticed yet, of a fault before.
  if (world.hasFailed) await leaveOrReopen(world)
  await settleAll(world)
  await world.verify()
  await world.closePool()
  judgeWalk(world, false)
  await world.reopen()
  await removeAll(world)
  await settleAll(world)
  await world.closePool()
  judgeWalk(world, true)
  await world.reopen()
}

async function leaveOrReopen(world: World): Promise<void> {
  try {
    await leaveFailed(world)
  } catch (error) {
    if (!(error instanceof Crashed)) throw error
    await world.reopen()
  }
}

/** Twice: what the first one leaves behind of its own, the second takes. */
async function settleAll(world: World): Promise<void> {
  for (const compression of ['lz4', 'off'] as const) {
    for (let isDone = false; !isDone;) {
      world.maintenance = new Maintenance(world.mustPool(), compression)
      const { maintenance } = world
      await joinMaintenance(world)
      // The pool's own run may be in the way.
      isDone = maintenance.report !== null || world.hasFailed
      if (!isDone) await world.drive(world.turns(10))
    }
  }
}

async function removeAll(world: World): Promise<void> {
  const pool = world.mustPool()
  const { latest } = world.history
  for (const { name, holds, snapshots } of latest.values()) {
    for (const tag of holds) await world.drive(pool.release(name, tag))
    for (const snapshot of snapshots) {
      const held = `${name}@${snapshot.name}`
      for (const tag of snapshot.holds) await world.drive(pool.release(held, tag))
    }
  }
  const names = [...latest.keys()]
  if (names.length > 0) {
    await world.drive(pool.remove({ names, recursive: true, dryRun: false }))
  }
  world.history.begin('control', 'remove all', new Map())
  world.history.requireAll()
}

function judgeWalk(world: World, isEmpty: boolean): void {
  // A write that was lost is missed only when the last sync has gone over it.
  world.heal()
  const walk = world.maker.walk?.(world.io.disk)
  if (walk === undefined) return
  const { problems, chainCount, excessBytes, segmentIds, liveCount } = walk
  const { coverage } = world
  if (coverage !== null) {
    coverage.walkedCount += 1
    coverage.duplicateCount += walk.duplicateCount
    coverage.chainCount += chainCount
  }
  if (excessBytes > EXCESS_BYTES_MAX) problems.push(`${excessBytes} dead bytes were left`)
  world.note(`walk: ${JSON.stringify(walk)}`)
  if (isEmpty && segmentIds.length > EMPTY_SEGMENT_COUNT_MAX) problems.push('segments were left')
  if (isEmpty && liveCount > EMPTY_LIVE_COUNT_MAX) problems.push('something is still needed')
  if (isEmpty && walk.segmentBytes > EMPTY_SEGMENT_BYTES_MAX) problems.push('bytes were left')
  if (problems.length > 0) throw new SimViolation(`what is stored:\n${problems.join('\n')}`)
}
