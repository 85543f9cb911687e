/** Settling, imports and crashes that meet at the worst moment. */
import t from 'tap'
import type { Test } from 'tap'
import { Errno, OperatingError } from '../../../src/base/errors.ts'
import { checkPool } from '../../../src/check/check.ts'
import { openChecksum } from '../../../src/io/open-io.ts'
import { SimIo } from '../../../src/io/sim-io.ts'
import { DedupIndex } from '../../../src/segment/dedup-index.ts'
import { SegmentStore } from '../../../src/segment/segment-store.ts'
import { interpose } from '../../support/interpose.ts'
import { PATH, openCodecs } from '../../sim/pool-maker.ts'
import { walkPool } from '../../sim/pool-walk.ts'
import { BLOCK, SimWorld, fillOf } from './sim-pool.ts'

t.setTimeout(300_000)

const codecs = openCodecs()
const arenaMemory = Buffer.allocUnsafeSlow(16 * 1024 * 1024)
const SIZE = 64 * BLOCK
const checksum = await openChecksum()

/** Blocks of one byte value each. */
function blocks(...values: number[]): Uint8Array {
  return Buffer.concat(values.map((value) => Buffer.alloc(BLOCK, value)))
}

async function newWorld(seed: number): Promise<SimWorld> {
  const world = await SimWorld.create({ seed, arenaMemory })
  await world.close()
  await world.open({ codecs })
  return world
}

async function addVolume(world: SimWorld, name: string, bytes: Uint8Array): Promise<void> {
  await world.run(world.pool.create({ name, sizeBytes: SIZE }))
  const client = world.disk(name)
  await client.write(0, bytes)
  await client.flush()
  client.close()
}

async function trim(world: SimWorld, name: string, block: number, count: number): Promise<void> {
  const client = world.disk(name)
  await client.trim(block * BLOCK, count * BLOCK)
  await client.flush()
  client.close()
}

async function remove(world: SimWorld, name: string): Promise<void> {
  await world.run(world.pool.remove({ names: [name], recursive: true, dryRun: false }))
}

/** Of each block: the value of all its bytes, or an errno. */
async function valuesOf(world: SimWorld, name: string, count: number): Promise<unknown[]> {
  const client = world.disk(name)
  const values: unknown[] = []
  for (let i = 0; i < count; i += 1) values.push(fillOf(await client.read(i * BLOCK, BLOCK)))
  client.close()
  return values
}

function newGate(): { opened: Promise<void>; open: () => void } {
  let open = (): void => undefined
  const opened = new Promise<void>((resolve) => {
    open = resolve
  })
  return { opened, open }
}

async function power(world: SimWorld): Promise<void> {
  world.io.crash({ kind: 'power' })
  world.io = world.io.reboot()
  world.io.disk.clearFaults()
  await world.open({ codecs })
}

await t.test('what an import has compared with is not swept before it refers to it', async (t) => {
  const world = await newWorld(1)
  await addVolume(world, 'gone', blocks(7))
  await world.run(world.pool.settle('lz4'))
  await remove(world, 'gone')
  const bulk = await world.run(world.pool.beginImport({ name: 'v', sizeBytes: SIZE }))
  const gate = newGate()
  const undo = interpose(
    SegmentStore.prototype,
    'create',
    (original) =>
      async function (this: SegmentStore, kind, importId) {
        if (importId !== undefined) await gate.opened
        return original.call(this, kind, importId)
      },
  )
  try {
    // The first block needs a segment and waits for it; the second has been found by then.
    const written = bulk.write(0, blocks(9, 7))
    await world.io.runFor(50)
    const reclaimed = world.pool.reclaim()
    await world.io.runFor(5000)
    gate.open()
    await world.run(written)
    await world.run(reclaimed)
  } finally {
    undo()
  }
  await world.run(bulk.commit())
  t.same(await valuesOf(world, 'v', 2), [9, 7])
  t.same(world.damage, [])
  await world.close()
})

await t.test('an import that is given up and a reclaim do not take from each other', async (t) => {
  const world = await newWorld(1)
  const bulk = await world.run(world.pool.beginImport({ name: 'v', sizeBytes: SIZE }))
  await world.run(bulk.write(0, blocks(1, 2, 3)))
  // Its segments are sealed by the time it is refused.
  await world.run(world.pool.create({ name: 'v', sizeBytes: SIZE }))
  await world.run(t.rejects(bulk.commit(), { code: 'exists' }))
  const gate = newGate()
  const undo = interpose(
    SegmentStore.prototype,
    'delete',
    (original) =>
      async function (this: SegmentStore, id) {
        undo()
        await gate.opened
        return original.call(this, id)
      },
  )
  const aborted = bulk.abort()
  await world.io.runFor(50)
  await world.run(world.pool.reclaim())
  gate.open()
  await world.run(aborted)
  await world.close()
})
// The commit's record is written, its sync fails: only a recovery knows what became of it.
await t.test('no alias points into an import whose name is not durable', async (t) => {
  let lostCount = 0
  for (let seed = 1; seed <= 3; seed += 1) {
    const world = await newWorld(seed)
    const bulk = await world.run(world.pool.beginImport({ name: 'v', sizeBytes: SIZE }))
    await world.run(bulk.write(0, blocks(5, 6)))
    // The log goes on in a segment above the import's.
    for (const value of [20, 21, 22]) {
      await addVolume(world, `other${value}`, blocks(value))
      await world.run(world.pool.reclaim())
    }
    await addVolume(world, 'guest', blocks(1, 5, 6))
    await settleAround(world, async () => {
      const names = await world.run(world.io.list(`${PATH}/segments`))
      // The commit is written, and its sync fails: only a recovery knows what became of it.
      world.io.addFault({
        kind: 'sync-error',
        path: names.at(-1) as string,
        skip: 0,
        times: 9,
        errno: Errno.EIO,
      })
      world.io.addFault({
        kind: 'sync-error',
        path: names.at(-2) as string,
        skip: 0,
        times: 9,
        errno: Errno.EIO,
      })
      await world.run(bulk.commit().catch(() => undefined))
    })
    await power(world)
    const volumes = await world.run(world.pool.volumes())
    if (!volumes.some(({ name }) => name === 'v')) lostCount += 1
    t.same(await valuesOf(world, 'guest', 3), [1, 5, 6], `seed ${seed}`)
    t.same(world.damage, [])
    await world.close()
  }
  t.ok(lostCount > 0, 'some commits were lost')
})

/** Settles, and does `meanwhile` when the state is fixed and nothing is rewritten yet. */
async function settleAround(world: SimWorld, meanwhile: () => Promise<void>): Promise<void> {
  let isFixed = false
  const settled = world.pool.settle('off', undefined, ({ phase }) => {
    if (phase !== 'mark' || isFixed) return
    isFixed = true
    world.pool.upkeep(true)
  })
  await world.io.runFor(2000)
  await meanwhile()
  world.pool.upkeep(false)
  await world.run(settled.catch(() => undefined))
}

/** All that settling can meet: duplicates, zeros, dead blocks, a segment settled before. */
async function newPoolToSettle(seed: number, trace: (line: string) => void): Promise<SimWorld> {
  const world = await SimWorld.create({ seed, arenaMemory, trace })
  await world.close()
  await world.open({ codecs })
  await addVolume(world, 'old', blocks(1, 2, 3, 4, 5))
  await addVolume(world, 'dead', blocks(...Array.from({ length: 24 }, (_, i) => 100 + i)))
  await world.run(world.pool.settle('lz4'))
  await remove(world, 'dead')
  await addVolume(world, 'new', blocks(9, 2, 0, 0, 3, 8, 9, 7))
  await addVolume(world, 'dead', blocks(7, 7, 6))
  await remove(world, 'dead')
  return world
}

await t.test('a crash at any step of settling keeps every block, and no leftovers', async (t) => {
  const seed = 3
  let opCount = 0
  let firstOp = 0
  const counting = await newPoolToSettle(seed, (line) => {
    opCount += 1
    if (firstOp === 0 && line.includes('.settling')) firstOp = opCount
  })
  opCount = 0
  firstOp = 0
  const report = await counting.run(counting.pool.settle('lz4'))
  t.ok(report.duplicateBytes > 0 && report.zeroBytes > 0, 'there are duplicates and zeros')
  t.ok(report.droppedBytes > 24 * BLOCK, 'and dead blocks, of a settled segment, too')
  const lastOp = opCount
  await counting.close()
  t.ok(lastOp - firstOp > 20, `${lastOp - firstOp} steps`)
  for (let cutAt = firstOp; cutAt <= lastOp; cutAt += 1) {
    const kinds = cutAt % 5 === 0 ? (['power', 'process'] as const) : (['power'] as const)
    for (const kind of kinds) {
      let left = Infinity
      const world = await newPoolToSettle(seed, () => {
        left -= 1
        if (left === 0) world.io.crash({ kind })
      })
      left = cutAt
      await world.io.runUntil(world.pool.settle('lz4'), () => !world.io.isDead).catch(() => null)
      world.io.crash({ kind })
      world.io = world.io.reboot()
      await verifyWhole(t, world, `${kind} at ${cutAt}`)
    }
  }
})

async function verifyWhole(t: Test, world: SimWorld, name: string): Promise<void> {
  const { errors } = await world.run(checkPool(world.io, checksum, codecs, PATH))
  t.same(errors, [], `${name}: check`)
  await world.open({ codecs })
  t.same(await valuesOf(world, 'old', 5), [1, 2, 3, 4, 5], name)
  t.same(await valuesOf(world, 'new', 8), [9, 2, 0, 0, 3, 8, 9, 7], name)
  const files = await world.run(world.io.list(`${PATH}/segments`))
  t.notOk(
    files.some((file) => !file.endsWith('.seg')),
    `${name}: ${files.join()}`,
  )
  t.same(world.damage, [], `${name}: no damage`)
  await world.close()
}

await t.test(
  'an alias to an alias is read, kept, and shortened when its segment is rewritten',
  async (t) => {
    const world = await newWorld(5)
    const others = (first: number, count: number): number[] =>
      Array.from({ length: count }, (_, i) => first + i)
    const tag = new Uint32Array(2)
    checksum.hashBlocks(blocks(7), 0, 1, tag, 0)
    const low = { segment: 0, slot: 0 }
    const stop = interpose(
      DedupIndex.prototype,
      'set',
      (original) =>
        function (this: DedupIndex, low32, high32, segment, slot) {
          if (low32 === tag[0]) Object.assign(low, { segment, slot })
          original.call(this, low32, high32, segment, slot)
        },
    )
    await addVolume(world, 'low', blocks(7))
    await world.run(world.pool.settle('off'))
    stop()
    // The index has forgotten what lies in the first segment.
    const forget = interpose(DedupIndex.prototype, 'find', () => () => false)
    await addVolume(world, 'middle', blocks(7, ...others(50, 24)))
    await world.run(world.pool.settle('off'))
    forget()
    await addVolume(world, 'high', blocks(7, ...others(100, 60)))
    const first = await world.run(world.pool.settle('off'))
    t.equal(first.duplicateBytes, BLOCK, 'high is an alias to middle')
    // Now it knows again, and the middle segment has to be rewritten.
    await trim(world, 'middle', 1, 24)
    const remember = interpose(
      DedupIndex.prototype,
      'find',
      (original) =>
        function (this: DedupIndex, low32, high32) {
          const isThere = original.call(this, low32, high32)
          if (low32 === tag[0]) Object.assign(this, low)
          return isThere
        },
    )
    const second = await world.run(world.pool.settle('off'))
    remember()
    t.ok(second.duplicateBytes >= BLOCK, 'middle is an alias to low')
    await world.close()
    const walk = walkPool(world.io.disk, checksum, codecs, PATH)
    t.same(walk.problems, [])
    t.equal(walk.chainCount, 1, 'there is a chain')
    await world.open({ codecs })
    t.same(await valuesOf(world, 'high', 2), [7, 100])
    await remove(world, 'middle')
    await remove(world, 'low')
    await world.run(world.pool.settle('off'))
    t.same(await valuesOf(world, 'high', 2), [7, 100], 'its middle and end are kept for its sake')
    await trim(world, 'high', 1, 60)
    await world.run(world.pool.settle('off'))
    await world.run(world.pool.settle('off'))
    await power(world)
    t.same(await valuesOf(world, 'high', 1), [7])
    await world.close()
    const after = walkPool(world.io.disk, checksum, codecs, PATH)
    t.same([after.problems, after.chainCount], [[], 0], 'the chain is resolved')
    t.same(world.damage, [])
  },
)

await t.test('a read that has looked an address up is waited for before it is swept', async (t) => {
  const world = await newWorld(6)
  await addVolume(world, 'v', blocks(7, 8))
  await world.run(world.pool.settle('off'))
  const gate = newGate()
  const undo = interpose(
    SegmentStore.prototype,
    'read',
    (original) =>
      function (this: SegmentStore, ...args) {
        undo()
        void gate.opened.then(() => original.apply(this, args))
      },
  )
  const client = world.disk('v')
  const value = client.read(0, BLOCK).then(fillOf)
  await trim(world, 'v', 0, 2)
  const reclaimed = world.pool.reclaim()
  await world.io.runFor(3000)
  gate.open()
  t.equal(await world.run(value), 7)
  t.ok((await world.run(reclaimed)).deletedSegmentCount > 0, 'then it was swept')
  client.close()
  await world.close()
})

await t.test('a fingerprint that leads to other bytes makes no alias (I7)', async (t) => {
  const world = await newWorld(7)
  await addVolume(world, 'low', blocks(7, 8, 9))
  await world.run(world.pool.settle('off'))
  const places: { segment: number; slot: number }[] = []
  const undo = interpose(
    DedupIndex.prototype,
    'find',
    () =>
      function (this: DedupIndex) {
        Object.assign(this, places[0] ?? { segment: 0, slot: 0 })
        return places.length > 0
      },
  )
  const stop = interpose(
    DedupIndex.prototype,
    'set',
    () => (_low, _high, segment, slot) => void places.push({ segment, slot }),
  )
  await addVolume(world, 'other', blocks(1, 2, 3))
  await world.run(world.pool.settle('off'))
  await addVolume(world, 'high', blocks(4, 5, 6))
  const report = await world.run(world.pool.settle('off'))
  undo()
  stop()
  t.ok(places.length > 3, 'there were candidates')
  t.equal(report.duplicateBytes, 0)
  t.same(await valuesOf(world, 'high', 3), [4, 5, 6])
  t.same(await valuesOf(world, 'other', 3), [1, 2, 3])
  await world.close()
})

await t.test(
  'what does not read back leaves the segment as it was, and the pool whole',
  async (t) => {
    const world = await newWorld(8)
    await addVolume(world, 'v', blocks(1, 2, 3))
    const everywhere = { offsetBytes: 0, lengthBytes: 2 ** 40 }
    const aim = { path: '.settling', skip: 0, times: 1, errno: Errno.EIO }
    world.io.addFault({ kind: 'read-error', ...aim, ...everywhere })
    const report = await world.run(world.pool.settle('off'))
    t.same([report.skippedSegmentCount, report.settledSegmentCount], [1, 0])
    const files = await world.run(world.io.list(`${PATH}/segments`))
    t.notOk(files.some((file) => !file.endsWith('.seg')))
    t.same(await valuesOf(world, 'v', 3), [1, 2, 3])
    t.ok((await world.run(world.pool.settle('off'))).settledSegmentCount > 0)
    t.same(await valuesOf(world, 'v', 3), [1, 2, 3])
    await world.close()
  },
)

await t.test(
  'after a failed sync of the folder nothing more is swept until the pool is reopened',
  async (t) => {
    const world = await newWorld(9)
    await addVolume(world, 'v', blocks(1, 2, 3))
    await world.run(world.pool.settle('off'))
    await addVolume(world, 'w', blocks(4, 5, 1))
    const undo = interpose(
      SimIo.prototype,
      'syncDirectory',
      (original) =>
        function (this: SimIo, path) {
          const isAfterRename = world.io.disk.list(path).every((file) => file.endsWith('.seg'))
          if (!isRewriting || !isAfterRename) return original.call(this, path)
          return Promise.reject(new OperatingError('io', 'refused', { errno: Errno.EIO }))
        },
    )
    let isRewriting = false
    const report = await world.run(
      world.pool.settle('off', undefined, ({ phase }) => {
        isRewriting = phase === 'settle'
      }),
    )
    undo()
    t.ok(report.skippedSegmentCount > 0)
    await world.run(t.rejects(world.pool.reclaim(), { code: 'io' }))
    t.same(await valuesOf(world, 'w', 3), [4, 5, 1])
    await power(world)
    t.ok(await world.run(world.pool.reclaim()))
    t.same(await valuesOf(world, 'w', 3), [4, 5, 1])
    await world.close()
  },
)

await t.test(
  'a rename that is refused leaves the segment as it was, and no leftover',
  async (t) => {
    const world = await newWorld(10)
    await addVolume(world, 'v', blocks(1, 2, 3))
    const refused = new OperatingError('io', 'refused', { errno: Errno.EIO })
    const undo = interpose(SimIo.prototype, 'rename', () => () => Promise.reject(refused))
    const report = await world.run(world.pool.settle('off'))
    undo()
    t.equal(report.settledSegmentCount, 0)
    const files = await world.run(world.io.list(`${PATH}/segments`))
    t.notOk(files.some((file) => !file.endsWith('.seg')))
    t.same(await valuesOf(world, 'v', 3), [1, 2, 3])
    await power(world)
    t.same(await valuesOf(world, 'v', 3), [1, 2, 3])
    await world.close()
  },
)
