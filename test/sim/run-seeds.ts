/**
 * Seeds of the simulation by hand: to repeat a failure, or for a night.
 *
 *     npm run sim                              seeds 1 to 1,000
 *     npm run sim -- --seed 42                 this one
 *     npm run sim -- --seeds 20000             20,000 of them
 *     npm run sim -- --from 1001 --seeds 500   … beginning elsewhere
 *     npm run sim -- --minutes 60              as many as there is time for
 *     npm run sim -- --jobs 4                  processes; a core each is the default
 *     npm run sim -- --json                    the summary for a program
 *     npm run sim -- --seed 42 --shrink        the fewest steps that still fail
 *     npm run sim -- --seed 42 --steps '…'     these steps instead of the seed's own
 *
 * Ends at the first failure with exit code 1, everything needed to repeat it on standard error;
 * with 2 for options that make no sense.
 */
import { parseArgs } from 'node:util'
import { availableParallelism } from 'node:os'
import { runJobs } from './jobs.ts'
import { SUITE_SEED_COUNT, runSeed } from './pool-seeds.ts'
import { summarize } from './report.ts'
import { parseSteps } from './script.ts'
import type { Script } from './script.ts'
import { shrink } from './shrink.ts'

const REPORT_INTERVAL_MS = 5000
/** With a time limit, this many seeds are never reached. */
const SEED_MAX = 999_999_999

interface Options {
  first: number
  last: number
  minutes: number
  jobCount: number
  isJson: boolean
  isShrink: boolean
  steps: Script['steps'] | null
}

const say = (line: string): unknown => process.stdout.write(`${line}\n`)
const complain = (line: string): unknown => process.stderr.write(`${line}\n`)

/** Throws a RangeError or a TypeError for what is no such option. */
function optionsOf(args: string[]): Options {
  const { values } = parseArgs({
    args,
    options: {
      seed: { type: 'string' },
      seeds: { type: 'string' },
      from: { type: 'string' },
      minutes: { type: 'string' },
      jobs: { type: 'string' },
      steps: { type: 'string' },
      json: { type: 'boolean', default: false },
      shrink: { type: 'boolean', default: false },
    },
  })
  const { seed, seeds, from, minutes } = values
  const isMany = seeds !== undefined || from !== undefined || minutes !== undefined
  if (seed !== undefined && isMany) {
    throw new RangeError('--seed is one seed and goes with none of --seeds, --from and --minutes')
  }
  if (seed === undefined && (values.shrink || values.steps !== undefined)) {
    throw new RangeError('--shrink and --steps are about one --seed')
  }
  const first = count('--from', from ?? seed ?? '1')
  const openEnd = minutes === undefined ? SUITE_SEED_COUNT : SEED_MAX - first
  const seedCount = seed !== undefined ? 1 : seeds === undefined ? openEnd : count('--seeds', seeds)
  return {
    first,
    last: first + seedCount - 1,
    minutes: minutes === undefined ? Infinity : count('--minutes', minutes),
    jobCount: values.jobs === undefined ? availableParallelism() : count('--jobs', values.jobs),
    isJson: values.json,
    isShrink: values.shrink,
    steps: values.steps === undefined ? null : parseSteps(values.steps),
  }
}

function count(option: string, text: string): number {
  if (/^[1-9]\d{0,8}$/.test(text)) return Number(text)
  throw new RangeError(`${option} takes a whole number from 1 to 999999999, not "${text}"`)
}

async function runMany(options: Options): Promise<number> {
  const { first, last, minutes, isJson } = options
  const jobCount = Math.min(options.jobCount, last - first + 1)
  const startMs = performance.now()
  let saidMs = startMs
  const { total, coverage, cpuMs, failure } = await runJobs({
    first,
    last,
    jobCount,
    stopAfterMs: minutes * 60_000,
    passed: (seedCount, seed) => {
      if (isJson || performance.now() - saidMs < REPORT_INTERVAL_MS) return
      saidMs = performance.now()
      say(`${seedCount} passed, up to ${seed}, ${Math.round((saidMs - startMs) / 1000)} s`)
    },
  })
  const realMs = performance.now() - startMs
  if (isJson)
    say(JSON.stringify({ ...total, coverage, realMs, cpuMs, failedSeed: failure?.seed ?? null }))
  else for (const line of summarize(total, { realMs, cpuMs, jobCount })) say(line)
  if (!isJson) say(`met          ${JSON.stringify(coverage)}`)
  if (failure === null) return 0
  complain(failure.message)
  complain(`${total.seedCount} passed, seed ${failure.seed} failed. To repeat it:`)
  complain(`    npm run sim -- --seed ${failure.seed}`)
  return 1
}

/** One seed with steps of its own, or the fewest that fail. */
async function runOne({ first, steps, isShrink }: Options): Promise<number> {
  const own = steps === null ? {} : { steps }
  if (isShrink) {
    const found = await shrink({ seed: first, ...own }, say)
    if (found === null) say('nothing fails, so nothing shrinks')
    else complain(`${found.message}\n\n    npm run sim -- --seed ${first} --steps '${found.text}'`)
    return found === null ? 0 : 1
  }
  try {
    say(JSON.stringify(await runSeed({ seed: first, ...own })))
    return 0
  } catch (error) {
    complain((error as Error).message)
    return 1
  }
}

async function main(): Promise<number> {
  let options: Options
  try {
    options = optionsOf(process.argv.slice(2))
  } catch (error) {
    complain(`sim: ${(error as Error).message}`)
    return 2
  }
  return options.isShrink || options.steps !== null ? runOne(options) : runMany(options)
}

process.exitCode = await main()
