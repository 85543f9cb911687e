/**
 * `bench recovery`: the server is killed with SIGKILL after flushed writes, started again, and
 * must serve exactly what was flushed. As served, checkpoints keep the log to be replayed short;
 * beside that, the same with a log of 1 GiB that no checkpoint has made unnecessary.
 */
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { GIB, MIB, formatSize } from '../../src/base/units.ts'
import { NBD_SOCKET_NAME } from '../../src/daemon/serve.ts'
import { SEGMENT_FOLDER } from '../../src/format/segment.ts'
import { run, Server } from '../command.ts'
import { contentHash } from '../content-hash.ts'
import { fio, type Workload } from './fio.ts'
import type { BenchOptions, BenchReport } from './report.ts'
import { serveVarve, varve, varveUri } from './servers.ts'
import { median } from './statistics.ts'

interface Crash {
  name: string
  start(pool: string): Promise<Server>
  load: Workload
  /** Of `--size`, what is written in blocks; the rest of the log are record headers. */
  dataPart: number
  /** The files are no longer in the page cache, as after a power cut. */
  isCold: boolean
}

const LARGE_WRITES: Workload = {
  name: 'large writes',
  pattern: 'write',
  blockSizes: '1m',
  queueDepth: 8,
}
/** One request at a time makes one record of every block: the most there is to replay. */
const SMALL_WRITES: Workload = {
  name: 'small writes',
  pattern: 'randwrite',
  blockSizes: '4k',
  queueDepth: 1,
}

const CRASHES: readonly Crash[] = [
  { name: 'as served', start: serveVarve, load: LARGE_WRITES, dataPart: 1, isCold: false },
  {
    name: 'no checkpoint, 1 MiB writes',
    start: serveUnchecked,
    load: LARGE_WRITES,
    dataPart: 1,
    isCold: false,
  },
  {
    name: 'the same, cold files',
    start: serveUnchecked,
    load: LARGE_WRITES,
    dataPart: 1,
    isCold: true,
  },
  {
    name: 'no checkpoint, 4 KiB random writes',
    start: serveUnchecked,
    load: SMALL_WRITES,
    dataPart: 1 / 2,
    isCold: false,
  },
]

/** As `varve serve`, but without checkpoints. */
function serveUnchecked(pool: string): Promise<Server> {
  const program = join(import.meta.dirname, 'unchecked-server.js')
  return Server.start(process.execPath, [program, pool], join(pool, NBD_SOCKET_NAME))
}

/** Drops what the kernel caches of the pool's segments. */
async function emptyCache(pool: string): Promise<void> {
  // Dirty pages would stay.
  await run('sync', ['-f', pool])
  const folder = join(pool, SEGMENT_FOLDER)
  for (const name of readdirSync(folder)) {
    await run('dd', [`if=${join(folder, name)}`, 'iflag=nocache', 'count=0'])
  }
}

export async function benchRecovery(options: BenchOptions): Promise<BenchReport> {
  const logBytes = options.sizeBytes ?? (options.isQuick ? 32 * MIB : GIB)
  const rows: string[][] = []
  const records: Record<string, unknown>[] = []
  for (const [index, crash] of CRASHES.entries()) {
    const reopenMs: number[] = []
    for (let round = 0; round < options.rounds; round += 1) {
      options.say(`${crash.name}, round ${round + 1} of ${options.rounds}`)
      const pool = join(options.folder, `pool${index}-${round}`)
      reopenMs.push(await measureOnce(crash, pool, logBytes))
    }
    const shown = [median(reopenMs), Math.min(...reopenMs), Math.max(...reopenMs)]
    rows.push([crash.name, ...shown.map((ms) => ms.toFixed(0))])
    records.push({ name: crash.name, reopenMs })
  }
  return {
    tables: [
      {
        title: '',
        header: [`ready after ${formatSize(logBytes)} (ms)`, 'median', 'best', 'worst'],
        rows,
      },
    ],
    notes: [],
    json: { logBytes, crashes: records },
  }
}

async function measureOnce(crash: Crash, pool: string, logBytes: number): Promise<number> {
  await varve(pool, 'init')
  await varve(pool, 'create', 'disk', String(logBytes))
  const uri = varveUri(pool, 'disk')
  const killed = await crash.start(pool)
  let before: string
  try {
    const totalBytes = logBytes * crash.dataPart
    await fio(uri, crash.load, { sizeBytes: logBytes, totalBytes, flushAtEnd: true, seed: 7 })
    before = await contentHash(uri)
    killed.mustRun()
  } finally {
    await killed.stop('SIGKILL')
  }
  if (crash.isCold) await emptyCache(pool)
  const startMs = performance.now()
  const server = await serveVarve(pool)
  try {
    // Ready is when a client gets an answer, not when a socket exists.
    await run('nbdinfo', ['--size', uri])
    const tookMs = performance.now() - startMs
    if ((await contentHash(uri)) !== before) throw new Error('flushed data changed by the crash')
    return tookMs
  } finally {
    await server.stop()
  }
}
