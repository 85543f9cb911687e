/** `bench clones`: a thousand writable copies of a 100 GiB volume, in one command. */
import { join } from 'node:path'
import { HttpService } from '../../src/api/http-service.ts'
import type { PoolInfo } from '../../src/api/shapes.ts'
import { GIB, KIB, MIB, formatSize } from '../../src/base/units.ts'
import { run } from '../command.ts'
import { fillDisk } from './nbd.ts'
import type { BenchOptions, BenchReport } from './report.ts'
import { serveVarve, varve, varveUri } from './servers.ts'
import { median } from './statistics.ts'

const CLONE_COUNT = 1000
/** Of the volume's 100 GiB, so much is written: the map below it is real. */
const WRITTEN_BYTES: number = 2 * GIB
const QUICK_WRITTEN_BYTES: number = 64 * MIB

export async function benchClones(options: BenchOptions): Promise<BenchReport> {
  const sizeBytes = options.sizeBytes ?? 100 * GIB
  const pool = join(options.folder, 'pool')
  await varve(pool, 'init')
  await varve(pool, 'create', 'golden', String(sizeBytes))
  const server = await serveVarve(pool)
  const service = new HttpService(join(pool, 'control.sock'))
  try {
    const wantedBytes = options.isQuick ? QUICK_WRITTEN_BYTES : WRITTEN_BYTES
    const writtenBytes = Math.min(wantedBytes, sizeBytes)
    options.say(`writing ${formatSize(writtenBytes)}`)
    await fillDisk(varveUri(pool, 'golden'), writtenBytes)
    const before = await service.info()
    const tookMs: number[] = []
    for (let round = 0; round < options.rounds; round += 1) {
      const names = Array.from({ length: CLONE_COUNT }, (_, index) => `clone${round}-${index}`)
      options.say(`${CLONE_COUNT} clones, round ${round + 1} of ${options.rounds}`)
      const startMs = performance.now()
      await varve(pool, 'clone', 'golden', ...names)
      tookMs.push(performance.now() - startMs)
    }
    const after = await service.info()
    const last = varveUri(pool, `clone${options.rounds - 1}-${CLONE_COUNT - 1}`)
    const size = (await run('nbdinfo', ['--size', last])).stdout.trim()
    if (Number(size) !== sizeBytes) throw new Error(`the last clone has ${size} bytes`)
    server.mustRun()
    return describe(before, after, tookMs)
  } finally {
    await service.close()
    await server.stop()
  }
}

function describe(before: PoolInfo, after: PoolInfo, tookMs: readonly number[]): BenchReport {
  const cloneCount = after.volumeCount - before.volumeCount
  const bytesEach = (after.physicalBytes - before.physicalBytes) / cloneCount
  return {
    tables: [
      {
        title: '',
        header: ['', 'before', 'after'],
        rows: [
          ['volumes', String(before.volumeCount), String(after.volumeCount)],
          ['logical', formatSize(before.logicalBytes), formatSize(after.logicalBytes)],
          ['physical', formatSize(before.physicalBytes), formatSize(after.physicalBytes)],
        ],
      },
    ],
    notes: [
      `${CLONE_COUNT} clones in ${(median(tookMs) / 1000).toFixed(2)} s (median, one command), ` +
        `${(bytesEach / KIB).toFixed(1)} KiB each.`,
    ],
    json: { cloneCount: CLONE_COUNT, tookMs, before, after, bytesEach },
  }
}
