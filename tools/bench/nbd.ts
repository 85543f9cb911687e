/**
 * `bench nbd`: servers side by side. Rounds alternate A B A B, so that a slow minute of the
 * machine hits both; each round's ratio is taken on its own and the median of those is shown.
 */
import { GIB, formatSize } from '../../src/base/units.ts'
import { run } from '../command.ts'
import { table } from '../table.ts'
import { verifyEqualWork, type EqualWork } from './equal-work.ts'
import { COMPARED_WORKLOADS, fio } from './fio.ts'
import type { FioLimits, FioResult, Workload } from './fio.ts'
import { describePageCache, measurePageCache, type PageCacheRates } from './page-cache.ts'
import type { BenchOptions, BenchReport } from './report.ts'
import { startService, type NbdService, type ServerKind } from './servers.ts'
import { median, pairRatios, spread } from './statistics.ts'

/** Written by each run of a first write, beyond what is filled and what earlier rounds wrote. */
const FIRST_WRITE_BYTES = GIB

export async function benchNbd(options: BenchOptions): Promise<BenchReport> {
  const filledBytes = options.sizeBytes ?? 4 * GIB
  const diskBytes = filledBytes + options.rounds * FIRST_WRITE_BYTES
  const pageCache = await measurePageCache(options.folder)
  const services: NbdService[] = []
  try {
    const work: EqualWork[] = []
    for (const kind of options.servers) {
      options.say(`starting ${kind} and filling ${formatSize(filledBytes)}`)
      const service = await startService(kind, options.folder, diskBytes)
      services.push(service)
      await fillDisk(service.uri, filledBytes)
      const sizes = { diskBytes, filledBytes }
      work.push(await verifyEqualWork(service.uri, options.folder, sizes))
    }
    const results = await measureRounds(services, filledBytes, options)
    return describe(services, work, results, pageCache, options)
  } finally {
    for (const { server } of services) await server.stop()
  }
}

/** Random bytes over the first `sizeBytes` of the disk, flushed at the end. */
export async function fillDisk(uri: string, sizeBytes: number): Promise<void> {
  const workload: Workload = { name: 'fill', pattern: 'write', blockSizes: '1m', queueDepth: 8 }
  await fio(uri, workload, { sizeBytes, flushAtEnd: true, seed: 7 })
}

/** Results by workload, then by server, then by round. */
type Measured = Map<Workload, Map<ServerKind, FioResult[]>>

async function measureRounds(
  services: readonly NbdService[],
  filledBytes: number,
  options: BenchOptions,
): Promise<Measured> {
  const measured: Measured = new Map()
  for (const workload of COMPARED_WORKLOADS) {
    const byServer = new Map<ServerKind, FioResult[]>()
    for (const { kind } of services) byServer.set(kind, [])
    measured.set(workload, byServer)
    for (let round = 0; round < options.rounds; round += 1) {
      options.say(`${workload.name}, round ${round + 1} of ${options.rounds}`)
      for (const { kind, uri, server } of services) {
        const limits = limitsOf(workload, round, filledBytes, options.seconds)
        // What the one before has left dirty is not written out in the time of the next.
        if (workload.pattern.includes('write')) await run('sync', ['-f', options.folder])
        byServer.get(kind)?.push(await fio(uri, workload, limits))
        server.mustRun()
      }
    }
  }
  return measured
}

function limitsOf(
  workload: Workload,
  round: number,
  filledBytes: number,
  seconds: number,
): FioLimits {
  const seed = round + 1
  if (workload.isFirstWrite !== true) return { sizeBytes: filledBytes, seconds, seed }
  return {
    offsetBytes: filledBytes + round * FIRST_WRITE_BYTES,
    sizeBytes: FIRST_WRITE_BYTES,
    totalBytes: FIRST_WRITE_BYTES,
    seed,
  }
}

function describe(
  services: readonly NbdService[],
  work: readonly EqualWork[],
  measured: Measured,
  pageCache: PageCacheRates,
  options: BenchOptions,
): BenchReport {
  const rows: string[][] = []
  const records: Record<string, unknown>[] = []
  for (const [workload, byServer] of measured) {
    const isBulk = workload.blockSizes === '128k'
    const rates = [...byServer.values()].map((results) =>
      results.map((result) => (isBulk ? result.bytesPerSecond / 1e6 : result.iops / 1e3)),
    )
    const first = rates[0]
    const ratios = rates.slice(1).map((other) => pairRatios(first, other))
    rows.push([
      `${workload.name} (${isBulk ? 'MB/s' : 'kIOPS'})`,
      ...rates.map((rate) => `${median(rate).toFixed(1)} ±${(spread(rate) * 50).toFixed(0)} %`),
      ...ratios.map((ratio) => `${median(ratio).toFixed(2)}×`),
    ])
    records.push({ workload, results: Object.fromEntries(byServer), ratios })
  }
  const kinds = services.map(({ kind }) => kind)
  const header = ['', ...kinds, ...kinds.slice(1).map((kind) => `${kinds[0]} ÷ ${kind}`)]
  return {
    text: `${table(header, rows)}\n\n${describePageCache(pageCache)}`,
    json: {
      pageCache,
      servers: services.map(({ kind, description }, index) => ({
        kind,
        description,
        ...work[index],
      })),
      rounds: options.rounds,
      seconds: options.seconds,
      workloads: records,
    },
  }
}
