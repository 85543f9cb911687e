import { constants } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Test } from 'tap'
import { OperatingError } from '../../src/base/errors.ts'
import { mustTool, refused, tool } from '../support/probe.ts'
import type { FuseUnderTest, MakeFuse } from './fuse-conformance.ts'

const { O_RDWR } = constants
/** As long as a transport may take to notice that it is gone. */
const END_TIMEOUT_MS = 10_000

export async function lifeConformance(t: Test, make: MakeFuse): Promise<void> {
  await t.test('it unmounts when nothing is open, and not before', (t) => unmounts(t, make))
  await t.test('it unmounts by force under open files', (t) => forces(t, make))
  await t.test('what is unmounted from outside is told once', (t) => notices(t, make))
  await t.test('a force ends calls under way', (t) => endsCalls(t, make))
  await t.test('files open in what was unmounted lazily are in use', (t) => outlives(t, make))
  await t.test('an aborted connection leaves no mount', (t) => leavesNothing(t, make))
  await t.test('nothing is mounted within a mounted pool', (t) => staysOutside(t, make))
}

async function isMounted({ path }: FuseUnderTest): Promise<boolean> {
  return (await tool('mountpoint', '-q', path)).code === 0
}

async function unmounts(t: Test, make: MakeFuse): Promise<void> {
  const fuse = await make(t)
  const { tree, mount, path, probe, volume } = fuse
  tree.addVolume('v', 4096)
  const ends: string[] = []
  mount.onEnd((reason) => ends.push(reason))
  t.equal(mount.mountPath, path)
  const file = await probe.call('open', volume('v'), O_RDWR)
  const error: unknown = await mount.unmount(false).catch((error: unknown) => error)
  t.ok(error instanceof OperatingError && error.code === 'busy', 'refused while a file is open')
  t.equal((await probe.call('read', file, 0, 10)).length, 10, 'and goes on serving')
  await probe.call('close', file)
  await mount.unmount(false)
  t.equal(await isMounted(fuse), false)
  t.same(await probe.call('list', path), [], 'the folder is empty again')
  await mount.unmount(false)
  await mount.unmount(true)
  t.same(ends, [], 'who unmounts knows')
}

async function forces(t: Test, make: MakeFuse): Promise<void> {
  const fuse = await make(t)
  const { tree, filesystem, mount, probe, volume } = fuse
  const { id } = tree.addVolume('v', 1 << 20)
  const file = await probe.call('open', volume('v'), O_RDWR)
  t.equal(filesystem.busyHandles(id), 1)
  await mount.unmount(true)
  t.equal(await isMounted(fuse), false)
  t.equal(filesystem.busyHandles(id), 0, 'its files are closed')
  const codes = ['ENOTCONN', 'ECONNABORTED', 'EIO']
  await refused(t, codes, probe.call('read', file, 8192, 10), 'what was open gets errors')
  await refused(t, [...codes, 'done'], probe.call('close', file), 'a close may tell')
}

async function notices(t: Test, make: MakeFuse): Promise<void> {
  const fuse = await make(t)
  const { tree, filesystem, mount, path, probe, volume } = fuse
  tree.addVolume('v', 4096)
  const ends: string[] = []
  const ended = new Promise<void>((resolve) => {
    mount.onEnd((reason) => {
      ends.push(reason)
      resolve()
    })
  })
  const file = await probe.call('open', volume('v'), O_RDWR)
  await probe.call('write', file, Buffer.from('x'), 0)
  await mustTool('umount', '-f', '-l', path)
  await Promise.race([ended, sleep(END_TIMEOUT_MS, null, { ref: false })])
  t.equal(ends.length, 1)
  t.match(ends[0], path)
  t.same(filesystem.openHandles(), [])
  await mount.unmount(false)
  const late = new Promise<string>((resolve) => mount.onEnd(resolve))
  t.equal(await late, ends[0], 'who asks later hears it, too')
  t.equal(ends.length, 1)
}

async function endsCalls(t: Test, make: MakeFuse): Promise<void> {
  const { tree, filesystem, mount, probe, volume } = await make(t)
  const { id } = tree.addVolume('v', 1 << 20)
  const file = await probe.call('open', volume('v'), O_RDWR)
  const { completions } = tree.disk(id)
  completions.isHeld = true
  const codes = ['ENOTCONN', 'ECONNABORTED', 'EIO', 'EINTR']
  const read = refused(t, codes, probe.call('read', file, 0, 4096), 'a call under way')
  while (completions.count === 0) await sleep(5)
  const unmounted = mount.unmount(true)
  await read
  t.equal(filesystem.busyHandles(id), 1, 'not closed before its operations have ended')
  completions.resume()
  await unmounted
  t.equal(filesystem.busyHandles(id), 0)
}

async function outlives(t: Test, make: MakeFuse): Promise<void> {
  const fuse = await make(t)
  const { tree, filesystem, mount, path, probe, volume, capabilities } = fuse
  const { id } = tree.addVolume('v', 4096)
  // So that many reads of the device are waiting when it is closed.
  for (let count = 0; count < 50; count += 1) await probe.call('list', path)
  const file = await probe.call('open', volume('v'), O_RDWR)
  await mustTool('umount', '-l', path)
  const error: unknown = await mount.unmount(false).catch((error: unknown) => error)
  t.ok(error instanceof OperatingError && error.code === 'busy', 'refused while a file is open')
  t.equal((await probe.call('read', file, 0, 10)).length, 10, 'and goes on serving')
  if (!capabilities.endsUnseen) await probe.call('close', file)
  await mount.unmount(true)
  t.equal(filesystem.busyHandles(id), 0, 'its files are closed')
  if (!capabilities.endsUnseen) return
  const codes = ['ENOTCONN', 'ECONNABORTED', 'EIO']
  await refused(t, codes, probe.call('write', file, Buffer.from('x'), 0), 'and give errors')
}

async function leavesNothing(t: Test, make: MakeFuse): Promise<void> {
  const fuse = await make(t)
  const { tree, mount, path, probe, volume } = fuse
  tree.addVolume('v', 4096)
  const ended = new Promise<string>((resolve) => mount.onEnd(resolve))
  await probe.call('open', volume('v'), O_RDWR)
  t.not((await tool('umount', '-f', path)).code, 0, 'a file is open: aborted, not unmounted')
  await Promise.race([ended, sleep(END_TIMEOUT_MS, null, { ref: false })])
  t.equal(await isMounted(fuse), false)
  t.same(await probe.call('list', path), [], 'the folder is empty again')
}

async function staysOutside(t: Test, make: MakeFuse): Promise<void> {
  const { io, tree, filesystem, path, probe, start } = await make(t)
  tree.addVolume('v', 4096)
  const mountPath = join(path, 'snapshots', 'v')
  const options = { mountPath, sourceName: 'another', allowOther: false, io }
  const error: unknown = await start(filesystem, options).catch((error: unknown) => error)
  t.ok(error instanceof OperatingError && error.code === 'usage')
  t.equal((await probe.call('list', path)).length, 2, 'it goes on serving')
}
