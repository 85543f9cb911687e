/** A settle that is asked for brings in order what lies scattered, and nothing else changes. */
import fc from 'fast-check'
import t from 'tap'
import type { Test } from 'tap'
import { Errno } from '../../../src/base/errors.ts'
import { Prng } from '../../../src/base/prng.ts'
import { MIB } from '../../../src/base/units.ts'
import { checkPool } from '../../../src/check/check.ts'
import { DATA_SLOT_FIRST, segmentFileName } from '../../../src/format/segment.ts'
import { openChecksum } from '../../../src/io/open-io.ts'
import type { OpenPoolOptions } from '../../../src/pool/pool.ts'
import { STRETCH_BLOCK_COUNT, Stretch } from '../../../src/pool/stretch.ts'
import { WriteQueue } from '../../../src/pool/write-queue.ts'
import { SegmentStore } from '../../../src/segment/segment-store.ts'
import { openCodecs } from '../../sim/pool-maker.ts'
import { interpose } from '../../support/interpose.ts'
import { BLOCK, POOL, SimWorld } from './sim-pool.ts'

t.setTimeout(300_000)

const codecs = openCodecs()
const checksum = await openChecksum()
const arenaMemory = Buffer.allocUnsafeSlow(16 * MIB)
const STRETCH_BYTES = STRETCH_BLOCK_COUNT * BLOCK
/** The ends of records and of a segment, in each stretch. */
const RUNS_PER_STRETCH_MAX = 3
/** What is left to guests in a small pool: two segments. */
const KEPT_BYTES = 128 * MIB
/** Long enough for a pool to settle by itself. */
const IDLE_MS = 25_000

interface Run {
  store: SegmentStore
  segment: number
  slot: number
  count: number
}

interface Volume {
  world: SimWorld
  name: string
  /** Of each block, what distinguishes its content from any other's. */
  versions: Uint32Array
}

async function newVolume(
  blockCount: number,
  options: OpenPoolOptions = {},
  capacityBytes = 0,
): Promise<Volume> {
  const world = await SimWorld.create({ seed: 1, arenaMemory }, capacityBytes)
  await world.close()
  await world.open({ codecs, ...options })
  await world.run(world.pool.create({ name: 'v', sizeBytes: blockCount * BLOCK }))
  return { world, name: 'v', versions: new Uint32Array(blockCount) }
}

let versionNext = 1

function newContent(): { version: number; bytes: Uint8Array } {
  const version = versionNext
  versionNext += 1
  return { version, bytes: contentOf(version) }
}

function contentOf(version: number): Uint8Array {
  return new Uint8Array(new Uint32Array(BLOCK / 4).fill(version).buffer)
}

/** Writes blocks anew one by one, in an order that has no neighbours. */
async function scatter(volume: Volume, first = 0, count = volume.versions.length): Promise<void> {
  const client = volume.world.disk(volume.name)
  const indexes = Array.from({ length: count }, (_, index) => first + index)
  new Prng(first + count).shuffle(indexes)
  for (const index of indexes) {
    const { version, bytes } = newContent()
    await client.write(index * BLOCK, bytes)
    volume.versions[index] = version
  }
  await client.flush()
  client.close()
}

async function verifyContent(t: Test, volume: Volume, what: string): Promise<void> {
  const client = volume.world.disk(volume.name)
  const bad: number[] = []
  for (const [index, version] of volume.versions.entries()) {
    const bytes = await client.read(index * BLOCK, BLOCK)
    if (typeof bytes === 'number' || Buffer.compare(bytes, contentOf(version)) !== 0) {
      bad.push(index)
    }
  }
  client.close()
  t.same(bad, [], `${what}: every block has its bytes`)
}

/** The runs of addresses that reading all of it meets. */
async function runsOf({ world, name, versions }: Volume): Promise<Run[]> {
  const runs: Run[] = []
  const undo = interpose(
    SegmentStore.prototype,
    'read',
    (original) =>
      function (this: SegmentStore, segment, slot, count, ...rest) {
        runs.push({ store: this, segment, slot, count })
        original.call(this, segment, slot, count, ...rest)
      },
  )
  const client = world.disk(name)
  // One at a time: what a settled segment has as aliases is read by address, too, and shows.
  for (let at = 0; at < versions.length * BLOCK; at += STRETCH_BYTES) {
    await client.read(at, Math.min(STRETCH_BYTES, versions.length * BLOCK - at))
  }
  client.close()
  undo()
  return runs
}

async function aliasCount(world: SimWorld, runs: readonly Run[]): Promise<number> {
  let count = 0
  for (const { store, segment, slot, count: length } of runs) {
    for (let i = 0; i < length; i += 1) {
      const end = await world.run(store.resolve(segment, slot + i))
      if (end.segment !== segment || end.slot !== slot + i) count += 1
    }
  }
  return count
}

async function verifySound(t: Test, { world }: Volume): Promise<void> {
  t.same(world.damage, [], 'no damage')
  await world.close()
  const { errors } = await world.run(checkPool(world.io, checksum, codecs, POOL))
  t.same(errors, [], 'check')
}

t.test(
  'scattered blocks lie in runs after a settle, and are no aliases of dead ones',
  async (t) => {
    const volume = await newVolume(4 * STRETCH_BLOCK_COUNT, { idleCompression: 'lz4' })
    const { world } = volume
    await scatter(volume)
    // By itself: then the index of equal blocks knows where they were.
    await world.io.runFor(IDLE_MS)
    t.ok((await runsOf(volume)).length > 1000, 'that brings nothing in order')
    const { modifiedMs } = await world.run(world.pool.volume('v'))
    await world.io.runFor(1000)
    const phases: string[] = []
    const report = await world.run(
      world.pool.settle('lz4', undefined, ({ phase }) => {
        if (phases.at(-1) !== phase) phases.push(phase)
      }),
    )
    t.same(phases, ['order', 'checkpoint', 'mark', 'settle'])
    t.equal(report.orderedBytes, 4 * STRETCH_BYTES)
    t.equal(report.duplicateBytes, 0)
    const runs = await runsOf(volume)
    t.ok(runs.length <= 4 * RUNS_PER_STRETCH_MAX, `${runs.length} runs`)
    t.equal(await aliasCount(world, runs), 0)
    t.equal(
      (await world.run(world.pool.volume('v'))).modifiedMs,
      modifiedMs,
      'its time is as it was',
    )
    await verifyContent(t, volume, 'settled')
    const again = await world.run(world.pool.settle('lz4'))
    t.equal(again.orderedBytes, 0, 'a second time there is nothing to do')
    t.equal((await world.run(world.pool.reclaim())).orderedBytes, 0)
    await world.close()
    await world.open({ codecs })
    await verifyContent(t, volume, 'opened again')
    await verifySound(t, volume)
  },
)

t.test('what a snapshot or a clone shares stays, until they are gone', async (t) => {
  const volume = await newVolume(4 * STRETCH_BLOCK_COUNT)
  const { world } = volume
  await scatter(volume)
  await world.run(world.pool.settle('off'))
  await scatter(volume)
  await world.run(world.pool.snapshot(['v@s']))
  await world.run(world.pool.clone('v@s', ['c']))
  const settle = (): ReturnType<typeof world.pool.settle> => world.run(world.pool.settle('off'))
  const shared = await settle()
  t.equal(shared.orderedBytes, 0)
  t.equal(shared.duplicateBytes, 0)
  // A stretch of its own, and one of which it has every other block to itself.
  await scatter(volume, 0, STRETCH_BLOCK_COUNT)
  for (let index = 0; index < STRETCH_BLOCK_COUNT; index += 2) {
    await scatter(volume, STRETCH_BLOCK_COUNT + index, 1)
  }
  const client = world.disk('v')
  const before = await client.extents(0, 4 * STRETCH_BYTES, 's')
  const own = await settle()
  t.equal(own.orderedBytes, STRETCH_BYTES)
  t.equal(own.duplicateBytes, 0)
  t.ok(own.physicalAfterBytes <= shared.physicalAfterBytes + 2 * STRETCH_BYTES, 'nothing twice')
  t.same(await client.extents(0, 4 * STRETCH_BYTES, 's'), before, 'what has changed is the same')
  client.close()
  await world.run(world.pool.remove({ names: ['c'], recursive: true, dryRun: false }))
  t.equal((await settle()).orderedBytes, 0, 'the snapshot still shares them')
  await world.run(world.pool.remove({ names: ['v@s'], recursive: true, dryRun: false }))
  t.equal((await settle()).orderedBytes, 3 * STRETCH_BYTES)
  await verifyContent(t, volume, 'alone')
  await verifySound(t, volume)
})

t.test('blocks that dedup has joined stay where they are', async (t) => {
  const volume = await newVolume(STRETCH_BLOCK_COUNT, { idleCompression: 'off' })
  const { world, versions } = volume
  await scatter(volume)
  await world.run(world.pool.create({ name: 'twin', sizeBytes: STRETCH_BYTES }))
  const twin = { world, name: 'twin', versions: Uint32Array.from(versions) }
  const client = world.disk('twin')
  const order = [...versions.keys()]
  new Prng(5).shuffle(order)
  for (const index of order) await client.write(index * BLOCK, contentOf(versions[index]))
  client.close()
  // By itself: then both are scattered as before, and one is an alias of the other.
  await world.io.runFor(IDLE_MS)
  t.equal(await aliasCount(world, await runsOf(twin)), STRETCH_BLOCK_COUNT)
  const report = await world.run(world.pool.settle('off'))
  t.same([report.orderedBytes, report.duplicateBytes], [0, 0])
  await verifyContent(t, twin, 'twin')
  await verifySound(t, volume)
})

t.test('what guests write meanwhile is never lost', async (t) => {
  let metCount = 0
  for (let seed = 1; seed <= 12; seed += 1) {
    const volume = await newVolume(2 * STRETCH_BLOCK_COUNT)
    const { world, versions } = volume
    await scatter(volume)
    const prng = new Prng(seed)
    let isOver = false
    const settling = world.pool.settle('off').then((report) => {
      isOver = true
      return report
    })
    const client = world.disk('v')
    while (!isOver) {
      await world.io.runFor(prng.pick([0.01, 0.1, 1, 10]))
      const index = prng.below(versions.length)
      const { version, bytes } = newContent()
      await client.write(index * BLOCK, bytes)
      versions[index] = version
      metCount += 1
    }
    await client.flush()
    client.close()
    t.ok((await world.run(settling)).orderedBytes > 0)
    await verifyContent(t, volume, `seed ${seed}`)
    world.io.crash({ kind: 'power' })
    world.io = world.io.reboot()
    await world.open({ codecs })
    await verifyContent(t, volume, `seed ${seed}, power lost`)
    await verifySound(t, volume)
  }
  t.ok(metCount > 100, `${metCount} writes`)
})

t.test('what is written just before the lock is what is moved, or stays', async (t) => {
  const volume = await newVolume(STRETCH_BLOCK_COUNT)
  const { world, versions } = volume
  await scatter(volume)
  const client = world.disk('v')
  const { version, bytes } = newContent()
  const writing: Promise<number>[] = []
  const undo = interpose(
    WriteQueue.prototype,
    'lock',
    (original) =>
      function (this: WriteQueue, ranges) {
        undo()
        writing.push(client.write(7 * BLOCK, bytes))
        return original.call(this, ranges)
      },
  )
  const report = await world.run(world.pool.settle('off'))
  t.same(await world.run(Promise.all(writing)), [0])
  versions[7] = version
  t.equal(report.orderedBytes, STRETCH_BYTES)
  t.equal(await client.trim(9 * BLOCK, BLOCK), 0)
  versions[9] = 0
  client.close()
  await verifyContent(t, volume, 'written just before')
  await verifySound(t, volume)
})

/** Calls `meanwhile` when the first blocks are about to be written anew. */
function whenMoved(meanwhile: () => void): () => void {
  const undo = interpose(
    WriteQueue.prototype,
    'rewrite',
    (original) =>
      function (this: WriteQueue, ...args) {
        undo()
        meanwhile()
        original.apply(this, args)
      },
  )
  return undo
}

t.test('a volume restored or removed while blocks of it are moved is what it was', async (t) => {
  const volume = await newVolume(STRETCH_BLOCK_COUNT)
  const { world } = volume
  await scatter(volume)
  await world.run(world.pool.snapshot(['v@s']))
  const old = Uint32Array.from(volume.versions)
  await scatter(volume)
  let restoring: Promise<unknown> | null = null
  whenMoved(() => {
    restoring = world.pool.restore('v@s')
  })
  t.equal((await world.run(world.pool.settle('off'))).orderedBytes, 0)
  await world.run(Promise.resolve(restoring))
  volume.versions.set(old)
  await verifyContent(t, volume, 'restored')
  await scatter(volume)
  let removing: Promise<unknown> | null = null
  whenMoved(() => {
    removing = world.pool.remove({ names: ['v'], recursive: true, dryRun: false })
  })
  t.equal((await world.run(world.pool.settle('off'))).orderedBytes, 0)
  await world.run(Promise.resolve(removing))
  t.same(await world.run(world.pool.volumes()), [])
  await verifySound(t, volume)
})

t.test('a block that fails its check is not written anew as a good one (I8)', async (t) => {
  const volume = await newVolume(STRETCH_BLOCK_COUNT)
  const { world } = volume
  await scatter(volume)
  const damaged = 100
  const [{ segment, slot }] = (await runsOf(volume)).slice(damaged)
  t.ok(slot >= DATA_SLOT_FIRST)
  world.io.disk.flipBit(`${POOL}/segments/${segmentFileName(segment)}`, slot * BLOCK + 7, 3)
  const client = world.disk('v')
  t.equal(await client.read(damaged * BLOCK, BLOCK), -Errno.EIO)
  const report = await world.run(world.pool.settle('off'))
  t.equal(report.orderedBytes, STRETCH_BYTES - BLOCK)
  t.equal(report.skippedSegmentCount, 1)
  t.equal(await client.read(damaged * BLOCK, BLOCK), -Errno.EIO)
  t.equal((await world.run(world.pool.settle('off'))).orderedBytes, 0, 'nor tried for ever')
  client.close()
  const { bytes, version } = newContent()
  const writer = world.disk('v')
  await writer.write(damaged * BLOCK, bytes)
  writer.close()
  volume.versions[damaged] = version
  await verifyContent(t, volume, 'written anew by a guest')
  await world.close()
})

t.test('without plenty of room it stops early, and settles all the same', async (t) => {
  const volume = await newVolume(12 * STRETCH_BLOCK_COUNT, {}, 400 * MIB)
  const { world } = volume
  await scatter(volume)
  await world.run(world.pool.create({ name: 'ballast', sizeBytes: 400 * MIB }))
  const ballast = world.disk('ballast')
  // All of it is the same, and takes no room once it is settled.
  const freeBytes = async (): Promise<number> => (await world.run(world.pool.info())).freeBytes
  for (let at = 0; (await freeBytes()) > KEPT_BYTES + 5 * MIB; at += MIB) {
    await ballast.fill(at, MIB, 7)
  }
  ballast.close()
  const first = await world.run(world.pool.settle('off'))
  const { orderedBytes } = first
  t.ok(orderedBytes > 0 && orderedBytes <= 5 * MIB, `${orderedBytes} bytes at first`)
  t.ok(first.settledSegmentCount + first.deletedSegmentCount > 0)
  t.equal(first.skippedSegmentCount, 0)
  const client = world.disk('v')
  t.equal(await client.write(0, contentOf(volume.versions[0])), 0, 'guests have room')
  client.close()
  const second = await world.run(world.pool.settle('off'))
  t.equal(first.orderedBytes + second.orderedBytes, 12 * STRETCH_BYTES, 'in the room it made')
  await verifyContent(t, volume, 'settled')
  await verifySound(t, volume)
})

t.test('given up, it leaves no lock and nothing changed', async (t) => {
  const volume = await newVolume(4 * STRETCH_BLOCK_COUNT)
  const { world } = volume
  await scatter(volume)
  for (const early of [true, false]) {
    const controller = new AbortController()
    const abort = (): void => controller.abort()
    if (!early) whenMoved(abort)
    const settling = world.pool.settle('off', controller.signal, ({ phase }) => {
      if (early && phase === 'order') abort()
    })
    await world.run(t.rejects(settling, { code: 'canceled' }))
    await verifyContent(t, volume, 'given up')
    await scatter(volume, 0, 20)
  }
  t.equal(world.pool.upkeep(null).phase, null)
  await verifySound(t, volume)
})

t.test('only what is worth it is scattered, and never what was moved', async (t) => {
  const stretch = new Stretch()
  const fill = (runBlockCount: number, mappedCount = STRETCH_BLOCK_COUNT): void => {
    stretch.clear()
    for (let index = 0; index < mappedCount; index += runBlockCount) {
      const count = Math.min(runBlockCount, mappedCount - index)
      stretch.setRun(index, count, 1 + (index % 7), 5 * index + 9)
    }
  }
  fill(1)
  t.ok(stretch.isScattered)
  fill(15)
  t.ok(stretch.isScattered)
  fill(16)
  t.notOk(stretch.isScattered, 'runs of 64 KiB')
  fill(1, 7)
  t.notOk(stretch.isScattered, 'few runs')
  fill(1, 8)
  t.ok(stretch.isScattered)
  for (let index = 0; index < STRETCH_BLOCK_COUNT; index += 2) {
    fill(1)
    for (let at = 0; at < STRETCH_BLOCK_COUNT; at += 2) stretch.fix(at, 1)
  }
  t.notOk(stretch.isScattered, 'every other block stays')
  const block = fc.constantFrom('hole', 'fixed', 'own', 'own', 'own')
  const blocks = fc.array(block, { minLength: 1, maxLength: STRETCH_BLOCK_COUNT })
  const cuts = fc.array(fc.nat(STRETCH_BLOCK_COUNT), { maxLength: RUNS_PER_STRETCH_MAX - 1 })
  fc.assert(
    fc.property(blocks, cuts, (kinds, ends) => {
      const lay = (slotOf: (index: number) => number): void => {
        stretch.clear()
        for (const [index, kind] of kinds.entries()) {
          if (kind === 'hole') continue
          stretch.setRun(index, 1, kind === 'own' ? 2 : 1, slotOf(index))
          if (kind === 'fixed') stretch.fix(index, 1)
        }
      }
      lay((index) => 3 * index + 9)
      if (!stretch.isScattered) return
      // One behind the other, but where a record or a segment ends.
      lay((index) => 9 + index + ends.filter((end) => end < index).length)
      if (stretch.isScattered) throw new Error('it would be moved again')
    }),
    { seed: 1, numRuns: 500 },
  )
})
