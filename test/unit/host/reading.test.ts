/** What the host says, understood: tables of the kernel, output of tools, who uses what. */
import { spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import t from 'tap'
import { isBelow, mountOf, parseMountTable } from '../../../src/base/mount-table.ts'
import { OperatingError } from '../../../src/base/errors.ts'
import { MIB } from '../../../src/base/units.ts'
import { verifyMountPoint } from '../../../src/host/actions.ts'
import { complaintOf, runCommand } from '../../../src/host/command.ts'
import type { CommandResult, RunCommand } from '../../../src/host/command.ts'
import { mkfsCommand, mountOptions } from '../../../src/host/filesystems.ts'
import { losetupArguments, readLoopDevices } from '../../../src/host/loop-devices.ts'
import { freeNbdDevice } from '../../../src/host/nbd-devices.ts'
import { chooseFilesystem, parseContents, parsePartitions } from '../../../src/host/partitions.ts'
import type { Contents, Partition } from '../../../src/host/partitions.ts'
import { findStale, fixStale } from '../../../src/host/stale.ts'
import { findUsers } from '../../../src/host/users.ts'
import { FakeHost } from './fake-host.ts'

const folder = realpathSync(mkdtempSync(join(tmpdir(), 'varve-host-')))
t.teardown(() => rmSync(folder, { recursive: true, force: true }))

const NOTHING: Contents = { type: null, isFilesystem: false, tableType: null }
const ROOT_X86_64 = '4f68bce3-e8cd-4db1-96e7-fbcaf984b709'

function filesystem(type: string): Contents {
  return { type, isFilesystem: true, tableType: null }
}

function partition(number: number, contents: Contents, sizeMib: number, typeId = ''): Partition {
  const offsetBytes = number * 1024 * MIB
  return { number, offsetBytes, sizeBytes: sizeMib * MIB, typeId, label: '', contents }
}

t.test('the mount table is read whatever folders are called', async (t) => {
  const mounts = parseMountTable(
    [
      '22 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw',
      '30 22 0:44 / /mnt/a\\040b\\134c rw,nosuid - fuse.varve /srv/po\\011ol rw,user_id=0',
      '31 30 7:3 /sub /mnt/a\\040b\\134c ro - xfs /dev/loop3 ro,norecovery',
      'not a line of it',
      '',
    ].join('\n'),
  )
  t.strictSame(mounts, [
    {
      id: 22,
      deviceNumber: '254:0',
      directory: '/',
      options: ['rw', 'relatime'],
      type: 'ext4',
      source: '/dev/vda',
    },
    {
      id: 30,
      deviceNumber: '0:44',
      directory: '/mnt/a b\\c',
      options: ['rw', 'nosuid'],
      type: 'fuse.varve',
      source: '/srv/po\tol',
    },
    {
      id: 31,
      deviceNumber: '7:3',
      directory: '/mnt/a b\\c',
      options: ['ro'],
      type: 'xfs',
      source: '/dev/loop3',
    },
  ])
  t.equal(mountOf(mounts, '/mnt/a b\\c/x')?.id, 31, 'the newest on top')
  t.equal(mountOf(mounts, '/mnt/a b')?.id, 22)
  t.ok(isBelow('/a/b', '/a') && isBelow('/a', '/a') && isBelow('/a', '/'))
  t.notOk(isBelow('/ab', '/a'))
})

t.test('a folder is only mounted on where nothing is hidden', async (t) => {
  const mounts = parseMountTable(
    [
      '1 1 254:0 / / rw - ext4 /dev/vda rw',
      '2 1 0:44 / /pool rw - fuse.varve /srv/pool rw',
      '3 1 0:45 / /run rw - tmpfs tmpfs rw',
    ].join('\n'),
  )
  verifyMountPoint(mounts, '/mnt')
  verifyMountPoint(mounts, '/run/x')
  t.throws(() => verifyMountPoint(mounts, '/run'), { code: 'busy' })
  t.throws(() => verifyMountPoint(mounts, '/pool/volumes'), { code: 'usage' })
  t.throws(() => verifyMountPoint(mounts, '/pool'), { code: 'usage' })
})

t.test('contents and partitions are what blkid and partx print', async (t) => {
  const ext4 = 'DEVNAME=/x\nUUID=3ff1\nLABEL=a\\ =b\nTYPE=ext4\nUSAGE=filesystem\n'
  t.strictSame(parseContents(ext4), filesystem('ext4'))
  const lvm = { type: 'LVM2_member', isFilesystem: false, tableType: null }
  t.strictSame(parseContents('TYPE=LVM2_member\nUSAGE=raid\n'), lvm)
  t.strictSame(parseContents('PTTYPE=gpt\n'), { ...NOTHING, tableType: 'gpt' })
  t.strictSame(parseContents(''), NOTHING)
  const printed = [
    'NR="1" START="2048" SECTORS="204800" SIZE="104857600" TYPE="C12A7328-F81F" NAME="EFI \\x22x"',
    'NR="2" START="256" SECTORS="256" SIZE="1048576" TYPE="0x83" NAME=""',
    'NR="3" START="0" SECTORS="0" SIZE="0" TYPE="0x0" NAME=""',
    '',
  ].join('\n')
  const [first, second, ...rest] = parsePartitions(printed)
  t.match(first, { number: 1, offsetBytes: MIB, sizeBytes: 100 * MIB, typeId: 'c12a7328-f81f' })
  t.match(second, { number: 2, offsetBytes: MIB }, 'sectors of 4096 bytes')
  t.strictSame(rest, [], 'what is empty is no partition')
})

t.test('without a word the sensible filesystem is chosen, or none', async (t) => {
  const table = { ...NOTHING, tableType: 'gpt' }
  const choose = (whole: Contents, partitions: Partition[], number: number | null = null) => {
    try {
      const choice = chooseFilesystem('vm1', whole, partitions, number)
      return `${choice.type} ${choice.partition?.number ?? 'whole'}`
    } catch (error) {
      if (error instanceof OperatingError) return error.code
      throw error
    }
  }
  const efi = partition(1, filesystem('vfat'), 100)
  const root = partition(2, filesystem('ext4'), 2000)
  const swap = partition(3, { ...NOTHING, type: 'swap' }, 9000)
  const home = partition(4, filesystem('xfs'), 5000)
  t.equal(choose(filesystem('xfs'), []), 'xfs whole')
  t.equal(choose({ ...filesystem('ext4'), tableType: 'dos' }, [root]), 'ext4 whole')
  t.equal(choose(table, [efi]), 'vfat 1', 'the only one, whatever it is')
  t.equal(choose(table, [efi, root, swap]), 'ext4 2')
  t.equal(choose(table, [efi, root, swap, home]), 'xfs 4', 'the largest')
  const marked = { ...root, typeId: ROOT_X86_64 }
  t.equal(choose(table, [efi, marked, swap, home]), 'ext4 2', 'the table says which')
  t.equal(choose(table, [efi, partition(5, filesystem('ntfs'), 9000)]), 'usage', 'none is meant')
  t.equal(choose(table, [swap]), 'usage')
  t.equal(choose(table, []), 'not-found')
  t.equal(choose(NOTHING, []), 'not-found')
  t.equal(choose({ ...NOTHING, type: 'LVM2_member' }, []), 'unsupported')
  t.equal(choose(table, [efi, root], 1), 'vfat 1')
  t.equal(choose(table, [efi, swap], 3), 'unsupported')
  t.equal(choose(table, [efi, root], 9), 'not-found')
  t.equal(choose(NOTHING, [], 1), 'not-found')
})

t.test('each filesystem is mounted and made as fits it', async (t) => {
  t.equal(mountOptions('ext4', true, []), 'ro,noload,nosuid,nodev')
  t.equal(mountOptions('xfs', true, []), 'ro,norecovery,nouuid,nosuid,nodev')
  t.equal(mountOptions('xfs', false, ['dev']), 'rw,nouuid,nosuid,nodev,dev')
  t.equal(mountOptions('btrfs', true, []), 'ro,rescue=nologreplay,nosuid,nodev')
  t.equal(mountOptions('vfat', true, []), 'ro,nosuid,nodev')
  const { tool, args } = mkfsCommand('btrfs', '/dev/loop0', 'a b')
  t.strictSame([tool, ...args], ['mkfs.btrfs', '-f', '-q', '-L', 'a b', '/dev/loop0'])
  const window = { offsetBytes: 1, sizeBytes: 2 }
  const settings = { readOnly: true, sectorSizeBytes: 4096, window, directIo: false }
  t.strictSame(losetupArguments('-x', settings), [
    '--find',
    '--show',
    '--sector-size',
    '4096',
    '--read-only',
    '--offset',
    '1',
    '--sizelimit',
    '2',
    '--',
    '-x',
  ])
})

function sysfs(root: string, files: Record<string, string>): void {
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true })
    writeFileSync(join(root, path), text)
  }
}

t.test('loop and nbd devices are read from sysfs alone', async (t) => {
  const root = join(folder, 'sys')
  const loop = (name: string, backing: string) => ({
    [`block/${name}/loop/backing_file`]: `${backing}\n`,
    [`block/${name}/loop/offset`]: '512\n',
    [`block/${name}/loop/sizelimit`]: '0\n',
    [`block/${name}/loop/dio`]: '1\n',
    [`block/${name}/loop/autoclear`]: '0\n',
    [`block/${name}/size`]: '16\n',
    [`block/${name}/ro`]: '1\n',
    [`block/${name}/queue/logical_block_size`]: '4096\n',
  })
  sysfs(root, {
    ...loop('loop10', '/a'),
    ...loop('loop2', '/b c (deleted)'),
    'block/loop2/diskseq': '77\n',
    'block/loop0/size': '0\n',
    'block/nbd0/size': '0\n',
    'block/nbd0/pid': '12\n',
    'block/nbd1/size': '8\n',
    'block/nbd10/size': '0\n',
    'block/nbd2/size': '0\n',
  })
  const found = await readLoopDevices(root)
  t.strictSame(
    found.map(({ path, backingPath, sequence }) => [path, backingPath, sequence]),
    [
      ['/dev/loop2', '/b c', 77],
      ['/dev/loop10', '/a', 0],
    ],
  )
  t.match(found[0], { sizeBytes: 8192, sectorSizeBytes: 4096, readOnly: true, directIo: true })
  t.equal(await freeNbdDevice(root), '/dev/nbd2')
})

t.test('whoever has a file, a folder or a device open is found', async (t) => {
  const place = join(folder, 'in use')
  mkdirSync(place)
  writeFileSync(join(place, 'file'), '')
  const nobody = await findUsers({ devices: [], directories: [place] }, [])
  t.strictSame(nobody, [])
  const open = spawn('sh', ['-c', 'exec 7<file; cd /; echo ready; exec sleep 60'], { cwd: place })
  const inside = spawn('sh', ['-c', 'echo ready; exec sleep 60'], {
    cwd: place,
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  t.teardown(() => {
    open.kill()
    inside.kill()
  })
  await Promise.all(
    [open, inside].map((child) => new Promise((resolve) => child.stdout.once('data', resolve))),
  )
  const users = await findUsers({ devices: [], directories: [place] }, [])
  t.equal(users.length, 2, users.join('; '))
  t.ok(users.some((user) => user.includes(`(${open.pid ?? 0}) uses ${join(place, 'file')}`)))
  t.ok(users.some((user) => user.endsWith(`(${inside.pid ?? 0}) uses ${place}`)))
  const host = new FakeHost()
  await host.run('losetup', ['--sector-size', '512', join(place, 'file')])
  const above = await findUsers({ devices: [], directories: [place] }, host.loopTable)
  t.ok(above.includes(`/dev/loop0, made on ${join(place, 'file')}`), above.join('; '))
  const device = await findUsers({ devices: ['/dev/null'], directories: [] }, [])
  t.ok(
    device.some((user) => user.endsWith(`(${inside.pid ?? 0}) uses /dev/null`)) ||
      device.length > 20,
  )
})

t.test('a tool that does not end is given up, one that is missing named', async (t) => {
  const slow = runCommand('dd', ['if=/dev/zero', 'of=/dev/null'], 200)
  await t.rejects(slow, { code: 'io', message: /no answer in 0\.2 s: dd/ })
  const done = await runCommand('stat', ['--', '/nonexistent'], 10_000)
  t.equal(done.exitCode, 1)
  t.match(complaintOf('stat', done), /No such file/)
  t.equal((await runCommand('realpath', ['--', '/'], 10_000)).stdout, '/\n')
})

const LEFT_BEHIND = [
  '1 1 254:0 / / rw - ext4 /dev/vda rw',
  '2 1 0:44 / /dead rw - fuse.varve /srv/dead rw',
  '3 1 0:45 / /alive rw - fuse.varve /srv/alive rw',
  '4 1 0:46 / /hung rw - fuse.varve /srv/hung rw',
  '5 1 0:47 / /slow rw - fuse.varve /srv/slow rw',
  '6 1 7:0 / /mnt/a rw - ext4 /dev/loop0 rw',
  '7 6 7:1 / /mnt/a/b rw - xfs /dev/loop1 rw',
  '8 1 7:2 / /mnt/c rw - xfs /dev/loop2 rw',
  '9 1 259:0 / /mnt/d rw - ext4 /dev/loop1p1 rw',
  '14 1 7:1 / /mnt/f rw - ext4 /dev/loop1 rw',
  '15 14 0:51 / /mnt/f/sub rw - tmpfs tmpfs rw',
  '10 1 7:4 / /mnt/e rw - ext4 /dev/loop4 rw',
  '11 1 0:48 / /mnt/twice rw - fuse.varve /srv/under rw',
  '12 11 0:49 / /mnt/twice rw - fuse.varve /srv/dead rw',
].join('\n')

t.test('what a dead server left is found, and taken away from the top down', async (t) => {
  const host = new FakeHost()
  host.mountTable = parseMountTable(LEFT_BEHIND)
  const backing = ['/dead/volumes/x', '/volumes/gone', '/alive/volumes/y', '/home/image']
  // A server that is stopped, or very slow: its reads take forever, and its users lose nothing.
  backing.push('/slow/volumes/z', '/volumes/slow', '/hung/volumes/h')
  const waiting = new Set(['if=/dev/loop4', 'if=/dev/loop5', 'if=/dev/loop6'])
  for (const path of backing) await host.run('losetup', ['--sector-size', '512', path])
  const broken = new Set(['if=/dev/loop0', 'if=/dev/loop1'])
  const inner = host.run
  const run: RunCommand = async (tool, args) => {
    const refused: CommandResult = { exitCode: 1, stdout: '', stderr: 'dd: Input/output error' }
    if (tool === 'dd' && waiting.has(args[0])) throw new OperatingError('io', 'no answer in 3 s')
    if (tool === 'dd') return broken.has(args[0]) ? refused : inner(tool, args)
    const directory = args[args.length - 1]
    const isLook = tool === 'stat' || tool === 'ls'
    if (isLook && (directory === '/dead' || directory === '/mnt/twice')) {
      return { ...refused, stderr: "stat: '/dead': Transport endpoint is not connected" }
    }
    if (isLook && (directory === '/hung' || directory === '/slow')) {
      throw new OperatingError('io', 'no answer in 3 s')
    }
    return inner(tool, args)
  }
  const world = Object.assign(Object.create(host) as FakeHost, { run })
  const stale = await findStale(world, async (path) => path === '/srv/slow')
  t.strictSame(
    stale.map(({ kind, subject }) => `${kind} ${subject}`),
    [
      'mount /mnt/f',
      'mount /mnt/d',
      'mount /mnt/a/b',
      'mount /mnt/a',
      'device /dev/loop6',
      'device /dev/loop1',
      'device /dev/loop0',
      'filesystem /mnt/twice',
      'filesystem /hung',
      'filesystem /dead',
    ],
  )
  host.usersOf.set('/mnt/a', ['bash'])
  host.usersOf.set('/mnt/f', ['a mount'])
  host.mountTable.push(...parseMountTable('13 9 0:50 / /mnt/d rw - tmpfs tmpfs rw'))
  const steps = await fixStale(world, stale)
  t.strictSame(
    steps.map(({ action, subject, failure }) => [action, subject, failure === null]),
    [
      ['end the connection', '/hung', true],
      ['unmount', '/mnt/f', false],
      ['unmount', '/mnt/d', false],
      ['unmount', '/mnt/a/b', true],
      ['unmount', '/mnt/a', false],
      ['unmount lazily', '/mnt/a', true],
      ['detach', '/dev/loop6', true],
      ['detach when its last user lets go', '/dev/loop1', true],
      ['detach', '/dev/loop0', true],
      ['unmount', '/mnt/twice', true],
      ['unmount', '/dead', true],
    ],
  )
  const left = host.left()
  // What lies under a dead one, on it, or over it, is somebody else's.
  const others = ['/', '/alive', '/slow', '/mnt/c', '/mnt/d', '/mnt/f', '/mnt/f/sub', '/mnt/e']
  t.strictSame(left.mounts, [...others, '/mnt/twice', '/mnt/d'])
  const kept = [1, 2, 3, 4, 5].map((number) => `/dev/loop${number}`)
  t.strictSame(left.loops, kept)
})
