/**
 * Many seeds of the pool simulation, one after the other. `npm test` runs seeds 1 to
 * {@link SUITE_SEED_COUNT}, the odd ones in one test file and the even ones in another, so that
 * two cores share them; `npm run sim` runs any others (`run-seeds.ts`).
 */
import { Prng } from '../../src/base/prng.ts'
import { Coverage, watchPool } from './coverage.ts'
import { poolMaker } from './pool-maker.ts'
import { runPoolSim } from './pool-sim.ts'
import type { PoolSimReport } from './pool-sim.ts'

export const SUITE_SEED_COUNT = 1000
/** Seven times what a half of the seeds takes on a quiet core. */
export const SUITE_TIMEOUT_MS = 600_000

const STEP_COUNT = 80
const arenaMemory = Buffer.allocUnsafeSlow(16 * 1024 * 1024)

export interface SeedRange {
  first: number
  last: number
  /** 1: every seed; 2: every other one. */
  stride: number
}

/** A seed on a disk whose syncs lie: must be caught, by this seed or another. */
export async function runCanary(seed: number): Promise<PoolSimReport> {
  return run(seed, false, true, new Coverage())
}

export interface SeedsReport extends PoolSimReport {
  coverage: Coverage
}

/**
 * Runs a range up to the first failure, every third seed with faults; `seedPassed` hears of each
 * that passes. Rejects with what is needed to repeat the seed.
 */
export async function runSeeds(
  range: SeedRange,
  seedPassed: (seed: number) => void,
): Promise<SeedsReport> {
  const coverage = new Coverage()
  const unwatch = watchPool(coverage)
  try {
    return { ...(await runAll(range, seedPassed, coverage)), coverage }
  } finally {
    unwatch()
  }
}

async function runAll(
  range: SeedRange,
  seedPassed: (seed: number) => void,
  coverage: Coverage,
): Promise<PoolSimReport> {
  const total = { stepCount: 0, crashCount: 0, turnCount: 0, failureCount: 0, noSpaceCount: 0 }
  for (let seed = range.first; seed <= range.last; seed += range.stride) {
    const report = await run(seed, seed % 3 === 0, false, coverage)
    for (const key of Object.keys(total) as (keyof PoolSimReport)[]) total[key] += report[key]
    seedPassed(seed)
  }
  return total
}

async function run(
  seed: number,
  faults: boolean,
  brokenSync: boolean,
  coverage: Coverage,
): Promise<PoolSimReport> {
  const maker = await poolMaker(new Prng(seed).fork())
  const stepCount = STEP_COUNT
  return runPoolSim(maker, { seed, stepCount, brokenSync, faults, arenaMemory, coverage })
}
