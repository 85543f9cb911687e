/**
 * `bench snapshots`: what snapshots cost a reader, at several depths: ours, chains of qcow2 images
 * and snapshots inside of one. Every disk gets the same data and the same random overwrites.
 */
import { join } from 'node:path'
import { MIB, formatSize } from '../../src/base/units.ts'
import { run } from '../command.ts'
import { COMPARED_WORKLOADS, type Workload } from './fio.ts'
import type { Bar, BenchOptions, BenchReport, BenchTable, Plot } from './report.ts'
import { measureRounds, rateOf, unitOf, type Measured } from './rounds.ts'
import { BESIDE_OTHERS, serveVarve, varve } from './servers.ts'
import { qcow2Chain, qcow2Internal, varveDisk } from './snapshot-subjects.ts'
import type { Amounts, DeepDisk } from './snapshot-subjects.ts'
import { median, pairRatios, withSpread } from './statistics.ts'

const DEPTHS = [1, 10, 100, 1000]
const QUICK_DEPTHS = [1, 10]
/** A reader must not lose more than this to any depth. */
const RATIO_MIN = 0.95

const READS = COMPARED_WORKLOADS.filter(
  ({ pattern, blockSizes }) => pattern.endsWith('read') && blockSizes !== '1m',
)

interface Prepared {
  amounts: Amounts
  depths: readonly number[]
  disks: DeepDisk[]
  /** What could not be made, and why. */
  failures: string[]
}

export async function benchSnapshots(options: BenchOptions): Promise<BenchReport> {
  const sizeBytes = options.sizeBytes ?? (options.isQuick ? 32 : 512) * MIB
  const amounts = { sizeBytes, overwrittenBytes: sizeBytes / 4 }
  const depths = options.isQuick ? QUICK_DEPTHS : DEPTHS
  const prepared: Prepared = { amounts, depths, disks: [], failures: [] }
  const pool = join(options.folder, 'pool')
  await varve(pool, 'init')
  const server = await serveVarve(pool, ...BESIDE_OTHERS)
  try {
    for (const depth of depths) {
      options.say(`varve: a disk with ${depth} snapshots`)
      prepared.disks.push(await varveDisk(pool, server, depth, amounts))
    }
    for (const [name, make] of [
      ['qcow2 chain', qcow2Chain],
      ['qcow2 internal', qcow2Internal],
    ] as const) {
      if (options.only !== undefined && !options.only.includes(name)) continue
      for (const depth of depths) {
        options.say(`${name}: a disk with ${depth} snapshots`)
        try {
          prepared.disks.push(await make(options.folder, depth, amounts))
        } catch (error) {
          prepared.failures.push(`${name} ${depth}: ${(error as Error).message}`)
        }
      }
    }
    return await compareReads(prepared, options)
  } finally {
    for (const disk of prepared.disks) await disk.stop()
    await server.stop()
  }
}

async function compareReads(prepared: Prepared, options: BenchOptions): Promise<BenchReport> {
  const { disks, amounts } = prepared
  // Maps, checksums and page cache are warm for all before anything is measured.
  for (const { uri } of disks) await run('nbdcopy', [uri, 'null:'])
  const measured = await measureRounds(
    disks.map(({ subject }) => subject),
    {
      workloads: READS,
      rounds: options.rounds,
      folder: options.folder,
      say: options.say,
      limitsOf: (_workload, round) => ({
        sizeBytes: amounts.sizeBytes,
        seconds: options.seconds,
        seed: round + 1,
      }),
      whenMeasured: (_workload, soFar) => {
        options.keep(describe(prepared, soFar))
        return Promise.resolve()
      },
    },
  )
  return describe(prepared, measured)
}

function describe(prepared: Prepared, measured: Measured): BenchReport {
  const { amounts, disks, depths, failures } = prepared
  const tables = [...measured.keys()].map((workload) => depthTable(workload, prepared, measured))
  const took = disks.map(({ subject, tookMs }) => `${subject.name}: ${median(tookMs).toFixed(1)}`)
  return {
    tables,
    bars: [...measured.keys()].flatMap((workload) => barOf(workload, prepared, measured)),
    plots: [...measured.keys()].map((workload) => plotOf(workload, prepared, measured)),
    notes: [
      `${formatSize(amounts.sizeBytes)} each, ${formatSize(amounts.overwrittenBytes)} of random ` +
        '4 KiB overwrites between the first snapshot and the last. In parentheses: ÷ depth ' +
        `${depths[0]}, of each round. One snapshot under load, median ms: ${took.join(', ')}.`,
      ...failures.map((failure) => `Not measured: ${failure}`),
    ],
    json: {
      ...amounts,
      failures,
      disks: disks.map(({ subject, depth, tookMs }) => ({ name: subject.name, depth, tookMs })),
      workloads: [...measured].map(([workload, byName]) => ({
        workload,
        results: Object.fromEntries(byName),
      })),
    },
  }
}

function familiesOf({ disks }: Prepared): string[] {
  return [...new Set(disks.map(({ subject }) => subject.family))]
}

/** Of each round; null where that disk is not there. */
function ratesOf(
  workload: Workload,
  family: string,
  depth: number,
  measured: Measured,
): number[] | null {
  const runs = measured.get(workload)?.get(`${family} ${depth}`)
  return runs === undefined ? null : runs.map((run) => rateOf(workload, run))
}

function depthTable(workload: Workload, prepared: Prepared, measured: Measured): BenchTable {
  const { depths } = prepared
  const rows = familiesOf(prepared).map((family) => {
    const first = ratesOf(workload, family, depths[0], measured)
    return [
      family,
      ...depths.map((depth) => {
        const rates = ratesOf(workload, family, depth, measured)
        if (rates === null) return '–'
        if (first === null || depth === depths[0]) return withSpread(rates)
        return `${withSpread(rates)} (${median(pairRatios(rates, first)).toFixed(2)})`
      }),
    ]
  })
  const header = ['snapshots', ...depths.map(String)]
  return { title: `${workload.name}, ${unitOf(workload)}`, header, rows }
}

function barOf(workload: Workload, { depths }: Prepared, measured: Measured): Bar[] {
  const first = ratesOf(workload, 'varve', depths[0], measured)
  if (first === null) return []
  const ratios = depths.slice(1).flatMap((depth) => {
    const rates = ratesOf(workload, 'varve', depth, measured)
    return rates === null ? [] : [median(pairRatios(rates, first))]
  })
  const what = `${workload.name}: the worst depth ÷ depth ${depths[0]}`
  return [{ what, demanded: { atLeast: RATIO_MIN }, measured: Math.min(...ratios), unit: '' }]
}

function plotOf(workload: Workload, prepared: Prepared, measured: Measured): Plot {
  const { depths } = prepared
  return {
    kind: 'lines',
    id: workload.name.toLowerCase().replaceAll(' ', '-'),
    title: workload.name,
    xLabel: 'snapshots',
    yLabel: unitOf(workload),
    series: familiesOf(prepared).map((family) => ({
      name: family,
      points: depths.flatMap((depth): [number, number][] => {
        const rates = ratesOf(workload, family, depth, measured)
        return rates === null ? [] : [[depth, median(rates)]]
      }),
    })),
  }
}
