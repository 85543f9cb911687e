/**
 * One run of a whole pool in a simulated world: the steps of a script, crashes at any turn (during
 * recovery too), faults, clients over NBD and FUSE that come and die, and after each reopening the
 * judgement of `model.ts`. A run is told by its script and nothing else: the same script gives the
 * same trace, to the byte.
 */
import { createHash } from 'node:crypto'
import type { Compression } from '../../src/pool/types.ts'
import { playCheckpoint, playControl, playTruncate } from './control-play.ts'
import type { Coverage } from './coverage.ts'
import { playData, playFill } from './data-play.ts'
import { SimViolation } from './data-step.ts'
import { playDrill } from './drill-play.ts'
import { leaveFailed, playDamage, playFault, playFull, playRepair } from './fault-play.ts'
import { playLongRead } from './long-read-play.ts'
import type { PoolMaker } from './pool-under-test.ts'
import type { SimReport } from './report.ts'
import { DATA_KINDS, drawScript, formatSteps } from './script.ts'
import type { Script, StepKind } from './script.ts'
import { playScrub } from './scrub-play.ts'
import { judgeStored } from './stored-play.ts'
import {
  judgeMaintenance,
  playBeginImport,
  playEndImport,
  playIdle,
  playUpkeep,
} from './upkeep-play.ts'
import { Crashed, Ended, World } from './world.ts'

export interface PoolSimOptions {
  seed: number
  stepCount: number
  /** The canary: syncs lie. */
  brokenSync: boolean
  /** Whatever can go wrong, as the seed draws it. */
  faults: boolean
  /** Leaves out all other kinds of steps. */
  only?: readonly StepKind[]
  /** Instead of the steps that the seed draws. */
  steps?: Script['steps']
  arenaMemory: Buffer
  coverage?: Coverage
  /** Hash also every operation of the disk. */
  isTraced?: boolean
}

export interface PoolSimReport extends SimReport {
  /** Of everything that was noted and everything that struck. */
  hash: string
}

const COMPRESSIONS: readonly Compression[] = ['off', 'lz4', 'zstd']
const LOG_LINES_TOLD = 60
const EVENTS_TOLD = 16

/** A run that failed; the message has everything needed to repeat it. */
export class SimFailure extends SimViolation {
  readonly script: Script
  /** The first line of what was wrong, without numbers: the same for the same mistake. */
  readonly signature: string

  constructor(message: string, script: Script, cause: unknown) {
    super(message, { cause })
    this.script = script
    const text = cause instanceof Error ? cause.message : String(cause)
    this.signature = text.split('\n')[0].replace(/[0-9a-f]*\d[0-9a-f]*/g, '#')
  }
}

export function scriptOf(options: PoolSimOptions): Script {
  const script = drawScript(options)
  return options.steps === undefined ? script : { ...script, steps: options.steps }
}

/** Runs one script; throws a {@link SimFailure}. */
export async function runPoolSim(
  maker: PoolMaker,
  options: PoolSimOptions,
): Promise<PoolSimReport> {
  const script = scriptOf(options)
  const hash = createHash('sha256')
  const { arenaMemory, coverage, isTraced = false } = options
  const world = new World(maker, {
    script,
    arenaMemory,
    ...(coverage === undefined ? {} : { coverage }),
    ...(isTraced ? { trace: (line: string): unknown => hash.update(line) } : {}),
  })
  // A rejection that nobody awaited is a mistake too, and would come without its seed.
  const stray = (reason: unknown): void => world.abort(reason)
  process.on('unhandledRejection', stray)
  try {
    await playScript(world, options.brokenSync)
    hash.update(world.log.join('\n')).update(world.events.join('\n'))
    return { ...world.finish(), seedCount: 1, hash: hash.digest('hex') }
  } catch (error) {
    throw failureOf(world, options, error)
  } finally {
    process.off('unhandledRejection', stray)
  }
}

function failureOf(world: World, options: PoolSimOptions, error: unknown): SimFailure {
  const { seed, stepCount, brokenSync, faults } = options
  const cause = error instanceof Error ? (error.stack ?? error.message) : String(error)
  const { script } = world
  const told = [
    JSON.stringify({ seed, stepCount, brokenSync, faults, traits: script.traits }),
    ...(options.steps === undefined ? [] : [`steps: ${formatSteps(script.steps)}`]),
    ...world.log.slice(-LOG_LINES_TOLD),
    'events:',
    ...world.events.slice(-EVENTS_TOLD),
    cause,
  ]
  return new SimFailure(told.join('\n'), script, error)
}

async function playScript(world: World, brokenSync: boolean): Promise<void> {
  await world.reopen()
  // Not before: a pool that was never created would be too easy to miss.
  if (brokenSync) world.io.breakSyncs()
  try {
    for (const { kind, seed } of world.script.steps) {
      world.report.stepCount += 1
      world.beginStep(seed)
      await playOrReopen(world, () => playWhole(world, kind))
    }
    await playEnd(world)
  } catch (error) {
    if (!(error instanceof Ended)) throw error
    world.note('the rest cannot be judged')
  }
}

async function playOrReopen(world: World, play: () => Promise<void>): Promise<void> {
  try {
    await play()
  } catch (error) {
    if (!(error instanceof Crashed)) throw error
    await world.reopen()
  }
}

async function playWhole(world: World, kind: StepKind): Promise<void> {
  await play(world, kind)
  judgeMaintenance(world)
  world.judgeLongReads()
  world.verifyNoDamage()
  if (world.hasFailed) await leaveFailed(world)
}

function play(world: World, kind: StepKind): Promise<void> | void {
  const { prng } = world
  switch (kind) {
    case 'data':
      return playData(world, DATA_KINDS, prng.between(1, world.traits.requestCountMax))
    case 'flush':
      return playData(world, ['flush'], 1)
    case 'fill':
      return playFill(world, prng.between(8, 70))
    case 'longRead':
      return playLongRead(world)
    case 'truncate':
      return playTruncate(world)
    case 'checkpoint':
      return playCheckpoint(world)
    case 'reclaim':
      return playUpkeep(world, null)
    case 'settle':
      return playUpkeep(world, prng.pick(COMPRESSIONS))
    case 'cancel':
      world.note('cancel')
      return world.maintenance?.cancel()
    case 'beginImport':
      return playBeginImport(world)
    case 'endImport':
      return playEndImport(world)
    case 'verify':
      return world.verify()
    case 'idle':
      return playIdle(world)
    case 'reopen':
      return playReopen(world)
    case 'crash':
      return playCrash(world)
    case 'fault':
      return playFault(world)
    case 'full':
      return playFull(world, (inner) => Promise.resolve(play(world, inner)))
    case 'damage':
      return playDamage(world)
    case 'scrub':
      return playScrub(world)
    case 'drill':
      return playDrill(world)
    case 'repair':
      return playRepair(world)
    default:
      return playControl(world, kind)
  }
}

async function playReopen(world: World): Promise<void> {
  await world.closePool()
  await world.reopen()
}

function playCrash(world: World): void {
  const { prng } = world
  if (prng.chance(0.5)) {
    world.planCut()
    world.note('crash at an event')
    return
  }
  world.turnsLeft = prng.pick([0, prng.below(10), prng.below(200)])
  world.note(`crash in ${world.turnsLeft} turns`)
}

/** Mends everything, and looks at everything once more. */
async function playEnd(world: World): Promise<void> {
  world.isEnding = true
  world.cancelEnd()
  world.heal()
  world.io.disk.clearFaults()
  if (world.isTainted) {
    world.io.crash({ kind: 'process' })
    await world.reopen()
  }
  world.cancelEnd()
  await playOrReopen(world, () => playWhole(world, 'verify'))
  const isJudged = world.traits.isJudged && !world.isFenced && world.maker.walk !== undefined
  if (isJudged) await judgeStored(world)
  await world.closePool()
  await world.reopen()
  await world.closePool()
}
