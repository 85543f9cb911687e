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
import type { FilesystemRig, Range } from '../../../support/filesystem-rig.ts'
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

/** A file as a plain array of bytes and of blocks that are no holes. */
class ModelFile {
  bytes: Buffer = Buffer.alloc(0)
  blocks = new Set<number>()

  resize(sizeBytes: number): void {
    const bytes = Buffer.alloc(sizeBytes)
    this.bytes.copy(bytes)
    this.bytes = bytes
    for (const block of this.blocks) if (block * BLOCK >= sizeBytes) this.blocks.delete(block)
  }

  grow(sizeBytes: number): void {
    if (sizeBytes > this.bytes.length) this.resize(sizeBytes)
  }

  write(offset: number, bytes: Buffer): void {
    this.grow(offset + bytes.length)
    bytes.copy(this.bytes, offset)
    const last = Math.floor((offset + bytes.length - 1) / BLOCK)
    for (let block = Math.floor(offset / BLOCK); block <= last; block += 1) this.blocks.add(block)
  }

  /** Whole blocks become holes, or zeros that are none. */
  clear(offset: number, length: number, isHole: boolean): void {
    const end = Math.min(offset + length, this.bytes.length)
    if (end > offset) this.bytes.fill(0, offset, end)
    for (let block = Math.ceil(offset / BLOCK); (block + 1) * BLOCK <= end; block += 1) {
      if (isHole) this.blocks.delete(block)
      else this.blocks.add(block)
    }
  }

  copy(from: number, to: number, length: number): void {
    this.grow(to + length)
    this.bytes.copy(this.bytes, to, from, from + length)
    for (let i = 0; i < length / BLOCK; i += 1) {
      if (this.blocks.has(from / BLOCK + i)) this.blocks.add(to / BLOCK + i)
      else this.blocks.delete(to / BLOCK + i)
    }
  }

  dataRanges(): Range[] {
    const ranges: Range[] = []
    for (const block of [...this.blocks].sort((a, b) => a - b)) {
      const last = ranges.at(-1)
      const end = Math.min((block + 1) * BLOCK, this.bytes.length)
      if (last?.[1] === block * BLOCK) last[1] = end
      else ranges.push([block * BLOCK, end])
    }
    return ranges
  }
}

interface Step {
  kind: 'write' | 'punch' | 'zero' | 'zero-keep' | 'truncate'
  offset: number
  length: number
}

const LIMIT = 30 * BLOCK
const length = fc.integer({ min: 1, max: 3 * BLOCK })
const offset = fc.oneof(
  fc.integer({ min: 0, max: LIMIT }),
  fc.integer({ min: 0, max: 30 }).map((block) => block * BLOCK),
)
const anyKind = fc.constantFrom<Step['kind']>('write', 'write', 'punch', 'zero', 'zero-keep')
/** All in flight at once, in ranges apart from each other. */
const apart = fc
  .array(fc.record({ kind: anyKind, offset, length }), { minLength: 1, maxLength: 12 })
  .map((steps) => steps.filter((step, i) => steps.slice(0, i).every((s) => !overlaps(s, step))))
/** Growths and truncations in flight at once, which take effect as they came. */
const resizing = fc.array(
  fc.record({ kind: fc.constantFrom<Step['kind']>('write', 'truncate'), offset, length }),
  { minLength: 2, maxLength: 10 },
)
const block = fc.nat(30)
const copying = fc.record({ from: block, to: block, count: fc.integer({ min: 1, max: 8 }) })

type Batch =
  | { kind: 'apart'; steps: Step[] }
  | { kind: 'resizing'; steps: Step[] }
  | { kind: 'copy'; from: number; to: number; count: number }

const batches: fc.Arbitrary<Batch[]> = fc.array(
  fc.oneof(
    apart.map((steps) => ({ kind: 'apart' as const, steps })),
    resizing.map((steps) => ({ kind: 'resizing' as const, steps })),
    copying.map((copy) => ({ kind: 'copy' as const, ...copy })),
  ),
  { minLength: 1, maxLength: 12 },
)

/** Whether they touch a block in common: two that do may come in any order. */
function overlaps(a: Step, b: Step): boolean {
  const first = (step: Step): number => Math.floor(step.offset / BLOCK)
  const last = (step: Step): number => Math.floor((step.offset + step.length - 1) / BLOCK)
  return first(a) <= last(b) && first(b) <= last(a)
}

/** What the property works on. */
interface Bench {
  rig: FilesystemRig
  node: number
  handle: number
  model: ModelFile
}

async function start({ rig, node, handle }: Bench, step: Step, seed: number): Promise<void> {
  const { kind, offset, length } = step
  switch (kind) {
    case 'write': {
      const result = await rig.write(handle, offset, pattern(length, seed))
      if (result !== 0) throw new Error(`write: ${result}`)
      return
    }
    case 'punch':
      return rig.punch(handle, offset, length)
    case 'zero':
      return rig.files.allocate(handle, FALLOC_ZERO_RANGE, offset, length)
    case 'zero-keep':
      return rig.files.allocate(handle, FALLOC_ZERO_RANGE | FALLOC_KEEP_SIZE, offset, length)
    case 'truncate':
      await rig.files.change(node, { sizeBytes: offset })
  }
}

function apply(model: ModelFile, { kind, offset, length }: Step, seed: number): void {
  if (kind === 'write') model.write(offset, pattern(length, seed))
  else if (kind === 'truncate') model.resize(offset)
  else {
    if (kind === 'zero') model.grow(offset + length)
    model.clear(offset, length, kind === 'punch')
  }
}

async function runSteps(bench: Bench, steps: readonly Step[]): Promise<void> {
  const works = steps.map((step, i) => start(bench, step, i))
  // What is punched or zeroed is cut at the end there was when it was asked.
  const isCut = ({ kind }: Step): boolean => kind === 'punch' || kind === 'zero-keep'
  steps.forEach((step, i) => isCut(step) && apply(bench.model, step, i))
  steps.forEach((step, i) => !isCut(step) && apply(bench.model, step, i))
  await Promise.all(works)
}

async function runBatch(bench: Bench, batch: Batch): Promise<void> {
  const { rig, handle, model } = bench
  if (batch.kind === 'apart') await runSteps(bench, batch.steps)
  else if (batch.kind === 'resizing') {
    const sizeBytes = model.bytes.length
    // A write inside the end does not wait for a truncation asked before.
    const isOrdered = (step: Step): boolean =>
      step.kind === 'truncate' || step.offset + step.length > sizeBytes
    await runSteps(bench, batch.steps.filter(isOrdered))
  } else {
    const { from, to, count } = batch
    const asked = Math.min(count * BLOCK, Math.max(0, model.bytes.length - from * BLOCK))
    if (asked === 0 || Math.abs(from - to) * BLOCK < asked) return
    const copied = await rig.files.copyRange(handle, from * BLOCK, handle, to * BLOCK, asked)
    if (copied !== asked) throw new Error(`copied ${copied} of ${asked}`)
    const whole = asked - (asked % BLOCK)
    const tail = Buffer.from(model.bytes.subarray(from * BLOCK + whole, from * BLOCK + asked))
    model.copy(from * BLOCK, to * BLOCK, whole)
    if (tail.length > 0) model.write(to * BLOCK + whole, tail)
  }
}

async function verify({ rig, node, handle, model }: Bench): Promise<void> {
  const { sizeBytes } = await rig.files.attributes(node)
  const found = await rig.read(handle, 0, 2 * LIMIT)
  if (sizeBytes !== model.bytes.length)
    throw new Error(`${sizeBytes} bytes, not ${model.bytes.length}`)
  if (!found.equals(model.bytes)) throw new Error('other bytes')
  const ranges = JSON.stringify(await rig.dataRanges(handle))
  if (ranges !== JSON.stringify(model.dataRanges())) throw new Error(`data at ${ranges}`)
}

t.test('a disk is as a plain file after any operations in flight together', async () => {
  const delays = fc.array(fc.nat(3), { minLength: 1, maxLength: 20 })
  const property = fc.asyncProperty(batches, delays, async (all, waits) => {
    const rig = populated()
    let call = 0
    rig.tree.gate = async () => {
      call += 1
      for (let i = 0; i < (waits[call % waits.length] ?? 0); i += 1) await turn()
    }
    const node = await rig.node('volumes/db')
    const bench = { rig, node, handle: await rig.open('volumes/db'), model: new ModelFile() }
    for (const batch of all) {
      await runBatch(bench, batch)
      await verify(bench)
    }
    rig.files.close(bench.handle)
    if (rig.arena.usedBytes > 0) throw new Error('memory is lost')
  })
  await fc.assert(property, { numRuns: 300 })
})
