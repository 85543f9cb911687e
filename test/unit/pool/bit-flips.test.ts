/**
 * Any one bit of a pool at rest turned over: `check` and `scrub` find it, and no guest ever reads
 * bytes that were not written. VARVE_BIT_FLIPS says how many are tried on each of the two pools,
 * VARVE_BIT_FLIP_SEED from where on.
 */
import t from 'tap'
import { Prng } from '../../../src/base/prng.ts'
import { drawFlip, tryFlip } from './bit-flips.ts'
import type { Flip, FlipOutcome } from './bit-flips.ts'
import { makeRotPool } from './rot-pool.ts'

const FLIP_COUNT = Number(process.env.VARVE_BIT_FLIPS ?? 40)
const SEED = Number(process.env.VARVE_BIT_FLIP_SEED ?? 1)

t.setTimeout(120_000 + FLIP_COUNT * 2_000)

function saysFlip({ kind, file, page, offset, bit }: Flip, seed: number): string {
  return `seed ${seed}: ${kind} ${file} page ${page} byte ${offset} bit ${bit}`
}

for (const settle of [false, true]) {
  const name = settle ? 'settled' : 'unsettled'
  t.test(`one bit of a pool, ${name}, is found, and never read as data`, async (t) => {
    const rot = await makeRotPool(settle)
    const counts = new Map<string, number>()
    const count = (what: string): void => {
      counts.set(what, (counts.get(what) ?? 0) + 1)
    }
    for (let i = 0; i < FLIP_COUNT; i += 1) {
      const seed = SEED + i
      const flip = drawFlip(rot.image, new Prng(seed))
      const outcome: FlipOutcome = await tryFlip(rot, flip, seed)
      const says = saysFlip(flip, seed)
      count(flip.kind)
      for (const what of ['healed', 'lost', 'unused', 'refused'] as const) {
        if (Number(outcome[what]) > 0) count(what)
      }
      if (outcome.failedCount > 0) count('read as an error before the scrub')
      if (outcome.faults.length > 0) t.fail(says, { faults: outcome.faults })
      if (!outcome.checkFound) t.fail(`check did not find it, ${says}`)
      if (!outcome.scrubFound) t.fail(`scrub did not find it, ${says}`)
    }
    t.comment(JSON.stringify(Object.fromEntries([...counts].sort())))
  })
}
