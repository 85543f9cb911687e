import { constants } from 'node:fs'
import type { Test } from 'tap'
import { must } from '../../src/base/assert.ts'
import { mustTool, tool } from '../support/probe.ts'
import type { FuseUnderTest, MakeFuse } from './fuse-conformance.ts'

const { O_CREAT, O_RDWR } = constants
const KIB = 1024
const MIB = 1 << 20
/** Of each file here: data, a hole, data. */
const HOLE_OFFSET = 64 * KIB
const HOLE_BYTES = 64 * KIB
const FILE_BYTES = 192 * KIB

export async function rangeConformance(t: Test, make: MakeFuse): Promise<void> {
  await t.test('fallocate makes holes, zeros and room', (t) => allocates(t, make))
  await t.test('lseek finds data and holes', (t) => seeks(t, make))
  await t.test('copy_file_range copies', (t) => copies(t, make))
}

async function makeFile({ tree, probe, volume }: FuseUnderTest, name: string): Promise<number> {
  const file = await probe.call('open', volume(name), O_CREAT | O_RDWR)
  await probe.call('write', file, Buffer.alloc(HOLE_OFFSET, 'x'), 0)
  const endOffset = HOLE_OFFSET + HOLE_BYTES
  await probe.call('write', file, Buffer.alloc(FILE_BYTES - endOffset, 'y'), endOffset)
  await probe.call('fsync', file)
  await probe.call('close', file)
  return must(tree.tryVolume(name), 'the volume made').id
}

/** Null when it was done, else what xfs_io says of it. */
async function xfsIo(path: string, command: string): Promise<string | null> {
  const { stdout, stderr } = await tool('xfs_io', '-c', command, path)
  const said = `${stdout}${stderr}`.trim()
  return said === '' ? null : said
}

async function allocates(t: Test, make: MakeFuse): Promise<void> {
  const fuse = await make(t)
  const { tree, volume, probe, capabilities } = fuse
  const id = await makeFile(fuse, 'v')
  const disk = tree.disk(id)
  const before = Buffer.from(disk.bytes(0, FILE_BYTES))
  const path = volume('v')
  const { mappedBytes } = disk
  const unsupported = /Operation not supported/
  if (!capabilities.fallocate) {
    for (const command of ['fpunch 0 4096', 'fzero 0 4096', 'falloc 0 1m', 'falloc -k 0 1m']) {
      t.match(await xfsIo(path, command), unsupported, command)
    }
    t.ok(disk.bytes(0, FILE_BYTES).equals(before), 'and changes nothing')
    t.equal(disk.sizeBytes, FILE_BYTES)
    t.equal(disk.mappedBytes, mappedBytes)
    return
  }
  t.equal(await xfsIo(path, 'fpunch 8192 12288'), null)
  before.fill(0, 8192, 8192 + 12288)
  t.equal(disk.mappedBytes, mappedBytes - 12288, 'punched blocks are given back')
  t.equal(await xfsIo(path, 'fpunch 1000 100'), null)
  before.fill(0, 1000, 1100)
  t.equal(await xfsIo(path, 'fzero 30000 5000'), null)
  before.fill(0, 30000, 35000)
  t.ok(before.equals(await probe.call('readFile', path)), 'the rest is as it was')
  t.equal(await xfsIo(path, `falloc -k 0 ${MIB}`), null)
  t.equal((await probe.call('stat', path)).sizeBytes, FILE_BYTES, 'keeps its size')
  t.equal(await xfsIo(path, `falloc 0 ${MIB}`), null)
  t.equal((await probe.call('stat', path)).sizeBytes, MIB)
  t.equal(await xfsIo(path, `fzero -k ${MIB} 4096`), null)
  t.equal((await probe.call('stat', path)).sizeBytes, MIB, 'keeps its size')
  t.match(await xfsIo(path, 'fcollapse 0 4096'), /Operation not supported|Invalid argument/)
  await mustTool('fallocate', '--punch-hole', '--offset', '0', '--length', '1MiB', path)
  t.equal(disk.mappedBytes, 0)
  t.equal((await probe.call('stat', path)).allocatedBytes, 0, 'and du tells')
}

/** Where the next data (`-d`) or hole (`-h`) from an offset is, as xfs_io shows it. */
async function seekFrom(path: string, how: '-d' | '-h', offset: number): Promise<string> {
  const shown = await mustTool('xfs_io', '-r', '-c', `seek ${how} ${offset}`, path)
  return must(shown.trim().split('\t').at(-1), 'an offset')
}

async function seeks(t: Test, make: MakeFuse): Promise<void> {
  const fuse = await make(t)
  const { volume, capabilities } = fuse
  await makeFile(fuse, 'v')
  const path = volume('v')
  const dataOffset = HOLE_OFFSET + HOLE_BYTES
  const middle = HOLE_OFFSET + 5000
  const expected = capabilities.seekHole
    ? [0, HOLE_OFFSET, dataOffset, middle, FILE_BYTES]
    : [0, FILE_BYTES, middle, FILE_BYTES, FILE_BYTES]
  const found = [
    await seekFrom(path, '-d', 0),
    await seekFrom(path, '-h', 0),
    await seekFrom(path, '-d', middle),
    await seekFrom(path, '-h', middle),
    await seekFrom(path, '-h', dataOffset),
  ]
  t.same(found.map(Number), expected)
  t.equal(await seekFrom(path, '-d', FILE_BYTES), 'EOF', 'nothing behind the end')
}

async function copies(t: Test, make: MakeFuse): Promise<void> {
  const fuse = await make(t)
  const { tree, volume, probe, capabilities } = fuse
  const id = await makeFile(fuse, 'v')
  const source = tree.disk(id).bytes(0, FILE_BYTES)
  await mustTool('touch', volume('w'))
  await mustTool(
    'xfs_io',
    '-c',
    `copy_range -s 0 -d 0 -l ${FILE_BYTES} ${volume('v')}`,
    volume('w'),
  )
  const copy = await probe.call('readFile', volume('w'))
  t.ok(source.equals(copy), 'the copy is equal')
  await mustTool('xfs_io', '-c', `copy_range -s 100 -d 70001 -l 999 ${volume('v')}`, volume('w'))
  const odd = Buffer.from(await probe.call('readFile', volume('w')))
  t.ok(odd.subarray(70_001, 71_000).equals(source.subarray(100, 1_099)), 'at any offset')
  await mustTool('cp', volume('v'), volume('z'))
  await mustTool('cmp', volume('v'), volume('z'))
  const isShared = tree.calls.some(({ kind }) => kind === 'copyRange')
  t.equal(isShared, capabilities.sharedCopy)
}
