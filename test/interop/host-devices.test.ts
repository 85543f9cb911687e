/**
 * Disks as block devices and mounts of the real kernel: real filesystems made, filled, trimmed and
 * checked by their own tools, and what happens to all that when the server is told to stop, or
 * dies. Nothing is touched but by children with a time limit.
 */
import { execFile, spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import t from 'tap'
import type { Test } from 'tap'
import { HttpService } from '../../src/api/http-service.ts'
import type { MountRequest } from '../../src/api/shapes.ts'
import { OperatingError } from '../../src/base/errors.ts'
import { parseMountTable } from '../../src/base/mount-table.ts'
import { MIB } from '../../src/base/units.ts'
import { readLoopDevices } from '../../src/host/loop-devices.ts'
import { noFuse } from '../support/mounted-tree.ts'
import { ServedPool, mustVarve, varve } from '../support/varve-process.ts'

/** Some thousand files of all sizes that every machine with a compiler has. */
const TREE = '/usr/include'
const COMMAND_TIMEOUT_MS = 120_000
const runFile = promisify(execFile)

const noDevices: string | false =
  noFuse !== false ? noFuse : existsSync('/dev/loop-control') ? false : 'no loop devices here'

t.setTimeout(600_000)

async function run(command: string, ...args: string[]): Promise<string> {
  const env = { ...process.env, LC_ALL: 'C', PATH: `${process.env.PATH ?? ''}:/usr/sbin:/sbin` }
  const options = { cwd: '/', env, timeout: COMMAND_TIMEOUT_MS, killSignal: 'SIGKILL' as const }
  return (await runFile(command, args, { ...options, maxBuffer: 16 * MIB })).stdout
}

/** The message of the failure, or null when there is none. */
async function failureOf(action: Promise<unknown>): Promise<string | null> {
  return action.then(
    () => null,
    (error: unknown) => (error instanceof Error ? error.message : String(error)),
  )
}

interface Setting {
  poolPath: string
  fusePath: string
  service: HttpService
  served: ServedPool
  /** A new folder to mount on. */
  folder: (name: string) => string
  /** Another server of the same pool, when the first has ended. */
  serveAgain: () => Promise<ServedPool>
}

/** A served pool, of which nothing is left on the host when `body` is done. */
async function withPool(t: Test, body: (setting: Setting) => Promise<void>): Promise<void> {
  const root = mkdtempSync(join(tmpdir(), 'varve-devices-'))
  const [poolPath, fusePath] = [join(root, 'pool'), join(root, 'fuse')]
  mkdirSync(fusePath)
  await mustVarve(poolPath, 'init')
  const servers = [await ServedPool.start(poolPath, '--fuse', fusePath)]
  const setting: Setting = {
    poolPath,
    fusePath,
    served: servers[0],
    service: new HttpService(join(poolPath, 'control.sock')),
    folder: (name) => {
      const path = join(root, name)
      mkdirSync(path, { recursive: true })
      return path
    },
    serveAgain: async () => {
      const again = await ServedPool.start(poolPath, '--fuse', fusePath)
      servers.push(again)
      return again
    },
  }
  try {
    await body(setting)
    t.equal(await servers[servers.length - 1].stop(), 0, 'the server ends in order')
    t.strictSame(await leftBelow(root), [], 'nothing is left on the host')
    const check = await varve(poolPath, 'check')
    t.equal(check.code, 0, `check: ${check.stdout}${check.stderr}`)
  } finally {
    for (const served of servers) await served.kill()
    await clear(root)
  }
}

/** Mounts on folders of ours, and loop devices on files in them. */
async function leftBelow(root: string): Promise<string[]> {
  const mounts = parseMountTable(readFileSync('/proc/self/mountinfo', 'utf8'))
  const loops = await readLoopDevices()
  return [
    ...mounts.filter((mount) => mount.directory.startsWith(root)).map((mount) => mount.directory),
    ...loops.filter((loop) => loop.backingPath.startsWith(root)).map((loop) => loop.path),
  ]
}

/** After a failure: what would keep the folder from being removed. */
async function clear(root: string): Promise<void> {
  for (const left of (await leftBelow(root)).toReversed()) {
    if (left.startsWith('/dev/')) await failureOf(run('losetup', '-d', left))
    else await failureOf(run('umount', '-l', left))
  }
  rmSync(root, { recursive: true, force: true })
}

function mountRequest(
  name: string,
  directory: string,
  changes: Partial<MountRequest> = {},
): MountRequest {
  return { name, directory, partition: null, readOnly: false, options: [], via: 'auto', ...changes }
}

async function attach(service: HttpService, name: string, readOnly = false): Promise<string> {
  const request = { name, readOnly, via: 'loop' as const, sectorSizeBytes: 512 as const }
  const device = await service.attach(request)
  return device.device
}

/** A process with its folder there, ready. */
async function sitIn(directory: string): Promise<ChildProcess> {
  const child = spawn('sh', ['-c', 'echo ready; exec sleep 600'], { cwd: directory })
  await new Promise((resolve) => child.stdout.once('data', resolve))
  return child
}

async function leave(child: ChildProcess): Promise<void> {
  const gone = new Promise((resolve) => child.once('exit', resolve))
  child.kill('SIGKILL')
  await gone
}

const CHECKS = {
  ext4: ['fsck.ext4', '-f', '-n'],
  xfs: ['xfs_repair', '-n'],
  btrfs: ['btrfs', 'check', '--readonly'],
} as const

for (const type of ['ext4', 'xfs', 'btrfs'] as const) {
  t.test(`${type} holds a real tree, snapshots of it are read while it is used`, (t) =>
    withDevices(t, async ({ poolPath, service, folder }) => {
      await service.create({ name: 'vm1', sizeBytes: 768 * MIB })
      await mustVarve(poolPath, 'mkfs', 'vm1', '--type', type, '--label', 'tree')
      const before = await service.volume('vm1')
      t.ok(before.mappedBytes < 8 * MIB, `made of ${before.mappedBytes} bytes`)
      const [a, b, c] = [folder('a'), folder('b'), folder('c')]
      const mount = await service.mount(mountRequest('vm1', a))
      t.match(mount, { type, readOnly: false, partition: null })
      t.match(await service.devices(), [{ directIo: true, isKept: false, mounts: [a] }])
      await run('cp', '-a', TREE, join(a, 'tree'))
      // XFS would have the names of the files in its log alone, which is not read below.
      await run('fsfreeze', '-f', a)
      await service.snapshot(['vm1@full'])
      await run('fsfreeze', '-u', a)
      const user = await sitIn(join(a, 'tree'))
      await run('rm', '-r', join(a, 'tree/linux'))
      t.equal((await service.mount(mountRequest('vm1@full', b))).readOnly, true)
      await run('diff', '-r', '--no-dereference', TREE, join(b, 'tree'))
      t.match(await failureOf(run('touch', join(b, 'x'))), 'Read-only')
      const { device } = (await service.devices())[1]
      const write = run('dd', 'if=/dev/zero', `of=${device}`, 'bs=4096', 'count=1')
      t.not(await failureOf(write), null, 'nor through its device')
      const remount = run('mount', '-o', 'remount,rw', b)
      t.not(await failureOf(remount), null, 'nor by mounting it again')
      await service.clone('vm1@full', ['copy'])
      await service.mount(mountRequest('copy', c))
      await run('rm', join(c, 'tree/stdio.h'))
      await run('test', '-e', join(a, 'tree/stdio.h'))
      await leave(user)
      for (const name of ['vm1', 'vm1@full', 'copy']) {
        await service.umount(name)
        const checked = await attach(service, name, true)
        const [tool, ...words] = CHECKS[type]
        // What a snapshot caught in the middle is not clean: its journal is there to be replayed.
        if (name !== 'vm1@full') t.equal(await failureOf(run(tool, ...words, checked)), null, name)
        await service.detach(checked)
      }
      t.same(await service.devices(), [])
    }),
  )
}

function withDevices(t: Test, body: (setting: Setting) => Promise<void>): Promise<void> {
  if (noDevices === false) return withPool(t, body)
  t.comment(noDevices)
  t.pass('not on this host')
  return Promise.resolve()
}

t.test('what is trimmed is mapped no more, and reclaim gives it back', (t) =>
  withDevices(t, async ({ service, folder }) => {
    const a = folder('a')
    await service.create({ name: 'vm1', sizeBytes: 512 * MIB })
    await service.mkfs({ name: 'vm1', type: 'ext4', label: null, force: false })
    const empty = await service.volume('vm1')
    await service.mount(mountRequest('vm1', a))
    const file = join(a, 'file')
    await run('dd', 'if=/dev/urandom', `of=${file}`, 'bs=1M', 'count=192', 'conv=fsync')
    const full = await service.volume('vm1')
    t.ok(full.mappedBytes >= 192 * MIB)
    const { physicalBytes } = await service.info()
    await run('rm', file)
    // What the journal has not let go of is not free yet.
    await run('sync', '-f', a)
    await run('fstrim', a)
    const trimmed = await service.volume('vm1')
    t.ok(trimmed.mappedBytes < full.mappedBytes - 180 * MIB, `${trimmed.mappedBytes} after fstrim`)
    await service.reclaim({})
    const after = await service.info()
    t.ok(after.physicalBytes < physicalBytes - 128 * MIB, `${after.physicalBytes} after reclaim`)
    await service.umount(a)
    const device = await attach(service, 'vm1')
    await run('blkdiscard', '-f', device)
    const discarded = await service.volume('vm1')
    t.equal(discarded.mappedBytes, 0, 'nothing is left')
    t.ok(empty.mappedBytes > 0)
    await service.detach('vm1')
  }),
)

t.test('a partition is found, or chosen by number', (t) =>
  withDevices(t, async ({ service, folder, poolPath }) => {
    const [a, b] = [folder('a'), folder('b')]
    await service.create({ name: 'vm1', sizeBytes: 256 * MIB })
    const device = await attach(service, 'vm1')
    const table = 'label: gpt\nsize=32M, type=U\nsize=64M, type=L\ntype=L, name=data\n'
    await run('sh', '-c', `printf '${table}' | sfdisk -q ${device}`)
    t.match(await failureOf(service.mount(mountRequest('vm1', a))), /no partition.*clearly meant/)
    const offsets = [33, 97]
    for (const offset of offsets) {
      await run('mkfs.ext4', '-q', '-F', '-E', `offset=${offset * MIB}`, device, '64M')
    }
    await service.detach(device)
    const largest = await service.mount(mountRequest('vm1', a))
    t.match(largest, { partition: 3, type: 'ext4' })
    const second = await service.mount(mountRequest('vm1', b, { partition: 2 }))
    t.equal(second.partition, 2)
    await run('cp', '-a', '/usr/include/linux', b)
    await service.umount(b)
    await service.mount(mountRequest('vm1', b, { partition: 2, readOnly: false }))
    await run('diff', '-r', '/usr/include/linux', join(b, 'linux'))
    const none = await varve(poolPath, 'mount', '--partition', '1', 'vm1', folder('c'))
    t.equal(none.code, 3, none.stderr)
    await service.umount('vm1')
    t.same(await service.devices(), [])
    const mkfs = { name: 'vm1', type: 'ext4' as const, label: null, force: false }
    t.match(await failureOf(service.mkfs(mkfs)), 'partition table')
  }),
)

t.test('what is in use stays, and its users are named', (t) =>
  withDevices(t, async ({ service, folder, poolPath, fusePath, served }) => {
    const a = folder('a')
    await service.create({ name: 'vm1', sizeBytes: 64 * MIB })
    const reader = spawn('sh', ['-c', 'exec 7<vm1; echo ready; exec sleep 600'], {
      cwd: join(fusePath, 'volumes'),
    })
    await new Promise((resolve) => reader.stdout.once('data', resolve))
    const busy = await varve(poolPath, 'mkfs', 'vm1')
    t.equal(busy.code, 4, 'a file that somebody has open')
    await leave(reader)
    await mustVarve(poolPath, 'mkfs', 'vm1')
    await mustVarve(poolPath, 'mount', 'vm1', a)
    const user = await sitIn(a)
    const umount = await varve(poolPath, 'umount', a)
    t.equal(umount.code, 4)
    t.match(umount.stderr, `(${user.pid ?? 0}) uses ${a}`)
    t.equal((await varve(poolPath, 'detach', 'vm1')).code, 4)
    t.equal((await varve(poolPath, 'rm', '-y', 'vm1')).code, 4)
    process.kill(served.pid, 'SIGTERM')
    await sleep(1500)
    t.equal((await service.status()).processId, served.pid, 'the server goes on')
    await run('cp', '/etc/passwd', a)
    await run('sync', '-f', a)
    await leave(user)
  }),
)

t.test('a device whose partition somebody has mounted is in use', (t) =>
  withDevices(t, async ({ service, folder, poolPath }) => {
    const a = folder('a')
    await service.create({ name: 'vm1', sizeBytes: 64 * MIB })
    const device = await attach(service, 'vm1')
    await run('addpart', device, '1', '2048', '65536')
    await run('mkfs.ext4', '-q', `${device}p1`)
    await run('mount', `${device}p1`, a)
    const detach = await varve(poolPath, 'detach', 'vm1')
    t.equal(detach.code, 4)
    t.match(detach.stderr, `mount on ${a}`)
    await run('umount', a)
    await run('delpart', device, '1')
    await mustVarve(poolPath, 'detach', 'vm1')
    t.same(await service.devices(), [])
  }),
)

t.test('asked twice, the server ends whoever uses its disks', (t) =>
  withDevices(t, async ({ service, folder, served, serveAgain }) => {
    const a = folder('a')
    await service.create({ name: 'vm1', sizeBytes: 64 * MIB })
    await service.mkfs({ name: 'vm1', type: 'ext4', label: null, force: false })
    await service.mount(mountRequest('vm1', a))
    const user = await sitIn(a)
    process.kill(served.pid, 'SIGTERM')
    await sleep(1000)
    const startedMs = performance.now()
    await served.stop()
    t.ok(performance.now() - startedMs < 30_000, 'soon')
    const mounts = parseMountTable(readFileSync('/proc/self/mountinfo', 'utf8'))
    t.notOk(mounts.some(({ directory }) => directory === a))
    await leave(user)
    await serveAgain()
    await service.mount(mountRequest('vm1', a))
    await service.umount(a)
  }),
)

t.test('a server that dies leaves errors, no hangs, and the doctor takes them away', (t) =>
  withDevices(t, async ({ service, folder, poolPath, fusePath, served, serveAgain }) => {
    const [a, b] = [folder('a'), folder('b')]
    await service.create({ name: 'vm1', sizeBytes: 128 * MIB })
    await service.create({ name: 'vm2', sizeBytes: 512 * MIB })
    await service.mkfs({ name: 'vm1', type: 'ext4', label: null, force: false })
    await service.mkfs({ name: 'vm2', type: 'xfs', label: null, force: false })
    await service.mount(mountRequest('vm1', a))
    await service.mount(mountRequest('vm2', b))
    for (const directory of [a, b]) {
      await run('cp', '/etc/passwd', join(directory, 'safe'))
      await run('sync', '-f', directory)
    }
    const writer = spawn('dd', ['if=/dev/zero', `of=${a}/file`, 'bs=64k', 'count=100000'], {
      stdio: 'ignore',
    })
    const ended = new Promise((resolve) => writer.once('exit', resolve))
    const user = await sitIn(b)
    await sleep(200)
    await served.kill()
    // Each ends by itself, and not by our time limit.
    await ended
    await failureOf(run('sync', '-f', a))
    t.match(await failureOf(run('ls', fusePath)), 'not connected')
    t.match(await failureOf(run('dd', `if=${b}/safe`, 'iflag=direct', 'of=/dev/null')), /error/i)
    const found = await varve(poolPath, 'doctor')
    t.equal(found.code, 1)
    for (const what of [a, b, fusePath]) t.match(found.stdout, `LEFT  ${what}`)
    const fixed = await varve(poolPath, 'doctor', '--fix')
    for (const what of [a, b, fusePath]) t.match(fixed.stdout, `: ${what}`)
    const mounts = parseMountTable(readFileSync('/proc/self/mountinfo', 'utf8'))
    const left = mounts.filter(({ directory }) => [a, b, fusePath].includes(directory))
    t.strictSame(left, [])
    await leave(user)
    await serveAgain()
    for (const [name, directory] of [
      ['vm1', a],
      ['vm2', b],
    ]) {
      await service.mount(mountRequest(name, directory))
      await run('cmp', '/etc/passwd', join(directory, 'safe'))
      await service.umount(directory)
    }
    const device = await attach(service, 'vm1', true)
    await run('fsck.ext4', '-f', '-n', device)
    await service.detach(device)
  }),
)

t.test('a device has the size of its volume, now and later', (t) =>
  withDevices(t, async ({ service }) => {
    await service.create({ name: 'vm1', sizeBytes: 64 * MIB })
    const device = await attach(service, 'vm1')
    await service.resize({ name: 'vm1', sizeBytes: 96 * MIB, allowShrink: false })
    t.equal(Number(await run('blockdev', '--getsize64', device)), 96 * MIB)
    t.match(await service.devices(), [{ sizeBytes: 96 * MIB }])
    t.match(await failureOf(service.rename('vm1', 'other')), 'in use', 'which has its name, too')
    await service.detach('vm1')
    const gone = await service.detach('vm1').then(
      () => null,
      (error: unknown) => error as OperatingError,
    )
    t.ok(gone instanceof OperatingError && gone.code === 'not-found')
  }),
)
