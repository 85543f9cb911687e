import { constants } from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'
import { mustTool, refused, tool, toolAsNobody } from '../support/probe.ts'
import type { MakeFuse } from './fuse-conformance.ts'

const { O_CREAT, O_DIRECT, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY } = constants

export async function accessConformance(t: Test, make: MakeFuse): Promise<void> {
  await t.test('a snapshot cannot be written in any way', (t) => protectsSnapshots(t, make))
  await t.test('attributes tell what the pool knows', (t) => tellsFacts(t, make))
  await t.test('other users see nothing', (t) => keepsOthersOut(t, make))
  await t.test('with allowOther they may look and read', (t) => letsOthersIn(t, make))
}

async function protectsSnapshots(t: Test, make: MakeFuse): Promise<void> {
  const { tree, path, probe, volume, snapshot } = await make(t)
  const { id } = tree.addVolume('v', 16_384)
  t.ok(tree.disk(id).tryPut(0, Buffer.alloc(16_384, 'kept')))
  const { id: snapshotId } = tree.addSnapshot(id, 's')
  const file = snapshot('v', 's')
  const folder = join(path, 'snapshots', 'v', 's')
  for (const how of [O_RDWR, O_WRONLY, O_RDWR | O_DIRECT, O_RDONLY | O_TRUNC, O_RDWR | O_CREAT]) {
    await refused(t, ['EROFS', 'EACCES'], probe.call('open', file, how), `open ${how}`)
  }
  const opened = await probe.call('open', file, O_RDONLY)
  const refusals: [codes: string[], what: string, call: Promise<unknown>][] = [
    [['EBADF'], 'write', probe.call('write', opened, Buffer.alloc(10), 0)],
    [['EINVAL', 'EBADF'], 'ftruncate', probe.call('ftruncate', opened, 0)],
    [['EROFS'], 'truncate', probe.call('truncate', file, 0)],
    [['EROFS'], 'longer', probe.call('truncate', file, 32_768)],
    [['EROFS', 'EPERM'], 'chmod', probe.call('chmod', file, 0o600)],
    [['EROFS', 'EPERM'], 'utimes', probe.call('utimes', file, 0, 0)],
    [['EROFS', 'EPERM'], 'unlink', probe.call('unlink', file)],
    [['EPERM'], 'rename', probe.call('rename', file, join(folder, 'other'))],
    [['EXDEV', 'EEXIST'], 'replace it', probe.call('rename', volume('v'), file)],
    [['EXDEV', 'EEXIST'], 'replace by it', probe.call('rename', file, volume('v'))],
    [['EPERM'], 'a file beside it', probe.call('open', join(folder, 'x'), O_CREAT | O_RDWR)],
    [['EPERM'], 'a folder beside it', probe.call('mkdir', join(folder, 'x'))],
    [['EPERM'], 'link', probe.call('link', file, volume('x'))],
  ]
  for (const [codes, what, call] of refusals) await refused(t, codes, call, what)
  await probe.call('close', opened)
  for (const command of ['mmap -rw 0 4096', 'mmap -w 0 4096']) {
    const { stderr } = await tool('xfs_io', '-r', '-c', command, file)
    t.match(stderr, /Permission denied/, `${command}, shared`)
  }
  for (const command of ['pwrite 0 10', 'fpunch 0 4096', 'fzero 0 4096', 'falloc 0 4096']) {
    const { stdout, stderr } = await tool('xfs_io', '-r', '-c', command, file)
    t.match(stdout + stderr, /Bad file descriptor/, command)
  }
  t.match((await tool('xfs_io', '-r', '-c', `copy_range ${volume('v')}`, file)).stderr, /Bad file/)
  t.not((await tool('setfattr', '-n', 'user.varve.id', '-v', '7', file)).code, 0)
  t.not((await tool('dd', 'if=/dev/zero', `of=${file}`, 'count=1', 'conv=notrunc')).code, 0)
  t.not((await tool('cp', volume('v'), file)).code, 0)
  const content = Buffer.alloc(16_384, 'kept')
  t.ok(content.equals(await probe.call('readFile', file)), 'it reads as before')
  const { recorded } = tree.disk(snapshotId)
  t.ok(
    recorded.every(({ kind }) => kind === 'read' || kind === 'flush'),
    'nothing was tried',
  )
}

async function tellsFacts(t: Test, make: MakeFuse): Promise<void> {
  const { tree, path, volume, snapshot } = await make(t)
  const { id } = tree.addVolume('v', 1 << 20)
  t.ok(tree.disk(id).tryPut(0, Buffer.alloc(8192, 1)))
  const { id: snapshotId } = tree.addSnapshot(id, 's')
  const value = (name: string, file: string): Promise<string> => {
    return mustTool('getfattr', '--absolute-names', '--only-values', '-n', name, file)
  }
  t.equal(await value('user.varve.mapped', volume('v')), '8192')
  t.equal(await value('user.varve.size', volume('v')), String(1 << 20))
  t.equal(await value('user.varve.snapshots', volume('v')), '1')
  t.equal(await value('user.varve.id', snapshot('v', 's')), String(snapshotId))
  const folder = join(path, 'snapshots', 'v', 's')
  t.equal(await value('user.varve.id', folder), String(snapshotId), 'a snapshot’s folder, too')
  const all = await mustTool('getfattr', '--absolute-names', '-d', '-m', '-', volume('v'))
  const names = [...all.matchAll(/^(user\.varve\.\w+)="/gm)].map(([, name]) => name)
  const expected = tree.factNames(id).map((name) => `user.varve.${name}`)
  t.same(names.sort(), expected.sort())
  t.equal(await mustTool('getfattr', '-d', join(path, 'volumes')), '')
  for (const name of ['user.varve.nothing', 'user.other', 'security.capability', 'trusted.x']) {
    const { stderr } = await tool('getfattr', '-n', name, volume('v'))
    t.match(stderr, /No such attribute/, name)
  }
  const set = await tool('setfattr', '-n', 'user.varve.mapped', '-v', '1', volume('v'))
  t.match(set.stderr, /Operation not permitted/)
  const remove = await tool('setfattr', '-x', 'user.varve.mapped', volume('v'))
  t.match(remove.stderr, /Operation not permitted/)
}

async function keepsOthersOut(t: Test, make: MakeFuse): Promise<void> {
  const { tree, path, volume } = await make(t)
  tree.addVolume('v', 4096)
  t.equal((await toolAsNobody('stat', join(path, '..'))).code, 0, 'up to the mount they may go')
  const attempts: string[][] = [
    ['ls', path],
    ['stat', volume('v')],
    ['cat', volume('v')],
    ['touch', volume('w')],
    ['rm', '-f', volume('v')],
    ['df', path],
  ]
  for (const [command, ...args] of attempts) {
    const { code, stderr } = await toolAsNobody(command, ...args)
    t.not(code, 0, command)
    t.match(stderr, /Permission denied/, command)
  }
  t.same(
    tree.volumes().map(({ name }) => name),
    ['v'],
  )
}

async function letsOthersIn(t: Test, make: MakeFuse): Promise<void> {
  const { tree, path, probe, volume, snapshot } = await make(t, { allowOther: true })
  const { id } = tree.addVolume('v', 4096)
  t.ok(tree.disk(id).tryPut(0, Buffer.from('for all to see')))
  tree.addSnapshot(id, 's')
  t.match(await probe.call('stat', path), { mode: 0o755 })
  t.match(await probe.call('stat', volume('v')), { mode: 0o644 })
  t.match(await probe.call('stat', snapshot('v', 's')), { mode: 0o444 })
  t.equal((await toolAsNobody('ls', join(path, 'volumes'))).stdout, 'v\n')
  t.match((await toolAsNobody('cat', volume('v'))).stdout, /^for all to see/)
  t.equal((await toolAsNobody('cat', snapshot('v', 's'))).code, 0)
  const attempts: string[][] = [
    ['touch', volume('w')],
    ['rm', '-f', volume('v')],
    ['mv', volume('v'), volume('w')],
    ['truncate', '-s', '0', volume('v')],
    ['dd', 'if=/dev/zero', `of=${volume('v')}`, 'count=1'],
    ['mkdir', join(path, 'snapshots', 'v', 'x')],
    ['rmdir', join(path, 'snapshots', 'v', 's')],
  ]
  for (const [command, ...args] of attempts) {
    const { code, stderr } = await toolAsNobody(command, ...args)
    t.not(code, 0, command)
    t.match(stderr, /Permission denied/, command)
  }
  t.equal(tree.disk(id).bytes(0, 7).toString(), 'for all')
  t.equal(tree.snapshots(id)?.length, 1)
}
