import { constants } from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'
import { must } from '../../src/base/assert.ts'
import { Errno } from '../../src/base/errors.ts'
import { Prng } from '../../src/base/prng.ts'
import { mustTool, Probe, ProbeFailure, refused } from '../support/probe.ts'
import type { FuseUnderTest, MakeFuse } from './fuse-conformance.ts'

const { O_APPEND, O_CREAT, O_DIRECT, O_RDWR, O_WRONLY } = constants
const MIB = 1 << 20

export async function dataConformance(t: Test, make: MakeFuse): Promise<void> {
  await t.test('a file is what was written to it', (t) => equalsModel(t, make))
  await t.test('transfers of a megabyte and more', (t) => movesMuch(t, make))
  await t.test('a file grows and shrinks to any length', (t) => changesLength(t, make))
  await t.test('a sparse file takes what was written', (t) => staysSparse(t, make))
  await t.test('fsync reaches the disk before it returns', (t) => syncs(t, make))
  await t.test('errors of the disk arrive', (t) => reportsErrors(t, make))
  await t.test('mappings and reads and writes agree', (t) => mapsMemory(t, make))
  await t.test('O_DIRECT goes past the cache', (t) => goesDirect(t, make))
  await t.test('many processes at once', (t) => servesMany(t, make))
}

/** Volume `name` in the tree, made by opening its file. */
async function openNew(
  { tree, probe, volume }: FuseUnderTest,
  name: string,
  flags = 0,
): Promise<{ file: number; id: number }> {
  const file = await probe.call('open', volume(name), O_CREAT | O_RDWR | flags)
  return { file, id: must(tree.tryVolume(name), 'the volume made').id }
}

function randomBytes(prng: Prng, lengthBytes: number): Buffer {
  const bytes = Buffer.alloc(lengthBytes)
  for (let index = 0; index < lengthBytes; index++) bytes[index] = prng.below(256)
  return bytes
}

async function equalsModel(t: Test, make: MakeFuse): Promise<void> {
  const fuse = await make(t)
  const { tree, probe } = fuse
  const { file, id } = await openNew(fuse, 'v')
  const prng = new Prng(20)
  const limitBytes = 300_000
  let model = Buffer.alloc(0)
  for (let step = 0; step < 400; step++) {
    const offset = prng.below(limitBytes)
    const length = prng.below(prng.below(2) === 0 ? 600 : 60_000) + 1
    const kind = prng.below(8)
    if (kind < 3) {
      const bytes = randomBytes(prng, Math.min(length, limitBytes - offset))
      t.equal(await probe.call('write', file, bytes, offset), bytes.length)
      const end = Math.max(model.length, offset + bytes.length)
      model = Buffer.concat([model, Buffer.alloc(end - model.length)])
      bytes.copy(model, offset)
    } else if (kind === 3 && prng.below(3) === 0) {
      await probe.call('ftruncate', file, offset)
      const kept = model.subarray(0, offset)
      model = Buffer.concat([kept, Buffer.alloc(offset - kept.length)])
    } else {
      const read = await probe.call('read', file, offset, length)
      const expected = model.subarray(offset, offset + length)
      if (!expected.equals(read)) t.fail(`step ${step}: ${length} bytes at ${offset} differ`)
    }
    if (step % 50 === 0) t.equal((await probe.call('fstat', file)).sizeBytes, model.length)
  }
  await probe.call('fsync', file)
  t.ok(tree.disk(id).bytes(0, model.length).equals(model), 'the disk has it, too')
  t.ok(model.equals(await probe.call('readFile', fuse.volume('v'))))
  await probe.call('close', file)
}

async function movesMuch(t: Test, make: MakeFuse): Promise<void> {
  const fuse = await make(t)
  const { tree, probe } = fuse
  const { file, id } = await openNew(fuse, 'v')
  const bytes = Buffer.alloc(3 * MIB + 777)
  for (let at = 0; at + 4 <= bytes.length; at += 4) bytes.writeUInt32LE(at, at)
  t.equal(await probe.call('write', file, bytes.subarray(0, MIB), 12_345), MIB)
  t.equal(await probe.call('write', file, bytes, 5 * MIB + 1), bytes.length)
  await probe.call('fsync', file)
  t.ok(tree.disk(id).bytes(12_345, MIB).equals(bytes.subarray(0, MIB)))
  const read = await probe.call('read', file, 5 * MIB + 1, bytes.length + 1000)
  t.ok(bytes.equals(read), 'a read ends where the file ends')
  const gap = await probe.call('read', file, 12_345 + MIB, 3 * MIB)
  t.ok(Buffer.alloc(3 * MIB).equals(gap), 'what was never written is zeros')
  t.equal((await probe.call('read', file, 100 * MIB, 10)).length, 0, 'nothing behind the end')
  await probe.call('close', file)
  const other = await probe.call('open', fuse.volume('v'), O_WRONLY | O_APPEND)
  await probe.call('write', other, Buffer.from('tail'), null)
  await probe.call('write', other, Buffer.from('more'), null)
  await probe.call('close', other)
  const end = tree.disk(id).sizeBytes
  t.equal(
    tree
      .disk(id)
      .bytes(end - 8, 8)
      .toString(),
    'tailmore',
  )
}

async function changesLength(t: Test, make: MakeFuse): Promise<void> {
  const fuse = await make(t)
  const { tree, probe, volume } = fuse
  const { file, id } = await openNew(fuse, 'v')
  await probe.call('write', file, Buffer.alloc(10_000, 'x'), 0)
  await probe.call('ftruncate', file, 5_001)
  t.equal(tree.disk(id).sizeBytes, 5_001)
  await probe.call('truncate', volume('v'), 20_003)
  t.equal((await probe.call('fstat', file)).sizeBytes, 20_003)
  const back = Buffer.from(await probe.call('read', file, 4_999, 10_000))
  t.same([...back.subarray(0, 4)], [0x78, 0x78, 0, 0], 'what was cut off is zeros')
  t.ok(Buffer.alloc(back.length - 2).equals(back.subarray(2)))
  await probe.call('ftruncate', file, 0)
  t.equal((await probe.call('read', file, 0, 10)).length, 0)
  // Grown from elsewhere: seen by whoever asks, and readable.
  await tree.resize(id, 8192)
  t.equal((await probe.call('stat', volume('v'))).sizeBytes, 8192)
  t.equal((await probe.call('read', file, 8000, 1000)).length, 192)
  await probe.call('close', file)
}

async function staysSparse(t: Test, make: MakeFuse): Promise<void> {
  const fuse = await make(t)
  const { tree, path, probe, volume } = fuse
  const { file, id } = await openNew(fuse, 'v')
  const sizeBytes = 2 ** 40
  await probe.call('ftruncate', file, sizeBytes)
  await probe.call('write', file, Buffer.from('end'), sizeBytes - 3)
  await probe.call('write', file, Buffer.from('middle'), 2 ** 39 - 3)
  await probe.call('fsync', file)
  t.equal((await probe.call('fstat', file)).sizeBytes, sizeBytes)
  t.equal((await probe.call('fstat', file)).allocatedBytes, 3 * 4096)
  const read = await probe.call('read', file, 2 ** 39 - 10, 20)
  t.equal(Buffer.from(read).toString('latin1'), `${'\0'.repeat(7)}middle${'\0'.repeat(7)}`)
  await probe.call('close', file)
  await probe.call('unlink', volume('v'))
  t.equal(tree.tryDisk(id), null)
  const source = join(path, '..', 'source')
  const bytes = Buffer.alloc(4 * MIB)
  bytes.fill('data', MIB, MIB + 8192)
  await probe.call('writeFile', source, bytes)
  await mustTool('cp', '--sparse=always', source, volume('copy'))
  await mustTool('cmp', source, volume('copy'))
  t.equal((await probe.call('stat', volume('copy'))).allocatedBytes, 8192, 'holes stay holes')
  await mustTool('cp', '--sparse=always', volume('copy'), `${source}-2`)
  await mustTool('cmp', source, `${source}-2`)
}

function countOf(fuse: FuseUnderTest, id: number, kind: string): number {
  return fuse.tree.disk(id).recorded.filter((operation) => operation.kind === kind).length
}

async function syncs(t: Test, make: MakeFuse): Promise<void> {
  const fuse = await make(t)
  const { tree, probe, volume } = fuse
  const { file, id } = await openNew(fuse, 'v')
  await probe.call('write', file, Buffer.alloc(100_000, 1), 0)
  const before = countOf(fuse, id, 'flush')
  await probe.call('fsync', file)
  const after = countOf(fuse, id, 'flush')
  t.ok(after > before, 'fsync flushes')
  await probe.call('write', file, Buffer.alloc(100, 2), 50)
  await probe.call('fdatasync', file)
  t.ok(countOf(fuse, id, 'flush') > after, 'fdatasync flushes')
  const { recorded } = tree.disk(id)
  const kinds = recorded.map(({ kind }) => kind)
  t.ok(kinds.lastIndexOf('write') < kinds.lastIndexOf('flush'), 'after what was written')
  await probe.call('close', file)
  const flushes = countOf(fuse, id, 'flush')
  const synced = `of=${volume('v')}`
  await mustTool('dd', 'if=/dev/zero', synced, 'bs=64k', 'count=4', 'conv=fsync,notrunc')
  t.ok(countOf(fuse, id, 'flush') > flushes)
}

/** The errno that writing and syncing, or either, ends with. */
async function failureOf(probe: Probe, file: number, bytes: Buffer): Promise<string> {
  try {
    // Where only part of it can be written, that is no error yet.
    let writtenBytes = 0
    while (writtenBytes < bytes.length) {
      const rest = bytes.subarray(writtenBytes)
      writtenBytes += await probe.call('write', file, rest, writtenBytes)
    }
    await probe.call('fsync', file)
    return 'none'
  } catch (error) {
    return error instanceof ProbeFailure ? error.code : String(error)
  }
}

async function reportsErrors(t: Test, make: MakeFuse): Promise<void> {
  const fuse = await make(t, { capacityBytes: 4 * MIB })
  const { tree, probe, volume } = fuse
  const { file, id } = await openNew(fuse, 'v')
  const disk = tree.disk(id)
  await probe.call('write', file, Buffer.alloc(8192, 'x'), 0)
  await probe.call('fsync', file)
  disk.fault = ({ kind }) => (kind === 'write' ? -Errno.EIO : 0)
  t.equal(await failureOf(probe, file, Buffer.alloc(4096)), 'EIO')
  disk.fault = ({ kind }) => (kind === 'flush' ? -Errno.EIO : 0)
  await refused(t, 'EIO', probe.call('fsync', file), 'a failed sync')
  disk.fault = ({ kind }) => (kind === 'read' ? -Errno.EIO : 0)
  const other = await probe.call('open', volume('v'), O_RDWR | O_DIRECT)
  await refused(t, 'EIO', probe.call('read', other, 0, 4096), 'a failed read')
  disk.fault = () => 0
  t.equal((await probe.call('read', other, 0, 4096)).length, 4096, 'once well, always well')
  await probe.call('close', other)
  t.equal(await failureOf(probe, file, Buffer.alloc(8 * MIB, 'y')), 'ENOSPC')
  await probe.call('ftruncate', file, 4096)
  t.equal(await failureOf(probe, file, Buffer.alloc(4096, 'z')), 'none', 'there is room again')
  await probe.call('close', file)
}

async function mapsMemory(t: Test, make: MakeFuse): Promise<void> {
  const fuse = await make(t)
  const { tree, probe, volume } = fuse
  const { file, id } = await openNew(fuse, 'v')
  await probe.call('write', file, Buffer.alloc(20_000, 'a'), 0)
  const xfsIo = (...commands: string[]): Promise<string> => {
    const words = commands.flatMap((command) => ['-c', command])
    return mustTool('xfs_io', ...words, volume('v'))
  }
  const mapping = 'mmap -rw 0 16384'
  // 0x62: "b". What is written to memory is read from the file, before any sync.
  t.match(await xfsIo(mapping, 'mwrite -S 0x62 5000 10', 'pread -v 4999 4'), /61 62 62 62/)
  t.match(await xfsIo(mapping, 'mread 0 4', 'pwrite -S 0x63 0 4', 'mread -v 0 4'), /63 63 63 63/)
  await xfsIo(mapping, 'mwrite -S 0x64 8192 4096', 'msync -s 0 16384')
  t.equal(tree.disk(id).bytes(8192, 4096).toString(), 'd'.repeat(4096), 'msync reaches the disk')
  t.equal(tree.disk(id).bytes(5000, 10).toString(), 'b'.repeat(10))
  const seen = await probe.call('read', file, 8190, 4)
  t.equal(Buffer.from(seen).toString(), 'aadd', 'another process sees it')
  await probe.call('close', file)
}

async function goesDirect(t: Test, make: MakeFuse): Promise<void> {
  const fuse = await make(t)
  const { tree, path, probe, volume } = fuse
  const { file, id } = await openNew(fuse, 'v', O_DIRECT)
  const bytes = randomBytes(new Prng(8), 1 << 16)
  await probe.call('write', file, bytes, 0)
  t.ok(tree.disk(id).bytes(0, bytes.length).equals(bytes), 'on the disk when write returns')
  const changed = Buffer.alloc(512, 'changed behind its back')
  t.ok(tree.disk(id).tryPut(4096, changed))
  t.ok(changed.equals(await probe.call('read', file, 4096, 512)), 'read from the disk')
  t.equal(await probe.call('write', file, Buffer.alloc(512, 'sector'), 512 * 5), 512)
  t.equal(
    tree
      .disk(id)
      .bytes(512 * 5, 6)
      .toString(),
    'sector',
  )
  await probe.call('close', file)
  const source = join(path, '..', 'source')
  await mustTool('dd', 'if=/dev/urandom', `of=${source}`, 'bs=1M', 'count=5')
  const [to, from] = [`of=${volume('w')}`, `if=${volume('w')}`]
  await mustTool('dd', `if=${source}`, to, 'bs=1M', 'oflag=direct')
  await mustTool('dd', from, `of=${source}-2`, 'bs=512K', 'iflag=direct')
  await mustTool('cmp', source, `${source}-2`)
}

async function servesMany(t: Test, make: MakeFuse): Promise<void> {
  const { tree, path, volume } = await make(t)
  const probes = Array.from({ length: 12 }, () => new Probe())
  t.teardown(() => Promise.all(probes.map((probe) => probe.close())))
  tree.addVolume('listed')
  await Promise.all(
    probes.map(async (probe, index) => {
      const paths = ['a', 'b', 'c'].map((name) => volume(`${name}${index}`))
      await probe.call('exercise', paths, 60, 30_000)
      await probe.call('list', join(path, 'volumes'))
      for (const each of paths) await probe.call('unlink', each)
    }),
  )
  t.same(
    tree.volumes().map(({ name }) => name),
    ['listed'],
  )
}
