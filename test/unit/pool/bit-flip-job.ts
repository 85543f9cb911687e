/**
 * Flips in a process of their own, where nobody follows every promise as tap does, which takes a
 * third of the time: `bit-flip-job.js JSON`, a FlipTally on stdout.
 */
import { Prng } from '../../../src/base/prng.ts'
import { drawFlip, tryFlip } from './bit-flips.ts'
import type { Flip } from './bit-flips.ts'
import type { FlipJob, FlipTally } from './bit-flip-run.ts'
import { makeRotPool } from './rot-pool.ts'

function saysFlip({ kind, file, page, offset, bit }: Flip, seed: number): string {
  return `seed ${seed}: ${kind} ${file} page ${page} byte ${offset} bit ${bit}`
}

async function runFlips({ isSettled, flipCount, seed }: FlipJob): Promise<FlipTally> {
  const rot = await makeRotPool(isSettled)
  const tally: FlipTally = { flipCount: 0, counts: {}, failures: [] }
  const count = (what: string): void => {
    tally.counts[what] = (tally.counts[what] ?? 0) + 1
  }
  for (let at = seed; at < seed + flipCount; at += 1) {
    const flip = drawFlip(rot.image, new Prng(at))
    const outcome = await tryFlip(rot, flip, at)
    const fail = (fact: string): unknown => tally.failures.push(`${fact}, ${saysFlip(flip, at)}`)
    tally.flipCount += 1
    count(flip.kind)
    for (const what of ['healed', 'lost', 'unused', 'refused'] as const) {
      if (Number(outcome[what]) > 0) count(what)
    }
    if (outcome.failedCount > 0) count('read as an error before the scrub')
    for (const fault of outcome.faults) fail(fault)
    if (outcome.isOfNoConsequence) {
      count('decodes to the same bytes')
      continue
    }
    if (!outcome.checkFound) fail('check did not find it')
    if (!outcome.scrubFound) fail('scrub did not find it')
  }
  return tally
}

const tally = await runFlips(JSON.parse(process.argv[2]) as FlipJob)
process.stdout.write(`${JSON.stringify(tally)}\n`)
