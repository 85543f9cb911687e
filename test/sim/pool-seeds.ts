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
import { addCounts, newReport } from './report.ts'
import type { SimReport } from './report.ts'
import type { Script } from './script.ts'

export const SUITE_SEED_COUNT = 1000
/** Ten times what a half of the seeds takes on a quiet core. */
export const SUITE_TIMEOUT_MS = 1_500_000

const STEP_COUNT = 80
/** A mounted filesystem takes 64 MiB of it; what nobody uses is never touched. */
const ARENA_BYTES = 128 * 1024 * 1024
const arenaMemory = Buffer.allocUnsafeSlow(ARENA_BYTES)

export interface SeedRange {
  first: number
  last: number
  /** 1: every seed; 2: every other one. */
  stride: number
}

export interface SeedsReport extends SimReport {
  coverage: Coverage
}

/**
 * Runs a range up to the first failure; `seedPassed` hears of each that passes. Rejects with what
 * is needed to repeat the seed.
 */
export async function runSeeds(
  range: SeedRange,
  seedPassed: (seed: number, report: PoolSimReport) => void,
): Promise<SeedsReport> {
  const coverage = new Coverage()
  const unwatch = watchPool(coverage)
  try {
    const total = newReport()
    for (let seed = range.first; seed <= range.last; seed += range.stride) {
      const report = await runSeed({ seed, coverage })
      addCounts(total, report)
      seedPassed(seed, report)
    }
    return { ...total, coverage }
  } finally {
    unwatch()
  }
}

export interface RunSeedOptions {
  seed: number
  coverage?: Coverage
  brokenSync?: boolean
  steps?: Script['steps']
  isTraced?: boolean
}

export async function runSeed(options: RunSeedOptions): Promise<PoolSimReport> {
  const maker = await poolMaker(new Prng(options.seed).fork())
  const common = { stepCount: STEP_COUNT, brokenSync: false, faults: true, arenaMemory }
  return runPoolSim(maker, { ...common, ...options })
}
