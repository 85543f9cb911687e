/**
 * `bench fuse`: a disk as a file, beside qemu-storage-daemon's FUSE export of a qcow2 image and
 * beside our own portable transport; then the same with ext4 on a loop device on that file. Rounds
 * alternate A B C A B C, and each round's ratio is taken on its own, as in `bench nbd`.
 *
 * QEMU 7.2's export mixes up the data of writes in flight at the same time, so what it was given
 * is never compared with what it has: images are made before it starts, and only its speed counts.
 */
import { closeSync, ftruncateSync, mkdirSync, openSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { GIB, MIB, formatSize } from '../../src/base/units.ts'
import { run } from '../command.ts'
import { verifyEqualFile, type EqualWork } from './equal-work.ts'
import { fio } from './fio.ts'
import type { FioLimits, FioResult, Workload } from './fio.ts'
import { mountLoop, startFuseService } from './fuse-servers.ts'
import type { FuseServerKind, FuseService } from './fuse-servers.ts'
import { describePageCache, measurePageCache } from './page-cache.ts'
import type { BenchOptions, BenchReport, BenchTable } from './report.ts'
import { median, pairRatios, spread } from './statistics.ts'

/** What ext4 needs beside its one file: journal, inode tables, bitmaps. */
const EXT4_OVERHEAD_BYTES = 256 * MIB
const FILE_NAME = 'data'

/** Sequential ones first, on a disk written in order; see docs/benchmarking.md. */
const WORKLOADS: readonly Workload[] = [
  { name: '1 MiB read QD4', pattern: 'read', blockSizes: '1m', queueDepth: 4 },
  { name: '1 MiB write QD4', pattern: 'write', blockSizes: '1m', queueDepth: 4 },
  {
    name: '1 MiB buffered write, fsync',
    pattern: 'write',
    blockSizes: '1m',
    queueDepth: 1,
    isBuffered: true,
  },
  { name: '4 KiB random read QD1', pattern: 'randread', blockSizes: '4k', queueDepth: 1 },
  { name: '4 KiB random read QD32', pattern: 'randread', blockSizes: '4k', queueDepth: 32 },
  { name: '4 KiB random write QD1', pattern: 'randwrite', blockSizes: '4k', queueDepth: 1 },
  { name: '4 KiB random write QD32', pattern: 'randwrite', blockSizes: '4k', queueDepth: 32 },
]

/** What is loaded: the file of one server, or a file on ext4 on it. */
interface Subject {
  kind: FuseServerKind
  path: string
  service: FuseService
}

/** Results by workload, then by server, then by round. */
type Measured = Map<Workload, Map<FuseServerKind, FioResult[]>>

interface Part {
  title: string
  subjects: { kind: FuseServerKind; description: string; work: EqualWork }[]
  measured: Measured
}

export async function benchFuse(options: BenchOptions): Promise<BenchReport> {
  const sizeBytes = options.sizeBytes ?? (options.isQuick ? 64 * MIB : GIB)
  const pageCache = await measurePageCache(options.folder, options.isQuick)
  const parts = [await benchFiles(sizeBytes, options), await benchLoops(sizeBytes, options)]
  return {
    tables: parts.map(describe),
    notes: [describePageCache(pageCache)],
    json: {
      pageCache,
      sizeBytes,
      rounds: options.rounds,
      seconds: options.seconds,
      parts: parts.map(({ title, subjects, measured }) => ({
        title,
        servers: subjects,
        workloads: [...measured].map(([workload, byServer]) => ({
          workload,
          results: Object.fromEntries(byServer),
          ratios: Object.fromEntries(ratiosOf(workload, byServer)),
        })),
      })),
    },
  }
}

async function benchFiles(sizeBytes: number, options: BenchOptions): Promise<Part> {
  const image = join(options.folder, 'random.raw')
  await writeRandom(image, sizeBytes)
  const kinds = ['varve', 'qemu-storage-daemon', 'varve fuse-native'] as const
  return benchPart('the file itself, O_DIRECT', 'file', kinds, image, sizeBytes, options)
}

async function benchLoops(sizeBytes: number, options: BenchOptions): Promise<Part> {
  const image = join(options.folder, 'ext4.raw')
  const source = join(options.folder, 'ext4')
  mkdirSync(source)
  await writeRandom(join(source, FILE_NAME), sizeBytes)
  makeSparse(image, sizeBytes + EXT4_OVERHEAD_BYTES)
  // Made in a file and copied: all start from the same bytes.
  await run('mke2fs', ['-q', '-t', 'ext4', '-m', '0', '-d', source, image])
  await rm(source, { recursive: true })
  const kinds = ['varve', 'qemu-storage-daemon'] as const
  return benchPart('ext4 on a loop device, O_DIRECT', 'ext4', kinds, image, sizeBytes, options)
}

async function benchPart(
  title: string,
  on: 'file' | 'ext4',
  kinds: readonly FuseServerKind[],
  image: string,
  sizeBytes: number,
  options: BenchOptions,
): Promise<Part> {
  const undo: (() => Promise<void>)[] = []
  try {
    const subjects: Subject[] = []
    const described: Part['subjects'] = []
    for (const kind of kinds) {
      options.say(`${title}: starting ${kind} with ${formatSize(sizeBytes)}`)
      const home = join(options.folder, `${on}-${kind.replace(' ', '-')}`)
      const service = await startFuseService(kind, home, image)
      undo.unshift(service.stop)
      let { path } = service
      if (on === 'ext4') {
        const loop = await mountLoop(path, join(home, 'ext4'), FILE_NAME)
        undo.unshift(loop.stop)
        path = loop.path
      }
      const work = await verifyEqualFile(path, options.folder, sizeBytes)
      subjects.push({ kind, path, service })
      described.push({ kind, description: service.description, work })
    }
    await rm(image)
    return { title, subjects: described, measured: await measure(subjects, sizeBytes, options) }
  } finally {
    for (const step of undo) await step()
  }
}

async function measure(
  subjects: readonly Subject[],
  sizeBytes: number,
  options: BenchOptions,
): Promise<Measured> {
  const measured: Measured = new Map()
  for (const workload of WORKLOADS) {
    const byServer = new Map<FuseServerKind, FioResult[]>()
    measured.set(workload, byServer)
    for (const { kind } of subjects) byServer.set(kind, [])
    const limits = limitsOf(workload, sizeBytes, options.seconds)
    for (let round = 0; round < options.rounds; round += 1) {
      options.say(`${workload.name}, round ${round + 1} of ${options.rounds}`)
      for (const { kind, path, service } of subjects) {
        // What the one before has left dirty is not written out in the time of the next.
        if (workload.pattern.includes('write')) await run('sync', ['-f', options.folder])
        byServer.get(kind)?.push(await fio({ path }, workload, limits))
        service.server.mustRun()
      }
    }
  }
  return measured
}

function limitsOf(workload: Workload, sizeBytes: number, seconds: number): FioLimits {
  // Once over the file and out to the disk: a cache that only fills proves nothing.
  if (workload.isBuffered === true) return { sizeBytes, flushAtEnd: true, seed: 3 }
  return { sizeBytes, seconds, seed: 3 }
}

function ratiosOf(
  workload: Workload,
  byServer: Map<FuseServerKind, FioResult[]>,
): [FuseServerKind, number[]][] {
  const rates = [...byServer].map(
    ([kind, results]) => [kind, results.map((result) => rateOf(workload, result))] as const,
  )
  const ours = rates[0][1]
  return rates.slice(1).map(([kind, rate]) => [kind, pairRatios(ours, rate)])
}

function isBulk(workload: Workload): boolean {
  return workload.blockSizes === '1m'
}

/** MB/s or thousands of operations a second. */
function rateOf(workload: Workload, result: FioResult): number {
  return isBulk(workload) ? result.bytesPerSecond / 1e6 : result.iops / 1e3
}

function describe({ title, subjects, measured }: Part): BenchTable {
  const kinds = subjects.map(({ kind }) => kind)
  const header = ['', ...kinds, ...kinds.slice(1).map((kind) => `÷ ${kind}`)]
  const rows = [...measured].map(([workload, byServer]) => [
    `${workload.name} (${isBulk(workload) ? 'MB/s' : 'kIOPS'})`,
    ...[...byServer.values()].map((results) => {
      const rates = results.map((result) => rateOf(workload, result))
      return `${median(rates).toFixed(1)} ±${(spread(rates) * 50).toFixed(0)} %`
    }),
    ...ratiosOf(workload, byServer).map(([, ratios]) => `${median(ratios).toFixed(2)}×`),
  ])
  return { title, header, rows }
}

async function writeRandom(path: string, sizeBytes: number): Promise<void> {
  const amount = ['bs=1M', `count=${Math.ceil(sizeBytes / MIB)}`]
  await run('dd', ['if=/dev/urandom', `of=${path}`, ...amount, 'status=none'])
}

function makeSparse(path: string, sizeBytes: number): void {
  const descriptor = openSync(path, 'wx')
  ftruncateSync(descriptor, sizeBytes)
  closeSync(descriptor)
}
