import { constants } from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'
import { must } from '../../src/base/assert.ts'
import { mustTool, refused, tool } from '../support/probe.ts'
import type { MakeFuse } from './fuse-conformance.ts'

const { O_CREAT, O_EXCL, O_RDONLY, O_RDWR, O_WRONLY } = constants

export async function treeConformance(t: Test, make: MakeFuse): Promise<void> {
  await t.test('the folders show what the pool has, of the right kinds', (t) => showsTree(t, make))
  await t.test('stat tells size, blocks, owner, links and times', (t) => statTells(t, make))
  await t.test('an inode number stays with its disk', (t) => keepsNodes(t, make))
  await t.test('what changes elsewhere shows at once', (t) => showsChanges(t, make))
  await t.test('files are made, renamed and removed', (t) => changesFiles(t, make))
  await t.test('snapshots are taken and removed as folders', (t) => changesFolders(t, make))
  await t.test('what cannot be is refused as a local filesystem does', (t) => refuses(t, make))
  await t.test('names that no volume can have are refused', (t) => refusesNames(t, make))
  await t.test('owner and mode are fixed, times are not', (t) => fixesOwner(t, make))
  await t.test('a folder of 5,000 volumes is listed whole', (t) => listsMany(t, make))
  await t.test('statfs tells the space of the pool', (t) => tellsSpace(t, make))
}

async function showsTree(t: Test, make: MakeFuse): Promise<void> {
  const { tree, path, probe } = await make(t)
  const first = tree.addVolume('first', 4096)
  tree.addVolume('second')
  tree.addSnapshot(first.id, 'monday')
  tree.addSnapshot(first.id, 'tuesday')
  const list = async (...names: string[]): Promise<string[]> => {
    const entries = await probe.call('list', join(path, ...names))
    return entries.map(([name, isDirectory]) => (isDirectory ? `${name}/` : name)).sort()
  }
  t.same(await list(), ['snapshots/', 'volumes/'])
  t.same(await list('volumes'), ['first', 'second'])
  t.same(await list('snapshots'), ['first/', 'second/'])
  t.same(await list('snapshots', 'first'), ['monday/', 'tuesday/'])
  t.same(await list('snapshots', 'first', 'monday'), ['disk'])
  t.same(await list('snapshots', 'second'), [])
  const all = await mustTool('find', path, '-mindepth', '1', '-printf', '%y %P\n')
  t.same(all.trim().split('\n').sort(), [
    'd snapshots',
    'd snapshots/first',
    'd snapshots/first/monday',
    'd snapshots/first/tuesday',
    'd snapshots/second',
    'd volumes',
    'f snapshots/first/monday/disk',
    'f snapshots/first/tuesday/disk',
    'f volumes/first',
    'f volumes/second',
  ])
}

async function statTells(t: Test, make: MakeFuse): Promise<void> {
  const { tree, path, probe, volume, snapshot, capabilities } = await make(t)
  const { id } = tree.addVolume('odd', 1_000_001)
  t.ok(tree.disk(id).tryPut(8192, Buffer.alloc(8192, 'x')))
  tree.addSnapshot(id, 'now')
  const stat = await probe.call('stat', volume('odd'))
  t.match(stat, {
    isDirectory: false,
    mode: 0o600,
    linkCount: 1,
    userId: process.geteuid?.(),
    groupId: process.getegid?.(),
    sizeBytes: 1_000_001,
    allocatedBytes: 8192,
    modifiedMs: must(tree.tryDisk(id), 'the volume').modifiedMs,
  })
  t.match(await probe.call('stat', snapshot('odd', 'now')), { mode: 0o400, sizeBytes: 1_000_001 })
  t.match(await probe.call('stat', path), { isDirectory: true, mode: 0o700, linkCount: 4 })
  t.match(await probe.call('stat', join(path, 'volumes')), { mode: 0o700, linkCount: 2 })
  t.match(await probe.call('stat', join(path, 'snapshots')), { linkCount: 3 })
  const folder = join(path, 'snapshots', 'odd', 'now')
  t.match(await probe.call('stat', folder), { isDirectory: true, mode: 0o500, linkCount: 2 })
  t.match(await mustTool('du', '--block-size=1', volume('odd')), /^8192\t/)
  const bornSeconds = Number(await mustTool('stat', '-c', '%W', volume('odd')))
  const createdMs = must(tree.tryDisk(id), 'the volume').createdMs
  t.equal(bornSeconds, capabilities.birthTime ? Math.floor(createdMs / 1000) : 0)
}

async function keepsNodes(t: Test, make: MakeFuse): Promise<void> {
  const { tree, path, probe, volume, snapshot } = await make(t)
  const { id } = tree.addVolume('one', 4096)
  tree.addVolume('two', 4096)
  tree.addSnapshot(id, 'then')
  const one = (await probe.call('stat', volume('one'))).node
  const paths = [
    path,
    join(path, 'volumes'),
    join(path, 'snapshots'),
    join(path, 'snapshots', 'one'),
    join(path, 'snapshots', 'one', 'then'),
    snapshot('one', 'then'),
    volume('two'),
    volume('one'),
  ]
  const nodes = []
  for (const each of paths) nodes.push((await probe.call('stat', each)).node)
  t.equal(new Set(nodes).size, paths.length, 'all are different')
  const listed = await mustTool('ls', '-i', '-U', '-1', join(path, 'volumes'))
  t.match(listed, new RegExp(`^ *${one} one$`, 'm'), 'a listing says the same number')
  await probe.call('rename', volume('one'), volume('uno'))
  t.equal((await probe.call('stat', volume('uno'))).node, one)
  await tree.rename(id, 'eins')
  t.equal((await probe.call('stat', volume('eins'))).node, one)
  await probe.call('unlink', volume('two'))
  const file = await probe.call('open', volume('two'), O_CREAT | O_EXCL | O_RDWR)
  t.notOk(nodes.includes((await probe.call('fstat', file)).node), 'no number is used again')
  await probe.call('close', file)
}

async function showsChanges(t: Test, make: MakeFuse): Promise<void> {
  const { tree, path, probe, volume } = await make(t)
  await refused(t, 'ENOENT', probe.call('stat', volume('late')))
  const { id } = await tree.create('late')
  t.equal((await probe.call('stat', volume('late'))).sizeBytes, 0)
  await tree.snapshot(id, 's')
  t.same(await probe.call('list', join(path, 'snapshots', 'late')), [['s', true]])
  await tree.rename(id, 'later')
  await refused(t, 'ENOENT', probe.call('stat', volume('late')))
  const file = await probe.call('open', volume('later'), O_RDWR)
  await probe.call('write', file, Buffer.from('abc'), 0)
  t.equal((await probe.call('fstat', file)).sizeBytes, 3)
  t.equal(Buffer.from(await probe.call('read', file, 0, 10)).toString(), 'abc')
  await probe.call('close', file)
  const gone = await tree.create('gone')
  t.equal((await probe.call('stat', volume('gone'))).sizeBytes, 0)
  await tree.remove(gone.id)
  await refused(t, 'ENOENT', probe.call('stat', volume('gone')))
  await refused(t, 'ENOENT', probe.call('open', volume('gone'), O_RDONLY))
}

async function changesFiles(t: Test, make: MakeFuse): Promise<void> {
  const { tree, probe, volume } = await make(t)
  const file = await probe.call('open', volume('new'), O_CREAT | O_EXCL | O_WRONLY)
  t.equal((await probe.call('fstat', file)).sizeBytes, 0)
  await probe.call('write', file, Buffer.from('hello'), 0)
  await refused(t, 'EBUSY', probe.call('unlink', volume('new')), 'an open volume is in use')
  await probe.call('close', file)
  const { id } = must(tree.tryVolume('new'), 'the volume made')
  t.equal(tree.disk(id).bytes(0, 5).toString(), 'hello')
  await probe.call('rename', volume('new'), volume('other'))
  t.equal(tree.tryVolume('new'), null)
  t.equal(tree.tryVolume('other')?.id, id)
  t.equal(Buffer.from(await probe.call('readFile', volume('other'))).toString(), 'hello')
  await probe.call('writeFile', volume('other'), Buffer.from('shorter than'.slice(0, 3)))
  t.equal((await probe.call('stat', volume('other'))).sizeBytes, 3, 'O_TRUNC empties first')
  await probe.call('unlink', volume('other'))
  t.same(tree.volumes(), [])
  await mustTool('touch', volume('touched'))
  t.ok(tree.tryVolume('touched'))
  await mustTool('mv', volume('touched'), volume('moved'))
  await mustTool('rm', volume('moved'))
  t.same(tree.volumes(), [])
}

async function changesFolders(t: Test, make: MakeFuse): Promise<void> {
  const { tree, path, probe, volume, snapshot } = await make(t)
  await probe.call('writeFile', volume('v'), Buffer.from('before'))
  const folder = join(path, 'snapshots', 'v')
  await probe.call('mkdir', join(folder, 'one'))
  await probe.call('writeFile', volume('v'), Buffer.from('after!'))
  t.equal(Buffer.from(await probe.call('readFile', snapshot('v', 'one'))).toString(), 'before')
  await refused(t, 'EEXIST', probe.call('mkdir', join(folder, 'one')))
  await refused(t, 'EBUSY', probe.call('unlink', volume('v')), 'a volume with a snapshot')
  await probe.call('rename', join(folder, 'one'), join(folder, 'two'))
  const { id } = must(tree.tryVolume('v'), 'the volume')
  t.same(
    tree.snapshots(id)?.map(({ name }) => name),
    ['two'],
  )
  const file = await probe.call('open', snapshot('v', 'two'), O_RDONLY)
  await refused(t, 'EBUSY', probe.call('rmdir', join(folder, 'two')), 'a snapshot in use')
  await probe.call('close', file)
  await probe.call('rmdir', join(folder, 'two'))
  t.same(tree.snapshots(id), [])
  await probe.call('unlink', volume('v'))
}

async function refuses(t: Test, make: MakeFuse): Promise<void> {
  const { tree, path, probe, volume, snapshot } = await make(t)
  const { id } = tree.addVolume('v', 4096)
  tree.addVolume('w', 4096)
  tree.addSnapshot(id, 's')
  const at = (...names: string[]): string => join(path, ...names)
  const cases: [codes: string | string[], what: string, call: Promise<unknown>][] = [
    ['EEXIST', 'exclusive', probe.call('open', volume('v'), O_CREAT | O_EXCL | O_RDWR)],
    ['EPERM', 'a file in the root', probe.call('open', at('x'), O_CREAT | O_RDWR)],
    ['EPERM', 'a folder in the root', probe.call('mkdir', at('x'))],
    ['EPERM', 'a folder of volumes', probe.call('mkdir', at('volumes', 'x'))],
    ['EPERM', 'snapshots of nothing', probe.call('mkdir', at('snapshots', 'x'))],
    ['EPERM', 'a file there', probe.call('open', at('snapshots', 'v', 'x'), O_CREAT | O_RDWR)],
    ['ENOENT', 'a folder in none', probe.call('mkdir', at('snapshots', 'x', 'y'))],
    ['ENOTDIR', 'inside a file', probe.call('stat', at('volumes', 'v', 'x'))],
    ['ENOENT', 'what is not there', probe.call('unlink', volume('x'))],
    ['EISDIR', 'unlink of a folder', probe.call('unlink', at('volumes'))],
    ['ENOTDIR', 'rmdir of a file', probe.call('rmdir', volume('v'))],
    ['EPERM', 'rmdir of volumes', probe.call('rmdir', at('volumes'))],
    ['EPERM', 'rmdir of a volume’s snapshots', probe.call('rmdir', at('snapshots', 'v'))],
    ['EEXIST', 'a name that is taken', probe.call('rename', volume('v'), volume('w'))],
    ['EXDEV', 'across', probe.call('rename', volume('w'), at('snapshots', 'v', 'w'))],
    ['EXDEV', 'out of here', probe.call('rename', volume('w'), '/tmp/varve-no-such')],
    ['EISDIR', 'writing a folder', probe.call('open', at('volumes'), O_RDWR)],
    ['EPERM', 'a symbolic link', probe.call('symlink', 'v', volume('x'))],
    ['EPERM', 'a hard link', probe.call('link', volume('v'), volume('x'))],
    ['EFBIG', 'longer than any volume', probe.call('truncate', volume('v'), 2 ** 50)],
    [['EPERM', 'EROFS'], 'a disk of a snapshot', probe.call('unlink', snapshot('v', 's'))],
  ]
  for (const [codes, what, call] of cases) await refused(t, codes, call, what)
  t.match((await tool('mkfifo', volume('x'))).stderr, 'Operation not permitted')
  const renamed = probe.call('rename', volume('v'), volume('v'))
  await t.resolves(renamed, 'to its own name')
  t.same(
    tree.volumes().map(({ name, sizeBytes }) => [name, sizeBytes]),
    [
      ['v', 4096],
      ['w', 4096],
    ],
    'nothing came of any of it',
  )
}

async function refusesNames(t: Test, make: MakeFuse): Promise<void> {
  const { tree, path, probe, volume } = await make(t)
  tree.addVolume('v')
  const create = (name: string): Promise<unknown> => {
    return probe.call('open', volume(name), O_CREAT | O_RDWR)
  }
  const long = 'x'.repeat(255)
  for (const name of ['a\nb', 'a b', 'ä', 'a@b', '*', '\x7f', long]) {
    await refused(t, 'EINVAL', create(name), JSON.stringify(name))
    await refused(t, 'ENOENT', probe.call('stat', volume(name)), JSON.stringify(name))
    const folder = join(path, 'snapshots', 'v', name)
    await refused(t, 'EINVAL', probe.call('mkdir', folder), JSON.stringify(name))
    await refused(t, 'EINVAL', probe.call('rename', volume('v'), volume(name)))
  }
  for (const name of [`${long}x`, 'ä'.repeat(128), 'x'.repeat(2000)]) {
    await refused(t, 'ENAMETOOLONG', create(name))
    await refused(t, 'ENAMETOOLONG', probe.call('stat', volume(name)))
    await refused(t, 'ENAMETOOLONG', probe.call('mkdir', join(path, 'snapshots', 'v', name)))
  }
  const raw = Buffer.concat([Buffer.from(`${volume('')}/`), Buffer.from([0x78, 0xff, 0xfe])])
  await refused(t, 'EINVAL', probe.call('open', raw, O_CREAT | O_RDWR), 'no UTF-8')
  await refused(t, 'ENOENT', probe.call('stat', raw), 'no UTF-8')
  t.equal(tree.volumes().length, 1)
  await refused(t, ['EISDIR', 'EEXIST'], create('..'))
}

async function fixesOwner(t: Test, make: MakeFuse): Promise<void> {
  const { tree, probe, volume, capabilities } = await make(t)
  const { id } = tree.addVolume('v', 4096)
  const modifiedMs = (): number => must(tree.tryDisk(id), 'the volume').modifiedMs
  const userId = process.geteuid?.() ?? 0
  const groupId = process.getegid?.() ?? 0
  await probe.call('chmod', volume('v'), 0o600)
  await refused(t, 'EPERM', probe.call('chmod', volume('v'), 0o644))
  await probe.call('chown', volume('v'), userId, groupId)
  await refused(t, 'EPERM', probe.call('chown', volume('v'), userId + 1, groupId))
  await refused(t, 'EPERM', probe.call('chown', volume('v'), userId, groupId + 1))
  await probe.call('utimes', volume('v'), 5_000_000_000_250, 1_000_000_000_500)
  t.equal(modifiedMs(), 1_000_000_000_500, 'not mistaken for the access time')
  t.equal((await probe.call('stat', volume('v'))).modifiedMs, 1_000_000_000_500)
  await mustTool('touch', '-a', '-d', '2001-01-01T00:00:00Z', volume('v'))
  t.equal(modifiedMs(), 1_000_000_000_500, 'the access time alone changes nothing')
  await mustTool('touch', '-m', '-d', '2002-01-01T00:00:00Z', volume('v'))
  const then = Date.UTC(2002, 0, 1)
  t.equal(modifiedMs(), capabilities.modifiedTimeAlone ? then : 1_000_000_000_500)
  const beforeMs = Date.now()
  await mustTool('touch', volume('v'))
  // The kernel's clock for files is a tick behind.
  t.ok(modifiedMs() >= beforeMs - 100 && modifiedMs() <= Date.now() + 100, 'now')
}

async function listsMany(t: Test, make: MakeFuse): Promise<void> {
  const { tree, path, probe } = await make(t)
  const names = Array.from({ length: 5000 }, (_, index) => `volume-with-a-longer-name-${index}`)
  for (const name of names) tree.addVolume(name)
  names.sort()
  const listed = await probe.call('list', join(path, 'volumes'))
  t.same(listed.map(([name]) => name).sort(), names)
  t.notOk(listed.some(([, isDirectory]) => isDirectory))
  const found = await mustTool('find', join(path, 'volumes'), '-type', 'f', '-printf', '%f\n')
  t.same(found.trim().split('\n').sort(), names)
  t.equal((await probe.call('list', join(path, 'snapshots'))).length, names.length)
}

async function tellsSpace(t: Test, make: MakeFuse): Promise<void> {
  const capacityBytes = 2 ** 50
  const { tree, path, probe } = await make(t, { capacityBytes })
  const { id } = tree.addVolume('v', 1 << 30)
  t.ok(tree.disk(id).tryPut(0, Buffer.alloc(1 << 20, 1)))
  const space = await probe.call('statfs', path)
  t.equal(space.blocks * space.blockBytes, capacityBytes)
  const usedBytes = (space.blocks - space.freeBlocks) * space.blockBytes
  t.ok(usedBytes >= 1 << 20 && usedBytes < 1 << 22, `${usedBytes} bytes used`)
  const shown = await mustTool('findmnt', '-n', '-o', 'FSTYPE,SOURCE', path)
  t.match(shown, /fuse\.varve +\/pools\/one, two/)
}
