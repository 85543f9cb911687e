/** The check on what the pool itself has settled, sound and damaged. */
import fc from 'fast-check'
import t from 'tap'
import { MIB } from '../../../src/base/units.ts'
import type { CheckReport } from '../../../src/check/check.ts'
import { checkPool } from '../../../src/check/check.ts'
import {
  FOOTER_SLOT,
  SEGMENT_FOLDER,
  segmentFileName,
  tryParseSegmentFileName,
} from '../../../src/format/segment.ts'
import type { Compression } from '../../../src/pool/types.ts'
import { deflateCodecs } from '../../support/deflate-codecs.ts'
import { BLOCK, POOL, SimWorld } from '../pool/sim-pool.ts'

const arenaMemory = Buffer.alloc(24 * MIB)

/** Blocks that repeat, some of them zeros; each compresses. */
function contentOf(blockCount: number, salt: number): Uint8Array {
  const bytes = new Uint8Array(blockCount * BLOCK)
  for (let i = 0; i < blockCount; i += 1) {
    if (i % 5 === 0) continue
    const seed = i % 5 === 1 ? 7 : i * 131 + salt
    for (let at = 0; at < BLOCK; at += 1) bytes[i * BLOCK + at] = (seed >> (at & 3)) + (at >> 6)
  }
  return bytes
}

/** A closed pool with two volumes, a snapshot and settled segments. */
async function settledWorld(compression: Compression): Promise<SimWorld> {
  const world = await SimWorld.create({ seed: 5, arenaMemory })
  await world.close()
  await world.open({ codecs: deflateCodecs })
  for (const [salt, name] of ['a', 'b'].entries()) {
    await world.run(world.pool.create({ name, sizeBytes: MIB }))
    const client = world.disk(name)
    await client.write(0, contentOf(100, salt))
    await client.flush()
    client.close()
  }
  await world.run(world.pool.snapshot(['a@s']))
  const first = await world.run(world.pool.settle(compression))
  if (first.duplicateBytes === 0 || first.zeroBytes === 0) throw new Error('nothing repeats')
  // Once more: what the first has settled is rewritten beside what it has aliases to.
  const client = world.disk('b')
  await client.write(BLOCK, contentOf(60, 0))
  client.close()
  await world.run(world.pool.settle(compression))
  await world.close()
  return world
}

async function check(world: SimWorld): Promise<CheckReport> {
  return world.run(checkPool(world.io, world.checksum, deflateCodecs, POOL))
}

/** Changes bytes of a closed pool's file; again, and they are as they were. */
async function flip(world: SimWorld, id: number, offsetBytes: number, bit: number): Promise<void> {
  const { io } = world
  const path = `${POOL}/${SEGMENT_FOLDER}/${segmentFileName(id)}`
  const file = await world.run(io.open(path, 'write'))
  const piece = io.arena.allocate(BLOCK)
  await world.run(
    new Promise<void>((resolve) => {
      io.read(file, offsetBytes, piece, 1, { ioComplete: () => resolve() }, 0)
    }),
  )
  io.arena.memory[piece] ^= 1 << bit
  io.writeSync(file, offsetBytes, { pairs: Uint32Array.of(piece, 1), count: 1 })
  io.arena.free(piece, BLOCK)
  await world.run(io.close(file))
}

/** The first segment whose file has a directory behind its slots. */
async function findSettled(world: SimWorld): Promise<number> {
  const { io } = world
  for (const name of (await world.run(io.list(`${POOL}/${SEGMENT_FOLDER}`))).sort()) {
    const file = await world.run(io.open(`${POOL}/${SEGMENT_FOLDER}/${name}`, 'read'))
    const { sizeBytes } = await world.run(io.stat(file))
    await world.run(io.close(file))
    const id = tryParseSegmentFileName(name)
    if (id !== null && sizeBytes > 16384 * BLOCK) return id
  }
  throw new Error('nothing was settled')
}

async function readsAsBefore(world: SimWorld): Promise<boolean> {
  await world.open({ codecs: deflateCodecs })
  let isSame = true
  for (const name of ['a', 'a@s']) {
    const client = world.disk(name)
    const bytes = await client.read(0, 100 * BLOCK)
    if (typeof bytes === 'number' || Buffer.compare(bytes, contentOf(100, 0)) !== 0) isSame = false
    client.close()
  }
  await world.close()
  return isSame
}

for (const compression of ['off', 'lz4', 'zstd'] as const) {
  t.test(
    `a pool settled with ${compression} is sound, reads as before, and is so again`,
    async (t) => {
      const world = await settledWorld(compression)
      const report = await check(world)
      t.strictSame([...report.errors, ...report.leaks, ...report.warnings], [])
      t.equal(report.verifiedBytes, report.liveBlockCount * BLOCK)
      t.ok(await readsAsBefore(world))
      t.strictSame((await check(world)).errors, [])
    },
  )
}

t.test(
  'after any flipped bit the check finds something, or the pool reads as before',
  async (t) => {
    const world = await settledWorld('lz4')
    const sound = await check(world)
    t.strictSame(sound.errors, [])
    const id = await findSettled(world)
    const place = fc.oneof(
      fc.nat({ max: BLOCK - 1 }),
      fc.integer({ min: BLOCK, max: BLOCK + 24000 }),
      fc.integer({ min: FOOTER_SLOT * BLOCK, max: FOOTER_SLOT * BLOCK + 455 }),
      fc.integer({ min: 16384 * BLOCK, max: 16384 * BLOCK + 1500 }),
    )
    let foundCount = 0
    const property = fc.asyncProperty(place, fc.nat({ max: 7 }), async (offsetBytes, bit) => {
      await flip(world, id, offsetBytes, bit)
      const report = await check(world)
      const found = report.errors.length > 0
      if (found) foundCount += 1
      const isSame = found || (await readsAsBefore(world))
      await flip(world, id, offsetBytes, bit)
      return isSame
    })
    await fc.assert(property, { numRuns: 40, seed: 3 })
    t.ok(foundCount > 10, `${foundCount} found`)
  },
)
