/** Whole pools on simulated disks, and the proof that a bad disk is noticed. See pool-seeds.ts. */
import t from 'tap'
import { runSeed } from './pool-seeds.ts'
import { testHalf } from './pool-sim-half.ts'

const CANARY_SEED_COUNT_MAX = 50

testHalf(1)

t.test('canary: a disk whose syncs lie is caught', async (t) => {
  for (let seed = 1; seed <= CANARY_SEED_COUNT_MAX; seed += 1) {
    try {
      await runSeed({ seed, brokenSync: true })
    } catch {
      t.pass(`caught by seed ${seed}`)
      return
    }
  }
  t.fail(`${CANARY_SEED_COUNT_MAX} seeds saw nothing: the simulation proves nothing`)
})
