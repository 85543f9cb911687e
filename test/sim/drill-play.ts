/**
 * Drills: what goes wrong at the worst moment, in the order in which that takes it. Each is made of
 * steps that runs make by themselves, too; but where three or four have to meet, chance brings
 * them together once in thousands of runs.
 */
import { playCheckpoint, playControl, runControl } from './control-play.ts'
import { createOf, freeName, removeOf, snapshotOf } from './control-steps.ts'
import { fillable, playChanges, playData, playFill } from './data-play.ts'
import type { Change } from './data-play.ts'
import type { ChangeKind } from './data-step.ts'
import {
  drillCopy,
  drillDeadAgain,
  drillDecay,
  drillScattered,
  drillVersions,
  sweep,
} from './drill-content.ts'
import { leaveFailed } from './fault-play.ts'
import { DOOR_KINDS } from './script.ts'
import { Crashed } from './world.ts'
import type { World } from './world.ts'

type Drill = (world: World) => Promise<void>

const CHANGE_KINDS: readonly ChangeKind[] = ['write', 'trim', 'trim', 'zero']
/** Those that take hundreds of operations. */
const LONG_CHANCE = 0.2
const FILL_STEP_COUNT_MAX = 70
/** Enough for the catalogue to take more than one block at the next checkpoint. */
const NAME_COUNT = 40
const LONG_NAME = 'a-name-that-takes-some-room-in-the-catalogue'
/** A window of this has the length for several that a server takes in pieces. */
const WIDE_LETTER = 'b'
const LONG_WRITE_BLOCK_COUNT = 190

export function playDrill(world: World): Promise<void> {
  const { prng, traits } = world
  if (prng.chance(LONG_CHANCE))
    return prng.pick([drillRoll, drillRoll, drillRoll, drillNames])(world)
  const drills: Drill[] = [
    drillPromise,
    drillCheckpoint,
    drillVersions,
    drillCopy,
    drillDeadAgain,
    drillScattered,
  ]
  if (traits.hasErrors) drills.push(drillFailedSync)
  if (traits.hasDamage) drills.push(drillDecay)
  if (traits.doorWeights[DOOR_KINDS.indexOf('nbd')] > 0) drills.push(drillCrowd)
  return prng.pick(drills)(world)
}

/** Of two changes of the same only the second, perhaps of nothing, is promised: it implies both. */
async function drillPromise(world: World): Promise<void> {
  const { prng } = world
  world.note('drill: a change of what is the same already')
  await playData(world, ['write'], 1)
  if (!world.hasFailed) await promise(world)
  const place = world.near.last
  if (place === null || world.hasFailed) return
  await playChanges(world, [{ kind: prng.pick(CHANGE_KINDS), place, isFua: false }])
  if (world.hasFailed) return
  const isPart = prng.chance(0.5)
  await playChanges(world, [{ kind: prng.pick(CHANGE_KINDS), place, isFua: true, isPart }])
  if (!world.hasFailed) losePower(world)
}

/** The process ends while a checkpoint is under way, and the power during the recovery. */
async function drillCheckpoint(world: World): Promise<void> {
  const { prng } = world
  world.note('drill: a checkpoint is cut short, and the recovery from it')
  await playData(world, ['write'], 1)
  if (world.hasFailed) return
  world.endAt('write', 'superblock', { kind: 'process' })
  try {
    await playCheckpoint(world)
    world.cancelEnd()
  } catch (error) {
    if (!(error instanceof Crashed)) throw error
    const keepChance = prng.pick([0.3, 0.5, 0.7])
    const loss = { grain: 'sector', keepChance, inOrder: false } as const
    const writeCount = prng.between(1, 2)
    await world.reopen(() =>
      world.endAt('write', 'superblock', { kind: 'power', loss }, writeCount),
    )
  }
}

/** A sync fails, the process is started anew, and what it found is lost with the power. */
async function drillFailedSync(world: World): Promise<void> {
  const { io, prng } = world
  world.note('drill: a sync fails')
  await playData(world, ['write'], prng.between(1, 4))
  if (world.hasFailed) return
  const aim = { path: 'segment', skip: prng.below(2), times: 1 }
  io.addFault({ kind: 'sync-error', ...aim, errno: 5 })
  await promise(world)
  if (world.hasFailed) {
    try {
      await leaveFailed(world)
    } catch (error) {
      if (!(error instanceof Crashed)) throw error
      await world.reopen()
    }
    await promise(world)
  }
  if (!world.hasFailed) losePower(world)
}

/** The power goes while two segments are not synced, or one of their syncs fails. */
async function drillRoll(world: World): Promise<void> {
  const { io, prng, traits } = world
  const name = freeName(world.history.latest, WIDE_LETTER)
  if (fillable(world) === null && name === null) return
  world.note('drill: the log goes on in another segment')
  if (fillable(world) === null && name !== null) {
    await runControl(world, createOf(world.history.latest, name))
    if (world.hasFailed) return
  }
  const before = world.rollCount
  let path = ''
  await playFill(world, FILL_STEP_COUNT_MAX, () => {
    if (world.rollCount === before) path = world.segmentPath
    return world.rollCount > before
  })
  if (world.hasFailed || world.rollCount === before) return
  for (let count = prng.below(4); count > 0 && !world.hasFailed; count -= 1) {
    await playData(world, ['write'], 1)
  }
  if (world.hasFailed) return
  if (traits.hasErrors && prng.chance(0.7)) {
    io.addFault({ kind: 'sync-error', path, skip: 0, times: 1, errno: 5 })
    await promise(world)
  }
  if (!world.hasFailed) losePower(world)
}

/** So many names that the catalogue’s parts take several blocks. */
async function drillNames(world: World): Promise<void> {
  const name = freeName(world.history.latest, 'a')
  if (name === null) return
  world.note('drill: many names')
  await runControl(world, createOf(world.history.latest, name))
  // On a full disk.
  if (!world.history.latest.has(name)) return
  for (let count = 1; count <= NAME_COUNT && !world.hasFailed; count += 1) {
    await runControl(world, snapshotOf(world.history.latest, name, `${LONG_NAME}-${count}`))
  }
  for (let count = 0; count < 2 && !world.hasFailed; count += 1) {
    await playCheckpoint(world)
    if (!world.hasFailed) await sweep(world, null)
  }
  if (world.hasFailed) return
  await world.closePool()
  await world.reopen()
  const { latest } = world.history
  if (latest.has(name) && world.prng.chance(0.9)) await runControl(world, removeOf(latest, name))
}

/** Several long writes at once, of which a server takes only pieces; all of each is promised. */
async function drillCrowd(world: World): Promise<void> {
  world.note('drill: more is written at once than there is memory for')
  const wide = [...world.history.latest.keys()].find((name) => name.startsWith(WIDE_LETTER))
  if (wide === undefined) return playControl(world, 'create')
  const changes = [0, 1, 2].map((index): Change => {
    const firstBlock = index * LONG_WRITE_BLOCK_COUNT
    const place = { volume: wide, firstBlock, blockCount: LONG_WRITE_BLOCK_COUNT }
    return { kind: 'write', place, isFua: true }
  })
  await playChanges(world, changes)
  if (!world.hasFailed) losePower(world)
}

/** Somebody is told that what was written is durable. */
function promise(world: World): Promise<void> {
  return playData(world, ['flush'], 1)
}

function losePower(world: World): never {
  world.cutPower()
  throw new Crashed()
}
