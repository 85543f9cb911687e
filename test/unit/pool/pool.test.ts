import t from 'tap'
import {
  EXTENT_CHANGED,
  EXTENT_HOLE,
  EXTENT_ZERO,
  ZERO_NO_HOLE,
} from '../../../src/export/target.ts'
import { GIB, MIB, TIB } from '../../../src/base/units.ts'
import { Errno } from '../../../src/base/errors.ts'
import { ioResult } from '../../../src/io/io.ts'
import { BLOCK, POOL, SimWorld, fillOf } from './sim-pool.ts'
import { Pool } from '../../../src/pool/pool.ts'

t.setTimeout(120_000)

function megabyteOf(value: number): Uint8Array {
  return new Uint8Array(MIB).fill(value)
}

void t.test('thin volumes', async (t) => {
  const world = await SimWorld.create({ seed: 1 })
  const before = (await world.run(world.pool.info())).physicalBytes
  const info = await world.run(world.pool.create({ name: 'big', sizeBytes: 64 * TIB }))
  t.equal(info.mappedBytes, 0)
  const after = (await world.run(world.pool.info())).physicalBytes
  t.ok(after - before <= 4 * BLOCK, '64 TiB take a record and no more')

  const big = world.disk('big')
  t.equal(fillOf(await big.read(64 * TIB - 8192, 8192)), 0, 'the far end reads as zeros')
  t.equal(await big.fill(64 * TIB - BLOCK, BLOCK, 5), 0)
  t.same(await big.extents(0, 64 * TIB), [
    [64 * TIB - BLOCK, EXTENT_HOLE | EXTENT_ZERO],
    [BLOCK, 0],
  ])
  t.equal(await big.trim(0, 64 * TIB), 0, 'a trim of everything is one entry')
  t.same(await big.extents(0, 64 * TIB), [[64 * TIB, EXTENT_HOLE | EXTENT_ZERO]])
  t.equal(await big.fill(64 * TIB, BLOCK, 1), -Errno.EINVAL, 'past the end is refused')
  big.close()
  await world.close()
})

void t.test('trim and zero read as zeros, also after power loss', async (t) => {
  const world = await SimWorld.create({ seed: 2 })
  await world.run(world.pool.create({ name: 'a', sizeBytes: MIB }))
  let a = world.disk('a')
  await a.fill(0, 16 * BLOCK, 9)
  await a.flush()
  await a.trim(BLOCK + 100, 3 * BLOCK)
  await a.zero(8 * BLOCK, 2 * BLOCK, ZERO_NO_HOLE)
  await a.flush()
  await world.crash()
  a = world.disk('a')
  const bytes = (await a.read(0, 16 * BLOCK)) as Uint8Array
  t.equal(fillOf(bytes.subarray(0, BLOCK + 100)), 9)
  t.equal(fillOf(bytes.subarray(BLOCK + 100, 4 * BLOCK + 100)), 0)
  t.equal(fillOf(bytes.subarray(4 * BLOCK + 100, 8 * BLOCK)), 9)
  t.equal(fillOf(bytes.subarray(8 * BLOCK, 10 * BLOCK)), 0)
  t.same(await a.extents(0, 16 * BLOCK), [
    [2 * BLOCK, 0],
    [2 * BLOCK, EXTENT_HOLE | EXTENT_ZERO],
    [4 * BLOCK, 0],
    [2 * BLOCK, EXTENT_ZERO],
    [6 * BLOCK, 0],
  ])
  a.close()
  await world.close()
})

void t.test('many unaligned writes to one block, in flight together, all survive', async (t) => {
  const world = await SimWorld.create({ seed: 3 })
  await world.run(world.pool.create({ name: 'a', sizeBytes: MIB }))
  const a = world.disk('a')
  const { arena } = world.io
  const at = arena.allocate(BLOCK)
  for (let i = 0; i < BLOCK; i += 1) arena.memory[at + i] = 1 + (i % 200)
  const results: Promise<number>[] = []
  for (let sector = 0; sector < 200; sector += 1) {
    const offset = sector * 20
    results.push(
      new Promise((resolve) => {
        const done = { targetComplete: (_tag: number, result: number) => resolve(result) }
        a.target.write(offset, 20, at + offset, 0, done, 0)
      }),
    )
  }
  t.ok((await world.run(Promise.all(results))).every((result) => result === 0))
  const bytes = (await a.read(0, 4000)) as Uint8Array
  t.same(bytes, Uint8Array.from(arena.memory.subarray(at, at + 4000)))
  arena.free(at, BLOCK)
  a.close()
  await world.close()
})

void t.test('snapshots, clones, restore', async (t) => {
  const world = await SimWorld.create({ seed: 4 })
  const { pool } = world
  await world.run(pool.create({ name: 'a', sizeBytes: MIB }))
  await world.run(pool.create({ name: 'b', sizeBytes: MIB }))
  const a = world.disk('a')
  await a.fill(0, BLOCK, 1)
  await world.run(pool.snapshot(['a@s1', 'b@s1']))
  await a.fill(0, BLOCK, 2)
  await a.fill(5 * BLOCK, BLOCK, 2)
  await world.run(pool.snapshot(['a@s2']))
  t.same(await a.extents(0, 8 * BLOCK, 's1'), [
    [BLOCK, EXTENT_CHANGED],
    [4 * BLOCK, 0],
    [BLOCK, EXTENT_CHANGED],
    [2 * BLOCK, 0],
  ])
  await t.rejects(world.run(pool.restore('a@s1')), { code: 'busy' }, 'not under a client')
  a.close()
  await world.run(pool.restore('a@s1'))
  const again = world.disk('a')
  t.equal(fillOf(await again.read(0, BLOCK)), 1)
  t.equal(fillOf(await again.read(5 * BLOCK, BLOCK)), 0)
  again.close()
  const names = (await world.run(pool.volume('a'))).snapshots.map(({ name }) => name)
  t.same(names, ['a@s1', 'a@s2'], 'restore keeps newer snapshots')

  await world.run(pool.clone('a@s2', ['c1', 'c2']))
  const c1 = world.disk('c1')
  await c1.fill(0, BLOCK, 7)
  const c2 = world.disk('c2')
  t.equal(fillOf(await c2.read(0, BLOCK)), 2, 'clones do not see each other')
  c1.close()
  c2.close()
  await t.rejects(
    world.run(pool.snapshot(['a@s3', 'missing@s3'])),
    { code: 'not-found' },
    'several volumes: all',
  )
  t.equal(pool.list().filter(({ name }) => name.endsWith('@s3')).length, 0, 'or nothing')
  await world.run(pool.remove({ names: ['a'], recursive: true, dryRun: false }))
  await world.reopen()
  const left = world.disk('c2')
  t.equal(fillOf(await left.read(0, BLOCK)), 2, 'a clone outlives what it came from')
  left.close()
  await world.close()
})

void t.test('what is held or exported is not removed, and says by whom', async (t) => {
  const world = await SimWorld.create({ seed: 5 })
  const { pool } = world
  await world.run(pool.create({ name: 'a', sizeBytes: MIB }))
  await world.run(pool.snapshot(['a@s1']))
  const request = { names: ['a@s1'], recursive: false, dryRun: false }
  await world.run(pool.hold('a@s1', 'backup'))
  await t.rejects(world.run(pool.remove(request)), { code: 'busy', message: /held by "backup"/ })
  await world.run(pool.release('a@s1', 'backup'))
  const client = world.disk('a@s1')
  await t.rejects(world.run(pool.remove(request)), { code: 'busy', message: /in use by a test/ })
  client.close()
  await t.rejects(world.run(pool.remove({ ...request, names: ['a'] })), {
    code: 'busy',
    details: { holders: ['a@s1'] },
  })
  t.same((await world.run(pool.remove(request))).removed, ['a@s1'])
  await world.close()
})

void t.test('a dry run says exactly what reclaim gives back', async (t) => {
  const world = await SimWorld.create({ seed: 6 })
  const { pool } = world
  await world.run(pool.create({ name: 'a', sizeBytes: 64 * MIB }))
  const a = world.disk('a')
  for (let i = 0; i < 8; i += 1) await a.fill(i * MIB, MIB, 1 + i)
  await world.run(pool.snapshot(['a@s1']))
  await a.fill(0, MIB, 99)
  a.close()
  await world.run(pool.checkpoint())
  const dry = { names: ['a@s1'], recursive: false, dryRun: true }
  const { freedBytes } = await world.run(pool.remove(dry))
  // Its first MiB, and its own leaf and the three nodes above.
  t.equal(freedBytes, MIB + 4 * BLOCK)
  const before = (await world.run(pool.reclaim())).liveBytes
  await world.run(pool.remove({ ...dry, dryRun: false }))
  const after = await world.run(pool.reclaim())
  // The catalogue, written in full both times, may differ by a block.
  t.ok(Math.abs(before - after.liveBytes - (freedBytes ?? 0)) <= BLOCK)
  await world.run(pool.remove({ names: ['a'], recursive: true, dryRun: false }))
  const last = await world.run(pool.reclaim())
  t.ok(last.physicalAfterBytes < MIB, 'after removing everything almost nothing is left')
  t.ok(last.physicalBeforeBytes > 8 * MIB)
  await world.close()
})

void t.test('reclaim beside reads, writes and an import loses nothing', async (t) => {
  const world = await SimWorld.create({ seed: 7 })
  const { pool } = world
  await world.run(pool.create({ name: 'a', sizeBytes: 64 * MIB }))
  const a = world.disk('a')
  for (let round = 1; round <= 6; round += 1) {
    const bulk = await world.run(pool.beginImport({ name: `image${round}`, sizeBytes: 4 * MIB }))
    const reclaiming = pool.reclaim()
    for (let i = 0; i < 4; i += 1) {
      await a.fill(i * MIB, MIB, round)
      await world.run(bulk.write(i * MIB, megabyteOf(round + i)))
      t.equal(fillOf(await a.read(i * MIB, BLOCK)), round)
    }
    await world.run(reclaiming)
    // An odd round learns only at the end how long its image is.
    const { sizeBytes } = await world.run(bulk.commit(round % 2 === 1 ? 4 * MIB - 512 : undefined))
    t.equal(sizeBytes, round % 2 === 1 ? 4 * MIB - 512 : 4 * MIB)
    const image = world.disk(`image${round}`)
    t.equal(fillOf(await image.read(3 * MIB, BLOCK)), round + 3)
    image.close()
  }
  a.close()
  await world.run(pool.reclaim())
  await world.crash()
  const again = world.disk('a')
  t.equal(fillOf(await again.read(3 * MIB, MIB)), 6)
  again.close()
  t.same(world.damage, [])
  await world.close()
})

void t.test('an import that fails, is aborted or is cut off leaves nothing behind', async (t) => {
  const world = await SimWorld.create({ seed: 8 })
  const segments = async (): Promise<number> => (await world.run(world.pool.info())).segmentCount
  const before = await segments()
  const request = { name: 'image', sizeBytes: GIB }
  const aborted = await world.run(world.pool.beginImport(request))
  await world.run(aborted.write(0, megabyteOf(3)))
  t.ok((await segments()) > before)
  await world.run(aborted.abort())
  t.equal(await segments(), before)
  const cut = await world.run(world.pool.beginImport(request))
  await world.run(cut.write(0, megabyteOf(3)))
  await world.run(world.pool.checkpoint())
  await world.crash()
  const { physicalBytes } = await world.run(world.pool.info())
  t.ok(physicalBytes < MIB, 'the cut import’s segments are gone')
  t.same(world.pool.list(), [])
  t.equal((await world.run(world.pool.reclaim())).liveBytes, 0)
  await world.close()
})

void t.test('a shrink destroys what it cuts off, for good', async (t) => {
  const world = await SimWorld.create({ seed: 9 })
  const { pool } = world
  await world.run(pool.create({ name: 'a', sizeBytes: MIB }))
  const a = world.disk('a')
  await a.fill(0, MIB, 4)
  a.close()
  const small = 10 * BLOCK + 512
  await t.rejects(world.run(pool.resize('a', small, false)), { code: 'usage' })
  const shrinking = pool.resize('a', small, true)
  t.throws(() => pool.openTarget('a', 'too early'), { code: 'busy' }, 'nobody comes meanwhile')
  await world.run(shrinking)
  await world.run(pool.resize('a', MIB, false))
  await world.reopen()
  const again = world.disk('a')
  t.equal(fillOf(await again.read(0, small)), 4)
  t.equal(fillOf(await again.read(small, MIB - small)), 0)
  again.close()
  await world.close()
})

void t.test('a second opener is refused and told who has it', async (t) => {
  const world = await SimWorld.create({ seed: 10 })
  await world.close()
  await world.open({ holder: 'the first one' })
  const other = world.io.another()
  await t.rejects(other.runUntil(Pool.open(other, world.checksum, POOL)), {
    code: 'busy',
    details: { holder: 'the first one' },
  })
  await world.crash()
  await world.close()
  t.pass('a lock whose holder died is no lock')
})

void t.test('I8: a block that rotted is an error with its address, never data', async (t) => {
  const world = await SimWorld.create({ seed: 11 })
  await world.run(world.pool.create({ name: 'a', sizeBytes: MIB }))
  const a = world.disk('a')
  await a.fill(0, 4 * BLOCK, 6)
  a.close()
  await world.close()
  t.equal(await flipPayload(world, 6), 4)
  await world.open()
  const again = world.disk('a')
  t.equal(await again.read(0, 4 * BLOCK), -Errno.EIO)
  t.match(world.damage[0], /does not match its checksum/)
  t.equal(fillOf(await again.read(8 * BLOCK, BLOCK)), 0, 'the rest is served')
  again.close()
  await world.close()
})

/** Flips a bit in every stored block that is all `value`; returns how many. */
async function flipPayload(world: SimWorld, value: number): Promise<number> {
  const { io } = world
  const at = io.arena.allocate(BLOCK)
  let flipped = 0
  for (const name of await world.run(io.list(`${POOL}/segments`))) {
    const file = await world.run(io.open(`${POOL}/segments/${name}`, 'read'))
    for (let offset = 0; offset < MIB; offset += BLOCK) {
      await world.run(ioResult((completion) => io.read(file, offset, at, BLOCK, completion, 0)))
      if (!io.arena.memory.subarray(at, at + BLOCK).every((byte) => byte === value)) continue
      io.disk.flipBit(file.path, offset + 1000, 3)
      flipped += 1
    }
    await world.run(io.close(file))
  }
  io.arena.free(at, BLOCK)
  return flipped
}

void t.test('many reads that need the same checksum page at once all get it', async (t) => {
  const world = await SimWorld.create({ seed: 14 })
  await world.run(world.pool.create({ name: 'a', sizeBytes: MIB }))
  const a = world.disk('a')
  await a.fill(0, 64 * BLOCK, 6)
  a.close()
  await world.reopen()
  const again = world.disk('a')
  const { arena } = world.io
  const at = arena.allocate(64 * BLOCK)
  const reads = Array.from({ length: 64 }, (_, i) => {
    return new Promise<number>((resolve) => {
      const done = { targetComplete: (_tag: number, result: number) => resolve(result) }
      again.target.read(i * BLOCK, BLOCK, at + i * BLOCK, done, 0)
    })
  })
  t.ok((await world.run(Promise.all(reads))).every((result) => result === 0))
  t.ok(arena.memory.subarray(at, at + 64 * BLOCK).every((byte) => byte === 6))
  arena.free(at, 64 * BLOCK)
  again.close()
  await world.close()
})

void t.test('I9: a full pool refuses writes, deletes, reclaims and goes on', async (t) => {
  const world = await SimWorld.create({ seed: 12, capacityBytes: 96 * MIB })
  const { pool } = world
  await world.run(pool.create({ name: 'a', sizeBytes: GIB }))
  await world.run(pool.create({ name: 'b', sizeBytes: GIB }))
  const a = world.disk('a')
  const b = world.disk('b')
  await b.fill(0, BLOCK, 3)
  let offset = 0
  let result = 0
  while (result === 0) {
    result = await a.fill(offset, MIB, 8)
    if (result === 0) offset += MIB
  }
  t.equal(result, -Errno.ENOSPC)
  t.ok(offset > 32 * MIB, 'most of the disk could be used')
  t.equal(fillOf(await a.read(0, BLOCK)), 8, 'reads go on')
  t.equal(fillOf(await a.read(offset, BLOCK)), 0, 'nothing is half done')
  let small = 0
  for (let i = 1; small === 0 && i < 2000; i += 1) small = await b.fill(i * BLOCK, BLOCK, 4)
  t.equal(small, -Errno.ENOSPC, 'for every disk')
  t.equal(pool.failure, null, 'full is not failed')
  a.close()
  await world.run(pool.remove({ names: ['a'], recursive: false, dryRun: false }))
  await world.run(pool.reclaim())
  t.equal(await b.fill(0, MIB, 5), 0, 'writable again')
  b.close()
  await world.reopen()
  const again = world.disk('b')
  t.equal(fillOf(await again.read(0, MIB)), 5)
  again.close()
  await world.close()
})

void t.test('I10: after a failed sync nothing is written until the pool is reopened', async (t) => {
  const world = await SimWorld.create({ seed: 13 })
  await world.run(world.pool.create({ name: 'a', sizeBytes: MIB }))
  const a = world.disk('a')
  await a.fill(0, BLOCK, 1)
  t.equal(await a.flush(), 0)
  world.io.addFault({ kind: 'sync-error', path: '.seg', skip: 0, times: 1, errno: Errno.EIO })
  await a.fill(BLOCK, BLOCK, 2)
  t.equal(await a.flush(), -Errno.EIO)
  t.equal(await a.fill(0, BLOCK, 3), -Errno.EIO, 'no write')
  t.equal(await a.flush(), -Errno.EIO, 'no second sync that pretends')
  t.equal(fillOf(await a.read(0, BLOCK)), 1, 'reads go on')
  await t.rejects(world.run(world.pool.create({ name: 'b', sizeBytes: MIB })), {
    code: 'pool-failed',
  })
  t.match(world.pool.failure, /errno 5/)
  a.close()
  await world.reopen()
  const again = world.disk('a')
  t.equal(fillOf(await again.read(0, BLOCK)), 1)
  t.equal(await again.fill(0, BLOCK, 4), 0)
  again.close()
  await world.close()
})
