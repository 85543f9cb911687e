/**
 * `bench nbd`: servers side by side, on the same work. Rounds alternate; the ratio of each round is
 * taken by itself, against the best mode of each of the others, and the median of those is shown.
 */
import { GIB, MIB, formatSize } from '../../src/base/units.ts'
import { buildLoad, programLoad } from './c-load.ts'
import {
  coldestRead,
  cpuTable,
  ratioPlot,
  ratiosTo,
  ratioTable,
  subjectTable,
} from './comparison.ts'
import type { Comparison } from './comparison.ts'
import { verifyEqualWork, type EqualWork } from './equal-work.ts'
import { COMPARED_WORKLOADS, fio, fioLoad, type FioLimits, type Workload } from './fio.ts'
import { describePageCache, measurePageCache, type PageCacheRates } from './page-cache.ts'
import { memoryOf } from './process-cost.ts'
import type { Bar, BenchOptions, BenchReport, BenchTable } from './report.ts'
import { measureRounds, rateOf, unitOf, type Measured, type Subject } from './rounds.ts'
import { contendersOf, isInstalled, NBD_CONTENDERS, startService, tidyAfter } from './servers.ts'
import type { Contender, NbdService } from './servers.ts'
import { median, withSpread } from './statistics.ts'

/** Those of the comparison; small requests also by a client that is not busy before the server. */
const WORKLOADS: readonly Workload[] = COMPARED_WORKLOADS.flatMap((workload) =>
  workload.blockSizes === '4k' && workload.flushEvery === undefined
    ? [workload, { ...workload, name: `${workload.name}, light client`, hasLightClient: true }]
    : [workload],
)

/** Written by each run of a first write, beyond what is filled and what earlier rounds wrote. */
const FIRST_WRITE_BYTES: number = 512 * MIB
const QUICK_FIRST_WRITE_BYTES: number = 16 * MIB

/** Of our server, with default budgets, after any of these loads. */
export const RESIDENT_MIB_MAX = 300

interface Sizes {
  filledBytes: number
  firstWriteBytes: number
  diskBytes: number
}

interface Prepared {
  /** The light client, compiled. */
  program: string
  services: NbdService[]
  work: EqualWork[]
  sizes: Sizes
  pageCache: PageCacheRates
}

export async function benchNbd(options: BenchOptions): Promise<BenchReport> {
  const contenders = installed(contendersOf(NBD_CONTENDERS, options.only), options)
  const firstWriteBytes = options.isQuick ? QUICK_FIRST_WRITE_BYTES : FIRST_WRITE_BYTES
  const filledBytes = options.sizeBytes ?? (options.isQuick ? 64 * MIB : GIB)
  const firstWriteCount = WORKLOADS.filter(isFirstWrite).length * options.rounds
  const sizes = {
    filledBytes,
    firstWriteBytes,
    diskBytes: filledBytes + firstWriteCount * firstWriteBytes,
  }
  const pageCache = await measurePageCache(options.folder, options.isQuick)
  const program = await buildLoad(options.folder, 'nbd-load')
  const prepared: Prepared = { program, services: [], work: [], sizes, pageCache }
  try {
    for (const contender of contenders) await prepare(contender, prepared, options)
    const measured = await measure(prepared, options)
    return describe(prepared, measured, options)
  } finally {
    for (const { server } of prepared.services) await server.stop()
  }
}

function installed(contenders: readonly Contender[], options: BenchOptions): Contender[] {
  return contenders.filter(({ name, program }) => {
    if (isInstalled(program)) return true
    options.say(`${name} is left out: ${program} is not installed`)
    return false
  })
}

async function prepare(
  contender: Contender,
  { services, work, sizes }: Prepared,
  options: BenchOptions,
): Promise<void> {
  options.say(`starting ${contender.name} and filling ${formatSize(sizes.filledBytes)}`)
  const service = await startService(contender, options.folder, sizes.diskBytes)
  services.push(service)
  await fillDisk(service.uri, sizes.filledBytes)
  const isVolatile = contender.isVolatile === true
  work.push(await verifyEqualWork(service.uri, options.folder, sizes, isVolatile))
}

/** Random bytes over the first `sizeBytes` of the disk, flushed at the end. */
export async function fillDisk(uri: string, sizeBytes: number): Promise<void> {
  const workload: Workload = { name: 'fill', pattern: 'write', blockSizes: '1m', queueDepth: 8 }
  await fio(uri, workload, { sizeBytes, flushAtEnd: true, seed: 7 })
}

function subjectsOf({ services, program }: Prepared): Subject[] {
  return services.map(({ contender, uri, server }) => {
    const { name, family } = contender
    const [byFio, byLightClient] = [fioLoad(uri), programLoad(program, uri)]
    const load: Subject['load'] = (workload, limits) =>
      workload.hasLightClient === true ? byLightClient(workload, limits) : byFio(workload, limits)
    return { name, family, server, load }
  })
}

function measure(prepared: Prepared, options: BenchOptions): Promise<Measured> {
  const { services, sizes } = prepared
  return measureRounds(subjectsOf(prepared), {
    workloads: WORKLOADS,
    rounds: options.rounds,
    folder: options.folder,
    say: options.say,
    limitsOf: (workload, round, subject) => {
      const service = services.find(({ contender }) => contender.name === subject.name)
      // Memory that is written for the first time would not be given back.
      if (isFirstWrite(workload) && service?.contender.isVolatile === true) return null
      return limitsOf(workload, round, sizes, options.seconds)
    },
    whenMeasured: async (workload, measured) => {
      options.keep(describe(prepared, measured, options))
      await tidyAfter(workload, services)
    },
  })
}

function isFirstWrite(workload: Workload): boolean {
  return workload.isFirstWrite === true
}

function limitsOf(workload: Workload, round: number, sizes: Sizes, seconds: number): FioLimits {
  const seed = round + 1
  if (!isFirstWrite(workload)) return { sizeBytes: sizes.filledBytes, seconds, seed }
  const { filledBytes, firstWriteBytes } = sizes
  const workloads = WORKLOADS.filter(isFirstWrite)
  const index = round * workloads.length + workloads.indexOf(workload)
  return {
    offsetBytes: filledBytes + index * firstWriteBytes,
    sizeBytes: firstWriteBytes,
    totalBytes: firstWriteBytes,
    seed,
  }
}

/** What is demanded of us beside qemu-nbd and nbdkit's file plugin. */
export function nbdBars(comparison: Comparison): Bar[] {
  const bars: Bar[] = []
  for (const workload of comparison.measured.keys()) {
    const isDeep = workload.blockSizes === '4k' && workload.queueDepth === 32
    const isFlushed = workload.flushEvery !== undefined
    const demands = [
      { family: 'qemu-nbd', atLeast: isDeep && !isFlushed ? 3 : 1.5 },
      { family: 'nbdkit file', atLeast: isDeep && !isFlushed ? 1.2 : 0.9 },
    ]
    for (const { family, atLeast } of demands) {
      const ratios = ratiosTo(family, workload, comparison)
      if (ratios === null) continue
      const what = `${workload.name} ÷ ${family}`
      bars.push({ what, demanded: { atLeast }, measured: median(ratios), unit: '' })
    }
  }
  return bars
}

function describe(prepared: Prepared, measured: Measured, options: BenchOptions): BenchReport {
  const { services, work, sizes, pageCache } = prepared
  const ours = services.at(0)
  const volatile = services.filter(({ contender }) => contender.isVolatile === true)
  const withoutRatio = new Set(volatile.map(({ contender }) => contender.family))
  const comparison = { subjects: subjectsOf(prepared), withoutRatio, measured }
  const modes = subjectTable(
    'Every mode',
    comparison,
    (workload) => `${workload.name}, ${unitOf(workload)}`,
    (workload, runs) => withSpread(runs.map((run) => rateOf(workload, run))),
  )
  const tables = [
    ratioTable('Rates; each of the others in its best mode for the row', comparison),
    modes,
    cpuTable('CPU time of the server, µs an operation (CPUs busy)', comparison),
    memoryTable(services),
  ]
  return {
    tables,
    bars: ours?.contender.family === 'varve' ? [...nbdBars(comparison), memoryBar(ours)] : [],
    plots: [ratioPlot('varve ÷ the others over NBD', comparison)],
    notes: [describeCache(sizes, measured), describePageCache(pageCache)],
    json: {
      pageCache,
      ...sizes,
      servers: services.map(({ contender: { name, family }, description }, index) => ({
        name,
        family,
        description,
        ...work[index],
      })),
      rounds: options.rounds,
      seconds: options.seconds,
      workloads: [...measured].map(([workload, byName]) => ({
        workload,
        results: Object.fromEntries(byName),
      })),
    },
  }
}

function memoryBar({ server }: NbdService): Bar {
  const measured = memoryOf(server.pid).residentBytes / MIB
  const demanded = { atMost: RESIDENT_MIB_MAX }
  return { what: 'resident after all of it', demanded, measured, unit: 'MiB' }
}

function memoryTable(services: readonly NbdService[]): BenchTable {
  const rows = services.map(({ contender, server }) => {
    const { residentBytes, peakBytes } = memoryOf(server.pid)
    return [contender.name, (residentBytes / MIB).toFixed(0), (peakBytes / MIB).toFixed(0)]
  })
  return { title: 'Resident memory, MiB', header: ['', 'at the end', 'at most'], rows }
}

function describeCache(sizes: Sizes, measured: Measured): string {
  const coldest = coldestRead(measured, (name) => !name.includes(' none/'))
  const read =
    coldest === null
      ? ''
      : ` At most ${(coldest.part * 100).toFixed(1)} % of what a run read came from the disk ` +
        `below (${coldest.where}).`
  return (
    `${formatSize(sizes.filledBytes)} of random bytes, read once by each before it is measured: ` +
    `all of it is in the page cache of the host, except where the cache mode is none.${read}`
  )
}
