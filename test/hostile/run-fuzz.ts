/**
 * Hostile clients by hand: to repeat a failure, or for a night.
 *
 *     npm run fuzz-clients                                       a million messages for each target
 *     npm run fuzz-clients -- --target nbd-server --seed 42      from this world on
 *     npm run fuzz-clients -- --executions 5000000 --minutes 30  whichever comes first
 *
 * Ends at the first failure with exit code 1 and the seed that repeats it; with 2 for options that
 * make no sense.
 */
import { parseArgs } from 'node:util'
import { fuzzFuse } from './fuse-fuzz.ts'
import { held } from './live-bytes.ts'
import { fuzzNbd } from './nbd-fuzz.ts'
import { fuzzNbdSockets } from './nbd-socket-fuzz.ts'

const REPORT_INTERVAL_MS = 10_000
const MIB = 1 << 20
const DEFAULT_EXECUTIONS = 1_000_000
const WARM_UP_EXECUTIONS = 20_000
/** More than this still alive at the end is a failure. */
const GROWTH_MIB_MAX = 64

interface Progress {
  executions: number
}

interface TargetOptions {
  seed: number
  executions: number
  onProgress: (total: Progress) => boolean
}

type Fuzz = (options: TargetOptions) => Promise<Progress>

const TARGETS: ReadonlyMap<string, Fuzz> = new Map<string, Fuzz>([
  ['nbd-server', fuzzNbd],
  ['fuse-core', fuzzFuse],
  ['nbd-sockets', fuzzNbdSockets],
])

const say = (line: string): unknown => process.stdout.write(`${line}\n`)

function count(option: string, text: string): number {
  if (/^[1-9]\d{0,9}$/.test(text)) return Number(text)
  throw new RangeError(`${option} takes a whole number from 1, not "${text}"`)
}

async function run(name: string, seed: number, executions: number, endMs: number): Promise<void> {
  const fuzz = TARGETS.get(name)
  if (fuzz === undefined) throw new RangeError(`no target "${name}": ${[...TARGETS.keys()].join()}`)
  const startMs = performance.now()
  let saidMs = startMs
  // A little of it first, so that what is made once is there.
  await fuzz({ seed, executions: Math.min(executions, WARM_UP_EXECUTIONS), onProgress: () => true })
  const before = await held()
  const total = await fuzz({
    seed,
    executions,
    onProgress: (progress) => {
      const nowMs = performance.now()
      if (nowMs - saidMs > REPORT_INTERVAL_MS) {
        saidMs = nowMs
        say(`${name}: ${progress.executions} executions`)
      }
      return nowMs < endMs
    },
  })
  const seconds = (performance.now() - startMs) / 1000
  const after = await held()
  const growth = after.heapBytes + after.externalBytes - before.heapBytes - before.externalBytes
  const growthMiB = growth / MIB
  say(`${name}: ${JSON.stringify(total)}`)
  const rate = Math.round(total.executions / seconds)
  say(`${name}: ${seconds.toFixed(1)} s, ${rate} a second, ${growthMiB.toFixed(1)} MiB more alive`)
  if (growthMiB > GROWTH_MIB_MAX) throw new Error(`${name} keeps ${growthMiB.toFixed(1)} MiB`)
}

async function main(): Promise<number> {
  try {
    const { values } = parseArgs({
      options: {
        target: { type: 'string' },
        seed: { type: 'string' },
        executions: { type: 'string' },
        minutes: { type: 'string' },
      },
    })
    const seed = count('--seed', values.seed ?? '1')
    const executions = count('--executions', values.executions ?? String(DEFAULT_EXECUTIONS))
    const minutes = count('--minutes', values.minutes ?? '600')
    const endMs = performance.now() + minutes * 60_000
    const names = values.target === undefined ? [...TARGETS.keys()] : [values.target]
    for (const name of names) await run(name, seed, executions, endMs)
    return 0
  } catch (error) {
    process.stderr.write(`fuzz-clients: ${(error as Error).message}\n`)
    return error instanceof RangeError || error instanceof TypeError ? 2 : 1
  }
}

process.exitCode = await main()
