/**
 * `bench recovery`: the server is killed with SIGKILL after 1 GiB of flushed writes, started
 * again, and must serve exactly what was flushed.
 */
import { join } from 'node:path'
import { GIB, formatSize } from '../../src/base/units.ts'
import { run } from '../command.ts'
import { contentHash } from '../content-hash.ts'
import { table } from '../table.ts'
import { fillDisk } from './nbd.ts'
import type { BenchOptions, BenchReport } from './report.ts'
import { serveVarve, varve, varveUri } from './servers.ts'
import { median } from './statistics.ts'

export async function benchRecovery(options: BenchOptions): Promise<BenchReport> {
  const sizeBytes = options.sizeBytes ?? GIB
  const reopenMs: number[] = []
  for (let round = 0; round < options.rounds; round += 1) {
    options.say(`round ${round + 1} of ${options.rounds}`)
    reopenMs.push(await measureOnce(join(options.folder, `pool${round}`), sizeBytes))
  }
  const shown = [median(reopenMs), Math.min(...reopenMs), Math.max(...reopenMs)]
  return {
    text: table(
      ['', 'median', 'best', 'worst'],
      [[`ready after ${formatSize(sizeBytes)} (ms)`, ...shown.map((ms) => ms.toFixed(0))]],
    ),
    json: { writtenBytes: sizeBytes, reopenMs },
  }
}

async function measureOnce(pool: string, sizeBytes: number): Promise<number> {
  await varve(pool, 'init')
  await varve(pool, 'create', 'disk', String(sizeBytes))
  const uri = varveUri(pool, 'disk')
  const killed = await serveVarve(pool)
  let before: string
  try {
    await fillDisk(uri, sizeBytes)
    before = await contentHash(uri)
  } finally {
    await killed.stop('SIGKILL')
  }
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
