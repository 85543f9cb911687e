/**
 * Seeds of the pool simulation by hand: to repeat a failure, or for a night.
 *
 *     npm run sim                              seeds 1 to 1,000
 *     npm run sim -- --seed 42                 this one
 *     npm run sim -- --seeds 20000             20,000 of them
 *     npm run sim -- --from 1001 --seeds 500   … beginning elsewhere
 *
 * Ends at the first failure with exit code 1, everything needed to repeat it on standard error;
 * with 2 for options that make no sense.
 */
import { parseArgs } from 'node:util'
import type { SeedRange } from './pool-seeds.ts'
import { SUITE_SEED_COUNT, runSeeds } from './pool-seeds.ts'

const REPORT_INTERVAL_SEEDS = 100

const say = (line: string): unknown => process.stdout.write(`${line}\n`)

/** Throws a RangeError or a TypeError for what is no such option. */
function rangeOf(args: string[]): SeedRange {
  const { values } = parseArgs({
    args,
    options: { seed: { type: 'string' }, seeds: { type: 'string' }, from: { type: 'string' } },
  })
  if (values.seed !== undefined) {
    if (values.seeds !== undefined || values.from !== undefined) {
      throw new RangeError('--seed is one seed and goes with neither --seeds nor --from')
    }
    const seed = count('--seed', values.seed)
    return { first: seed, last: seed, stride: 1 }
  }
  const first = count('--from', values.from ?? '1')
  const seedCount = count('--seeds', values.seeds ?? String(SUITE_SEED_COUNT))
  return { first, last: first + seedCount - 1, stride: 1 }
}

function count(option: string, text: string): number {
  if (/^[1-9]\d{0,8}$/.test(text)) return Number(text)
  throw new RangeError(`${option} takes a whole number from 1 to 999999999, not "${text}"`)
}

async function main(): Promise<number> {
  let range: SeedRange
  try {
    range = rangeOf(process.argv.slice(2))
  } catch (error) {
    process.stderr.write(`sim: ${(error as Error).message}\n`)
    return 2
  }
  let passedCount = 0
  try {
    const total = await runSeeds(range, (seed) => {
      passedCount += 1
      if (passedCount % REPORT_INTERVAL_SEEDS === 0) say(`${passedCount} passed, up to ${seed}`)
    })
    say(`${passedCount} passed: ${JSON.stringify(total)}`)
    return 0
  } catch (error) {
    const seed = range.first + passedCount
    process.stderr.write(`${(error as Error).message}\n`)
    process.stderr.write(`${passedCount} passed, seed ${seed} failed. To repeat it:\n`)
    process.stderr.write(`    npm run sim -- --seed ${seed}\n`)
    return 1
  }
}

process.exitCode = await main()
