import t from 'tap'
import type { IoCompletion, IoFile } from '../../../src/io/io.ts'
import { SegmentKind } from '../../../src/format/segment.ts'
import { SyncGroup } from '../../../src/segment/sync-group.ts'
import { openBareStore } from '../pool/bare-store.ts'
import { SimWorld } from '../pool/sim-pool.ts'

// A waiter told at the end of a round started the next one, whose number the rest of that loop
// then went by: a settle that the next round was to answer was answered before it had synced.
void t.test('settle ends only after a sync that began after the last write', async (t) => {
  const world = await SimWorld.create({ seed: 1 })
  await world.close()
  const { io } = world
  const { store } = await openBareStore(world, 16)
  const a = await world.run(store.create(SegmentKind.bulk))
  const b = await world.run(store.create(SegmentKind.bulk))
  // Syncs that were asked for and not let go on.
  let held: (() => void)[] = []
  const sync = io.sync.bind(io)
  io.sync = (file: IoFile, completion: IoCompletion, tag: number): void => {
    held.push(() => sync(file, completion, tag))
  }
  const letGo = (): void => {
    const starts = held
    held = []
    for (const start of starts) start()
  }

  const group = new SyncGroup(io, store)
  group.reset(1)
  group.noteWritten(a, 2)
  const writesOn = (): void => {
    group.noteWritten(b, 3)
    group.wait(3, { durable: () => undefined }, 0)
  }
  group.wait(2, { durable: writesOn }, 0)
  // A footer: it has no sequence of its own and the round under way began before it.
  group.noteWritten(a, 2)
  const settling = group.settle()
  letGo()
  const early = await io.runUntil(settling, () => held.length === 0)
  t.equal(early, undefined, 'the next round has begun and its syncs are open')
  t.equal(held.length, 2)
  letGo()
  t.equal(await world.run(settling), 0)
  await world.run(group.close())
  await world.run(store.close())
})
