/**
 * Programs we did not write, on the files of a served pool: what they do on a local filesystem
 * they do here. `VARVE_FSX_OPERATIONS` says how many random operations each exercise does, and
 * `VARVE_FSX` names an fsx to be run besides our own exerciser, on the same terms.
 */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import type { Test } from 'tap'
import { KIB, MIB } from '../../src/base/units.ts'
import { run as runProgram } from '../../tools/command.ts'
import { projectRoot } from '../../tools/project.ts'
import { noFuse, withTree } from '../support/mounted-tree.ts'
import type { MountedTree, Transport } from '../support/mounted-tree.ts'
import { mustVarve } from '../support/varve-process.ts'

const OPERATION_COUNT = Number(process.env.VARVE_FSX_OPERATIONS ?? 10_000)
/** libfuse hands over 4 KiB at a time, one after another. */
const LIBFUSE_PART = 10
const MODES = ['buffered', 'direct', 'mmap'] as const
type Mode = (typeof MODES)[number]

const FILE_SIZE_BYTES_MAX = 4 * MIB
const IMAGE_SIZE_BYTES = 48 * MIB

t.setTimeout(600_000 + 30 * OPERATION_COUNT)

const programs = mkdtempSync(join(tmpdir(), 'varve-exerciser-'))
t.teardown(() => rmSync(programs, { recursive: true, force: true }))
const exerciser = join(programs, 'file-exerciser')
const source = join(projectRoot, 'test/support/file-exerciser.c')
execFileSync('cc', ['-std=gnu11', '-O2', '-Wall', '-Wextra', '-Werror', '-o', exerciser, source])

function operationCount(transport: Transport): string {
  return String(Math.ceil(OPERATION_COUNT / (transport === 'native' ? 1 : LIBFUSE_PART)))
}

/** What libfuse 2 does not pass on at all. */
const MISSING_IN_LIBFUSE = [
  'punch',
  'zero',
  'zeroKeepingSize',
  'allocate',
  'allocateKeepingSize',
] as const

async function exercise(
  t: Test,
  { run, volume }: MountedTree,
  transport: Transport,
): Promise<void> {
  for (const mode of MODES) {
    const seed = String(MODES.indexOf(mode) + 11)
    const args = [mode, operationCount(transport), seed, String(FILE_SIZE_BYTES_MAX)]
    const counts = JSON.parse(await run(exerciser, ...args, volume(mode))) as Record<
      string,
      [done: number, notDone: number]
    >
    t.comment(`${mode}: ${JSON.stringify(counts)}`)
    for (const name of ['write', 'read', 'truncate', 'copy', 'seek', 'sync']) {
      t.ok((counts[name]?.[0] ?? 0) > 0, `${mode}: ${name} was done`)
    }
    if (mode === 'mmap') t.ok((counts.mappedWrite?.[0] ?? 0) > 0, 'mapped writes were done')
    for (const name of MISSING_IN_LIBFUSE) {
      const [done, notDone] = counts[name] ?? [0, 0]
      if (transport === 'native') t.equal(notDone, 0, `${mode}: ${name} is never refused`)
      else t.equal(done, 0, `${mode}: ${name} is refused`)
    }
  }
}

/** As xfstests runs it; what its mappings and sizes must be multiples of depends on the mode. */
const FSX_ARGUMENTS: Record<Mode, readonly string[]> = {
  buffered: ['-R', '-W'],
  direct: ['-Z', '-R', '-W', '-r', '512', '-w', '512', '-t', '512'],
  mmap: [],
}

async function fsx(t: Test, tree: MountedTree, transport: Transport): Promise<void> {
  const program = process.env.VARVE_FSX ?? 'fsx'
  for (const mode of MODES) {
    const size = ['-l', String(FILE_SIZE_BYTES_MAX), '-o', String(128 * KIB)]
    const args = ['-q', '-S', '7', '-N', operationCount(transport), '-P', tree.scratchPath]
    const file = tree.volume(`fsx-${mode}`)
    const said = await tree.run(program, ...args, ...size, ...FSX_ARGUMENTS[mode], file)
    t.match(said, /All \d+ operations completed A-OK/, mode)
  }
}

/** Whether there is an fsx; no Debian release packages one. */
function findFsx(): boolean {
  if (process.env.VARVE_FSX !== undefined) return true
  try {
    execFileSync('sh', ['-c', 'command -v fsx'], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

async function verifying(t: Test, tree: MountedTree, transport: Transport): Promise<void> {
  const sizeBytes = transport === 'native' ? 64 * MIB : 8 * MIB
  await tree.run('truncate', '-s', String(sizeBytes), tree.volume('fio'))
  t.match(await fioVerify(tree, tree.volume('fio'), sizeBytes), /err= 0/, 'on the file')
  if (transport !== 'native' || tree.poolPath === null) return
  const device = (await mustVarve(tree.poolPath, 'attach', 'fio')).trim()
  t.match(await fioVerify(tree, device, sizeBytes), /err= 0/, 'on a device')
  t.equal(await tree.run('cmp', device, tree.volume('fio')), '', 'the file has what it has')
  await mustVarve(tree.poolPath, 'detach', 'fio')
}

function fioVerify(tree: MountedTree, path: string, sizeBytes: number): Promise<string> {
  const load = ['--rw=randrw', '--bsrange=4k-128k', `--size=${sizeBytes}`]
  const aio = ['--ioengine=libaio', '--iodepth=32', '--direct=1', '--fsync=64']
  const checks = ['--verify=crc32c', '--verify_fatal=1', '--randseed=5']
  return tree.run('fio', '--name=verify', `--filename=${path}`, ...load, ...aio, ...checks)
}

/** Data at both ends and in the middle, as an image has it: 16 MiB of 48. */
async function makeImage(tree: MountedTree, path: string): Promise<void> {
  await tree.run('truncate', '-s', String(IMAGE_SIZE_BYTES), path)
  for (const [seek, count] of [
    [0, 4],
    [20, 8],
    [44, 4],
  ]) {
    const where = [`of=${path}`, 'bs=1M', `seek=${seek}`, `count=${count}`, 'conv=notrunc,fsync']
    await tree.run('dd', 'if=/dev/urandom', ...where, 'status=none')
  }
}

async function allocatedBytes(tree: MountedTree, path: string): Promise<number> {
  return Number(await tree.run('stat', '-c', '%b', path)) * 512
}

async function copying(t: Test, tree: MountedTree): Promise<void> {
  const { run, volume, scratch } = tree
  await makeImage(tree, scratch('image'))
  for (const sparse of ['always', 'auto', 'never']) {
    await run('cp', `--sparse=${sparse}`, scratch('image'), volume(sparse))
    await run('cmp', scratch('image'), volume(sparse))
    await run('sync', volume(sparse))
    const allocated = await allocatedBytes(tree, volume(sparse))
    const expected = (sparse === 'never' ? 48 : 16) * MIB
    t.ok(allocated <= expected + MIB, `cp --sparse=${sparse} takes ${allocated}`)
    await run('cp', '--sparse=always', volume(sparse), scratch('back'))
    await run('cmp', scratch('image'), scratch('back'))
    await run('rm', scratch('back'))
  }
  await run('cp', '--reflink=auto', volume('always'), volume('again'))
  await run('cmp', volume('always'), volume('again'))
  await run('dd', `if=${volume('always')}`, `of=${volume('dd')}`, 'bs=65536', 'conv=fsync')
  await run('cmp', scratch('image'), volume('dd'))
  const direct = ['bs=1M', 'iflag=direct', 'oflag=direct', 'conv=sparse,fsync']
  await run('dd', `if=${volume('dd')}`, `of=${volume('direct')}`, ...direct)
  await run('truncate', '-s', String(IMAGE_SIZE_BYTES), volume('direct'))
  await run('cmp', scratch('image'), volume('direct'))
  const names = (await run('ls', tree.volumesPath)).trim().split('\n')
  t.strictSame(names, ['again', 'always', 'auto', 'dd', 'direct', 'never'])
  for (const name of names) await run('rm', volume(name))
  t.equal(await run('ls', tree.volumesPath), '', 'all are gone')
}

async function images(t: Test, tree: MountedTree): Promise<void> {
  const { run, volume, scratch } = tree
  await makeImage(tree, scratch('image'))
  const compare = (format: string, path: string): Promise<string> =>
    run('qemu-img', 'compare', '-f', 'raw', '-F', format, scratch('image'), path)
  const convert = ['convert', '-W', '-m', '8']
  await run('qemu-img', ...convert, '-O', 'raw', scratch('image'), volume('raw'))
  t.match(await compare('raw', volume('raw')), /identical/)
  await run('qemu-img', ...convert, '-f', 'raw', '-O', 'qcow2', volume('raw'), volume('qcow2'))
  t.match(await compare('qcow2', volume('qcow2')), /identical/, 'qcow2 in a volume')
  await run('qemu-img', 'check', '-f', 'qcow2', volume('qcow2'))
  await run(
    'qemu-img',
    ...convert,
    '-O',
    'raw',
    '-t',
    'none',
    '-T',
    'none',
    scratch('image'),
    volume('none'),
  )
  t.match(await compare('raw', volume('none')), /identical/, 'without the page cache')
  await run('qemu-img', ...convert, '-f', 'raw', '-O', 'raw', volume('none'), scratch('back'))
  t.match(await compare('raw', scratch('back')), /identical/, 'and out')
  const map = JSON.parse(
    await run('qemu-img', 'map', '--output=json', '-f', 'raw', volume('raw')),
  ) as { start: number; length: number; data: boolean }[]
  const dataBytes = map.filter((part) => part.data).reduce((sum, part) => sum + part.length, 0)
  t.equal(dataBytes, 16 * MIB, 'qemu-img sees the holes')
}

async function holes(t: Test, tree: MountedTree): Promise<void> {
  const { run, volume, scratch } = tree
  await makeImage(tree, scratch('image'))
  await run('cp', '--sparse=never', scratch('image'), volume('disk'))
  await run('sync', volume('disk'))
  const seek = (path: string): Promise<string> => run('xfs_io', '-r', '-c', 'seek -a -r 0', path)
  await run('fallocate', '-p', '-o', String(20 * MIB), '-l', String(4 * MIB), volume('disk'))
  await run('fallocate', '-p', '-o', String(20 * MIB), '-l', String(4 * MIB), scratch('image'))
  await run('cmp', scratch('image'), volume('disk'))
  await run('fallocate', '-d', volume('disk'))
  await run('cmp', scratch('image'), volume('disk'))
  const dug = await allocatedBytes(tree, volume('disk'))
  t.ok(dug <= 13 * MIB, `what fallocate -d leaves is data: ${dug}`)
  const expected = [0, 4, 24, 28, 44].map((at, index) => {
    const kind = index % 2 === 0 ? 'DATA' : 'HOLE'
    return `${kind}\t${at * MIB}`
  })
  const lines = (await seek(volume('disk'))).trim().split('\n').slice(1)
  t.strictSame(lines, [...expected, `HOLE\t${IMAGE_SIZE_BYTES}`], 'lseek finds the same')
  await run('fallocate', '-z', '-o', String(MIB + 1), '-l', String(MIB), volume('disk'))
  await run('fallocate', '-z', '-o', String(MIB + 1), '-l', String(MIB), scratch('image'))
  await run('cmp', scratch('image'), volume('disk'))
  await run('fallocate', '-l', String(64 * MIB), volume('disk'))
  t.equal(Number(await run('stat', '-c', '%s', volume('disk'))), 64 * MIB, 'fallocate grows')
  await run('fallocate', '-n', '-o', String(64 * MIB), '-l', String(MIB), volume('disk'))
  t.equal(Number(await run('stat', '-c', '%s', volume('disk'))), 64 * MIB, 'and -n does not')
  await run('truncate', '-s', '1000001', volume('disk'))
  await run('truncate', '-s', String(2 * MIB), volume('disk'))
  await run('cmp', '-n', '1000001', scratch('image'), volume('disk'))
  await run(
    'cmp',
    '-i',
    '1000001:0',
    '-n',
    String(2 * MIB - 1_000_001),
    volume('disk'),
    '/dev/zero',
  )
}

type Property = (t: Test, tree: MountedTree, transport: Transport) => Promise<void>
const PROPERTIES: { name: string; property: Property; skip?: string | false; libfuse?: true }[] = [
  { name: 'random operations read back what they wrote', property: exercise, libfuse: true },
  {
    name: 'fsx completes',
    property: fsx,
    skip: findFsx() ? false : 'no fsx: set VARVE_FSX to one',
    libfuse: true,
  },
  { name: 'fio verifies what it wrote 32 deep', property: verifying, libfuse: true },
  { name: 'cp, dd and cmp agree and keep holes', property: copying },
  { name: 'qemu-img converts in and out', property: images },
  { name: 'holes are punched, found and zero', property: holes },
]

// A plain folder has no transport; once is enough.
const transports: Transport[] =
  process.env.VARVE_PLAIN_TREE === undefined ? ['native', 'fuse-native'] : ['native']
for (const transport of transports) {
  for (const { name, property, skip, libfuse } of PROPERTIES) {
    if (transport === 'fuse-native' && libfuse !== true) continue
    t.test(`${name} (${transport})`, { skip: noFuse !== false ? noFuse : (skip ?? false) }, (t) =>
      withTree(t, transport, (tree) => property(t, tree, transport)),
    )
  }
}

t.test('the exerciser notices what somebody else writes', async (t) => {
  const file = join(programs, 'shared')
  const results = await Promise.allSettled(
    ['1', '2'].map((seed) => runProgram(exerciser, ['buffered', '2000', seed, String(MIB), file])),
  )
  t.ok(results.some(({ status }) => status === 'rejected'))
})
