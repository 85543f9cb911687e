/** Catalogue parts and lines: identity, and nothing but CorruptionError for anything else. */
import fc from 'fast-check'
import t from 'tap'
import { AssertionError } from '../../../src/base/assert.ts'
import { CorruptionError } from '../../../src/base/errors.ts'
import { VOLUME_SIZE_BYTES_MAX } from '../../../src/base/units.ts'
import type { CatalogueOperation, DiskState, SharedRun } from '../../../src/format/catalogue.ts'
import {
  PART_PAYLOAD_BYTES_MAX,
  PartKind,
  decodePart,
  encodePart,
  verifyLine,
  verifyOperation,
} from '../../../src/format/catalogue.ts'
import { RECORD_BLOCK_COUNT_MAX } from '../../../src/format/record.ts'
import { SUPERBLOCK_ID_MAX } from '../../../src/format/superblock.ts'

const u32 = fc.nat({ max: 0xffffffff })
/** Of a disk that is made. */
const newId = fc.integer({ min: 1, max: SUPERBLOCK_ID_MAX - 1 })
const diskName = fc.stringMatching(/^[A-Za-z0-9_][A-Za-z0-9._-]{0,199}$/)
const diskSize = fc.integer({ min: 0, max: VOLUME_SIZE_BYTES_MAX })
const nothing = { segment: 0, slot: 0, blockCount: 0 }
const label = fc.string().filter((key) => key !== '__proto__')
const root = fc.option(
  fc.tuple(fc.integer({ min: 1, max: 2 ** 32 - 1 }), fc.integer({ min: 1, max: 16350 })),
)

const disks: fc.Arbitrary<DiskState> = fc.record({
  id: newId,
  name: diskName,
  kind: fc.constantFrom('volume' as const, 'snapshot' as const),
  volumeId: u32,
  sizeBytes: diskSize,
  root,
  createdMs: fc.maxSafeNat(),
  modifiedMs: fc.maxSafeNat(),
  originId: fc.option(u32),
  labels: fc.dictionary(label, fc.string()),
  holds: fc.array(fc.string()),
})

const sharedRun: fc.Arbitrary<SharedRun> = fc.oneof(
  fc.tuple(fc.integer({ min: 1, max: 2 ** 20 }), fc.constant(0), fc.constantFrom(0, 1)),
  fc.tuple(
    fc.integer({ min: 1, max: 512 }),
    fc.integer({ min: 1, max: 2 ** 32 - 1 }),
    fc.integer({ min: 1, max: 16351 - 512 }),
  ),
)

const time = fc.maxSafeNat()
const name = fc.string()
const operations: fc.Arbitrary<CatalogueOperation> = fc.oneof(
  fc.record({
    op: fc.constant('create' as const),
    id: newId,
    name: diskName,
    sizeBytes: diskSize,
    createdMs: time,
    labels: fc.dictionary(label, fc.string()),
    root,
    importId: u32,
  }),
  fc.record({
    op: fc.constant('snapshot' as const),
    createdMs: time,
    snapshots: fc.array(fc.record({ id: newId, volumeId: u32, name: diskName })),
  }),
  fc.record({
    op: fc.constant('clone' as const),
    createdMs: time,
    sourceId: u32,
    clones: fc.array(fc.record({ id: newId, name: diskName })),
  }),
  fc.record({ op: fc.constant('restore' as const), volumeId: u32, snapshotId: u32 }),
  fc.record({ op: fc.constant('remove' as const), ids: fc.array(u32) }),
  fc.record({ op: fc.constant('rename' as const), id: u32, name: diskName }),
  fc.record({ op: fc.constant('resize' as const), id: u32, sizeBytes: diskSize }),
  fc.record({
    op: fc.constant('share' as const),
    id: u32,
    blockIndex: fc.nat({ max: 2 ** 30 }),
    runs: fc.array(sharedRun, { minLength: 1, maxLength: 600 }),
  }),
  fc.record({ op: fc.constantFrom('hold' as const, 'release' as const), id: u32, tag: name }),
)

/** Drawn objects have no prototype at times, which is not what is compared. */
function plain(value: unknown): unknown {
  return JSON.parse(JSON.stringify(value))
}

/** Runs `decode` and lets nothing but a CorruptionError with its code pass. */
function isTamed(decode: () => unknown): boolean {
  try {
    decode()
  } catch (error) {
    return error instanceof CorruptionError && error.code === 'catalogue-corrupt'
  }
  return true
}

t.test('a part decodes to what was encoded', async (t) => {
  const kinds = fc.constantFrom(...Object.values(PartKind))
  const previous = fc.record({
    segment: fc.integer({ min: 1, max: 2 ** 32 - 1 }),
    slot: fc.integer({ min: 1, max: 16351 - RECORD_BLOCK_COUNT_MAX }),
    blockCount: fc.nat({ max: RECORD_BLOCK_COUNT_MAX }),
  })
  const property = fc.property(kinds, previous, fc.array(disks), (kind, previous, states) => {
    const lines = states.map((disk) => ({ disk }))
    const payload = lines.map((line) => JSON.stringify(line)).join('\n')
    const bytes = encodePart(kind, previous, payload)
    t.equal(bytes.length % 4096, 0)
    const part = decodePart(bytes)
    t.same([part.kind, part.previous], [kind, plain(previous)])
    t.same(part.lines.map(verifyLine), plain(lines))
  })
  fc.assert(property, { numRuns: 60 })
})

t.test('every operation decodes to what was encoded', async (t) => {
  const property = fc.property(operations, (operation) => {
    const part = decodePart(encodePart(PartKind.operation, nothing, JSON.stringify(operation)))
    t.equal(part.lines.length, 1)
    t.same(verifyOperation(part.lines[0]), plain(operation))
  })
  fc.assert(property, { numRuns: 200 })
})

t.test('the largest part fits a record and a larger one is our mistake', async (t) => {
  const largest = JSON.stringify('x'.repeat(PART_PAYLOAD_BYTES_MAX - 2))
  const bytes = encodePart(PartKind.full, nothing, largest)
  t.equal(bytes.length, RECORD_BLOCK_COUNT_MAX * 4096)
  t.equal(decodePart(bytes).lines.length, 1)
  t.throws(() => encodePart(PartKind.full, nothing, `${largest} `), AssertionError)
})

t.test('a part cut short anywhere is refused or tamed', async (t) => {
  const text = JSON.stringify({ removed: [1, 2, 3] })
  const bytes = encodePart(PartKind.delta, nothing, text)
  const length = 32 + text.length
  for (let kept = 0; kept < length; kept += 1) {
    t.throws(() => decodePart(bytes.subarray(0, kept)), { code: 'catalogue-corrupt' })
  }
  t.equal(decodePart(bytes.subarray(0, length)).lines.length, 1)
})

t.test('parts that cannot be are refused', async (t) => {
  const cases: [string, number, number][] = [
    ['no magic', 0, 0],
    ['an unknown kind', 8, 4],
    ['kind zero', 8, 0],
    ['a payload longer than its blocks', 12, 4096],
    ['a previous part of too many blocks', 24, 256],
    ['a line that is not JSON', 32, 0x7b7b7b7b],
  ]
  for (const [fact, offset, value] of cases) {
    const bytes = encodePart(PartKind.full, nothing, '{"removed":[]}')
    new DataView(bytes.buffer).setUint32(offset, value, true)
    t.throws(() => decodePart(bytes), { code: 'catalogue-corrupt' }, fact)
  }
})

t.test('lines and operations of any shape are decoded or refused, never worse', async (t) => {
  const values = fc.oneof(fc.jsonValue(), fc.anything())
  const keys = ['op', 'disk', 'removed', 'id', 'ids', 'kind', 'root', 'labels', 'snapshots', 'runs']
  const shaped = fc.dictionary(fc.constantFrom(...keys), values)
  const named = fc
    .tuple(
      fc.constantFrom('create', 'snapshot', 'clone', 'remove', 'hold', 'resize', 'share'),
      shaped,
    )
    .map(([op, rest]) => ({ ...rest, op }))
  const any = fc.oneof(values, shaped, named)
  fc.assert(
    fc.property(any, (value) => isTamed(() => verifyLine(value))),
    { numRuns: 500 },
  )
  fc.assert(
    fc.property(any, (value) => isTamed(() => verifyOperation(value))),
    { numRuns: 500 },
  )
  const line = disks.chain((disk) =>
    fc.tuple(fc.constantFrom(...Object.keys(disk)), values).map(([key, value]) => ({
      disk: { ...disk, [key]: value },
    })),
  )
  fc.assert(
    fc.property(line, (value) => isTamed(() => verifyLine(value))),
    { numRuns: 300 },
  )
  t.pass()
})

t.test('runs that lie where no block can lie are refused', async (t) => {
  const share = { op: 'share', id: 1, blockIndex: 2 ** 36 - 100 }
  const cases: [string, unknown][] = [
    ['none', []],
    ['an empty one', [[0, 1, 1]]],
    ['of two numbers', [[1, 1]]],
    ['of four numbers', [[1, 1, 1, 1]]],
    ['no numbers', [['1', 1, 1]]],
    ['in the header of a segment', [[1, 1, 0]]],
    ['into the table of a segment', [[2, 1, 16350]]],
    ['in no segment', [[1, 0, 2]]],
    ['in a segment past all', [[1, 2 ** 32, 1]]],
    [
      'past the end of a map',
      [
        [100, 1, 1],
        [1, 0, 0],
      ],
    ],
  ]
  for (const [fact, runs] of cases) {
    t.throws(() => verifyOperation({ ...share, runs }), { code: 'catalogue-corrupt' }, fact)
  }
  t.ok(verifyOperation({ ...share, runs: [[100, 1, 16251]] }))
})

t.test('a disk that does not say when it changed did so when it was made', async (t) => {
  const [disk] = fc.sample(disks, { numRuns: 1, seed: 1 })
  const { modifiedMs: _, ...rest } = disk
  t.match(verifyLine({ disk: rest }), { disk: { modifiedMs: disk.createdMs } })
})

t.test('any bytes are decoded or refused, never worse', async (t) => {
  const edits = fc.array(fc.tuple(fc.nat({ max: 200 }), fc.nat({ max: 255 })), { minLength: 1 })
  const property = fc.property(disks, edits, (disk, edits) => {
    const bytes = encodePart(PartKind.full, nothing, JSON.stringify({ disk }))
    for (const [at, value] of edits) bytes[at] = value
    return isTamed(() => decodePart(bytes).lines.map(verifyLine))
  })
  fc.assert(property, { numRuns: 300 })
  fc.assert(fc.property(fc.uint8Array({ maxLength: 9000 }), (b) => isTamed(() => decodePart(b))))
  t.pass()
})
