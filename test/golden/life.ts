/**
 * What the golden pools went through: a little of everything that leaves traces on disk. The same
 * for all of them, so that they differ in how it is stored only. Uses nothing of a world but what
 * every build since the first had.
 */
import { createHash } from 'node:crypto'
import { Prng } from '../../src/base/prng.ts'
import type { Pool } from '../../src/pool/pool.ts'
import type { SimClient } from '../unit/pool/sim-pool.ts'
import type { Manifest } from './archive.ts'

const BLOCK = 4096
const MIB = 2 ** 20
const READ_BYTES = 2 ** 18
const ZERO_NO_HOLE = 2

type Client = Pick<SimClient, 'write' | 'fill' | 'trim' | 'zero' | 'flush' | 'read' | 'close'> & {
  target: { sizeBytes: number }
}

export interface GoldenWorld {
  readonly pool: Pick<
    Pool,
    | 'create'
    | 'snapshot'
    | 'clone'
    | 'hold'
    | 'resize'
    | 'restore'
    | 'remove'
    | 'rename'
    | 'beginImport'
    | 'list'
    | 'volumes'
  >
  disk(name: string): Client
  run<T>(outcome: Promise<T>): Promise<T>
}

/** Blocks that compress, blocks that do not, blocks that are there already. */
function blocksOf(prng: Prng, count: number): Uint8Array {
  const bytes = new Uint8Array(count * BLOCK)
  for (let i = 0; i < count; i += 1) {
    const block = bytes.subarray(i * BLOCK, (i + 1) * BLOCK)
    const kind = prng.below(8)
    if (kind === 0) prng.fill(block)
    else if (kind === 1 && i > 0) block.set(bytes.subarray(0, BLOCK))
    else if (kind > 2) block.set(Buffer.alloc(BLOCK, `line ${prng.below(1000)} of a log\n`))
  }
  return bytes
}

/** Before the pool is closed or settled. */
export async function live(world: GoldenWorld): Promise<void> {
  const { pool } = world
  const run = <T>(outcome: Promise<T>): Promise<T> => world.run(outcome)
  const prng = new Prng(2026)
  await run(pool.create({ name: 'web', sizeBytes: 4 * MIB, labels: { owner: 'alice' } }))
  await run(pool.create({ name: 'gone', sizeBytes: MIB, labels: {} }))
  const web = world.disk('web')
  await web.write(0, blocksOf(prng, 40))
  await web.write(MIB, blocksOf(prng, 64))
  await web.write(3 * MIB + 1000, blocksOf(prng, 2).subarray(0, 5000))
  await web.flush()
  await run(pool.snapshot(['web@one']))
  await run(pool.hold('web@one', 'backup'))
  await web.fill(8 * BLOCK, 4 * BLOCK, 0x55)
  await web.trim(MIB, 32 * BLOCK)
  await web.zero(2 * MIB, 64 * BLOCK, ZERO_NO_HOLE)
  await run(pool.snapshot(['web@two']))
  await run(pool.clone('web@one', ['copy']))
  const copy = world.disk('copy')
  await copy.write(5 * BLOCK, blocksOf(prng, 3))
  copy.close()
  web.close()
  const image = await run(pool.beginImport({ name: 'image', sizeBytes: 3 * MIB, labels: {} }))
  await run(image.write(0, blocksOf(prng, 128)))
  await run(image.write(2 * MIB, blocksOf(prng, 16)))
  await run(image.commit())
  await run(pool.resize('image', 3 * MIB + 1536, false))
  await run(pool.resize('web', 3 * MIB + 512 * 1024, true))
  await run(pool.remove({ names: ['gone'], recursive: false, dryRun: false }))
  await run(pool.rename('copy', 'renamed'))
}

/** After: what the log has behind the last checkpoint, if the world ends here. */
export async function liveOn(world: GoldenWorld): Promise<void> {
  const prng = new Prng(2027)
  const web = world.disk('web')
  await web.write(20 * BLOCK, blocksOf(prng, 7))
  await web.trim(30 * BLOCK, BLOCK)
  await world.run(world.pool.snapshot(['web@three']))
  await web.write(21 * BLOCK, blocksOf(prng, 2))
  await web.flush()
  web.close()
}

/** What a pool holds, by reading all of it. */
export async function describe(
  world: GoldenWorld,
): Promise<Pick<Manifest, 'disks' | 'holds' | 'labels'>> {
  const disks: Manifest['disks'] = []
  for (const { name } of world.pool.list()) {
    const client = world.disk(name)
    const { sizeBytes } = client.target
    const hash = createHash('sha256')
    for (let at = 0; at < sizeBytes; at += READ_BYTES) {
      const bytes = await client.read(at, Math.min(READ_BYTES, sizeBytes - at))
      if (typeof bytes === 'number') throw new Error(`${name} at ${at}: errno ${-bytes}`)
      hash.update(bytes)
    }
    client.close()
    disks.push({ name, sizeBytes, sha256: hash.digest('hex') })
  }
  disks.sort((a, b) => (a.name < b.name ? -1 : 1))
  const holds: Manifest['holds'] = {}
  const labels: Manifest['labels'] = {}
  for (const volume of await world.run(world.pool.volumes())) {
    if (Object.keys(volume.labels).length > 0) labels[volume.name] = volume.labels
    for (const snapshot of volume.snapshots) {
      if (snapshot.holds.length > 0) holds[snapshot.name] = snapshot.holds
    }
  }
  return { disks, holds, labels }
}
