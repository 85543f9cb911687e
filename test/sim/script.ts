/**
 * What a run will do, drawn before it begins: traits that hold for all of it, and a list of steps,
 * each with a seed of its own. A step's draws depend on its own seed alone, so that a list from
 * which steps were taken away still means what it meant: that is what makes a failure shrink.
 *
 * Swarm testing: each run multiplies the usual weights by weights of its own, so that runs differ
 * in character and not only in detail.
 */
import { Prng } from '../../src/base/prng.ts'
import type { ControlKind } from './control-steps.ts'
import type { DataKind } from './data-step.ts'

export type StepKind =
  | ControlKind
  | 'data'
  | 'flush'
  | 'fill'
  | 'longRead'
  | 'truncate'
  | 'checkpoint'
  | 'reclaim'
  | 'settle'
  | 'cancel'
  | 'beginImport'
  | 'endImport'
  | 'verify'
  | 'idle'
  | 'reopen'
  | 'crash'
  | 'fault'
  | 'full'
  | 'damage'
  | 'scrub'
  | 'repair'
  | 'drill'

/** How clients reach their disks. */
export type DoorKind = 'direct' | 'nbd' | 'fuse'
export const DOOR_KINDS: readonly DoorKind[] = ['direct', 'nbd', 'fuse']
export const DATA_KINDS: readonly DataKind[] = ['write', 'trim', 'zero', 'read', 'flush']

export interface Traits {
  /** Sync and write errors, a full disk. */
  hasErrors: boolean
  /** Rot; writes that are lost, torn or land elsewhere although a sync answered for them. */
  hasDamage: boolean
  /** Looked at in detail when it ends. */
  isJudged: boolean
  doorWeights: readonly number[]
  /** Clients of one disk. */
  clientCountMax: number
  /** Chance that a client dies in a data step. */
  deathChance: number
  dataWeights: readonly number[]
  requestCountMax: number
  /** Chance that a request goes to a block that another one is about to change. */
  crowdChance: number
  /** Chance that a request goes where the one before it went, or right behind. */
  followChance: number
  /** Chance that a world ends with the page cache lost, and not only the process. */
  powerChance: number
  /** How much of what is written has been written before. */
  repeatWeight: number
}

export interface ScriptStep {
  kind: StepKind
  seed: number
}

export interface Script {
  seed: number
  traits: Traits
  steps: readonly ScriptStep[]
}

export interface ScriptOptions {
  seed: number
  stepCount: number
  /** Errors, damage and deaths may be drawn. */
  faults: boolean
  /** Leaves out all other kinds of steps. */
  only?: readonly StepKind[]
}

const STEP_WEIGHTS: Record<StepKind, number> = {
  data: 30,
  flush: 4,
  fill: 0.3,
  longRead: 5,
  checkpoint: 2,
  reclaim: 1.5,
  settle: 5,
  cancel: 0.5,
  beginImport: 4,
  endImport: 4,
  verify: 1,
  idle: 1.5,
  reopen: 1,
  crash: 2.5,
  fault: 8,
  full: 2,
  damage: 5,
  scrub: 1.5,
  repair: 1,
  create: 6,
  import: 2,
  snapshot: 5,
  clone: 3,
  restore: 2,
  remove: 3,
  rename: 2,
  resize: 2,
  truncate: 3,
  copy: 3,
  hold: 1,
  release: 1,
  drill: 3,
}
export const STEP_KINDS: readonly StepKind[] = Object.keys(STEP_WEIGHTS) as StepKind[]
const FACTORS = [0, 0.3, 1, 1, 3]
const ERRORS_CHANCE = 0.4
const DAMAGE_CHANCE = 0.35
const JUDGED_CHANCE = 0.25
const BASE = 36

export function drawScript(options: ScriptOptions): Script {
  const { seed, stepCount, faults, only } = options
  const prng = new Prng(seed)
  const traits = drawTraits(prng.fork(), faults)
  const draw = prng.fork()
  const weights = STEP_KINDS.map((kind) => {
    const factor = draw.pick(FACTORS)
    if (only !== undefined && !only.includes(kind)) return 0
    if (kind === 'fault' || kind === 'full')
      return traits.hasErrors ? STEP_WEIGHTS[kind] * factor : 0
    if (kind === 'damage') return traits.hasDamage ? STEP_WEIGHTS[kind] * (0.5 + factor) : 0
    if (kind === 'repair') return traits.hasDamage ? STEP_WEIGHTS[kind] * factor : 0
    return STEP_WEIGHTS[kind] * factor + (kind === 'create' || kind === 'data' ? 1 : 0)
  })
  const steps = Array.from({ length: stepCount }, () => ({
    kind: STEP_KINDS[draw.weighted(weights)],
    seed: draw.nextU32(),
  }))
  return { seed, traits, steps }
}

function drawTraits(prng: Prng, faults: boolean): Traits {
  const factor = (): number => prng.pick(FACTORS)
  const dataWeights = DATA_KINDS.map((kind) => factor() * (kind === 'flush' ? 0.3 : 1))
  dataWeights[0] += 1
  return {
    hasErrors: prng.chance(ERRORS_CHANCE) && faults,
    hasDamage: prng.chance(DAMAGE_CHANCE) && faults,
    isJudged: prng.chance(JUDGED_CHANCE) && faults,
    doorWeights: faults
      ? prng.pick([
          [1, 0, 0],
          [0, 1, 0],
          [0, 0, 1],
          [2, 3, 1],
        ])
      : [1, 0, 0],
    clientCountMax: prng.pick([1, 1, 3]),
    deathChance: faults ? prng.pick([0, 0.1, 0.4]) : 0,
    dataWeights,
    requestCountMax: prng.pick([1, 2, 8, 24]),
    repeatWeight: prng.pick([1, 5, 20]),
    crowdChance: prng.pick([0, 0.1, 0.4]),
    powerChance: prng.pick([0.3, 0.8, 1]),
    followChance: prng.pick([0, 0.1, 0.4]),
  }
}

/** One word a step, to be pasted into a command or a list of regressions. */
export function formatSteps(steps: readonly ScriptStep[]): string {
  return steps.map(({ kind, seed }) => `${kind}:${seed.toString(BASE)}`).join(' ')
}

/** Throws a RangeError for what no run has printed. */
export function parseSteps(text: string): ScriptStep[] {
  return text
    .split(/\s+/)
    .filter((word) => word !== '')
    .map((word) => {
      const [name, seed] = word.split(':')
      const kind = STEP_KINDS.find((one) => one === name)
      if (kind === undefined || !/^[0-9a-z]+$/.test(seed ?? '')) {
        throw new RangeError(`"${word}" is no step`)
      }
      return { kind, seed: Number.parseInt(seed, BASE) }
    })
}
