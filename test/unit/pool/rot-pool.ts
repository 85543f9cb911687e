/** A small closed pool with something of everything, to be damaged: settled, or never. */
import { MIB } from '../../../src/base/units.ts'
import { PoolImage } from '../../support/pool-image.ts'
import { deflateCodecs } from '../../support/deflate-codecs.ts'
import type { OpenPoolOptions } from '../../../src/pool/pool.ts'
import { BLOCK, POOL, SimWorld } from './sim-pool.ts'

export const ROT_OPTIONS: OpenPoolOptions = {
  codecs: deflateCodecs,
  // What a pool usually has takes longer to set up than all there is here to read.
  nodeCacheBytes: MIB,
  checksumCacheBytes: MIB,
  frameCacheBytes: 2 * MIB,
  dedupIndexBytes: MIB,
}

export interface RotPool {
  image: PoolImage
  /** By disk. */
  contents: Map<string, Uint8Array>
}

/** A page in place of the one in the image. */
export interface DamagedPage {
  file: string
  page: number
  bytes: Uint8Array
}

export const arenaMemory: Buffer = Buffer.alloc(24 * MIB)

/** Blocks that repeat, some of them zeros; each third does not compress. */
export function contentOf(blockCount: number, salt: number): Uint8Array {
  const bytes = new Uint8Array(blockCount * BLOCK)
  let random = salt * 2654435761 + 1
  for (let i = 0; i < blockCount; i += 1) {
    if (i % 7 === 0) continue
    const seed = i % 7 === 1 ? 7 : i * 131 + salt
    for (let at = 0; at < BLOCK; at += 1) {
      random = (Math.imul(random, 1664525) + 1013904223) >>> 0
      bytes[i * BLOCK + at] = i % 3 === 0 ? random >>> 24 : (seed >> (at & 3)) + (at >> 6)
    }
  }
  return bytes
}

async function write(
  world: SimWorld,
  name: string,
  block: number,
  bytes: Uint8Array,
): Promise<void> {
  const client = world.disk(name)
  if ((await client.write(block * BLOCK, bytes)) < 0) throw new Error('a write failed')
  await client.flush()
  client.close()
}

async function fill(world: SimWorld): Promise<void> {
  const { pool } = world
  await world.run(pool.create({ name: 'a', sizeBytes: 4 * MIB }))
  await write(world, 'a', 0, contentOf(40, 1))
  await world.run(pool.snapshot(['a@s']))
  await write(world, 'a', 20, contentOf(30, 2))
  await world.run(pool.reclaim())
  await world.run(pool.clone('a@s', ['c']))
  await write(world, 'c', 5, contentOf(12, 3))
  await world.importVolume('i', contentOf(40, 1))
  await write(world, 'a', 60, new Uint8Array(20 * BLOCK).fill(9))
  await write(world, 'a', 60, contentOf(20, 4))
}

/** `settle`: rewritten twice, so that aliases lead across segments and frames hold dead blocks. */
export async function makeRotPool(settle: boolean): Promise<RotPool> {
  const world = await SimWorld.create({ seed: 11, arenaMemory })
  await world.close()
  await world.open(ROT_OPTIONS)
  await fill(world)
  const { pool } = world
  if (settle) {
    await world.run(pool.settle('lz4'))
    await write(world, 'c', 30, contentOf(20, 1))
    await world.run(pool.settle('off'))
    await write(world, 'a', 2, contentOf(3, 6))
  }
  await world.run(pool.reclaim())
  // Punched holes, and slots that are dead and still there.
  await write(world, 'a', 61, contentOf(18, 5))
  if (!settle) await world.run(pool.reclaim())
  await write(world, 'c', 3, contentOf(4, 8))
  await world.run(pool.scrub({ rateBytes: null }))
  await world.close()
  await world.open(ROT_OPTIONS)
  const contents = await readAll(world)
  await world.close()
  const image = await world.run(PoolImage.take(world.io, POOL, ['segments']))
  return { image, contents }
}

/** Every disk, whole; a block that cannot be read counts in `failed` and is zeros here. */
export async function readAll(
  world: SimWorld,
  failed?: (disk: string, block: number) => void,
): Promise<Map<string, Uint8Array>> {
  const contents = new Map<string, Uint8Array>()
  for (const { name, sizeBytes } of world.pool.list()) {
    const client = world.disk(name)
    const bytes = new Uint8Array(sizeBytes)
    const stepBytes = 64 * BLOCK
    for (let at = 0; at < sizeBytes; at += stepBytes) {
      const whole = await client.read(at, stepBytes)
      if (typeof whole !== 'number') bytes.set(whole, at)
      else
        for (let one = at; one < at + stepBytes; one += BLOCK) {
          const block = await client.read(one, BLOCK)
          if (typeof block !== 'number') bytes.set(block, one)
          else if (failed !== undefined) failed(name, one / BLOCK)
          else throw new Error(`${name} cannot be read at ${one}`)
        }
    }
    client.close()
    contents.set(name, bytes)
  }
  return contents
}

/** The pool of the image, laid out on a disk of its own and not opened. */
export async function layOut(
  image: PoolImage,
  seed: number,
  damaged?: DamagedPage,
): Promise<SimWorld> {
  const world = await SimWorld.empty({ seed, arenaMemory })
  await world.run(image.lay(world.io, POOL, damaged))
  return world
}
