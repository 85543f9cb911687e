/**
 * Drills: what goes wrong at the worst moment, in the order in which that takes it. Each is made of
 * steps that runs make by themselves, too; but where three or four have to meet, chance brings
 * them together once in thousands of runs.
 */
import { playCheckpoint } from './control-play.ts'
import { playAgain, playData, playFill } from './data-play.ts'
import type { ChangeKind } from './data-step.ts'
import { leaveFailed } from './fault-play.ts'
import { Crashed } from './world.ts'
import type { World } from './world.ts'

const CHANGE_KINDS: readonly ChangeKind[] = ['write', 'trim', 'trim', 'zero']
/** Rolling takes a whole segment of writes. */
const ROLL_CHANCE = 0.12
const FILL_STEP_COUNT_MAX = 70

export function playDrill(world: World): Promise<void> {
  const { prng, traits } = world
  if (prng.chance(ROLL_CHANCE)) return drillRoll(world)
  const drills = [drillPromise, drillCheckpoint]
  if (traits.hasErrors) drills.push(drillFailedSync)
  return prng.pick(drills)(world)
}

/** What was durable is changed twice, and only the second change is promised: it implies both. */
async function drillPromise(world: World): Promise<void> {
  const { prng } = world
  world.note('drill: a change of what is the same already')
  await playData(world, ['write'], 1)
  if (!world.hasFailed) await promise(world)
  if (world.hasFailed) return
  await playAgain(world, prng.pick(CHANGE_KINDS), false)
  if (world.hasFailed) return
  await playAgain(world, prng.pick(CHANGE_KINDS), true)
  if (!world.hasFailed) losePower(world)
}

/** The process ends while a checkpoint is under way, and the power during the recovery. */
async function drillCheckpoint(world: World): Promise<void> {
  world.note('drill: a checkpoint is cut short, and the recovery from it')
  await playData(world, ['write'], 1)
  if (world.hasFailed) return
  world.endAt('write', 'superblock', 'process')
  try {
    await playCheckpoint(world)
    world.cancelEnd()
  } catch (error) {
    if (!(error instanceof Crashed)) throw error
    await world.reopen(() => world.endAt('write', 'superblock', 'power', world.prng.between(1, 3)))
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
  world.note('drill: the log goes on in another segment')
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

/** Somebody is told that what was written is durable. */
function promise(world: World): Promise<void> {
  return playData(world, ['flush'], 1)
}

function losePower(world: World): never {
  world.cutPower()
  throw new Crashed()
}
