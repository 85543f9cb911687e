/** The pool as the filesystem shows it. */
import t from 'tap'
import { MIB } from '../../../src/base/units.ts'
import { PoolTree } from '../../../src/daemon/pool-tree.ts'
import { BLOCK, SimWorld } from '../pool/sim-pool.ts'

t.setTimeout(60_000)

async function worldWithTree(): Promise<{ world: SimWorld; tree: PoolTree }> {
  const world = await SimWorld.create({ seed: 1 })
  return { world, tree: new PoolTree(world.pool) }
}

void t.test('disks are found by name and by id, and keep their id', async (t) => {
  const { world, tree } = await worldWithTree()
  const zoo = await world.run(tree.create('zoo'))
  const ant = await world.run(tree.create('ant'))
  t.match(zoo, { name: 'zoo', volumeId: null, sizeBytes: 0 })
  t.equal(zoo.modifiedMs, zoo.createdMs)
  const names = tree.volumes().map(({ name }) => name)
  t.same(names, ['ant', 'zoo'], 'by name')
  const s2 = await world.run(tree.snapshot(zoo.id, 's2'))
  const s1 = await world.run(tree.snapshot(zoo.id, 's1'))
  t.match(s2, { name: 's2', volumeId: zoo.id })
  t.same(tree.snapshots(zoo.id), [s2, s1], 'oldest first')
  t.same(tree.snapshots(ant.id), [])
  t.equal(tree.snapshots(s1.id), null)
  t.equal(tree.snapshots(99), null)
  t.same(tree.trySnapshot(zoo.id, 's1'), s1)
  t.equal(tree.trySnapshot(zoo.id, 's3'), null)
  t.equal(tree.tryVolume('s1'), null)
  await world.run(tree.rename(zoo.id, 'bee'))
  t.equal(tree.tryVolume('bee')?.id, zoo.id)
  t.equal(tree.tryVolume('zoo'), null)
  await world.run(tree.remove(ant.id))
  const next = await world.run(tree.create('ant'))
  t.not(next.id, ant.id, 'an id is given once')
  t.equal(tree.tryDisk(ant.id), null)
  await world.close()
})

void t.test('the guards are the command line’s', async (t) => {
  const { world, tree } = await worldWithTree()
  const { id } = await world.run(tree.create('a'))
  await t.rejects(world.run(tree.create('a')), { code: 'exists' })
  for (const name of ['', '.', '..', 'a/b', 'a\0', 'a\n', 'a@b', '-a', 'x'.repeat(201)]) {
    await t.rejects(world.run(tree.create(name)), { code: 'usage' }, JSON.stringify(name))
    await t.rejects(world.run(tree.rename(id, name)), { code: 'usage' })
    await t.rejects(world.run(tree.snapshot(id, name)), { code: 'usage' })
  }
  const mine = tree.open(id, 'fuse: process 5')
  await world.run(tree.resize(id, MIB))
  await world.run(tree.resize(id, 1000))
  t.equal(mine.sizeBytes, 1000, 'our own handles do not keep a file from being cut')
  await t.rejects(world.run(tree.remove(id)), { code: 'busy' })
  await t.rejects(world.run(tree.rename(id, 'b')), { code: 'busy' })
  const guest = world.pool.openTarget('a', 'nbd 127.0.0.1')
  await t.rejects(world.run(tree.resize(id, 10)), { code: 'busy', message: /nbd/ })
  guest?.close()
  mine.close()
  const snapshot = await world.run(tree.snapshot(id, 's'))
  await t.rejects(world.run(tree.remove(id)), { code: 'busy' })
  await world.run(world.pool.hold('a@s', 'kept'))
  await t.rejects(world.run(tree.remove(snapshot.id)), { code: 'busy', message: /held by "kept"/ })
  await t.rejects(tree.setModified(snapshot.id, 5), { code: 'read-only' })
  const gone: (() => Promise<unknown>)[] = [
    () => tree.resize(99, 0),
    () => tree.remove(99),
    () => tree.rename(99, 'x'),
    () => tree.snapshot(99, 'x'),
    () => tree.setModified(99, 0),
    () => tree.mappedBytes(99),
    () => tree.fact(99, 'id'),
    () => tree.copyRange(99, 0, id, 0, 0),
  ]
  for (const call of gone) await t.rejects(world.run(call()), { code: 'not-found' })
  t.throws(() => tree.open(99, 'fuse'), { code: 'not-found' })
  t.throws(() => tree.factNames(99), { code: 'not-found' })
  await world.close()
})

void t.test('facts say how a disk stands in the pool', async (t) => {
  const { world, tree } = await worldWithTree()
  const { id } = await world.run(tree.create('a'))
  await world.run(tree.resize(id, MIB))
  const disk = world.disk('a')
  await disk.fill(0, 8 * BLOCK, 1)
  const s = await world.run(tree.snapshot(id, 's'))
  await disk.fill(0, 2 * BLOCK, 2)
  await world.run(world.pool.clone('a@s', ['b']))
  await world.run(world.pool.checkpoint())
  const b = tree.tryVolume('b')?.id ?? 0
  const fact = (of: number, name: string): Promise<string | null> => world.run(tree.fact(of, name))
  const names = ['id', 'size', 'mapped', 'unique', 'parent', 'exported', 'created', 'modified']
  t.same(tree.factNames(s.id), names)
  t.same(tree.factNames(id), [...names, 'snapshots'])
  t.equal(await fact(id, 'id'), String(id))
  t.equal(await fact(id, 'size'), String(MIB))
  t.equal(await fact(id, 'mapped'), String(8 * BLOCK))
  t.equal(await world.run(tree.mappedBytes(id)), 8 * BLOCK)
  t.equal(await fact(id, 'exported'), 'a test')
  t.equal(await fact(s.id, 'exported'), '')
  const unique = Number(await fact(id, 'unique'))
  t.ok(unique >= 2 * BLOCK && unique <= 6 * BLOCK, 'two blocks and their nodes')
  t.equal(await fact(b, 'unique'), '0')
  t.same(await Promise.all([fact(id, 'parent'), fact(s.id, 'parent')]), ['', 'a'])
  t.equal(await fact(b, 'parent'), 'a@s')
  t.same(await Promise.all([fact(id, 'snapshots'), fact(b, 'snapshots')]), ['1', '0'])
  t.equal(await fact(s.id, 'snapshots'), null)
  t.equal(await fact(id, 'colour'), null)
  t.equal(await fact(id, 'constructor'), null)
  await tree.setModified(id, 86_400_000)
  t.equal(await fact(id, 'modified'), '1970-01-02T00:00:00.000Z')
  t.match(await fact(id, 'created'), /^\d{4}-\d\d-\d\dT[\d:.]+Z$/)
  disk.close()
  await world.run(tree.remove(b))
  await world.run(tree.remove(s.id))
  await world.close()
})

void t.test('the tree’s space is what guests can write', async (t) => {
  const world = await SimWorld.create({ seed: 2 }, 64 * MIB)
  const tree = new PoolTree(world.pool)
  const { id } = await world.run(tree.create('a'))
  await world.run(tree.resize(id, 32 * MIB))
  const before = await world.run(tree.space())
  t.equal(before.totalBytes, 64 * MIB)
  t.ok(before.freeBytes > 32 * MIB && before.freeBytes < 64 * MIB)
  const disk = world.disk('a')
  for (let at = 0; at < 16; at += 1) await disk.fill(at * MIB, MIB, 1)
  disk.close()
  const after = await world.run(tree.space())
  const takenBytes = before.freeBytes - after.freeBytes
  t.ok(takenBytes >= 16 * MIB && takenBytes < 20 * MIB, `${takenBytes} bytes`)
  await world.close()
})
