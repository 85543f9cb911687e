import t from 'tap'
import { MIB } from '../../../src/base/units.ts'
import { SegmentKind } from '../../../src/format/segment.ts'
import { LogReplay } from '../../../src/segment/replay.ts'
import { openBareStore } from '../pool/bare-store.ts'
import { SimWorld } from '../pool/sim-pool.ts'

const FILE_COUNT_MAX = 4
const IMPORT_COUNT = 6
const WRITE_COUNT = 40

// The file being replayed was not pinned: node faults that opened enough others had it closed,
// and the replay read on from a closed file.
void t.test('a replay keeps its file, however many others are opened beside it', async (t) => {
  const world = await SimWorld.create({ seed: 1 })
  const { pool } = world
  await world.run(pool.create({ name: 'a', sizeBytes: 64 * MIB }))
  for (let i = 1; i <= IMPORT_COUNT; i += 1) {
    await world.importVolume(`image${i}`, new Uint8Array(MIB).fill(i))
  }
  await world.run(pool.checkpoint())
  const a = world.disk('a')
  for (let i = 0; i < WRITE_COUNT; i += 1) await a.fill(i * MIB, MIB, 5)
  await a.flush()
  world.io.crash({ kind: 'process' })
  world.io = world.io.reboot()

  const imageIds = await bulkIds(world)
  t.ok(imageIds.length > FILE_COUNT_MAX, 'more files than may stay open')
  const { store, superblock } = await openBareStore(world, FILE_COUNT_MAX)
  const replay = new LogReplay(world.io, store, superblock.position, superblock.clean, (work) =>
    work(),
  )
  await world.run(replay.prepare())
  let visitCount = 0
  const end = await world.run(
    replay.run(async () => {
      await store.readPage(imageIds[visitCount % imageIds.length], 1)
      visitCount += 1
    }),
  )
  t.equal(end.recordCount, visitCount)
  t.ok(visitCount >= WRITE_COUNT, 'every write was replayed')
  replay.close()
  await world.run(store.close())
})

async function bulkIds(world: SimWorld): Promise<number[]> {
  const { store } = await openBareStore(world, FILE_COUNT_MAX)
  const ids: number[] = []
  for (const id of store.ids()) {
    if ((await world.run(store.readKind(store.get(id)))) === SegmentKind.bulk) ids.push(id)
  }
  await world.run(store.close())
  return ids
}
