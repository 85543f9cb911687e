/** Volumes as files: any size, growth with every write, shrinks and copies beside writers. */
import fc from 'fast-check'
import t from 'tap'
import { EXTENT_HOLE, EXTENT_ZERO } from '../../../src/export/target.ts'
import { Errno } from '../../../src/base/errors.ts'
import { GIB, MIB, TIB } from '../../../src/base/units.ts'
import { missingCodecs } from '../../../src/base/codec.ts'
import { checkPool } from '../../../src/check/check.ts'
import { exportRaw } from '../../../src/image/export-raw.ts'
import type { PoolFiles } from '../../../src/pool/pool-files.ts'
import { BLOCK, POOL, SimWorld, fillOf } from './sim-pool.ts'
import type { SimClient } from './sim-pool.ts'

t.setTimeout(240_000)

const own = (client: string): boolean => client.startsWith('fuse')
const HOLE = EXTENT_HOLE | EXTENT_ZERO

class FileWorld {
  readonly world: SimWorld

  constructor(world: SimWorld) {
    this.world = world
  }

  static async create(seed: number): Promise<FileWorld> {
    return new FileWorld(await SimWorld.create({ seed }))
  }

  get files(): PoolFiles {
    return this.world.pool.files
  }

  async create(name: string, sizeBytes = 0): Promise<number> {
    const { id } = await this.world.run(this.files.create(name))
    if (sizeBytes > 0) await this.resize(id, sizeBytes)
    return id
  }

  resize(id: number, sizeBytes: number): Promise<void> {
    return this.world.run(this.files.resize(id, sizeBytes, own))
  }

  copy(fromId: number, fromBytes: number, toId: number, toBytes: number, lengthBytes: number) {
    return this.world.run(this.files.copyRange({ fromId, fromBytes, toId, toBytes, lengthBytes }))
  }

  async bytes(name: string): Promise<Buffer> {
    const client = this.world.disk(name)
    const { sizeBytes } = client.target
    const bytes = Buffer.alloc(sizeBytes)
    for (let at = 0; at < sizeBytes; at += MIB) {
      const part = await client.read(at, Math.min(MIB, sizeBytes - at))
      if (typeof part === 'number') throw new Error(`${name}: errno ${part}`)
      bytes.set(part, at)
    }
    client.close()
    return bytes
  }

  /** Findings of a check of the closed pool, which is open again afterwards. */
  async check(): Promise<string[]> {
    await this.world.close()
    const { io, checksum } = this.world
    const { errors, leaks } = await this.world.run(checkPool(io, checksum, missingCodecs(), POOL))
    await this.world.open()
    return [...errors, ...leaks].map(({ code, where }) => `${code} ${where}`)
  }
}

/** Byte values that differ from place to place and from write to write. */
function pattern(lengthBytes: number, value: number): Uint8Array {
  return Uint8Array.from({ length: lengthBytes }, (_, i) => 1 + ((value * 31 + i * 7) % 251))
}

function resized(bytes: Buffer, sizeBytes: number): Buffer {
  const result = Buffer.alloc(sizeBytes)
  bytes.copy(result, 0, 0, Math.min(bytes.length, sizeBytes))
  return result
}

void t.test('a volume of no bytes, and of the most', async (t) => {
  const one = await FileWorld.create(1)
  const { world } = one
  const id = await one.create('a')
  const a = world.disk('a')
  t.equal(a.target.sizeBytes, 0)
  t.equal(await a.fill(0, 1, 1), -Errno.EINVAL)
  t.equal(await a.trim(0, 0), 0)
  t.same(world.pool.list(), [{ name: 'a', sizeBytes: 0, readOnly: false }])
  await world.run(world.pool.snapshot(['a@s']))
  await world.run(world.pool.clone('a@s', ['b']))
  for await (const extent of world.pool.diff('a@s', 'a')) t.fail(JSON.stringify(extent))
  a.close()
  await one.resize(id, 256 * TIB)
  t.equal(one.files.tryDisk(id)?.sizeBytes, 256 * TIB)
  const end = world.disk('a')
  t.equal(await end.fill(256 * TIB - 5, 5, 7), 0)
  t.same(await end.extents(256 * TIB - 8192, 8192), [
    [BLOCK, HOLE],
    [BLOCK, 0],
  ])
  end.close()
  await t.rejects(one.resize(id, 256 * TIB + 1), { code: 'out-of-range' })
  await t.rejects(one.resize(id, -1), { code: 'usage' })
  await t.rejects(one.resize(id, 0.5), { code: 'usage' })
  await t.rejects(one.resize(77, 1), { code: 'not-found' })
  const snapshot = one.files.trySnapshot(id, 's')
  await t.rejects(one.resize(snapshot?.id ?? 0, 1), { code: 'read-only' })
  t.same(await one.check(), [])
  await one.resize(id, 0)
  t.equal(await world.run(one.files.mappedBytes(id)), 0)
  const small = { name: 'c', sizeBytes: 0 }
  await t.rejects(world.run(world.pool.create(small)), { code: 'usage' }, 'not by command')
  await t.rejects(world.run(world.pool.resize('a', 513, false)), { code: 'usage' })
  t.same(await one.check(), [])
  await world.close()
})

void t.test('the ends of volumes of odd sizes', async (t) => {
  const one = await FileWorld.create(2)
  const { world } = one
  const size = 3 * BLOCK + 1001
  const id = await one.create('a', size)
  const a = world.disk('a')
  const bytes = pattern(size, 1)
  t.equal(await a.write(0, bytes), 0)
  t.equal(await a.fill(size - 1, 2, 1), -Errno.EINVAL)
  t.same(await a.extents(0, size), [[size, 0]])
  await world.run(world.pool.snapshot(['a@s']))
  t.equal(await a.trim(2 * BLOCK, BLOCK + 1001), 0, 'to the end')
  t.same(await a.extents(0, size), [
    [2 * BLOCK, 0],
    [BLOCK + 1001, HOLE],
  ])
  a.close()
  await one.resize(id, 4 * BLOCK)
  t.same(await one.bytes('a'), resized(Buffer.from(bytes.subarray(0, 2 * BLOCK)), 4 * BLOCK))
  const found = []
  for await (const extent of world.pool.diff('a@s', 'a')) found.push(extent)
  t.same(found, [{ offsetBytes: 2 * BLOCK, lengthBytes: 2 * BLOCK, kind: 'zero' }])
  await world.run(world.pool.restore('a@s'))
  t.same(await one.bytes('a'), Buffer.from(bytes))
  await world.run(world.pool.clone('a', ['b']))
  t.same(await one.bytes('b'), Buffer.from(bytes))
  t.same(await one.check(), [])
  await world.close()
})

interface Action {
  kind: 'write' | 'trim' | 'resize' | 'flush' | 'snapshot' | 'crash'
  at: number
  count: number
}

const actions = fc.array(
  fc.record({
    kind: fc.constantFrom<Action['kind']>(
      'write',
      'write',
      'trim',
      'resize',
      'resize',
      'flush',
      'snapshot',
      'crash',
    ),
    at: fc.nat(20_000),
    count: fc.integer({ min: 1, max: 9000 }),
  }),
  { minLength: 1, maxLength: 25 },
)

void t.test('a volume is a file: writes, trims and lengths one after another', async (t) => {
  await fc.assert(
    fc.asyncProperty(actions, fc.nat(), async (list, seed) => {
      const one = await FileWorld.create(seed)
      const id = await one.create('a')
      let model: Buffer = Buffer.alloc(0)
      const snapshots: Buffer[] = []
      for (const [index, { kind, at, count }] of list.entries()) {
        if (kind === 'resize') {
          await one.resize(id, at)
          model = resized(model, at)
        } else if (kind === 'snapshot') {
          await one.world.run(one.files.snapshot(id, `s${snapshots.length}`))
          snapshots.push(Buffer.from(model))
        } else if (kind === 'crash') {
          const flusher = one.world.disk('a')
          await flusher.flush()
          await one.world.crash()
        } else {
          const client = one.world.disk('a')
          const length = Math.max(0, Math.min(count, model.length - at))
          if (kind === 'flush') await client.flush()
          else if (length > 0 && kind === 'trim') {
            t.equal(await client.trim(at, length), 0)
            model.fill(0, at, at + length)
          } else if (length > 0) {
            const bytes = pattern(length, index)
            t.equal(await client.write(at, bytes), 0)
            model.set(bytes, at)
          }
          client.close()
        }
        t.same(await one.bytes('a'), model)
      }
      for (const [index, bytes] of snapshots.entries()) {
        t.same(await one.bytes(`a@s${index}`), bytes)
      }
      // What is behind the end stays away for good.
      await one.resize(id, model.length + 3 * BLOCK)
      t.same(await one.bytes('a'), resized(model, model.length + 3 * BLOCK))
      t.same(await one.check(), [])
      await one.world.close()
    }),
    { numRuns: 60 },
  )
})

function started(
  client: SimClient,
  one: FileWorld,
  at: number,
  bytes: Uint8Array,
): Promise<number> {
  const { arena } = one.world.io
  const piece = arena.allocate(bytes.length)
  arena.memory.set(bytes, piece)
  return new Promise((resolve) => {
    const targetComplete = (_tag: number, result: number): void => {
      arena.free(piece, bytes.length)
      resolve(result)
    }
    client.target.write(at, bytes.length, piece, 0, { targetComplete }, 0)
  })
}

const inFlight = fc.array(
  fc.record({
    kind: fc.constantFrom('write', 'write', 'write', 'shrink', 'grow', 'pause'),
    at: fc.nat(30_000),
    count: fc.integer({ min: 1, max: 9000 }),
  }),
  { minLength: 2, maxLength: 40 },
)

void t.test('shrinks beside writers: nothing behind the end, nothing lost before it', async (t) => {
  await fc.assert(
    fc.asyncProperty(inFlight, fc.nat(), async (list, seed) => {
      const one = await FileWorld.create(seed)
      const { world } = one
      const id = await one.create('a', 40_000)
      await world.run(one.files.snapshot(id, 's'))
      const client = world.disk('a')
      await client.write(0, pattern(40_000, 200))
      client.close()
      // Cold maps, so that operations wait for nodes.
      await world.reopen()
      const writer = one.files.open(id, 'fuse a writer')
      const open = { target: writer } as unknown as SimClient
      const model = Buffer.from(pattern(40_000, 200))
      let leastBytes = 40_000
      const waits: Promise<unknown>[] = []
      for (const [index, { kind, at, count }] of list.entries()) {
        if (kind === 'shrink' || kind === 'grow') {
          const sizeBytes = kind === 'shrink' ? at : writer.sizeBytes + count
          leastBytes = Math.min(leastBytes, sizeBytes)
          waits.push(one.files.resize(id, sizeBytes, own))
        } else if (kind === 'pause') {
          await world.run(new Promise<void>((resolve) => world.io.setTimer(0.05, resolve)))
        } else {
          const length = Math.min(count, writer.sizeBytes - at)
          if (length <= 0) continue
          const bytes = pattern(length, index)
          model.set(bytes.subarray(0, Math.max(0, model.length - at)), at)
          waits.push(started(open, one, at, bytes).then((result) => t.equal(result, 0)))
        }
      }
      await world.run(Promise.all(waits))
      writer.close()
      const { sizeBytes } = one.files.mustDisk(id)
      const before = await one.bytes('a')
      t.same(before.subarray(0, leastBytes), model.subarray(0, leastBytes))
      await one.resize(id, sizeBytes + 20_000)
      t.same(await one.bytes('a'), resized(before, sizeBytes + 20_000))
      t.same(await one.check(), [])
      t.same(await one.bytes('a'), resized(before, sizeBytes + 20_000))
      await world.close()
    }),
    { numRuns: 60 },
  )
})

void t.test('an image of a volume is as long as it, to the byte', async (t) => {
  const one = await FileWorld.create(4)
  const { world } = one
  for (const [name, sizeBytes] of Object.entries({ none: 0, one: 1, odd: 2 * MIB + 1234 })) {
    await one.create(name, sizeBytes)
    const client = world.disk(name)
    if (sizeBytes > 100) await client.write(sizeBytes - 100, pattern(100, 1))
    const parts: Uint8Array[] = []
    const sink = {
      data: async (bytes: Uint8Array) => void parts.push(Uint8Array.from(bytes)),
      zeros: async (lengthBytes: number) => void parts.push(new Uint8Array(lengthBytes)),
    }
    await world.run(exportRaw(client.target, world.io.arena, sink, {}))
    client.close()
    t.ok(Buffer.concat(parts).equals(await one.bytes(name)), name)
  }
  await world.close()
})

void t.test('a growth that another overtook does nothing', async (t) => {
  const one = await FileWorld.create(5)
  const id = await one.create('a', 100)
  const sizes = [9000, 5000, 70_000, 300]
  const { files, world } = one
  await world.run(Promise.all(sizes.map((size) => files.resize(id, size, own))))
  t.equal(files.mustDisk(id).sizeBytes, 70_000)
  const growing = files.resize(id, 80_000, own)
  const removing = world.pool.remove({ names: ['a'], recursive: false, dryRun: false })
  const outcomes = await world.run(Promise.allSettled([growing, removing]))
  t.match(outcomes[0], { status: 'rejected', reason: { code: 'not-found' } })
  t.equal(outcomes[1].status, 'fulfilled')
  t.same(await one.check(), [])
  await world.close()
})

void t.test('sizes are durable with the next flush, of any disk', async (t) => {
  const one = await FileWorld.create(6)
  const { world } = one
  const a = await one.create('a')
  await one.create('b')
  await one.resize(a, 12_345)
  const b = world.disk('b')
  t.equal(await b.flush(), 0)
  await world.crash()
  t.equal(one.files.mustDisk(a).sizeBytes, 12_345)
  await one.resize(a, 777)
  const again = world.disk('b')
  t.equal(await again.flush(), 0)
  await world.crash()
  t.equal(one.files.mustDisk(a).sizeBytes, 777)
  await world.close()
})

void t.test('who may be there while a volume shrinks', async (t) => {
  const one = await FileWorld.create(7)
  const { world, files } = one
  const id = await one.create('a', 10_000)
  const guest = world.disk('a')
  await t.rejects(one.resize(id, 5000), { code: 'busy', message: /in use by a test/ })
  await one.resize(id, 20_000)
  t.equal(guest.target.sizeBytes, 20_000, 'growing disturbs nobody')
  guest.close()
  const mine = files.open(id, 'fuse 1')
  await t.rejects(world.run(world.pool.resize('a', 512, true)), { code: 'busy' })
  const shrinking = files.resize(id, 5000, own)
  t.throws(() => world.pool.openTarget('a', 'nbd'), { code: 'busy' })
  const other = files.open(id, 'fuse 2')
  await t.rejects(world.run(files.remove(id)), { code: 'busy' })
  const both = Promise.all([shrinking, files.resize(id, 700, own)])
  await world.run(both)
  t.equal(mine.sizeBytes, 700)
  mine.close()
  other.close()
  await world.run(files.rename(id, 'b'))
  t.equal(files.tryVolume('b')?.id, id)
  await t.rejects(world.run(files.rename(id, 'b')), { code: 'exists' })
  await t.rejects(world.run(files.rename(id, 'x@y')), { code: 'usage' })
  const snapshot = await world.run(files.snapshot(id, 's'))
  await t.rejects(world.run(files.remove(id)), { code: 'busy' }, 'it has a snapshot')
  await world.run(files.rename(snapshot.id, 't'))
  t.same(
    files.snapshots(id)?.map(({ name }) => name),
    ['t'],
  )
  t.equal(files.snapshots(snapshot.id), null)
  await world.run(files.remove(snapshot.id))
  await world.run(files.remove(id))
  t.equal(files.tryDisk(id), null)
  t.throws(() => files.open(id, 'fuse 3'), { code: 'not-found' })
  await world.close()
})

void t.test('a disk knows when its bytes last changed', async (t) => {
  const one = await FileWorld.create(8)
  const { world } = one
  const at = (): number => one.files.mustDisk(id).modifiedMs
  const now = (): number => Math.floor(world.io.wallClockMs())
  const wait = (ms: number): Promise<void> =>
    world.run(new Promise<void>((resolve) => world.io.setTimer(ms, resolve)))
  const id = await one.create('a', MIB)
  let before = at()
  const changes: (() => Promise<unknown>)[] = [
    () => world.run(withDisk((disk) => disk.fill(0, BLOCK, 1))),
    () => world.run(withDisk((disk) => disk.trim(0, BLOCK))),
    () => one.resize(id, 2 * MIB),
    () => one.resize(id, MIB),
  ]
  for (const change of changes) {
    await wait(1000)
    await change()
    t.ok(at() >= before + 1000 && at() <= now(), 'a change is seen')
    before = at()
  }
  const { createdMs } = one.files.mustDisk(id)
  await wait(1000)
  await world.run(withDisk((disk) => disk.read(0, BLOCK)))
  const snapshot = await world.run(one.files.snapshot(id, 's'))
  t.equal(snapshot.modifiedMs, before, 'a snapshot is as old as its bytes')
  t.equal(at(), before, 'neither a read nor a snapshot is a change')
  one.files.setModified(id, 1234.9)
  t.equal(at(), 1234)
  await world.reopen()
  t.equal(at(), 1234, 'kept by a checkpoint')
  t.equal(one.files.mustDisk(id).createdMs, createdMs)
  t.throws(() => one.files.setModified(snapshot.id, 1), { code: 'read-only' })
  t.throws(() => one.files.setModified(id, NaN), { code: 'usage' })
  one.files.setModified(id, 1e300)
  await world.reopen()
  t.ok(new Date(at()).toISOString())
  one.files.setModified(id, -5)
  t.equal(at(), 0)
  const [info] = await world.run(world.pool.volumes())
  t.equal(info.modifiedMs, 0)
  await world.run(
    withDisk(async (disk) => {
      await disk.fill(0, BLOCK, 3)
      return disk.flush()
    }),
  )
  await world.crash()
  t.ok(at() > 1_000_000, 'what is replayed changed now')
  await wait(1000)
  before = at()
  await world.run(world.pool.restore('a@s'))
  t.ok(at() >= before + 1000)
  await world.close()

  async function withDisk<T>(act: (disk: SimClient) => Promise<T>): Promise<T> {
    const disk = world.disk('a')
    const result = await act(disk)
    disk.close()
    return result
  }
})

const copies = fc.array(
  fc.record({
    kind: fc.constantFrom('copy', 'copy', 'write', 'trim', 'zero', 'reopen', 'reclaim', 'crash'),
    from: fc.nat(2),
    to: fc.nat(1),
    a: fc.nat(1100),
    b: fc.nat(1100),
    count: fc.integer({ min: 1, max: 600 }),
  }),
  { minLength: 1, maxLength: 14 },
)

/** Seams of leaves lie within. */
const COPY_BLOCKS = 1100
const COPY_BYTES = COPY_BLOCKS * BLOCK

void t.test('a copied range is what the source was, and stays so', async (t) => {
  await fc.assert(
    fc.asyncProperty(copies, fc.nat(), async (list, seed) => {
      const one = await FileWorld.create(seed)
      const { world } = one
      const names = ['a', 'b', 'a@s']
      const ids = [await one.create('a', COPY_BYTES), await one.create('b', COPY_BYTES)]
      const client = world.disk('a')
      await client.write(100 * BLOCK, pattern(200 * BLOCK, 3))
      await client.write(900 * BLOCK, pattern(200 * BLOCK, 4))
      client.close()
      ids.push((await world.run(one.files.snapshot(ids[0], 's'))).id)
      const models = [await one.bytes('a'), Buffer.alloc(COPY_BYTES), await one.bytes('a@s')]
      for (const [index, { kind, from, to, a, b, count }] of list.entries()) {
        const length = Math.min(count, COPY_BLOCKS - Math.max(a, b)) * BLOCK
        if (kind === 'reopen') await world.reopen()
        else if (kind === 'reclaim') await world.run(world.pool.reclaim())
        else if (kind === 'crash') {
          await world.disk('a').flush()
          await world.crash()
        } else if (length > 0 && kind === 'copy') {
          const copying = one.copy(ids[from], a * BLOCK, ids[to], b * BLOCK, length)
          if (from === to && Math.abs(a - b) * BLOCK < length) {
            await t.rejects(copying, { code: 'unsupported' })
          } else {
            await copying
            const bytes = Buffer.from(models[from].subarray(a * BLOCK, a * BLOCK + length))
            models[to].set(bytes, b * BLOCK)
          }
        } else if (length > 0) {
          const disk = world.disk(names[to])
          const bytes = kind === 'write' ? pattern(length, index) : Buffer.alloc(length)
          if (kind === 'trim') await disk.trim(b * BLOCK, length)
          else if (kind === 'zero') await disk.zero(b * BLOCK, length, 2)
          else await writeAll(disk, b * BLOCK, bytes)
          models[to].set(bytes, b * BLOCK)
          disk.close()
        }
      }
      for (const [index, name] of names.entries()) {
        t.ok((await one.bytes(name)).equals(models[index]), name)
      }
      t.same(await one.check(), [])
      for (const [index, name] of names.entries()) {
        t.ok((await one.bytes(name)).equals(models[index]), `${name} after a checkpoint`)
      }
      await world.close()
    }),
    { numRuns: 25 },
  )
})

async function writeAll(disk: SimClient, offsetBytes: number, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length; at += MIB) {
    await disk.write(offsetBytes + at, bytes.subarray(at, at + MIB))
  }
}

void t.test('a copy takes no space but a record, and refuses what it cannot do', async (t) => {
  const one = await FileWorld.create(9)
  const { world, files } = one
  const [a, b] = [await one.create('a', 2 * GIB), await one.create('b', 2 * GIB)]
  const client = world.disk('a')
  for (let at = 0; at < 32; at += 1) await client.fill(at * MIB, MIB, 1 + at)
  await client.zero(40 * MIB, MIB, 2)
  client.close()
  const before = (await world.run(world.pool.info())).physicalBytes
  await one.copy(a, 0, b, GIB, GIB)
  const after = (await world.run(world.pool.info())).physicalBytes
  t.ok(after - before < MIB, `${after - before} bytes for a GiB`)
  t.equal(await world.run(files.mappedBytes(b)), 32 * MIB)
  const copy = world.disk('b')
  t.equal(fillOf(await copy.read(GIB + 31 * MIB, MIB)), 32)
  t.same(await copy.extents(GIB + 32 * MIB, 16 * MIB), [
    [8 * MIB, HOLE],
    [MIB, EXTENT_ZERO],
    [7 * MIB, HOLE],
  ])
  copy.close()
  t.ok((await world.run(files.exclusiveBytes(b))) < MIB, 'all of it is shared')
  await one.copy(b, GIB, b, 0, GIB)
  t.equal(await world.run(files.mappedBytes(b)), 64 * MIB)
  await world.run(files.remove(a))
  await world.run(world.pool.reclaim())
  const left = world.disk('b')
  t.equal(fillOf(await left.read(5 * MIB, MIB)), 6, 'blocks outlive the disk they were of')
  left.close()
  const s = await world.run(files.snapshot(b, 's'))
  await t.rejects(one.copy(b, 0, s.id, 0, BLOCK), { code: 'read-only' })
  await t.rejects(one.copy(b, 1, b, GIB, BLOCK), { code: 'unsupported' })
  await t.rejects(one.copy(b, 0, b, GIB, 1), { code: 'unsupported' })
  await t.rejects(one.copy(b, 0, b, 2 * GIB, BLOCK), { code: 'unsupported' })
  await t.rejects(one.copy(b, 0, b, BLOCK, 2 * BLOCK), { code: 'unsupported' })
  await t.rejects(one.copy(a, 0, b, 0, BLOCK), { code: 'not-found' })
  await t.resolves(one.copy(s.id, 0, b, 0, 0))
  t.same(await one.check(), [])
  await world.close()
})

void t.test('copies stand in line with writes in flight', async (t) => {
  await fc.assert(
    fc.asyncProperty(fc.nat(), fc.array(fc.nat(8), { maxLength: 8 }), async (seed, pauses) => {
      const one = await FileWorld.create(seed)
      const { world } = one
      const [a, b] = [await one.create('a', 64 * BLOCK), await one.create('b', 64 * BLOCK)]
      const first = world.disk('a')
      await first.fill(0, 64 * BLOCK, 1)
      first.close()
      await world.reopen()
      const [from, to] = [world.disk('a'), world.disk('b')]
      const waits: Promise<unknown>[] = []
      // Parts of blocks, which are read before they are written.
      for (let i = 0; i < 16; i += 1) {
        waits.push(started(to, one, i * BLOCK + 100, pattern(50, i)))
        waits.push(started(from, one, (16 + i) * BLOCK + 100, pattern(50, i)))
      }
      const lengthBytes = 64 * BLOCK
      const request = { fromId: a, fromBytes: 0, toId: b, toBytes: 0, lengthBytes }
      const copying = one.files.copyRange(request)
      for (const turns of pauses) {
        await world.run(new Promise<void>((resolve) => world.io.setTimer(turns / 100, resolve)))
      }
      for (let i = 0; i < 16; i += 1) {
        waits.push(started(to, one, (32 + i) * BLOCK + 100, pattern(50, i)))
      }
      await world.run(Promise.all([...waits, copying]))
      from.close()
      to.close()
      const expected = Buffer.alloc(64 * BLOCK, 1)
      for (let i = 0; i < 16; i += 1) {
        expected.set(pattern(50, i), (16 + i) * BLOCK + 100)
        expected.set(pattern(50, i), (32 + i) * BLOCK + 100)
      }
      t.same(await one.bytes('b'), expected)
      t.same(await one.check(), [])
      await world.close()
    }),
    { numRuns: 30 },
  )
})
