/**
 * `bench crowd`: a hundred clones of one image, each reading its first 200 MiB, four at a time:
 * what that costs in memory and on disk. The pool is settled: what is shared are decoded blocks.
 */
import { join } from 'node:path'
import { HttpService } from '../../src/api/http-service.ts'
import { MIB, formatSize } from '../../src/base/units.ts'
import { run } from '../command.ts'
import { denseImage } from './dense-image.ts'
import { memoryOf } from './process-cost.ts'
import type { BenchOptions, BenchReport } from './report.ts'
import { serveVarve, varve, varveUri } from './servers.ts'

const CLONE_COUNT = 100
const READERS_AT_ONCE = 4
const READ_BYTES: number = 200 * MIB
const SAMPLE_INTERVAL_MS = 100

interface Step {
  name: string
  residentBytes: number
  physicalBytes: number
}

export async function benchCrowd(options: BenchOptions): Promise<BenchReport> {
  if (options.imagePath === undefined) throw new Error('crowd wants --image FILE')
  const image = join(options.folder, 'dense.img')
  const sizeBytes = await denseImage(options.imagePath, image)
  if (sizeBytes < READ_BYTES) throw new Error(`crowd wants ${formatSize(READ_BYTES)} of data`)
  const pool = join(options.folder, 'pool')
  await varve(pool, 'init')
  await varve(pool, 'import', '--progress', 'none', image, 'golden')
  await varve(pool, 'settle')
  const names = Array.from({ length: CLONE_COUNT }, (_, index) => `clone${index}`)
  await varve(pool, 'clone', 'golden', ...names)
  const server = await serveVarve(pool, '--settle', 'off')
  const service = new HttpService(join(pool, 'control.sock'))
  const steps: Step[] = []
  let peakBytes = 0
  const timer = setInterval(() => {
    peakBytes = Math.max(peakBytes, memoryOf(server.pid).residentBytes)
  }, SAMPLE_INTERVAL_MS)
  const note = async (name: string): Promise<void> => {
    const { physicalBytes } = await service.info()
    steps.push({ name, residentBytes: memoryOf(server.pid).residentBytes, physicalBytes })
  }
  try {
    await note('served')
    await readAll(pool, names.slice(0, 1))
    await note('one clone has read')
    await readAll(pool, names.slice(1))
    await note(`${CLONE_COUNT} clones have read`)
    server.mustRun()
  } finally {
    clearInterval(timer)
    await service.close()
    await server.stop()
  }
  return describe(steps, peakBytes)
}

/** Every name once, a few at a time, each read through a connection of its own. */
async function readAll(pool: string, names: readonly string[]): Promise<void> {
  const left = [...names]
  const reader = async (): Promise<void> => {
    for (let name = left.pop(); name !== undefined; name = left.pop()) {
      const uri = varveUri(pool, name)
      const words = ['-f', 'raw', '-c', `read -q 0 ${READ_BYTES}`, '-r', uri]
      await run('qemu-io', words)
    }
  }
  await Promise.all(Array.from({ length: READERS_AT_ONCE }, reader))
}

function describe(steps: readonly Step[], peakBytes: number): BenchReport {
  const peakMib = (peakBytes / MIB).toFixed(0)
  const rows = steps.map(({ name, residentBytes: resident, physicalBytes }) => [
    name,
    (resident / MIB).toFixed(0),
    formatSize(physicalBytes),
  ])
  return {
    tables: [{ title: '', header: ['', 'resident MiB', 'physical'], rows }],
    notes: [`At most ${peakMib} MiB.`],
    json: { cloneCount: CLONE_COUNT, readBytes: READ_BYTES, steps, peakBytes },
  }
}
