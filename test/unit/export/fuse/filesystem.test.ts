import t from 'tap'
import { Errno } from '../../../../src/base/errors.ts'
import { TIB } from '../../../../src/base/units.ts'
import { HANDLE_COUNT_MAX } from '../../../../src/export/fuse/handles.ts'
import { ROOT_NODE } from '../../../../src/export/fuse/operations.ts'
import type { FilesystemRig } from '../../../support/filesystem-rig.ts'
import { OWNER, STARTED_MS, errnoFrom, populated, turn } from '../../../support/filesystem-rig.ts'

const BLOCK = 4096
const SIZE_MAX = 256 * TIB

t.test('the tree has its folders, files, modes, links and times', async (t) => {
  const rig = populated({ nowMs: () => STARTED_MS + 500 })
  const names = async (path: string): Promise<string[]> =>
    (await rig.files.list(await rig.node(path))).map(({ name }) => name)
  t.strictSame(await names(''), ['volumes', 'snapshots'])
  t.strictSame(await names('volumes'), ['db', 'web'])
  t.strictSame(await names('snapshots'), ['db', 'web'])
  t.strictSame(await names('snapshots/web'), ['monday'])
  t.strictSame(await names('snapshots/db'), [])
  t.strictSame(await names('snapshots/web/monday'), ['disk'])
  const expected: [path: string, mode: number, othersMode: number, links: number][] = [
    ['', 0o700, 0o755, 4],
    ['volumes', 0o700, 0o755, 2],
    ['volumes/web', 0o600, 0o644, 1],
    ['snapshots', 0o700, 0o755, 4],
    ['snapshots/web', 0o700, 0o755, 3],
    ['snapshots/db', 0o700, 0o755, 2],
    ['snapshots/web/monday', 0o500, 0o555, 2],
    ['snapshots/web/monday/disk', 0o400, 0o444, 1],
  ]
  const open = populated({ allowOther: true })
  for (const [path, mode, othersMode, linkCount] of expected) {
    const found = await rig.files.attributes(await rig.node(path))
    t.match(found, { mode, linkCount, ...OWNER }, path)
    t.equal((await open.files.attributes(await open.node(path))).mode, othersMode, path)
  }
  const web = await rig.files.attributes(await rig.node('volumes/web'))
  t.match(web, { sizeBytes: 3 * BLOCK + 5, allocatedBytes: BLOCK, createdMs: STARTED_MS + 500 })
  t.equal((await rig.files.attributes(ROOT_NODE)).modifiedMs, STARTED_MS)
  t.equal((await rig.files.attributes(await rig.node('volumes'))).modifiedMs, STARTED_MS + 500)
  const space = await rig.files.space()
  t.equal(space.nodeCount, 9)
  t.equal(space.totalBytes - space.freeBytes, 2 * BLOCK)
})

t.test('a listing and a lookup agree on numbers, and a rename changes none', async (t) => {
  const rig = populated()
  const walk = async (node: number): Promise<void> => {
    for (const entry of await rig.files.list(node)) {
      const found = await rig.files.lookup(node, entry.name)
      t.match(found, { node: entry.node, isDirectory: entry.isDirectory }, entry.name)
      if (entry.isDirectory) await walk(entry.node)
    }
  }
  await walk(ROOT_NODE)
  const volumes = await rig.node('volumes')
  const before = await rig.node('volumes/db')
  await rig.files.rename(volumes, 'db', volumes, 'db2')
  t.equal(await rig.node('volumes/db2'), before)
  t.equal((await rig.files.list(before).catch(() => [])).length, 0)
})

t.test('a number that names nothing, or not any more, is ENOENT', async (t) => {
  const rig = populated()
  const gone = await rig.node('volumes/db')
  await rig.files.unlink(await rig.node('volumes'), 'db')
  const web = await rig.node('volumes/web')
  const monday = await rig.node('snapshots/web/monday')
  // A snapshot's folder of a volume, a folder of a snapshot's snapshots.
  for (const node of [0, 4, 15, 19, gone, gone + 1, web + 2, monday - 1, 1e15, -1, 1.5]) {
    t.equal(await errnoFrom(rig.files.attributes(node)), Errno.ENOENT, `${node}`)
    t.equal(await errnoFrom(rig.files.list(node)), Errno.ENOENT, `${node}`)
    t.equal(await errnoFrom(rig.files.create(node, 'x')), Errno.ENOENT, `${node}`)
    t.equal(await errnoFrom(() => rig.files.open(node, false, 'fuse')), Errno.ENOENT, `${node}`)
  }
  t.equal(await errnoFrom(rig.files.list(web)), Errno.ENOTDIR)
  t.equal(await errnoFrom(rig.files.lookup(web, 'x')), Errno.ENOTDIR)
  t.equal(await errnoFrom(rig.files.create(web, 'x')), Errno.ENOTDIR)
})

t.test('names that cannot be are found nowhere and made nowhere', async (t) => {
  const rig = populated()
  const long = 'n'.repeat(256)
  const longInBytes = '\u00e4'.repeat(128)
  const impossible = ['', '.', '..', 'a/b', '/', 'a\0b', 'a\nb']
  for (const path of ['volumes', 'snapshots/web']) {
    const folder = await rig.node(path)
    const make = (name: string): Promise<unknown> =>
      path === 'volumes' ? rig.files.create(folder, name) : rig.files.makeDirectory(folder, name)
    const old = path === 'volumes' ? 'db' : 'monday'
    for (const name of [...impossible, long, longInBytes, 'n'.repeat(201), 'a b', '-x', '\u00e4']) {
      const isLong = name === long || name === longInBytes
      const errno = isLong ? Errno.ENAMETOOLONG : Errno.EINVAL
      t.equal(await errnoFrom(make(name)), errno, JSON.stringify(name))
      const lookup = await errnoFrom(rig.files.lookup(folder, name))
      t.equal(lookup, isLong ? Errno.ENAMETOOLONG : Errno.ENOENT, JSON.stringify(name))
      const rename = await errnoFrom(rig.files.rename(folder, old, folder, name))
      t.equal(rename, errno, JSON.stringify(name))
    }
    t.equal(await errnoFrom(make('n'.repeat(200))), 0)
  }
})

t.test('only volumes and snapshots come and go', async (t) => {
  const rig = populated()
  const { files } = rig
  const at = await nodesOf(rig)
  const { EPERM, EEXIST, ENOENT, EISDIR, ENOTDIR, EROFS } = Errno
  const cases: [what: string, work: Promise<unknown>, errno: number][] = [
    ['create in /', files.create(at.root, 'x'), EPERM],
    ['create in snapshots', files.create(at.snapshots, 'x'), EPERM],
    ['create in snapshots/web', files.create(at.ofWeb, 'x'), EPERM],
    ['create in a snapshot', files.create(at.monday, 'x'), EPERM],
    ['create what is there', files.create(at.volumes, 'web'), EEXIST],
    ['create a fixed name', files.create(at.root, 'volumes'), EEXIST],
    ['mkdir in /', files.makeDirectory(at.root, 'x'), EPERM],
    ['mkdir in volumes', files.makeDirectory(at.volumes, 'x'), EPERM],
    ['mkdir in snapshots', files.makeDirectory(at.snapshots, 'x'), EPERM],
    ['mkdir in a snapshot', files.makeDirectory(at.monday, 'x'), EPERM],
    ['mkdir what is there', files.makeDirectory(at.ofWeb, 'monday'), EEXIST],
    ['unlink what is not there', files.unlink(at.volumes, 'x'), ENOENT],
    ['unlink a folder', files.unlink(at.root, 'volumes'), EISDIR],
    ['unlink a folder of snapshots', files.unlink(at.snapshots, 'web'), EISDIR],
    ['unlink a snapshot', files.unlink(at.ofWeb, 'monday'), EISDIR],
    ["unlink a snapshot's bytes", files.unlink(at.monday, 'disk'), EROFS],
    ['rmdir what is not there', files.removeDirectory(at.ofWeb, 'x'), ENOENT],
    ['rmdir a volume', files.removeDirectory(at.volumes, 'web'), ENOTDIR],
    ["rmdir a snapshot's bytes", files.removeDirectory(at.monday, 'disk'), ENOTDIR],
    ['rmdir volumes', files.removeDirectory(at.root, 'volumes'), EPERM],
    ['rmdir snapshots/web', files.removeDirectory(at.snapshots, 'web'), EPERM],
  ]
  for (const [what, work, errno] of cases) t.equal(await errnoFrom(work), errno, what)
  t.same(rig.tree.calls, [], 'none of it reached the pool')
  const made = await files.create(at.volumes, 'new')
  t.match(made, { isDirectory: false, sizeBytes: 0, mode: 0o600 })
  const snapshot = await files.makeDirectory(at.ofWeb, 'tuesday')
  t.match(snapshot, { isDirectory: true, mode: 0o500 })
  t.strictSame(
    (await files.list(at.ofWeb)).map(({ name }) => name),
    ['monday', 'tuesday'],
  )
  await files.removeDirectory(at.ofWeb, 'tuesday')
  await files.unlink(at.volumes, 'new')
  t.equal(await errnoFrom(files.attributes(made.node)), ENOENT)
  t.equal(await errnoFrom(files.attributes(snapshot.node)), ENOENT)
})

t.test('of two that make the same name, one is refused', async (t) => {
  const rig = populated()
  const at = await nodesOf(rig)
  const made = [rig.files.create(at.volumes, 'new'), rig.files.create(at.volumes, 'new')]
  t.strictSame(await Promise.all(made.map(errnoFrom)), [0, Errno.EEXIST])
})

async function nodesOf(rig: FilesystemRig): Promise<Record<string, number>> {
  return {
    root: ROOT_NODE,
    volumes: await rig.node('volumes'),
    snapshots: await rig.node('snapshots'),
    ofWeb: await rig.node('snapshots/web'),
    ofDb: await rig.node('snapshots/db'),
    monday: await rig.node('snapshots/web/monday'),
    web: await rig.node('volumes/web'),
    bytes: await rig.node('snapshots/web/monday/disk'),
  }
}

t.test('a rename stays in its folder and replaces nothing', async (t) => {
  const rig = populated()
  const { files } = rig
  const at = await nodesOf(rig)
  const { EPERM, EEXIST, ENOENT, ENOTDIR, EXDEV } = Errno
  rig.tree.addSnapshot(rig.tree.tryVolume('web')?.id ?? 0, 'tuesday')
  const cases: [what: string, work: Promise<void>, errno: number][] = [
    ['over another', files.rename(at.volumes, 'web', at.volumes, 'db'), EEXIST],
    ['over another snapshot', files.rename(at.ofWeb, 'monday', at.ofWeb, 'tuesday'), EEXIST],
    ['of nothing', files.rename(at.volumes, 'x', at.volumes, 'y'), ENOENT],
    ['to another folder', files.rename(at.volumes, 'web', at.ofWeb, 'web'), EXDEV],
    ['to another volume', files.rename(at.ofWeb, 'monday', at.ofDb, 'monday'), EXDEV],
    ['into a file', files.rename(at.volumes, 'db', at.web, 'x'), ENOTDIR],
    ['of a fixed folder', files.rename(at.root, 'volumes', at.root, 'x'), EPERM],
    ['of snapshots/web', files.rename(at.snapshots, 'web', at.snapshots, 'x'), EPERM],
    ['of the bytes', files.rename(at.monday, 'disk', at.monday, 'x'), EPERM],
    ['to itself', files.rename(at.volumes, 'web', at.volumes, 'web'), 0],
  ]
  for (const [what, work, errno] of cases) t.equal(await errnoFrom(work), errno, what)
  t.same(rig.tree.calls, [], 'none of it reached the pool')
  await files.rename(at.volumes, 'web', at.volumes, 'www')
  await files.rename(at.ofWeb, 'monday', at.ofWeb, 'sunday')
  t.equal(await rig.node('snapshots/www/sunday'), at.monday)
})

t.test('what has snapshots or is in use by others is busy at once', async (t) => {
  const rig = populated()
  const at = await nodesOf(rig)
  const open = rig.files.open(at.web, true, 'fuse: test')
  const refused = errnoFrom(rig.files.unlink(at.volumes, 'web'))
  for (let i = 0; i < 10; i += 1) await turn()
  rig.files.close(open)
  t.equal(await refused, Errno.EBUSY, 'has snapshots')
  t.equal(rig.tree.calls.length, 1, 'which no waiting changes')
  const db = rig.tree.tryVolume('db')?.id ?? 0
  const other = rig.tree.open(db, 'nbd: someone')
  t.equal(await errnoFrom(rig.files.unlink(at.volumes, 'db')), Errno.EBUSY)
  t.equal(rig.tree.calls.length, 2, 'not tried again')
  other.close()
  t.equal(await errnoFrom(rig.files.unlink(at.volumes, 'db')), 0)
})

t.test('a close that is under way is waited for, an open file is not for long', async (t) => {
  const rig = populated()
  const at = await nodesOf(rig)
  const { files } = rig
  const works: [node: number, work: () => Promise<void>][] = [
    [at.web, () => files.rename(at.volumes, 'web', at.volumes, 'www')],
    [at.bytes, () => files.rename(at.volumes, 'www', at.volumes, 'web')],
    [at.bytes, () => files.removeDirectory(at.ofWeb, 'monday')],
    [at.web, () => files.unlink(at.volumes, 'web')],
  ]
  for (const [node, work] of works) {
    const handles = [files.open(node, false, 'fuse: one'), files.open(node, false, 'fuse: two')]
    const before = rig.tree.calls.length
    const outcome = errnoFrom(work())
    for (let i = 0; i < 100 && rig.tree.calls.length === before; i += 1) await turn()
    await turn()
    for (const handle of handles) {
      files.close(handle)
      await turn()
    }
    t.equal(await outcome, 0)
  }
  const db = await rig.node('volumes/db')
  const open = files.open(db, false, 'fuse: one')
  t.equal(await errnoFrom(files.unlink(at.volumes, 'db')), Errno.EBUSY)
  files.close(open)
  t.equal(await errnoFrom(files.unlink(at.volumes, 'db')), 0)
})

t.test('sizes and times change, owner and mode do not', async (t) => {
  const rig = populated()
  const { files } = rig
  const { EPERM, EROFS, EISDIR, EFBIG, EINVAL } = Errno
  const at = await nodesOf(rig)
  const cases: [what: string, work: Promise<unknown>, errno: number][] = [
    ['same mode', files.change(at.web, { mode: 0o100600 }), 0],
    ['same mode of a snapshot', files.change(at.bytes, { mode: 0o400 }), 0],
    ['same owner', files.change(at.web, OWNER), 0],
    ['same of a folder', files.change(at.volumes, { mode: 0o700, ...OWNER }), 0],
    ['mode', files.change(at.web, { mode: 0o644 }), EPERM],
    ['sticky', files.change(at.web, { mode: 0o4600 }), EPERM],
    ['mode of a snapshot', files.change(at.bytes, { mode: 0o600 }), EPERM],
    ['user', files.change(at.web, { userId: 0 }), EPERM],
    ['group', files.change(at.web, { groupId: 0 }), EPERM],
    ['size and mode', files.change(at.web, { sizeBytes: 0, mode: 0 }), EPERM],
    ['size of a folder', files.change(at.volumes, { sizeBytes: 0 }), EISDIR],
    ['time of a folder', files.change(at.volumes, { modifiedMs: 0 }), EPERM],
    ['size of a snapshot', files.change(at.bytes, { sizeBytes: 0 }), EROFS],
    ['time of a snapshot', files.change(at.bytes, { modifiedMs: 0 }), EROFS],
    ['too long', files.change(at.web, { sizeBytes: SIZE_MAX + 1 }), EFBIG],
    ['negative', files.change(at.web, { sizeBytes: -1 }), EINVAL],
  ]
  for (const [what, work, errno] of cases) t.equal(await errnoFrom(work), errno, what)
  t.same(rig.tree.calls, [], 'none of it reached the pool')
  const both = await files.change(at.web, { sizeBytes: 77, modifiedMs: 12 })
  t.match(both, { sizeBytes: 77, modifiedMs: 12 })
  t.match(await files.change(at.web, { sizeBytes: SIZE_MAX }), { sizeBytes: SIZE_MAX })
  t.match(await files.change(at.web, { sizeBytes: 0 }), { sizeBytes: 0, allocatedBytes: 0 })
  const nbd = rig.tree.open(1, 'nbd: someone')
  await files.change(at.web, { sizeBytes: 9 })
  t.equal(await errnoFrom(files.change(at.web, { sizeBytes: 8 })), Errno.EBUSY)
  nbd.close()
})

t.test("attributes show the tree's facts, and no others", async (t) => {
  const rig = populated()
  const at = await nodesOf(rig)
  const names = await rig.files.attributeNames(at.web)
  t.ok(names.includes('user.varve.mapped') && names.includes('user.varve.snapshots'))
  t.equal(await rig.files.attribute(at.web, 'user.varve.mapped'), `${BLOCK}`)
  t.equal(await rig.files.attribute(at.web, 'user.varve.parent'), '')
  t.strictSame(await rig.files.attributeNames(at.monday), await rig.files.attributeNames(at.bytes))
  for (const name of ['user.varve.x', 'user.x', 'mapped', 'user.varve.', 'security.capability']) {
    t.equal(await errnoFrom(rig.files.attribute(at.web, name)), Errno.ENODATA, name)
  }
  for (const node of [at.root, at.volumes, at.ofWeb]) {
    t.strictSame(await rig.files.attributeNames(node), [])
    t.equal(await errnoFrom(rig.files.attribute(node, 'user.varve.id')), Errno.ENODATA)
  }
})

t.test('handles are bounded, used again and told of', async (t) => {
  const rig = populated()
  const at = await nodesOf(rig)
  const { files } = rig
  for (const node of [at.root, at.ofWeb, at.monday]) {
    t.equal(await errnoFrom(() => files.open(node, false, 'fuse')), Errno.EISDIR)
  }
  t.equal(await errnoFrom(() => files.open(at.bytes, true, 'fuse')), Errno.EROFS)
  const one = files.open(at.web, true, 'fuse: one')
  const two = files.open(at.bytes, false, 'fuse: two')
  t.strictSame(files.openHandles(), [
    { diskId: 1, name: 'web', isWritable: true, client: 'fuse: one' },
    { diskId: 3, name: 'web@monday', isWritable: false, client: 'fuse: two' },
  ])
  t.strictSame(rig.tree.users(1), ['fuse: one'])
  t.equal(files.busyHandles(1), 1)
  files.close(one)
  t.equal(files.busyHandles(1), 0)
  t.strictSame(rig.tree.users(1), [])
  t.throws(() => files.close(one), { name: 'AssertionError' })
  t.equal(files.open(at.web, false, 'fuse'), one, 'the number is used again')
  files.close(one)
  files.close(two)
  const handles = Array.from({ length: HANDLE_COUNT_MAX }, () => files.open(at.web, true, 'fuse'))
  t.equal(await errnoFrom(() => files.open(at.web, true, 'fuse')), Errno.ENFILE)
  t.equal(rig.tree.users(1).length, HANDLE_COUNT_MAX)
  for (const handle of handles) files.close(handle)
  t.strictSame(
    [files.busyHandles(1), rig.tree.users(1).length, files.openHandles().length],
    [0, 0, 0],
  )
})
