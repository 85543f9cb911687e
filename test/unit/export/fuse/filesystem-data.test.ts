import fc from 'fast-check'
import t from 'tap'
import { Errno, OperatingError } from '../../../../src/base/errors.ts'
import { GIB, MIB, TIB } from '../../../../src/base/units.ts'
import {
  FALLOC_KEEP_SIZE,
  FALLOC_PUNCH_HOLE,
  FALLOC_ZERO_RANGE,
  SEEK_DATA,
  SEEK_HOLE,
} from '../../../../src/export/fuse/operations.ts'
import { batches, runBatches } from '../../../support/file-model.ts'
import { errnoFrom, pattern, populated, turn } from '../../../support/filesystem-rig.ts'

const BLOCK = 4096
const SIZE_MAX = 256 * TIB

t.test('data goes through, and refusals come back', async (t) => {
  const rig = populated()
  const handle = await rig.open('volumes/web')
  const disk = rig.tree.disk(1)
  t.equal(await rig.write(handle, 100, pattern(5000, 3)), 0)
  t.ok((await rig.read(handle, 100, 5000)).equals(pattern(5000, 3)))
  t.equal((await rig.read(handle, 3 * BLOCK, 5000)).length, 5, 'cut at the end')
  t.equal((await rig.read(handle, 3 * BLOCK + 5, 10)).length, 0)
  t.equal((await rig.read(handle, TIB, 10)).length, 0)
  t.equal(await rig.write(handle, 99 * BLOCK, Buffer.alloc(0)), 0, 'nothing is no growth')
  t.equal(disk.sizeBytes, 3 * BLOCK + 5)
  t.equal(await rig.flush(handle), 0)
  t.equal(disk.recorded.at(-1)?.kind, 'flush')
  disk.fault = () => -Errno.ENOSPC
  t.equal(await rig.write(handle, 0, pattern(10, 1)), -Errno.ENOSPC)
  t.equal(await rig.flush(handle), -Errno.ENOSPC)
  t.equal(await errnoFrom(rig.punch(handle, 0, 10)), Errno.ENOSPC)
  t.equal(await errnoFrom(rig.files.seek(handle, 0, SEEK_DATA)), Errno.ENOSPC)
  disk.fault = () => 0
  const readOnly = await rig.open('volumes/web', false)
  const snapshot = await rig.open('snapshots/web/monday/disk', false)
  for (const [closed, errno] of [
    [readOnly, Errno.EBADF],
    [snapshot, Errno.EROFS],
  ] as const) {
    t.equal(await rig.write(closed, 0, pattern(10, 1)), -errno)
    t.equal(await rig.write(closed, 9 * BLOCK, pattern(10, 1)), -errno)
    t.equal(await errnoFrom(rig.files.allocate(closed, 0, 0, 10)), errno)
    t.equal(await errnoFrom(rig.punch(closed, 0, 10)), errno)
    t.equal(await errnoFrom(rig.files.copyRange(handle, 0, closed, 0, BLOCK)), errno)
  }
  t.equal((await rig.read(snapshot, BLOCK, 10)).equals(pattern(10, 1)), true)
})

t.test('writes past the end grow the disk, in whatever order they come', async (t) => {
  const rig = populated()
  const handle = await rig.open('volumes/db')
  const disk = rig.tree.disk(2)
  const offsets = [50_000, 10_000, 99_001, 3, 0, 70_000]
  const results = offsets.map((offset) => rig.write(handle, offset, pattern(1000, offset)))
  t.strictSame(
    await Promise.all(results),
    offsets.map(() => 0),
  )
  t.equal(disk.sizeBytes, 100_001)
  const resizes = rig.tree.calls.filter(({ kind }) => kind === 'resize')
  t.equal(resizes.length, 1, 'those of one turn grow it together')
  for (const offset of offsets.filter((at) => at > 3)) {
    t.ok((await rig.read(handle, offset, 1000)).equals(pattern(1000, offset)))
  }
  t.equal(await rig.write(handle, SIZE_MAX - 5, pattern(5, 1)), 0)
  t.equal(await rig.write(handle, SIZE_MAX - 4, pattern(5, 1)), -Errno.EFBIG)
  t.equal(await rig.write(handle, 2 ** 60, pattern(5, 1)), -Errno.EFBIG)
  t.equal(disk.sizeBytes, SIZE_MAX)
})

t.test('a growth under way keeps nobody waiting, and its failure is its own', async (t) => {
  const rig = populated()
  const handle = await rig.open('volumes/web')
  let release = (): void => undefined
  let failure: OperatingError | null = null
  rig.tree.gate = () =>
    new Promise((resolve, reject) => {
      release = () => (failure === null ? resolve() : reject(failure))
    })
  const growing = rig.write(handle, 4 * BLOCK, pattern(10, 1))
  const inside = await rig.write(handle, 0, pattern(10, 2))
  t.equal(inside, 0, 'a write inside the end is done first')
  const late = rig.write(handle, 9 * BLOCK, pattern(10, 1))
  release()
  t.equal(await growing, 0)
  t.equal(rig.tree.disk(1).sizeBytes, 4 * BLOCK + 10)
  failure = new OperatingError('no-space', 'full')
  await turn()
  release()
  t.equal(await late, -Errno.ENOSPC)
  t.equal(rig.tree.disk(1).sizeBytes, 4 * BLOCK + 10)
  failure = null
  const again = rig.write(handle, 9 * BLOCK, pattern(10, 1))
  await turn()
  release()
  t.equal(await again, 0)
})

t.test('a stale growth never makes a disk shorter', async (t) => {
  const rig = populated()
  const handle = await rig.open('volumes/web')
  const node = await rig.node('volumes/web')
  const grown = rig.write(handle, 5 * BLOCK, pattern(10, 1))
  const truncated = rig.files.change(node, { sizeBytes: 50 * BLOCK })
  const inside = rig.write(handle, 20 * BLOCK, pattern(10, 2))
  t.strictSame(await Promise.all([grown, inside]), [0, 0])
  await truncated
  t.equal(rig.tree.disk(1).sizeBytes, 50 * BLOCK)
  t.ok((await rig.read(handle, 20 * BLOCK, 10)).equals(pattern(10, 2)))
})

t.test('fallocate does what Linux has it do', async (t) => {
  const rig = populated({ capacityBytes: 64 * BLOCK })
  const { files } = rig
  const handle = await rig.open('volumes/web')
  const disk = rig.tree.disk(1)
  const punch = FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE
  const { EINVAL, EFBIG, EOPNOTSUPP, ENOSPC } = Errno
  const cases: [mode: number, offset: number, length: number, errno: number][] = [
    [0, -1, 10, EINVAL],
    [0, 0, 0, EINVAL],
    [punch, 0, -5, EINVAL],
    [FALLOC_PUNCH_HOLE, 0, 10, EOPNOTSUPP],
    [FALLOC_PUNCH_HOLE | FALLOC_ZERO_RANGE, 0, 10, EOPNOTSUPP],
    [FALLOC_ZERO_RANGE | punch, 0, 10, EOPNOTSUPP],
    [0x08, 0, BLOCK, EOPNOTSUPP],
    [0x20, 0, BLOCK, EOPNOTSUPP],
    [0x40, 0, BLOCK, EOPNOTSUPP],
    [1 << 30, 0, BLOCK, EOPNOTSUPP],
    [0, SIZE_MAX, 1, EFBIG],
    [FALLOC_KEEP_SIZE, SIZE_MAX, 1, EFBIG],
    [FALLOC_ZERO_RANGE, SIZE_MAX, 1, EFBIG],
    [punch, 1, 2 ** 53 - 1, EFBIG],
    [0, 0, 100 * BLOCK, ENOSPC],
    [FALLOC_KEEP_SIZE, 10 * BLOCK, 100 * BLOCK, ENOSPC],
    [0, 0, SIZE_MAX, ENOSPC],
  ]
  for (const [mode, offset, length, errno] of cases) {
    const found = await errnoFrom(files.allocate(handle, mode, offset, length))
    t.equal(found, errno, `mode ${mode} at ${offset} + ${length}`)
  }
  t.equal(disk.sizeBytes, 3 * BLOCK + 5)
  t.same(rig.tree.calls, [], 'none of it reached the pool')
  // Two blocks are taken by the volume and its snapshot; one of these 63 is there already.
  await files.allocate(handle, FALLOC_KEEP_SIZE, 7, 63 * BLOCK - 7)
  t.equal(disk.sizeBytes, 3 * BLOCK + 5)
  t.equal(await errnoFrom(files.allocate(handle, 0, 7, 63 * BLOCK - 6)), ENOSPC)
  await files.allocate(handle, 0, 7, 63 * BLOCK - 7)
  t.equal(disk.sizeBytes, 63 * BLOCK)
  t.equal(disk.mappedBytes, BLOCK, 'nothing is set aside')
})

t.test('fallocate promises whole blocks', async (t) => {
  const rig = populated({ capacityBytes: 4 * BLOCK })
  const handle = await rig.open('volumes/web')
  const allocate = (offset: number, length: number): Promise<number> =>
    errnoFrom(rig.files.allocate(handle, FALLOC_KEEP_SIZE, offset, length))
  t.equal(await allocate(8 * BLOCK - 1, BLOCK + 2), Errno.ENOSPC, 'three blocks, two are free')
  t.equal(await allocate(8 * BLOCK - 1, BLOCK + 1), 0)
  t.equal(await allocate(BLOCK - 1, 2 * BLOCK + 1), 0, 'one of the three is there')
  t.equal(await allocate(3 * BLOCK + 4, 2 * BLOCK), Errno.ENOSPC, 'across the end')
  t.equal(await allocate(3 * BLOCK + 4, BLOCK), 0)
})

t.test('ranges of any length are punched and zeroed', async (t) => {
  const rig = populated()
  const { files } = rig
  const handle = await rig.open('volumes/web')
  const disk = rig.tree.disk(1)
  t.equal(await rig.write(handle, 0, pattern(4 * BLOCK, 1)), 0)
  await rig.punch(handle, BLOCK + 10, 2 ** 53 - 1 - BLOCK - 10)
  t.equal(disk.sizeBytes, 4 * BLOCK)
  t.strictSame(await rig.dataRanges(handle), [[0, 2 * BLOCK]])
  t.ok(
    disk
      .bytes(BLOCK, BLOCK)
      .subarray(10)
      .every((byte) => byte === 0),
  )
  t.ok(disk.bytes(0, BLOCK + 10).equals(pattern(4 * BLOCK, 1).subarray(0, BLOCK + 10)))
  await rig.punch(handle, 9 * BLOCK, BLOCK)
  await files.allocate(handle, FALLOC_ZERO_RANGE | FALLOC_KEEP_SIZE, 3 * BLOCK, 2 ** 52)
  t.equal(disk.sizeBytes, 4 * BLOCK)
  t.strictSame(await rig.dataRanges(handle), [
    [0, 2 * BLOCK],
    [3 * BLOCK, 4 * BLOCK],
  ])
  await files.allocate(handle, FALLOC_ZERO_RANGE, BLOCK, SIZE_MAX - BLOCK)
  t.equal(disk.sizeBytes, SIZE_MAX)
  t.equal(disk.mappedBytes, BLOCK, 'zeros take nothing')
})

t.test('lseek finds data and holes however far apart', async (t) => {
  const rig = populated()
  const { files } = rig
  const handle = await rig.open('volumes/db')
  const seek = (at: number, whence: number): Promise<number> => files.seek(handle, at, whence)
  t.equal(await errnoFrom(seek(0, SEEK_HOLE)), Errno.ENXIO, 'an empty file')
  await files.change(await rig.node('volumes/db'), { sizeBytes: 200 * TIB + 77 })
  t.equal(await errnoFrom(seek(0, SEEK_DATA)), Errno.ENXIO)
  t.equal(await seek(12345, SEEK_HOLE), 12345)
  const far = 150 * TIB + 5 * GIB + 3 * BLOCK
  rig.tree.disk(2).tryPut(far, pattern(2 * BLOCK, 1))
  rig.tree.disk(2).tryPut(200 * TIB, pattern(77, 1))
  t.equal(await seek(1, SEEK_DATA), far)
  t.equal(await seek(far + 5, SEEK_DATA), far + 5)
  t.equal(await seek(far + 5, SEEK_HOLE), far + 2 * BLOCK)
  t.equal(await seek(far + 2 * BLOCK, SEEK_DATA), 200 * TIB)
  t.equal(await seek(200 * TIB + 1, SEEK_HOLE), 200 * TIB + 77, 'behind the end is a hole')
  for (const at of [200 * TIB + 77, 200 * TIB + 78, -1, 2 ** 53]) {
    t.equal(await errnoFrom(seek(at, SEEK_DATA)), Errno.ENXIO)
    t.equal(await errnoFrom(seek(at, SEEK_HOLE)), Errno.ENXIO)
  }
  t.equal(await errnoFrom(seek(0, 2)), Errno.EINVAL)
})

t.test('a seek looks at little at a time where there is data', async (t) => {
  const rig = populated()
  const handle = await rig.open('volumes/db')
  const disk = rig.tree.disk(2)
  disk.resize(3 * TIB)
  disk.tryPut(TIB, Buffer.alloc(64 * MIB, 1))
  t.equal(await rig.files.seek(handle, 0, SEEK_DATA), TIB)
  const holeCalls = disk.recorded.splice(0)
  t.ok(holeCalls.length < 300, 'wide steps through holes')
  t.equal(await rig.files.seek(handle, TIB, SEEK_HOLE), TIB + 64 * MIB)
  t.ok(disk.recorded.length >= 4 && disk.recorded.every((call) => call.lengthBytes <= 16 * MIB))
})

t.test('whole blocks are copied by reference, and a last partial one', async (t) => {
  const rig = populated()
  const from = await rig.open('volumes/web')
  const to = await rig.open('volumes/db')
  const copy = (fromBytes: number, toBytes: number, length: number): Promise<number> =>
    rig.files.copyRange(from, fromBytes, to, toBytes, length)
  await rig.write(from, 0, pattern(3 * BLOCK + 5, 9))
  t.equal(await copy(0, 0, 2 ** 40), 3 * BLOCK + 5, 'all there is')
  t.equal(rig.tree.disk(2).sizeBytes, 3 * BLOCK + 5)
  t.ok((await rig.read(to, 0, 4 * BLOCK)).equals(pattern(3 * BLOCK + 5, 9)))
  t.equal(await copy(BLOCK, 8 * BLOCK, BLOCK + 1), BLOCK, 'whole blocks of what is asked')
  t.equal(rig.tree.disk(2).sizeBytes, 9 * BLOCK)
  t.equal(await copy(3 * BLOCK, 0, 100), 5)
  const expected = Buffer.from(pattern(3 * BLOCK + 5, 9))
  expected.copy(expected, 0, 3 * BLOCK, 3 * BLOCK + 5)
  t.ok((await rig.read(to, 0, 3 * BLOCK)).equals(expected.subarray(0, 3 * BLOCK)))
  t.equal(await copy(4 * BLOCK, 0, 10), 0, 'behind the end is nothing')
  t.equal(await copy(0, 0, 0), 0)
  const { EINVAL, EOPNOTSUPP, EFBIG } = Errno
  const cases: [from: number, to: number, length: number, errno: number][] = [
    [1, 0, BLOCK, EOPNOTSUPP],
    [0, 1, BLOCK, EOPNOTSUPP],
    [0, 0, BLOCK - 1, EOPNOTSUPP],
    [-BLOCK, 0, BLOCK, EINVAL],
    [0, -BLOCK, BLOCK, EINVAL],
    [0, 0, -1, EINVAL],
    [0, SIZE_MAX, BLOCK, EFBIG],
  ]
  const before = rig.tree.calls.length
  for (const [at, toBytes, length, errno] of cases) {
    t.equal(await errnoFrom(copy(at, toBytes, length)), errno, `${at} to ${toBytes}, ${length}`)
  }
  const self = (fromBytes: number, toBytes: number, length: number): Promise<number> =>
    rig.files.copyRange(from, fromBytes, from, toBytes, length)
  t.equal(await errnoFrom(self(0, BLOCK, 2 * BLOCK)), EINVAL)
  t.equal(await errnoFrom(self(BLOCK, 0, 2 * BLOCK)), EINVAL)
  t.equal(rig.tree.calls.length, before, 'none of it reached the pool')
  t.equal(await self(0, BLOCK, BLOCK), BLOCK)
  const sizeBefore = rig.arena.usedBytes
  await rig.files.change(await rig.node('volumes/web'), { sizeBytes: 5 * GIB })
  t.equal(await copy(0, 0, 5 * GIB), GIB, 'a bounded part of it')
  t.equal(rig.arena.usedBytes, sizeBefore)
  const snapshot = await rig.open('snapshots/web/monday/disk', false)
  t.equal(await rig.files.copyRange(snapshot, 0, to, 0, 3 * BLOCK), 3 * BLOCK)
  t.ok((await rig.read(to, BLOCK, 10)).equals(pattern(10, 1)))
})

t.test('without memory for a tail the whole blocks are copied', async (t) => {
  const rig = populated()
  const from = await rig.open('volumes/web')
  const to = await rig.open('volumes/db')
  while (rig.arena.allocate(BLOCK) >= 0) {
    // Until nothing is left.
  }
  t.equal(await rig.files.copyRange(from, 0, to, 0, MIB), 3 * BLOCK)
  const tail = rig.files.copyRange(from, 3 * BLOCK, to, 3 * BLOCK, MIB)
  t.equal(await errnoFrom(tail), Errno.EOPNOTSUPP)
})

t.test('a disk is as a plain file after any operations in flight together', async () => {
  const delays = fc.array(fc.nat(3), { minLength: 1, maxLength: 20 })
  const property = fc.asyncProperty(batches, delays, async (all, waits) => {
    const rig = populated()
    let call = 0
    rig.tree.gate = async () => {
      call += 1
      for (let i = 0; i < (waits[call % waits.length] ?? 0); i += 1) await turn()
    }
    await runBatches(rig, 'volumes/db', all)
    if (rig.arena.usedBytes > 0) throw new Error('memory is lost')
  })
  await fc.assert(property, { numRuns: 300 })
})
