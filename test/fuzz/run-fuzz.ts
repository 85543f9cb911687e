/**
 * Fuzzes decoders, each guided by the branches it takes.
 *
 *     npm run fuzz                                       every target, 20,000 executions each
 *     npm run fuzz -- --target record --executions 1000000
 *     npm run fuzz -- --minutes 60 --jobs 4 --seed 7     an hour for all of them together
 *     npm run fuzz -- --target record --replay FILE      one input, with its stack
 *
 * Ends with 1 when there are findings, each input saved below --findings; with 2 for options that
 * make no sense. The same seed and executions give the same inputs. What is worth keeping goes to
 * test/fuzz/corpus/TARGET, which every run begins with and `npm test` replays.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { OperatingError, VarveError } from '../../src/base/errors.ts'
import { MIB } from '../../src/base/units.ts'
import { projectRoot } from '../../tools/project.ts'
import { CORPUS_PATH } from './corpus.ts'
import type { JobOptions, JobReport } from './job-options.ts'
import { TARGET_NAMES, loadTarget } from './registry.ts'
import { runJob } from './run-job.ts'

const EXECUTION_COUNT_DEFAULT = 20_000
const LIMIT_MS = 20_000

const mib = (bytes: number): string => (bytes / MIB).toFixed(1)
const say = (line: string): unknown => process.stdout.write(`${line}\n`)

interface Wanted {
  targets: readonly string[]
  jobCount: number
  options: Omit<JobOptions, 'targets'>
  replayPath: string | null
}

function wanted(args: string[]): Wanted {
  const text = { type: 'string' } as const
  const { values } = parseArgs({
    args,
    options: {
      target: { type: 'string', multiple: true },
      executions: text,
      minutes: text,
      seed: text,
      jobs: text,
      findings: text,
      replay: text,
      keep: text,
    },
  })
  const targets = values.target ?? TARGET_NAMES
  const jobCount = number('--jobs', values.jobs ?? '1')
  const minutes = values.minutes === undefined ? 0 : number('--minutes', values.minutes)
  const executions = values.executions ?? String(minutes === 0 ? EXECUTION_COUNT_DEFAULT : 10 ** 12)
  return {
    targets,
    jobCount,
    replayPath: values.replay ?? null,
    options: {
      seed: number('--seed', values.seed ?? '1'),
      executionCount: number('--executions', executions),
      timeMs: (minutes * 60_000 * jobCount) / targets.length,
      findingsPath: values.findings ?? join(projectRoot, '.build/fuzz-findings'),
      corpusPath: CORPUS_PATH,
      keepPath: values.keep ?? null,
      plant: null,
      isUntilFound: false,
      limitMs: LIMIT_MS,
    },
  }
}

function number(option: string, text: string): number {
  if (/^[1-9]\d{0,12}$/.test(text)) return Number(text)
  throw new OperatingError('usage', `${option} takes a whole number from 1, not "${text}"`)
}

function tell(report: JobReport): void {
  const { target, executionCount, tookMs, edgeCount, claimedCount, corpusCount } = report
  const perSecond = Math.round(executionCount / (tookMs / 1000))
  say(
    `${target.padEnd(16)} ${String(executionCount).padStart(9)} executions ` +
      `${String(perSecond).padStart(7)}/s  ${edgeCount} of ${claimedCount} branches  ` +
      `corpus ${corpusCount}  growth ${mib(report.growthBytesMax)} MiB, ` +
      `kept ${mib(report.keptBytes)}, resident ${mib(report.residentBytesMax)}  ` +
      `findings ${report.findings.length}`,
  )
  for (const { key, path, stack, sizeBytes } of report.findings) {
    say(`  ${key}\n    ${sizeBytes} bytes: ${path}`)
    say(stack.split('\n').slice(1, 6).join('\n'))
  }
}

/** Runs the jobs, so many at a time; the number of findings. */
async function fuzz({ targets, jobCount, options }: Wanted): Promise<number> {
  const waiting = [...targets]
  let findingCount = 0
  let executionCount = 0
  const work = async (): Promise<void> => {
    for (let target = waiting.shift(); target !== undefined; target = waiting.shift()) {
      try {
        const [report] = await runJob({ ...options, targets: [target] })
        tell(report)
        findingCount += report.findings.length
        executionCount += report.executionCount
      } catch (error) {
        // A job that died is a finding; what it says names target and seed.
        if (!(error instanceof VarveError)) throw error
        say(`  ${error.message}`)
        findingCount += 1
      }
    }
  }
  await Promise.all(Array.from({ length: jobCount }, work))
  say(`${executionCount} executions in all, ${findingCount} findings`)
  return findingCount
}

async function replay(targets: readonly string[], path: string): Promise<number> {
  if (targets.length !== 1) throw new OperatingError('usage', '--replay needs one --target')
  const target = await loadTarget(targets[0])
  try {
    await target.run(new Uint8Array(readFileSync(path)))
    say('no failure')
  } catch (error) {
    say((error as Error).stack ?? String(error))
    return error instanceof VarveError ? 0 : 1
  }
  return 0
}

async function main(): Promise<number> {
  try {
    const all = wanted(process.argv.slice(2))
    for (const name of all.targets) await loadTarget(name)
    if (all.replayPath !== null) return await replay(all.targets, all.replayPath)
    return (await fuzz(all)) === 0 ? 0 : 1
  } catch (error) {
    const isUsage = error instanceof TypeError || error instanceof VarveError
    if (!isUsage) throw error
    process.stderr.write(`fuzz: ${error.message}\n`)
    return 2
  }
}

process.exitCode = await main()
