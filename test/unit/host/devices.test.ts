import fc from 'fast-check'
import t from 'tap'
import { OperatingError } from '../../../src/base/errors.ts'
import { HostDevices } from '../../../src/host/devices.ts'
import type { HostLog } from '../../../src/host/devices.ts'
import type { AttachRequest, MkfsRequest, MountRequest } from '../../../src/host/types.ts'
import { FakeHost } from './fake-host.ts'

const SILENT: HostLog = { info: () => undefined, error: () => undefined }
const EMPTY = { mounts: [], loops: [], nbd: [] }
const EXT4 = { TYPE: 'ext4', USAGE: 'filesystem' }
const LINUX = '0fc63daf-8483-4772-8e79-3d69d8477de4'

function filled(): FakeHost {
  const host = new FakeHost()
  host.disk('vm1', EXT4)
  host.disk('vm1@monday', EXT4)
  host.disk('empty', {})
  const table = { PTTYPE: 'gpt' }
  host.disk('parted', table, [
    { number: 1, startSector: 2048, sectorCount: 4096, typeId: LINUX, contents: {} },
    { number: 2, startSector: 8192, sectorCount: 8192, typeId: LINUX, contents: EXT4 },
  ])
  return host
}

function devicesOf(host: FakeHost): HostDevices {
  return new HostDevices({ files: host, world: host, log: SILENT, nbdSocketPath: '/p/nbd.sock' })
}

function attachRequest(name: string, changes: Partial<AttachRequest> = {}): AttachRequest {
  return { name, readOnly: false, via: 'auto', sectorSizeBytes: 512, ...changes }
}

function mountRequest(name: string, changes: Partial<MountRequest> = {}): MountRequest {
  const usual = { directory: '/mnt/a', partition: null, readOnly: false, options: [] }
  return { name, via: 'auto', ...usual, ...changes }
}

function mkfsRequest(name: string, changes: Partial<MkfsRequest> = {}): MkfsRequest {
  return { name, type: 'ext4', label: null, force: false, ...changes }
}

async function codeOf(action: Promise<unknown>): Promise<string> {
  try {
    await action
    return 'done'
  } catch (error) {
    if (error instanceof OperatingError) return error.code
    throw error
  }
}

t.test('a disk has one device, whoever asks and how often', async (t) => {
  const host = filled()
  const devices = devicesOf(host)
  const first = await devices.attach(attachRequest('vm1'))
  t.match(first, { device: '/dev/loop0', directIo: true, readOnly: false, isKept: true })
  t.equal((await devices.attach(attachRequest('vm1'))).device, '/dev/loop0')
  t.equal((await devices.mount(mountRequest('vm1'))).device, '/dev/loop0')
  t.equal(await codeOf(devices.attach(attachRequest('vm1', { readOnly: true }))), 'busy')
  t.equal(await codeOf(devices.attach(attachRequest('vm1', { sectorSizeBytes: 4096 }))), 'busy')
  t.equal(host.loopTable.length, 1)
  t.ok(devices.isAttached('vm1'))
  t.notOk(devices.isAttached('empty'))
  await devices.umount('/mnt/a')
  t.equal(host.loopTable.length, 1, 'what was attached by hand stays')
  await devices.detach('/dev/loop0')
  t.same(host.left(), EMPTY)
})

t.test('a device that somebody else made on the same file is in the way', async (t) => {
  const host = filled()
  await host.run('losetup', ['--sector-size', '512', '/fuse/volumes/vm1'])
  const devices = devicesOf(host)
  t.equal(await codeOf(devices.attach(attachRequest('vm1'))), 'busy')
  const readOnly = await devices.attach(attachRequest('vm1', { readOnly: true }))
  t.equal(readOnly.device, '/dev/loop1', 'but not in that of one who only reads')
})

t.test('mounting makes a device and unmounting takes it away', async (t) => {
  const host = filled()
  const devices = devicesOf(host)
  const mount = await devices.mount(mountRequest('vm1', { options: ['discard'] }))
  t.same(mount, {
    name: 'vm1',
    directory: '/mnt/a',
    device: '/dev/loop0',
    partition: null,
    type: 'ext4',
    readOnly: false,
  })
  t.strictSame(host.mountTable[0].options, ['rw', 'nosuid', 'nodev', 'discard'])
  t.match(await devices.devices(), [{ name: 'vm1', mounts: ['/mnt/a'], isKept: false }])
  t.equal(await codeOf(devices.detach('vm1')), 'busy', 'it is mounted')
  t.equal(await codeOf(devices.mount(mountRequest('parted'))), 'busy', 'the place is taken')
  await devices.mount(mountRequest('vm1', { directory: '/mnt/b' }))
  await devices.umount('/mnt/a')
  t.equal(host.loopTable.length, 1)
  await devices.umount('vm1')
  t.same(host.left(), EMPTY)
  t.equal(await codeOf(devices.umount('/mnt/a')), 'not-found')
  t.equal(await codeOf(devices.detach('vm1')), 'not-found')
})

t.test('a snapshot is read-only and nothing of it is replayed', async (t) => {
  const host = filled()
  const devices = devicesOf(host)
  const mount = await devices.mount(mountRequest('vm1@monday'))
  t.equal(mount.readOnly, true)
  t.ok(host.loopTable[0].readOnly)
  t.strictSame(host.mountTable[0].options, ['ro', 'noload', 'nosuid', 'nodev'])
  t.equal(await codeOf(devices.mkfs(mkfsRequest('vm1@monday'))), 'read-only')
})

t.test('a partition is a stretch of the disk, and goes before the disk does', async (t) => {
  const host = filled()
  const devices = devicesOf(host)
  const mount = await devices.mount(mountRequest('parted'))
  t.match(mount, { partition: 2, device: '/dev/loop1' })
  t.match(host.loopTable[1], { offsetBytes: 8192 * 512, sizeLimitBytes: 8192 * 512 })
  t.equal(await codeOf(devices.mount(mountRequest('parted', { partition: 1 }))), 'busy')
  const wrong = mountRequest('parted', { directory: '/mnt/b', partition: 1 })
  t.equal(await codeOf(devices.mount(wrong)), 'not-found', 'nothing on it')
  t.equal(await codeOf(devices.mount({ ...wrong, partition: 7 })), 'not-found')
  t.equal(host.loopTable.length, 2)
  await devices.close()
  t.same(host.left(), EMPTY)
  const detached = host.commands.filter((words) => words.startsWith('losetup --detach'))
  t.strictSame(detached, ['losetup --detach /dev/loop1', 'losetup --detach /dev/loop0'])
})

t.test('whatever step fails, what was made before is taken back', async (t) => {
  for (const name of ['vm1', 'vm1@monday', 'parted']) {
    const tried = filled()
    await devicesOf(tried).mount(mountRequest(name))
    for (let step = 0; step < tried.commands.length; step += 1) {
      const host = filled()
      host.failAt = step
      const code = await codeOf(devicesOf(host).mount(mountRequest(name)))
      // What is undone by a retry, without direct I/O, is no failure.
      if (code === 'done') t.match(host.commands[step], 'losetup')
      else t.same(host.left(), EMPTY, `${name}: ${host.commands[step]}`)
    }
  }
  for (let step = 0; step < 3; step += 1) {
    const host = filled()
    host.failAt = step
    await codeOf(devicesOf(host).mkfs(mkfsRequest('empty')))
    if (!host.commands[step].startsWith('losetup --detach')) t.same(host.left(), EMPTY)
  }
})

t.test('a file without direct I/O still becomes a device, one', async (t) => {
  const host = filled()
  host.allowsDirectIo = false
  const device = await devicesOf(host).attach(attachRequest('vm1'))
  t.equal(device.directIo, false)
  t.equal(host.loopTable.length, 1)
})

t.test('mkfs refuses what has something on it, and leaves no device', async (t) => {
  const host = filled()
  const devices = devicesOf(host)
  t.equal(await codeOf(devices.mkfs(mkfsRequest('vm1'))), 'exists')
  t.equal(await codeOf(devices.mkfs(mkfsRequest('parted'))), 'exists', 'partitions, too')
  t.notOk(host.commands.some((words) => words.startsWith('mkfs')))
  await devices.mkfs(mkfsRequest('empty', { type: 'xfs', label: 'data' }))
  t.ok(host.commands.includes('mkfs.xfs -f -q -s size=4096 -L data /dev/loop0'))
  await devices.mkfs(mkfsRequest('vm1', { force: true }))
  t.same(host.left(), EMPTY)
  await devices.mount(mountRequest('vm1'))
  t.equal(await codeOf(devices.mkfs(mkfsRequest('vm1', { force: true }))), 'busy', 'never mounted')
})

t.test('closing is refused whole while anything is used, and then takes everything', async (t) => {
  const host = filled()
  const devices = devicesOf(host)
  await devices.attach(attachRequest('empty'))
  await devices.mount(mountRequest('vm1'))
  await devices.mount(mountRequest('parted', { directory: '/mnt/b' }))
  const before = host.left()
  host.usersOf.set('/mnt/a', ['bash (12) uses /mnt/a'])
  host.usersOf.set('/dev/loop0', ['swap on /dev/loop0'])
  const refusal = await devices.close().then(
    () => null,
    (error: unknown) => error as OperatingError,
  )
  t.equal(refusal?.code, 'busy')
  const users = refusal?.details.users as string[]
  t.strictSame(users.toSorted(), ['bash (12) uses /mnt/a', 'swap on /dev/loop0'])
  t.same(host.left(), before, 'nothing was undone')
  t.equal(await codeOf(devices.umount('/mnt/a')), 'busy')
  t.equal(await codeOf(devices.detach('empty')), 'busy')
  host.usersOf.clear()
  await devices.close()
  t.same(host.left(), EMPTY)
  t.equal(await codeOf(devices.attach(attachRequest('vm1'))), 'done', 'more may be attached')
})

t.test('closing by force asks nobody, and nothing may be attached after', async (t) => {
  const host = filled()
  const devices = devicesOf(host)
  await devices.mount(mountRequest('vm1'))
  await devices.mount(mountRequest('parted', { directory: '/mnt/b' }))
  host.usersOf.set('/mnt/a', ['bash (12) uses /mnt/a'])
  await devices.forceClose()
  t.same(host.left(), EMPTY)
  t.equal(await codeOf(devices.attach(attachRequest('vm1'))), 'unreachable')
})

t.test('what people take away behind our back is not taken away twice', async (t) => {
  const host = filled()
  const devices = devicesOf(host)
  await devices.mount(mountRequest('vm1'))
  await host.run('umount', ['--', '/mnt/a'])
  await host.run('losetup', ['--detach', '/dev/loop0'])
  // Another's device of the same path.
  await host.run('losetup', ['--sector-size', '512', '/home/image'])
  t.same(await devices.devices(), [])
  t.equal(await codeOf(devices.umount('/mnt/a')), 'not-found')
  t.equal(await codeOf(devices.detach('/dev/loop0')), 'not-found')
  await devices.close()
  t.same(host.left().loops, ['/dev/loop0'])
})

t.test('without FUSE the nbd of the kernel is used, where there is one', async (t) => {
  const host = filled()
  host.hasFuse = false
  const devices = devicesOf(host)
  t.equal(await codeOf(devices.attach(attachRequest('vm1'))), 'unsupported')
  host.nbdDevice = '/dev/nbd3'
  t.equal(await codeOf(devices.attach(attachRequest('vm1', { via: 'loop' }))), 'unsupported')
  const device = await devices.attach(attachRequest('vm1@monday'))
  t.match(device, { device: '/dev/nbd3', kind: 'nbd', readOnly: true })
  const connect = 'nbd-client -unix /p/nbd.sock /dev/nbd3 -N vm1@monday -b 512 -t 30 -R'
  t.strictSame(host.commands, [connect])
  await devices.close()
  t.same(host.left(), EMPTY)
  await devices.mount(mountRequest('parted'))
  t.match(host.loopTable, [{ backingPath: '/dev/nbd3', offsetBytes: 8192 * 512 }])
  await devices.close()
  t.same(host.left(), EMPTY)
})

t.test('only root may, and only what exists', async (t) => {
  const host = filled()
  const devices = devicesOf(host)
  t.equal(await codeOf(devices.attach(attachRequest('nobody'))), 'not-found')
  t.equal(await codeOf(devices.mount(mountRequest('vm1', { directory: '/nowhere' }))), 'not-found')
  t.equal(await codeOf(devices.mount(mountRequest('empty'))), 'not-found', 'no filesystem')
  t.same(host.left(), EMPTY)
  host.root = false
  t.equal(await codeOf(devices.attach(attachRequest('vm1'))), 'unsupported')
  t.same(await devices.devices(), [])
})

t.test('after any actions, in any order and at once, closing leaves an empty host', async () => {
  const disk = fc.constantFrom('vm1', 'vm1@monday', 'parted', 'empty')
  const place = fc.constantFrom('/mnt/a', '/mnt/b')
  const step = fc.oneof(
    disk.map((name) => (d: HostDevices) => d.attach(attachRequest(name))),
    disk.map((name) => (d: HostDevices) => d.detach(name)),
    fc.tuple(disk, place).map(
      ([name, directory]) =>
        (d: HostDevices) =>
          d.mount(mountRequest(name, { directory })),
    ),
    place.map((directory) => (d: HostDevices) => d.umount(directory)),
    disk.map((name) => (d: HostDevices) => d.umount(name)),
    disk.map((name) => (d: HostDevices) => d.mkfs(mkfsRequest(name))),
    fc.constant((d: HostDevices) => d.devices()),
  )
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 24 }), fc.nat(60), async (steps, failAt) => {
      const host = filled()
      host.failAt = failAt
      const devices = devicesOf(host)
      const codes = await Promise.all(steps.map((act) => codeOf(act(devices))))
      const shown = await devices.devices()
      host.failAt = -1
      const loops = new Set(host.loopTable.map(({ path }) => path))
      if (shown.some(({ device }) => !loops.has(device))) return false
      const places = host.loopTable.map((loop) => `${loop.backingPath} ${loop.offsetBytes}`)
      if (new Set(places).size < places.length) return false
      await devices.close()
      const { mounts } = host.left()
      // A device whose removal failed when the tool did is tried again by closing.
      return mounts.length === 0 && host.loopTable.length === 0 && codes.length === steps.length
    }),
    { numRuns: 500 },
  )
})
