/** Names at their limits, and what the operations on volumes refuse. */
import fc from 'fast-check'
import t from 'tap'
import { MIB, VOLUME_SIZE_BYTES_MAX } from '../../../src/base/units.ts'
import { NAME_LENGTH_MAX } from '../../../src/format/names.ts'
import {
  mustParseDiskName,
  mustParseSnapshotName,
  mustParseVolumeName,
  verifyTag,
} from '../../../src/pool/names.ts'
import { SimWorld } from './sim-pool.ts'

const letters = Array.from('abzABZ019_', (letter) => fc.constant(letter))
const first = fc.oneof(...letters)
const rest = fc.oneof(...letters, fc.constant('.'), fc.constant('-'))
const name = fc
  .tuple(first, fc.array(rest, { maxLength: NAME_LENGTH_MAX - 1 }))
  .map(([head, tail]) => head + tail.join(''))
const usage = { code: 'usage' }

t.test('what is a name is one wherever names stand', (t) => {
  fc.assert(
    fc.property(name, name, (volume, snapshot) => {
      t.same(mustParseDiskName(volume), { volume, snapshot: null })
      t.same(mustParseDiskName(`${volume}@${snapshot}`), { volume, snapshot })
      t.equal(mustParseVolumeName(volume), volume)
      t.same(mustParseSnapshotName(`${volume}@${snapshot}`), { volume, snapshot })
      verifyTag(volume)
      t.throws(() => mustParseVolumeName(`${volume}@${snapshot}`), usage)
      t.throws(() => mustParseSnapshotName(volume), usage)
      t.throws(() => mustParseDiskName(`${volume}@${snapshot}@${volume}`), usage)
    }),
  )
  t.end()
})

t.test('what is none is one nowhere', (t) => {
  const strange = fc.oneof(
    fc.constantFrom('', '.', '..', '-', '-rf', '.hidden', 'a/b', '/', 'a b', 'é', 'a\n', 'a\0'),
    fc.tuple(name, fc.constantFrom('/', ' ', ':', '\\', '"', 'ü', '\n')).map((two) => two.join('')),
    fc.constant('a'.repeat(NAME_LENGTH_MAX + 1)),
  )
  fc.assert(
    fc.property(strange, (text) => {
      for (const parse of [mustParseDiskName, mustParseVolumeName, verifyTag]) {
        t.throws(() => parse(text), usage)
      }
      t.throws(() => mustParseSnapshotName(`good@${text}`), usage)
      t.throws(() => mustParseSnapshotName(`${text}@good`), usage)
    }),
  )
  t.equal(mustParseVolumeName('a'.repeat(NAME_LENGTH_MAX)).length, NAME_LENGTH_MAX)
  t.end()
})

t.test('what is refused changes nothing', async (t) => {
  const world = await SimWorld.create({ seed: 1 })
  const { pool } = world
  for (const volume of ['a', 'b']) await world.run(pool.create({ name: volume, sizeBytes: MIB }))
  await world.run(pool.snapshot(['a@s', 'b@s']))
  await world.run(pool.hold('a@s', 'tag'))
  const all = { recursive: true, dryRun: false }
  const refusals: [() => Promise<unknown>, string][] = [
    [() => pool.create({ name: 'a', sizeBytes: MIB }), 'exists'],
    [() => pool.create({ name: 'c@s', sizeBytes: MIB }), 'usage'],
    [() => pool.create({ name: 'c', sizeBytes: 0 }), 'usage'],
    [() => pool.create({ name: 'c', sizeBytes: 1000 }), 'usage'],
    [() => pool.create({ name: 'c', sizeBytes: 2 ** 53 }), 'usage'],
    [() => pool.create({ name: 'c', sizeBytes: VOLUME_SIZE_BYTES_MAX + 512 }), 'out-of-range'],
    [() => pool.snapshot([]), 'usage'],
    [() => pool.snapshot(['a@t', 'a@t']), 'usage'],
    [() => pool.snapshot(['a@s']), 'exists'],
    [() => pool.snapshot(['c@s']), 'not-found'],
    [() => pool.clone('a@s', []), 'usage'],
    [() => pool.clone('a@s', ['c', 'c']), 'usage'],
    [() => pool.clone('a@s', ['b']), 'exists'],
    [() => pool.clone('a@none', ['c']), 'not-found'],
    [() => pool.restore('a'), 'usage'],
    [() => pool.restore('a@none'), 'not-found'],
    [() => pool.rename('a', 'b'), 'exists'],
    [() => pool.rename('a', 'a@t'), 'usage'],
    [() => pool.rename('a@s', 'c'), 'usage'],
    [() => pool.rename('a@s', 'b@t'), 'usage'],
    [() => pool.rename('none', 'c'), 'not-found'],
    [() => pool.hold('a@s', 'tag'), 'exists'],
    [() => pool.hold('a@s', 'a tag'), 'usage'],
    [() => pool.hold('a@none', 'tag'), 'not-found'],
    [() => pool.release('a@s', 'other'), 'not-found'],
    [() => pool.remove({ names: [], ...all }), 'usage'],
    [() => pool.remove({ names: ['none'], ...all }), 'not-found'],
    [() => pool.remove({ names: ['a'], ...all }), 'busy'],
    [() => pool.resize('a@s', 2 * MIB, false), 'usage'],
    [() => pool.resize('a', 1000, true), 'usage'],
    [() => pool.beginImport({ name: 'a', sizeBytes: MIB }), 'exists'],
    [() => pool.files.rename(99, 'c'), 'not-found'],
    [() => pool.files.snapshot(99, 's'), 'not-found'],
    [() => pool.files.remove(99), 'not-found'],
    [() => pool.files.resize(99, 1, () => true), 'not-found'],
  ]
  const before = pool.list()
  for (const [attempt, code] of refusals) {
    await t.rejects(world.run((async () => attempt())()), { code }, attempt.toString())
  }
  t.throws(() => pool.files.mustDisk(99), { code: 'not-found' })
  t.equal(pool.openTarget('none', 'nobody'), null)
  t.equal(pool.openTarget('not a name', 'nobody'), null)
  t.same(pool.list(), before)
  await world.reopen()
  t.same(world.pool.list(), before)
  await world.close()
})

t.test('the disks that a filesystem sees are those that the command line names', async (t) => {
  const world = await SimWorld.create({ seed: 2 })
  const { pool } = world
  const { files } = pool
  await world.run(pool.create({ name: 'a', sizeBytes: MIB }))
  await world.run(pool.snapshot(['a@s']))
  const [clone] = await world.run(pool.clone('a@s', ['c']))
  const a = files.tryVolume('a')?.id ?? 0
  const s = files.trySnapshot(a, 's')?.id ?? 0
  t.equal(files.nameOf(a), 'a')
  t.equal(files.nameOf(s), 'a@s')
  t.equal(files.mustDisk(s).volumeId, a)
  t.equal(files.origin(clone.id)?.id, s)
  t.equal(files.origin(a), null)
  t.same(files.snapshots(s), null, 'a snapshot has none')
  const client = world.disk('a')
  t.same(files.clients(a), ['a test'])
  client.close()
  t.same(files.clients(a), [])
  const when = 1_234_567_890_123
  files.setModified(a, when)
  t.equal(files.tryDisk(a)?.modifiedMs, when)
  t.throws(() => files.setModified(s, when), { code: 'read-only' })
  t.throws(() => files.setModified(a, NaN), { code: 'usage' })
  const renamed = await world.run(files.snapshot(a, 't'))
  await world.run(files.rename(renamed.id, 'u'))
  await t.rejects(world.run(files.rename(renamed.id, 's')), { code: 'exists' })
  await t.rejects(world.run(files.rename(renamed.id, 'a/b')), { code: 'usage' })
  t.equal(files.nameOf(renamed.id), 'a@u')
  await world.run(pool.remove({ names: ['a'], recursive: true, dryRun: false }))
  t.equal(files.origin(clone.id), null, 'what it came from is gone')
  t.equal((await world.run(pool.volume('c'))).origin, null)
  await world.close()
})
