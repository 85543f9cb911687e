/**
 * `bench usage`: what it costs to count who uses what. A volume with a thousand snapshots, and a
 * hundred clones of another, each with random blocks of its own.
 */
import { join } from 'node:path'
import { Prng } from '../../src/base/prng.ts'
import { GIB, MIB } from '../../src/base/units.ts'
import { openHost } from '../../src/daemon/host.ts'
import type { ExportTarget } from '../../src/export/target.ts'
import type { Io } from '../../src/io/io.ts'
import { Pool } from '../../src/pool/pool.ts'
import type { BenchOptions, BenchReport } from './report.ts'
import { median } from './statistics.ts'

const SNAPSHOT_COUNT = 1000
const SNAPSHOT_BLOCK_COUNT = 50
const CLONE_COUNT = 100
const CLONE_BLOCK_COUNT = 200
const BLOCK_BYTES = 4096

interface Measured {
  what: string
  diskCount: number
  /** Of one count each. */
  countMs: number[]
  residentBytes: number
}

export async function benchUsage(options: BenchOptions): Promise<BenchReport> {
  const { io, checksum, codecs } = await openHost('auto')
  const path = join(options.folder, 'pool')
  await Pool.create(io, checksum, path)
  const pool = await Pool.open(io, checksum, path, { codecs })
  const sizeBytes = options.sizeBytes ?? (options.isQuick ? 128 * MIB : 10 * GIB)
  const measured: Measured[] = []
  try {
    const random = new Prng(7)
    options.say('a volume with snapshots')
    await importVolume(pool, 'deep', sizeBytes, random)
    for (let i = 0; i < SNAPSHOT_COUNT; i += 1) {
      await overwrite(io, pool, 'deep', SNAPSHOT_BLOCK_COUNT, random)
      await pool.snapshot([`deep@s${i}`])
    }
    measured.push(await measure(pool, `${SNAPSHOT_COUNT} snapshots`, options))
    await pool.remove({ names: ['deep'], recursive: true, dryRun: false })
    await pool.reclaim()
    options.say('a volume with clones')
    await importVolume(pool, 'golden', Math.min(4 * GIB, sizeBytes), random)
    await pool.snapshot(['golden@v1'])
    const clones = Array.from({ length: CLONE_COUNT }, (_, i) => `c${i}`)
    await pool.clone('golden@v1', clones)
    measured.push(await measure(pool, `${CLONE_COUNT} clones, as they were made`, options))
    for (const name of clones) await overwrite(io, pool, name, CLONE_BLOCK_COUNT, random)
    measured.push(await measure(pool, `${CLONE_COUNT} clones, changed`, options))
    options.say('settling')
    await pool.settle('lz4')
    measured.push(await measure(pool, `${CLONE_COUNT} clones, settled`, options))
  } finally {
    await pool.close()
    await io.shutdown()
  }
  const rows = measured.map(({ what, diskCount, countMs, residentBytes }) => [
    what,
    String(diskCount),
    (median(countMs) / 1e3).toFixed(2),
    (residentBytes / MIB).toFixed(0),
  ])
  const header = ['', 'disks', 's', 'resident MiB more']
  return { tables: [{ title: '', header, rows }], notes: [], json: { measured } }
}

async function measure(pool: Pool, what: string, options: BenchOptions): Promise<Measured> {
  options.say(`counting ${what}`)
  await pool.checkpoint()
  const before = process.memoryUsage().rss
  const countMs: number[] = []
  let residentBytes = 0
  let diskCount = 0
  for (let round = 0; round < options.rounds; round += 1) {
    const startMs = performance.now()
    const { rows } = await pool.usage('disk')
    countMs.push(performance.now() - startMs)
    diskCount = rows.length
    residentBytes = Math.max(residentBytes, process.memoryUsage().rss - before)
  }
  return { what, diskCount, countMs, residentBytes }
}

/** Blocks that are all different, and compress to half. */
async function importVolume(
  pool: Pool,
  name: string,
  sizeBytes: number,
  random: Prng,
): Promise<void> {
  const bulk = await pool.beginImport({ name, sizeBytes })
  const piece = new Uint8Array(4 * MIB)
  for (let at = 0; at < piece.length; at += BLOCK_BYTES) {
    random.fill(piece.subarray(at, at + BLOCK_BYTES / 2))
  }
  const words = new Float64Array(piece.buffer)
  for (let offset = 0; offset + piece.length <= sizeBytes; offset += piece.length) {
    for (let at = 0; at < words.length; at += BLOCK_BYTES / 8) words[at] = random.nextFloat()
    await bulk.write(offset, piece)
  }
  await bulk.commit()
}

async function overwrite(
  io: Io,
  pool: Pool,
  name: string,
  count: number,
  random: Prng,
): Promise<void> {
  const target = pool.openTarget(name, 'bench')
  if (target === null) throw new Error(`no disk ${name}`)
  const at = io.arena.allocate(BLOCK_BYTES)
  for (let i = 0; i < count; i += 1) {
    random.fill(io.arena.memory.subarray(at, at + 16))
    const block = random.below(target.sizeBytes / BLOCK_BYTES)
    await write(target, block * BLOCK_BYTES, at)
  }
  io.arena.free(at, BLOCK_BYTES)
  target.close()
}

function write(target: ExportTarget, offsetBytes: number, arenaOffset: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const targetComplete = (_tag: number, result: number): void => {
      if (result === 0) resolve()
      else reject(new Error(`a write failed: ${result}`))
    }
    target.write(offsetBytes, BLOCK_BYTES, arenaOffset, 0, { targetComplete }, 0)
  })
}
