/**
 * The soak by hand:
 *
 *     npm run soak                         an hour
 *     npm run soak -- --minutes 10         shorter
 *     npm run soak -- --seed 7             other choices (the kernel's timing stays its own)
 *
 * Exit code 0: nothing was found; 1: something was; 2: options that make no sense.
 */
import { parseArgs } from 'node:util'
import { runSoak } from './soak/run-soak.ts'

const say = (line: string): void => {
  process.stdout.write(`${line}\n`)
}

function optionsOf(args: string[]): { minutes: number; seed: number } {
  const { values } = parseArgs({
    args,
    options: {
      minutes: { type: 'string', default: '60' },
      seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    },
  })
  const minutes = Number(values.minutes)
  const seed = Number(values.seed)
  if (!(minutes > 0)) throw new RangeError(`--minutes takes a number, not "${values.minutes}"`)
  if (!Number.isSafeInteger(seed)) throw new RangeError(`--seed takes a number: "${values.seed}"`)
  return { minutes, seed }
}

async function main(): Promise<number> {
  let options
  try {
    options = optionsOf(process.argv.slice(2))
  } catch (error) {
    process.stderr.write(`soak: ${(error as Error).message}\n`)
    return 2
  }
  say(`seed ${options.seed}`)
  try {
    const report = await runSoak({ ...options, say })
    say(JSON.stringify(report, null, 1))
    return report.complaints.length === 0 ? 0 : 1
  } catch (error) {
    process.stderr.write(`${(error as Error).stack ?? String(error)}\n`)
    return 1
  }
}

process.exitCode = await main()
