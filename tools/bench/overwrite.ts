/**
 * `bench overwrite`: reading in sequence what was overwritten at random, twice as much as there is,
 * before and after `varve settle`; beside a qcow2 image, which keeps its order.
 */
import { join } from 'node:path'
import { GIB, MIB, formatSize } from '../../src/base/units.ts'
import { run } from '../command.ts'
import { subjectTable } from './comparison.ts'
import { verifyEqualWork } from './equal-work.ts'
import { COMPARED_WORKLOADS, fio, fioLoad, type Workload } from './fio.ts'
import { fillDisk } from './nbd.ts'
import type { Bar, BenchOptions, BenchReport, BenchTable } from './report.ts'
import { measureRounds, rateOf, unitOf, type Measured, type Subject } from './rounds.ts'
import { contendersOf, NBD_CONTENDERS, startService, varve, type NbdService } from './servers.ts'
import { median, withSpread } from './statistics.ts'

const OVERWRITTEN_TIMES = 2
const READS = COMPARED_WORKLOADS.filter(({ pattern }) => pattern === 'read')
const OVERWRITE: Workload = {
  name: 'overwrite',
  pattern: 'randwrite',
  blockSizes: '4k',
  queueDepth: 32,
}
/** Of the rate on a volume that was written once, in order. */
const RATIO_MIN = 0.7

const STAGES = ['fresh', 'overwritten', 'settled'] as const
type Stage = (typeof STAGES)[number]

interface Progress {
  sizeBytes: number
  measured: Partial<Record<Stage, Measured>>
  /** Of the overwrites, of each contender. */
  overwriteMs: Record<string, number>
  settleMs: number | null
}

export async function benchOverwrite(options: BenchOptions): Promise<BenchReport> {
  const sizeBytes = options.sizeBytes ?? (options.isQuick ? 64 * MIB : 2 * GIB)
  const only = options.only ?? ['varve', 'qemu-nbd writeback/threads']
  const services: NbdService[] = []
  const progress: Progress = { sizeBytes, measured: {}, overwriteMs: {}, settleMs: null }
  try {
    for (const contender of contendersOf(NBD_CONTENDERS, only)) {
      options.say(`starting ${contender.name} and filling ${formatSize(sizeBytes)}`)
      const service = await startService(contender, options.folder, sizeBytes)
      services.push(service)
      await fillDisk(service.uri, sizeBytes)
      const sizes = { diskBytes: sizeBytes, filledBytes: sizeBytes }
      await verifyEqualWork(service.uri, options.folder, sizes, contender.isVolatile === true)
    }
    await measureStage('fresh', services, progress, options)
    for (const service of services) {
      const { name } = service.contender
      options.say(`${name}: overwriting ${OVERWRITTEN_TIMES} times as much as there is`)
      const totalBytes = OVERWRITTEN_TIMES * sizeBytes
      const startMs = performance.now()
      await fio(service.uri, OVERWRITE, { sizeBytes, totalBytes, flushAtEnd: true, seed: 9 })
      progress.overwriteMs[name] = performance.now() - startMs
      await warm(service)
    }
    await measureStage('overwritten', services, progress, options)
    await settle(services, progress, options)
    for (const service of services) await warm(service)
    await measureStage('settled', services, progress, options)
    return describe(services, progress)
  } finally {
    for (const { server } of services) await server.stop()
  }
}

/** Reads everything once, so that it is in the page cache. */
async function warm({ uri }: NbdService): Promise<void> {
  await run('nbdcopy', [uri, 'null:'])
}

async function settle(
  services: readonly NbdService[],
  progress: Progress,
  options: BenchOptions,
): Promise<void> {
  const ours = services.find(({ contender }) => contender.family === 'varve')
  if (ours === undefined) return
  options.say('settling')
  const startMs = performance.now()
  await varve(join(ours.home, 'pool'), 'settle', '--progress', 'none')
  progress.settleMs = performance.now() - startMs
}

async function measureStage(
  stage: Stage,
  services: readonly NbdService[],
  progress: Progress,
  options: BenchOptions,
): Promise<void> {
  const { sizeBytes } = progress
  progress.measured[stage] = await measureRounds(subjectsOf(services), {
    workloads: READS,
    rounds: options.rounds,
    folder: options.folder,
    say: (message) => options.say(`${stage}: ${message}`),
    limitsOf: (_workload, round) => ({ sizeBytes, seconds: options.seconds, seed: round + 1 }),
    whenMeasured: () => Promise.resolve(),
  })
  options.keep(describe(services, progress))
}

function subjectsOf(services: readonly NbdService[]): Subject[] {
  return services.map(({ contender: { name, family }, uri, server }) => {
    return { name, family, server, load: fioLoad(uri) }
  })
}

function describe(services: readonly NbdService[], progress: Progress): BenchReport {
  const { sizeBytes, measured, overwriteMs, settleMs } = progress
  const subjects = subjectsOf(services)
  const tables: BenchTable[] = []
  for (const stage of STAGES) {
    const rates = measured[stage]
    if (rates === undefined) continue
    tables.push(
      subjectTable(
        stage,
        { subjects, withoutRatio: new Set(), measured: rates },
        (workload) => `${workload.name}, ${unitOf(workload)}`,
        (workload, runs) => withSpread(runs.map((run) => rateOf(workload, run))),
      ),
    )
  }
  const ours = subjects.find(({ family }) => family === 'varve')?.name
  const took = Object.entries(overwriteMs).map(
    ([name, ms]) => `${name} ${(ms / 1000).toFixed(1)} s`,
  )
  const settled =
    settleMs === null ? '' : ` \`varve settle\` took ${(settleMs / 1000).toFixed(1)} s.`
  return {
    tables,
    bars: ours === undefined ? [] : barsOf(ours, progress),
    notes: [
      `${formatSize(sizeBytes)} written in order, then ` +
        `${formatSize(OVERWRITTEN_TIMES * sizeBytes)} of random 4 KiB writes ` +
        `(${took.join(', ')}).${settled}`,
    ],
    json: {
      sizeBytes,
      overwriteMs,
      settleMs,
      stages: Object.fromEntries(
        Object.entries(measured).map(([stage, rates]) => [
          stage,
          [...rates].map(([workload, byName]) => ({
            workload,
            results: Object.fromEntries(byName),
          })),
        ]),
      ),
    },
  }
}

/** The best of what was overwritten: settling may have run first, but need not. */
function barsOf(ours: string, { measured }: Progress): Bar[] {
  const rate = (stage: Stage, workload: Workload): number | null => {
    const runs = measured[stage]?.get(workload)?.get(ours)
    return runs === undefined ? null : median(runs.map((run) => rateOf(workload, run)))
  }
  return READS.flatMap((workload) => {
    const fresh = rate('fresh', workload)
    const later = [rate('overwritten', workload), rate('settled', workload)].flatMap((r) => r ?? [])
    if (fresh === null || later.length === 0) return []
    const what = `${workload.name}: after the overwrites ÷ fresh`
    const measuredRatio = Math.max(...later) / fresh
    return [{ what, demanded: { atLeast: RATIO_MIN }, measured: measuredRatio, unit: '' }]
  })
}
