/**
 * `bench memory`: resident memory of the server while 20 GiB of mixed load pass through it, and how
 * long its garbage collector made everybody wait.
 */
import { join } from 'node:path'
import { GIB, MIB, formatSize } from '../../src/base/units.ts'
import { fio, type Workload } from './fio.ts'
import { readGcPauses, recordGc, type GcPauses, type Pauses } from './gc-pauses.ts'
import { fillDisk, RESIDENT_MIB_MAX } from './nbd.ts'
import { memoryOf } from './process-cost.ts'
import type { BenchOptions, BenchReport } from './report.ts'
import { serveVarveWith, varve, varveUri } from './servers.ts'

const MOVED_BYTES: number = 20 * GIB
const QUICK_MOVED_BYTES: number = 256 * MIB
const SAMPLE_INTERVAL_MS = 250

const PAUSE_P99_MS_MAX = 5

/** Half reads, half writes, of the sizes that guests mix. */
const MIXED: Workload = {
  name: 'mixed',
  pattern: 'randrw',
  blockSizes: '4k/50:64k/30:128k/20',
  queueDepth: 32,
}

interface Sample {
  elapsedMs: number
  residentBytes: number
}

interface Resident {
  atStartBytes: number
  filledBytes: number
  halfWayBytes: number
  peakBytes: number
  atEndBytes: number
  movedBytes: number
  samples: Sample[]
}

export async function benchMemory(options: BenchOptions): Promise<BenchReport> {
  const sizeBytes = options.sizeBytes ?? (options.isQuick ? 64 * MIB : 4 * GIB)
  const gcPath = join(options.folder, 'gc')
  const pool = join(options.folder, 'pool')
  await varve(pool, 'init')
  await varve(pool, 'create', 'disk', String(sizeBytes))
  const server = await serveVarveWith(recordGc(gcPath), pool)
  let resident: Resident
  try {
    resident = await moveMuch(server.pid, varveUri(pool, 'disk'), sizeBytes, options)
    server.mustRun()
  } finally {
    await server.stop()
  }
  return describe(resident, readGcPauses(gcPath))
}

async function moveMuch(
  pid: number,
  uri: string,
  sizeBytes: number,
  options: BenchOptions,
): Promise<Resident> {
  const wantedBytes = options.isQuick ? QUICK_MOVED_BYTES : MOVED_BYTES
  const residentBytes = (): number => memoryOf(pid).residentBytes
  const atStartBytes = residentBytes()
  options.say(`filling ${formatSize(sizeBytes)}`)
  await fillDisk(uri, sizeBytes)
  const filledBytes = residentBytes()
  options.say(`moving ${formatSize(wantedBytes)}`)
  const samples: Sample[] = []
  const startMs = performance.now()
  const timer = setInterval(() => {
    samples.push({ elapsedMs: performance.now() - startMs, residentBytes: residentBytes() })
  }, SAMPLE_INTERVAL_MS)
  const limits = { sizeBytes, totalBytes: wantedBytes, seed: 3 }
  const { movedBytes } = await fio(uri, MIXED, limits).finally(() => clearInterval(timer))
  if (movedBytes < wantedBytes * 0.99) throw new Error(`only ${movedBytes} bytes were moved`)
  const { residentBytes: atEndBytes, peakBytes } = memoryOf(pid)
  const halfWayBytes = samples[Math.floor(samples.length / 2)].residentBytes
  return { atStartBytes, filledBytes, halfWayBytes, peakBytes, atEndBytes, movedBytes, samples }
}

function pauseCells({ count, medianMs, p99Ms, maxMs, part }: Pauses): string[] {
  const times = [medianMs, p99Ms, maxMs].map((ms) => ms.toFixed(2))
  return [String(count), ...times, `${(part * 100).toFixed(2)} %`]
}

function describe(resident: Resident, gc: GcPauses): BenchReport {
  const { atStartBytes, filledBytes, halfWayBytes, peakBytes, atEndBytes, movedBytes } = resident
  const rows = [
    ['just started', atStartBytes],
    ['disk filled', filledBytes],
    ['half way', halfWayBytes],
    ['at most', peakBytes],
    [`after ${formatSize(movedBytes)}`, atEndBytes],
  ] as const
  return {
    tables: [
      {
        title: 'Resident memory of the server',
        header: ['', 'MiB'],
        rows: rows.map(([name, bytes]) => [name, (bytes / MIB).toFixed(0)]),
      },
      {
        title: 'Pauses of its garbage collector',
        header: ['', 'count', 'p50, ms', 'p99, ms', 'longest, ms', 'of all time'],
        rows: [
          ['all', ...pauseCells(gc.all)],
          ['young generation', ...pauseCells(gc.minor)],
          ['everything', ...pauseCells(gc.major)],
        ],
      },
    ],
    bars: [
      {
        what: 'resident after the load',
        demanded: { atMost: RESIDENT_MIB_MAX },
        measured: atEndBytes / MIB,
        unit: 'MiB',
      },
      {
        what: 'p99 of the pauses',
        demanded: { atMost: PAUSE_P99_MS_MAX },
        measured: gc.all.p99Ms,
        unit: 'ms',
      },
    ],
    notes: [`Of ${gc.threadCount} thread(s) of JavaScript.`],
    json: { ...resident, gc },
  }
}
