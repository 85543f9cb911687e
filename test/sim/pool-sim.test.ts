/**
 * Whole pools on simulated disks, one seed after the other. To repeat a failure:
 *
 *     VARVE_SIM_SEED=123 npx tap --disable-coverage test/sim/pool-sim.test.ts
 *
 * VARVE_SIM_SEEDS sets how many seeds run (default 200; continuous integration asks for 1,000).
 */
import t from 'tap'
import { Prng } from '../../src/base/prng.ts'
import { poolMaker } from './pool-maker.ts'
import { runPoolSim } from './pool-sim.ts'
import type { PoolSimReport } from './pool-sim.ts'

const STEP_COUNT = 80
const CANARY_SEED_COUNT_MAX = 50
const seedCount = Number(process.env['VARVE_SIM_SEEDS'] ?? 200)
const onlySeed = process.env['VARVE_SIM_SEED']
const arenaMemory = Buffer.allocUnsafeSlow(8 * 1024 * 1024)

async function run(seed: number, faults: boolean, brokenSync: boolean): Promise<PoolSimReport> {
  const maker = await poolMaker(new Prng(seed).fork())
  return runPoolSim(maker, { seed, stepCount: STEP_COUNT, brokenSync, faults, arenaMemory })
}

function isFaulty(seed: number): boolean {
  return seed % 3 === 0
}

await t.test('every seed ends in a state that the model allows', { timeout: 0 }, async (t) => {
  const total = { stepCount: 0, crashCount: 0, turnCount: 0, failureCount: 0, noSpaceCount: 0 }
  const firstSeed = onlySeed === undefined ? 1 : Number(onlySeed)
  const lastSeed = onlySeed === undefined ? seedCount : firstSeed
  for (let seed = firstSeed; seed <= lastSeed; seed += 1) {
    const report = await run(seed, isFaulty(seed), false)
    for (const key of Object.keys(total) as (keyof PoolSimReport)[]) total[key] += report[key]
  }
  t.comment(JSON.stringify(total))
  if (onlySeed !== undefined) return
  t.ok(total.crashCount > seedCount, 'worlds ended')
  t.ok(total.failureCount > 0, 'pools failed and recovered')
  t.ok(total.noSpaceCount > 0, 'disks were full')
})

await t.test('canary: a disk whose syncs lie is caught', { timeout: 0 }, async (t) => {
  for (let seed = 1; seed <= CANARY_SEED_COUNT_MAX; seed += 1) {
    try {
      await run(seed, false, true)
    } catch {
      t.pass(`caught by seed ${seed}`)
      return
    }
  }
  t.fail(`${CANARY_SEED_COUNT_MAX} seeds saw nothing: the simulation proves nothing`)
})
