/**
 * `bench settled`: reading a real image from a pool that was settled, beside the same pool before
 * it was, and beside compressed qcow2; then what settling and reclaiming cost the guests that go
 * on meanwhile. docs/benchmarking.md has the method.
 */
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { HttpService } from '../../src/api/http-service.ts'
import { formatSize } from '../../src/base/units.ts'
import { run, Server } from '../command.ts'
import { denseImage } from './dense-image.ts'
import { fio } from './fio.ts'
import type { FioResult, Workload } from './fio.ts'
import type { BenchOptions, BenchReport } from './report.ts'
import { serveVarve, varve, varveUri } from './servers.ts'
import { median, pairRatios, spread } from './statistics.ts'

const WORKLOADS: readonly Workload[] = [
  { name: '4 KiB random read QD32', pattern: 'randread', blockSizes: '4k', queueDepth: 32 },
  { name: '4 KiB random read QD1', pattern: 'randread', blockSizes: '4k', queueDepth: 1 },
  // What a guest's readahead asks for while it boots.
  { name: '128 KiB read QD1', pattern: 'read', blockSizes: '128k', queueDepth: 1 },
  { name: '1 MiB read QD4', pattern: 'read', blockSizes: '1m', queueDepth: 4 },
]

/** A guest that is busy but not saturating: latency, not throughput, is the question. */
const GUEST: Workload = {
  name: '4 KiB random read and write, 2,000 a second',
  pattern: 'randrw',
  blockSizes: '4k',
  queueDepth: 4,
}
const GUEST_RATE_IOPS = 1000
/** Between two runs of the background work: more often than anybody reclaims. */
const PAUSE_MS = 1000

interface Contender {
  name: string
  uri: string
  server: Server
}

export async function benchSettled(options: BenchOptions): Promise<BenchReport> {
  if (options.imagePath === undefined) throw new Error('settled wants --image FILE')
  const image = join(options.folder, 'dense.img')
  const sizeBytes = await denseImage(options.imagePath, image)
  options.say(`${formatSize(sizeBytes)} of data in ${options.imagePath}`)
  const contenders = await startAll(image, options)
  try {
    const measured = await measureRounds(contenders, sizeBytes, options)
    const latencies = await measureGuests(image, sizeBytes, options)
    return describe(contenders, sizeBytes, measured, latencies)
  } finally {
    for (const { server } of contenders) await server.stop()
  }
}

async function startAll(image: string, options: BenchOptions): Promise<Contender[]> {
  const contenders: Contender[] = []
  for (const compression of [null, 'lz4', 'zstd'] as const) {
    const name = compression === null ? 'varve, raw' : `varve, ${compression}`
    options.say(`making ${name}`)
    const pool = join(options.folder, compression ?? 'raw')
    await makePool(pool, image, compression)
    const server = await serveVarve(pool, '--settle', 'off')
    contenders.push({ name, uri: varveUri(pool, 'image'), server })
  }
  for (const type of ['zlib', 'zstd']) {
    options.say(`making qcow2, ${type}`)
    contenders.push(await startQcow2(type, image, options.folder))
  }
  return contenders
}

async function makePool(pool: string, image: string, compression: string | null): Promise<void> {
  await varve(pool, 'init')
  await varve(pool, 'import', '--progress', 'none', image, 'image')
  if (compression !== null) await varve(pool, 'settle', '--compression', compression)
}

async function startQcow2(type: string, image: string, folder: string): Promise<Contender> {
  const home = join(folder, `qcow2-${type}`)
  await mkdir(home)
  const file = join(home, 'disk.qcow2')
  const socket = join(home, 'nbd.sock')
  const options = ['-o', `compression_type=${type}`, '-c', '-W', '-m', '2']
  await run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', ...options, image, file])
  const args = ['-t', '-r', '-f', 'qcow2', '--shared=8', '-k', socket, file]
  const server = await Server.start('qemu-nbd', args, socket)
  return { name: `qcow2, ${type}`, uri: `nbd+unix:///?socket=${socket}`, server }
}

type Measured = Map<Workload, FioResult[][]>

async function measureRounds(
  contenders: readonly Contender[],
  sizeBytes: number,
  options: BenchOptions,
): Promise<Measured> {
  const measured: Measured = new Map()
  for (const workload of WORKLOADS) {
    const results: FioResult[][] = contenders.map(() => [])
    measured.set(workload, results)
    for (let round = 0; round < options.rounds; round += 1) {
      options.say(`${workload.name}, round ${round + 1} of ${options.rounds}`)
      for (const [index, { uri, server }] of contenders.entries()) {
        const limits = { sizeBytes, seconds: options.seconds, seed: round + 1 }
        results[index].push(await fio(uri, workload, limits))
        server.mustRun()
      }
    }
  }
  return measured
}

interface Latencies {
  idleUs: number[]
  settlingUs: number[]
  reclaimingUs: number[]
}

/** Pairs: the guest alone, then beside a settle that has all of another image to do. */
async function measureGuests(
  image: string,
  sizeBytes: number,
  options: BenchOptions,
): Promise<Latencies> {
  const latencies: Latencies = { idleUs: [], settlingUs: [], reclaimingUs: [] }
  for (let round = 0; round < options.rounds; round += 1) {
    options.say(`guests beside settling, round ${round + 1} of ${options.rounds}`)
    const pool = join(options.folder, `guests-${round}`)
    await makePool(pool, image, null)
    await varve(pool, 'create', 'disk', String(sizeBytes))
    const server = await serveVarve(pool, '--settle', 'off')
    const service = new HttpService(join(pool, 'control.sock'))
    try {
      const guest = async (): Promise<number> => {
        const limits = { sizeBytes, seconds: options.seconds, rateIops: GUEST_RATE_IOPS }
        return (await fio(varveUri(pool, 'disk'), GUEST, limits)).latency99Us
      }
      await guest()
      latencies.idleUs.push(await guest())
      latencies.settlingUs.push(
        await beside(() => service.settle({ compression: 'lz4' }, {}), guest),
      )
      latencies.reclaimingUs.push(await beside(() => service.reclaim({}), guest))
      server.mustRun()
    } finally {
      await service.close()
      await server.stop()
    }
    await run('rm', ['-rf', pool])
  }
  return latencies
}

/** What the guest sees while the work runs, again and again until the guest has its answer. */
async function beside(work: () => Promise<unknown>, guest: () => Promise<number>): Promise<number> {
  let isOver = false
  const repeat = async (): Promise<void> => {
    while (!isOver) {
      await work()
      await delay(PAUSE_MS)
    }
  }
  const working = repeat()
  try {
    return await guest()
  } finally {
    isOver = true
    await working
  }
}

function describe(
  contenders: readonly Contender[],
  sizeBytes: number,
  measured: Measured,
  latencies: Latencies,
): BenchReport {
  const rows: string[][] = []
  const records: Record<string, unknown>[] = []
  for (const [workload, results] of measured) {
    const isBulk = !workload.blockSizes.startsWith('4k')
    const rates = results.map((one) =>
      one.map((result) => (isBulk ? result.bytesPerSecond / 1e6 : result.iops / 1e3)),
    )
    rows.push([
      `${workload.name} (${isBulk ? 'MB/s' : 'kIOPS'})`,
      ...rates.map((rate) => `${median(rate).toFixed(1)} ±${(spread(rate) * 50).toFixed(0)} %`),
      median(pairRatios(rates[1], rates[0])).toFixed(2),
      median(pairRatios(rates[1], rates[3])).toFixed(2),
    ])
    records.push({ workload, results })
  }
  const names = contenders.map(({ name }) => name)
  const header = ['', ...names, 'lz4 ÷ raw', 'lz4 ÷ qcow2']
  const { idleUs, settlingUs, reclaimingUs } = latencies
  const guests = [
    ['guest alone', median(idleUs).toFixed(0), ''],
    ...[
      { name: 'beside settling', us: settlingUs },
      { name: 'beside reclaiming', us: reclaimingUs },
    ].map(({ name, us }) => [
      name,
      median(us).toFixed(0),
      median(pairRatios(us, idleUs)).toFixed(2),
    ]),
  ]
  return {
    tables: [
      { title: '', header, rows },
      { title: '', header: [`p99 of ${GUEST.name}`, 'µs', '÷ alone'], rows: guests },
    ],
    notes: [`${formatSize(sizeBytes)} of a real image.`],
    json: { sizeBytes, contenders: names, workloads: records, latencies },
  }
}
