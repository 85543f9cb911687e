/** What an export gets of a disk: refusals, extents that do not fit, blocks that cannot be read. */
import fc from 'fast-check'
import t from 'tap'
import { Errno } from '../../../src/base/errors.ts'
import { MIB } from '../../../src/base/units.ts'
import type { ExportTarget, TargetCompletion } from '../../../src/export/target.ts'
import { EXTENT_CHANGED, ZERO_NO_HOLE } from '../../../src/export/target.ts'
import { ARENA_PIECE_BYTES_MAX } from '../../../src/io/arena.ts'
import { PageTables } from '../../../src/map/page-tables.ts'
import { Pool } from '../../../src/pool/pool.ts'
import { interpose } from '../../support/interpose.ts'
import { BLOCK, POOL, SimWorld, fillOf } from './sim-pool.ts'

t.setTimeout(300_000)

const EVERYWHERE = { offsetBytes: 0, lengthBytes: 2 ** 40 }

/** The result of one operation, which never completes inside the call. */
async function resultOf(
  world: SimWorld,
  start: (completion: TargetCompletion) => void,
): Promise<number> {
  let isInside = true
  const result = new Promise<number>((resolve, reject) => {
    start({
      targetComplete: (_tag, value) => {
        if (isInside) reject(new Error('completed inside the call'))
        else resolve(value)
      },
    })
  })
  isInside = false
  return world.run(result)
}

t.test('what no disk can do is refused, in a later turn, and does nothing', async (t) => {
  const world = await SimWorld.create({ seed: 1 })
  await world.run(world.pool.create({ name: 'a', sizeBytes: 2 * MIB }))
  const a = world.disk('a')
  await a.fill(0, BLOCK, 7)
  await world.run(world.pool.snapshot(['a@s']))
  const { target } = a
  const snapshot = world.disk('a@s').target
  const end = target.sizeBytes
  const maximum = ARENA_PIECE_BYTES_MAX
  const out = { lengths: new Float64Array(4), flags: new Uint32Array(4), count: 0 }
  const allocation = { kind: 'allocation' } as const
  const gone = { kind: 'changed-since', snapshot: 'gone' } as const
  const attempts: [number, (completion: TargetCompletion) => void][] = []
  for (const [from, length] of [
    [end, 1],
    [end - 1, 2],
    [-1, 1],
    [0, -1],
    [0, end + 1],
  ]) {
    attempts.push(
      [-Errno.EINVAL, (done) => target.read(from, length, 0, done, 0)],
      [-Errno.EINVAL, (done) => target.write(from, length, 0, 0, done, 0)],
      [-Errno.EINVAL, (done) => target.trim(from, length, 0, done, 0)],
      [-Errno.EINVAL, (done) => target.zero(from, length, ZERO_NO_HOLE, done, 0)],
      [-Errno.EINVAL, (done) => target.extents(from, length, allocation, out, done, 0)],
    )
  }
  attempts.push(
    [-Errno.EINVAL, (done) => target.read(0, maximum + 1, 0, done, 0)],
    [-Errno.EINVAL, (done) => target.write(0, maximum + 1, 0, 0, done, 0)],
    [-Errno.EINVAL, (done) => target.extents(0, 0, allocation, out, done, 0)],
    [-Errno.ENOENT, (done) => target.extents(0, 1, gone, out, done, 0)],
    [-Errno.EROFS, (done) => snapshot.write(0, BLOCK, 0, 0, done, 0)],
    [-Errno.EROFS, (done) => snapshot.trim(0, BLOCK, 0, done, 0)],
    [-Errno.EROFS, (done) => snapshot.zero(0, BLOCK, 0, done, 0)],
    [0, (done) => target.write(0, 0, 0, 0, done, 0)],
    [0, (done) => target.trim(end, 0, 0, done, 0)],
    [0, (done) => snapshot.flush(done, 0)],
  )
  for (const [expected, attempt] of attempts) t.equal(await resultOf(world, attempt), expected)
  t.same(target.snapshots?.(), ['s'])
  t.same(snapshot.snapshots?.(), ['s'])
  t.equal(fillOf(await a.read(0, BLOCK)), 7)
  t.equal(fillOf(await a.read(BLOCK, MIB)), 0)
  await world.close()
})

/** The extents of a range, asked for piece by piece with room for `room` each time. */
async function describeAll(
  world: SimWorld,
  target: ExportTarget,
  snapshot: string | null,
  startBytes: number,
  endBytes: number,
  room: number,
): Promise<string> {
  const out = { lengths: new Float64Array(room), flags: new Uint32Array(room), count: 0 }
  const context =
    snapshot === null
      ? ({ kind: 'allocation' } as const)
      : ({ kind: 'changed-since', snapshot } as const)
  let described = ''
  for (let at = startBytes; at < endBytes;) {
    const ask = (done: TargetCompletion): void =>
      target.extents(at, endBytes - at, context, out, done, 0)
    if ((await resultOf(world, ask)) !== 0 || out.count === 0) throw new Error('no extents')
    for (let i = 0; i < out.count; i += 1) {
      if (!(out.lengths[i] > 0)) throw new Error('an extent of nothing')
      described += String(out.flags[i]).repeat(out.lengths[i] / 512)
      at += out.lengths[i]
    }
    if (at > endBytes) throw new Error('extents past what was asked for')
  }
  return described
}

t.test('extents are the same however few fit, and wherever one begins to ask', async () => {
  const world = await SimWorld.create({ seed: 2 })
  await world.run(world.pool.create({ name: 'a', sizeBytes: MIB }))
  const a = world.disk('a')
  await a.fill(8 * BLOCK, 40 * BLOCK, 1)
  await world.run(world.pool.snapshot(['a@s']))
  for (const block of [3, 9, 10, 12, 30, 60]) await a.fill(block * BLOCK, BLOCK, 2)
  await a.zero(20 * BLOCK, 3 * BLOCK, ZERO_NO_HOLE)
  await a.trim(35 * BLOCK, 4 * BLOCK)
  const sectors = fc.nat(100 * 8)
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(null, 's'),
      sectors,
      sectors,
      fc.integer({ min: 1, max: 4 }),
      async (snapshot, one, other, room) => {
        const [start, end] = [Math.min(one, other) * 512, (Math.max(one, other) + 1) * 512]
        const all = await describeAll(world, a.target, snapshot, 0, MIB, 64)
        const some = await describeAll(world, a.target, snapshot, start, end, room)
        return some === all.slice(start / 512, end / 512)
      },
    ),
    { numRuns: 40, seed: 1 },
  )
  a.close()
  await world.close()
})

t.test('a map that cannot be read is an error to who asks, and the disk goes on', async (t) => {
  const world = await SimWorld.create({ seed: 3 })
  await world.run(world.pool.create({ name: 'a', sizeBytes: 8 * MIB }))
  const a = world.disk('a')
  await a.fill(0, 2 * BLOCK, 5)
  await world.run(world.pool.snapshot(['a@s']))
  await a.fill(2 * BLOCK, 2 * BLOCK, 6)
  a.close()
  for (const attempt of ['read', 'write', 'part', 'trim', 'extents', 'changed', 'copy'] as const) {
    await world.reopen()
    const client = world.disk('a')
    const { io } = world
    io.addFault({ kind: 'read-error', path: '.seg', skip: 0, times: 1, errno: 5, ...EVERYWHERE })
    const out = { lengths: new Float64Array(4), flags: new Uint32Array(4), count: 0 }
    const ask = (kind: 'allocation' | 'changed-since'): Promise<number> =>
      resultOf(world, (done) => {
        client.target.extents(0, MIB, { kind, snapshot: 's' }, out, done, 0)
      })
    if (attempt === 'read') t.equal(await client.read(0, BLOCK), -Errno.EIO)
    else if (attempt === 'write') t.equal(await client.fill(BLOCK, BLOCK, 5), -Errno.EIO)
    else if (attempt === 'part') t.equal(await client.fill(100, 100, 5), -Errno.EIO)
    else if (attempt === 'trim') t.equal(await client.trim(50, 2 * BLOCK), -Errno.EIO)
    else if (attempt === 'extents') t.equal(await ask('allocation'), -Errno.EIO)
    else if (attempt === 'changed') t.equal(await ask('changed-since'), -Errno.EIO)
    else {
      const id = world.pool.files.tryVolume('a')?.id ?? 0
      const range = { fromId: id, fromBytes: 0, toId: id, toBytes: MIB, lengthBytes: 2 * BLOCK }
      await t.rejects(world.run(world.pool.files.copyRange(range)), { code: 'io' })
    }
    t.equal(fillOf(await client.read(0, 2 * BLOCK)), 5, attempt)
    t.equal(fillOf(await client.read(2 * BLOCK, 2 * BLOCK)), 6)
    t.equal(fillOf(await client.read(MIB, 2 * BLOCK)), 0)
    t.equal(world.pool.failure, null)
    client.close()
  }
  await world.close()
})

t.test('a partial write to a block that cannot be read fails and changes nothing', async (t) => {
  const world = await SimWorld.create({ seed: 4 })
  await world.run(world.pool.create({ name: 'a', sizeBytes: MIB }))
  const a = world.disk('a')
  await a.fill(0, 2 * BLOCK, 5)
  for (const [offset, length] of [
    [100, 50],
    [0, BLOCK + 50],
    [50, BLOCK],
  ]) {
    // The map is in memory; what fails is the block.
    const fault = { path: '.seg', skip: 0, times: 1, errno: 5, ...EVERYWHERE }
    world.io.addFault({ kind: 'read-error', ...fault })
    t.equal(await a.fill(offset, length, 9), -Errno.EIO)
    t.equal(fillOf(await a.read(0, 2 * BLOCK)), 5)
  }
  t.equal(await a.fill(100, 50, 9), 0)
  t.equal(fillOf(await a.read(100, 50)), 9)
  a.close()
  await world.close()
})

t.test('what changed since a snapshot does not depend on what is in memory', async (t) => {
  const world = await SimWorld.create({ seed: 5 })
  await world.run(world.pool.create({ name: 'a', sizeBytes: 8 * MIB }))
  const a = world.disk('a')
  await a.fill(0, MIB, 1)
  await world.run(world.pool.snapshot(['a@s']))
  await a.fill(512 * BLOCK, BLOCK, 2)
  await a.zero(4 * BLOCK, 2 * BLOCK, ZERO_NO_HOLE)
  a.close()
  const expected = [
    [4 * BLOCK, 0],
    [2 * BLOCK, EXTENT_CHANGED],
    [506 * BLOCK, 0],
    [BLOCK, EXTENT_CHANGED],
    [8 * MIB - 513 * BLOCK, 0],
  ]
  for (let i = 0; i < 2; i += 1) {
    const client = world.disk('a')
    t.same(await client.extents(0, 8 * MIB, 's'), expected)
    client.close()
    const changes = await world.run(collect(world.pool.diff('a@s', 'a')))
    t.same(changes, [
      { offsetBytes: 4 * BLOCK, lengthBytes: 2 * BLOCK, kind: 'zero' },
      { offsetBytes: 512 * BLOCK, lengthBytes: BLOCK, kind: 'data' },
    ])
    const whole = await world.run(collect(world.pool.diff(null, 'a')))
    t.equal(whole.filter(({ kind }) => kind === 'data').length, 3)
    await world.reopen()
  }
  await world.close()
})

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = []
  for await (const item of items) found.push(item)
  return found
}

t.test('snapshots that go while a volume is described are left out', async (t) => {
  const world = await SimWorld.create({ seed: 6 })
  const { pool } = world
  await world.run(pool.create({ name: 'a', sizeBytes: MIB }))
  await world.run(pool.create({ name: 'b', sizeBytes: MIB }))
  await world.run(pool.snapshot(['a@s', 'a@t']))
  let removing: Promise<unknown> | null = null
  const undo = interpose(
    PageTables.prototype,
    'mappedBlockCount',
    (original) =>
      async function (this: PageTables, root) {
        const names = ['a@t', 'b']
        removing ??= pool.remove({ names, recursive: true, dryRun: false })
        await removing
        return original.call(this, root)
      },
  )
  const infos = await world.run(pool.volumes())
  undo()
  t.same(
    infos.map(({ name, snapshots }) => [name, snapshots.map((one) => one.name)]),
    [['a', ['a@s']]],
  )
  await world.close()
})

t.test('a pool is not made where one is, nor opened where none is', async (t) => {
  const world = await SimWorld.create({ seed: 7 })
  const { io, checksum } = world
  await t.rejects(world.run(Pool.create(io, checksum, POOL)), { code: 'exists' })
  await t.rejects(world.run(Pool.open(io, checksum, '/none')), { code: 'not-found' })
  await world.run(io.createDirectory('/empty'))
  await t.rejects(world.run(Pool.open(io, checksum, '/empty')), { code: 'not-found' })
  t.same(io.disk.list('/empty'), [], 'not even a lock is left')
  await t.rejects(world.run(Pool.create(io, checksum, '/no/where')), { code: 'not-found' })
  await world.close()
})
