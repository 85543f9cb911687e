/**
 * Any one bit of a pool at rest turned over: `check` and `scrub` find it, and no guest ever reads
 * bytes that were not written. VARVE_BIT_FLIPS says how many are tried on each of the two pools,
 * VARVE_BIT_FLIP_SEED from where on.
 */
import t from 'tap'
import { runFlips } from './bit-flip-run.ts'

const FLIP_COUNT = Number(process.env.VARVE_BIT_FLIPS ?? 40)
const SEED = Number(process.env.VARVE_BIT_FLIP_SEED ?? 1)

t.setTimeout(120_000 + FLIP_COUNT * 2_000)

for (const isSettled of [false, true]) {
  const name = isSettled ? 'settled' : 'unsettled'
  t.test(`one bit of a pool, ${name}, is found, and never read as data`, async (t) => {
    const tally = await runFlips({ isSettled, flipCount: FLIP_COUNT, seed: SEED })
    t.strictSame(tally.failures, [])
    t.equal(tally.flipCount, FLIP_COUNT)
    t.comment(JSON.stringify(Object.fromEntries(Object.entries(tally.counts).sort())))
  })
}
