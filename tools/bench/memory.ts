/** `bench memory`: resident memory of the server while 20 GiB of mixed load pass through it. */
import { readFileSync } from 'node:fs'
import { GIB, MIB, formatSize } from '../../src/base/units.ts'
import { table } from '../table.ts'
import { fio, type Workload } from './fio.ts'
import { fillDisk } from './nbd.ts'
import type { BenchOptions, BenchReport } from './report.ts'
import { startService } from './servers.ts'

const MOVED_BYTES = 20 * GIB
const SAMPLE_INTERVAL_MS = 250

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

export async function benchMemory(options: BenchOptions): Promise<BenchReport> {
  const sizeBytes = options.sizeBytes ?? 4 * GIB
  const { server, uri, description } = await startService('varve', options.folder, sizeBytes)
  try {
    const atStartBytes = residentBytes(server.pid)
    options.say(`filling ${formatSize(sizeBytes)}`)
    await fillDisk(uri, sizeBytes)
    const filledBytes = residentBytes(server.pid)
    options.say(`moving ${formatSize(MOVED_BYTES)}`)
    const samples: Sample[] = []
    const startMs = performance.now()
    const timer = setInterval(() => {
      const elapsedMs = performance.now() - startMs
      samples.push({ elapsedMs, residentBytes: residentBytes(server.pid) })
    }, SAMPLE_INTERVAL_MS)
    const result = await fio(uri, MIXED, { sizeBytes, totalBytes: MOVED_BYTES, seed: 3 }).finally(
      () => clearInterval(timer),
    )
    server.mustRun()
    const movedBytes = result.movedBytes
    if (movedBytes < MOVED_BYTES * 0.99) throw new Error(`only ${movedBytes} bytes were moved`)
    const atEndBytes = residentBytes(server.pid)
    const peakBytes = Math.max(atEndBytes, ...samples.map((sample) => sample.residentBytes))
    const rows = [
      ['just started', atStartBytes],
      ['disk filled', filledBytes],
      ['half way', samples[Math.floor(samples.length / 2)].residentBytes],
      ['peak', peakBytes],
      [`after ${formatSize(movedBytes)}`, atEndBytes],
    ] as const
    return {
      text: table(
        ['', 'resident MiB'],
        rows.map(([name, bytes]) => [name, (bytes / MIB).toFixed(0)]),
      ),
      json: { description, movedBytes, atStartBytes, filledBytes, peakBytes, atEndBytes, samples },
    }
  } finally {
    await server.stop()
  }
}

/** VmRSS of a process. */
export function residentBytes(pid: number): number {
  const match = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))
  if (match === null) throw new Error(`process ${pid} has no resident memory`)
  return Number(match[1]) * 1024
}
