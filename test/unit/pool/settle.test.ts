/** Settling, imports and crashes that meet at the worst moment. */
import t from 'tap'
import { Errno } from '../../../src/base/errors.ts'
import { SegmentStore } from '../../../src/segment/segment-store.ts'
import { interpose } from '../../support/interpose.ts'
import { PATH, openCodecs } from '../../sim/pool-maker.ts'
import { BLOCK, SimWorld, fillOf } from './sim-pool.ts'

const codecs = openCodecs()
const arenaMemory = Buffer.allocUnsafeSlow(16 * 1024 * 1024)
const SIZE = 64 * BLOCK

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

await t.test('no alias points into an import whose name is not durable', async (t) => {
  let lostCount = 0
  for (let seed = 1; seed <= 6; seed += 1) {
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
      // The commit's record is written, and its sync fails: only a recovery knows what became of it.
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
