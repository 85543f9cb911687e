/**
 * Superblock, segment and record pages: what is encoded is decoded, any flipped bit is noticed,
 * and no bytes make a decoder throw anything but a CorruptionError.
 */
import fc from 'fast-check'
import t from 'tap'
import { Codec } from '../../../src/base/codec.ts'
import { openWasmChecksum } from '../../../src/base/xxh64-wasm.ts'
import {
  EntryKind,
  RECORD_BLOCK_COUNT_MAX,
  RECORD_ENTRY_COUNT_MAX,
  RecordEntries,
  blocksOfEntry,
  grownSizeBytes,
  encodeRecordHeader,
  readRecordChecksum,
  recordFits,
  tryDecodeRecordHeader,
} from '../../../src/format/record.ts'
import type { RecordHeader } from '../../../src/format/record.ts'
import { PAGE_CHECKSUM_OFFSET, PAGE_SIZE_BYTES, sealPage } from '../../../src/format/page.ts'
import {
  DATA_SLOT_END,
  DATA_SLOT_FIRST,
  SegmentKind,
  DIRECTORY_PAGE_BYTES,
  TABLE_PAGE_COUNT,
  encodeSegmentFooter,
  encodeSegmentHeader,
  segmentFileName,
  tryDecodeSegmentFooter,
  tryDecodeSegmentHeader,
  tryParseSegmentFileName,
} from '../../../src/format/segment.ts'
import type { Superblock } from '../../../src/format/superblock.ts'
import {
  SUPERBLOCK_UNFINISHED_COUNT_MAX,
  decodeSuperblock,
  encodeSuperblock,
} from '../../../src/format/superblock.ts'

const checksum = await openWasmChecksum()
const BIT_COUNT = PAGE_SIZE_BYTES * 8

const u32 = fc.nat({ max: 0xffffffff })
const u53 = fc.maxSafeNat()
const words = fc.tuple(u32, u32).map(([low, high]) => Uint32Array.of(low, high))
const poolId = fc.uint8Array({ minLength: 16, maxLength: 16 })

const superblocks: fc.Arbitrary<Superblock> = fc.record({
  poolId,
  generation: u53,
  refuseFeatures: u32,
  readOnlyFeatures: u32,
  ignoreFeatures: u32,
  clean: fc.boolean(),
  createdMs: u53,
  capacityBytes: u53,
  position: fc.record({ segment: u32, slot: u32, sequence: u53, previousChecksum: words }),
  nextSegmentId: u32,
  nextDiskId: u32,
  catalogue: fc.record({ segment: u32, slot: u32, blockCount: u32 }),
  unfinishedIds: fc.array(u32, { maxLength: SUPERBLOCK_UNFINISHED_COUNT_MAX }),
})

/** A page in the middle of memory, so that offsets matter. */
function withPage(encode: (memory: Uint8Array, offsetBytes: number) => void): Uint8Array {
  const memory = new Uint8Array(3 * PAGE_SIZE_BYTES).fill(0xee)
  encode(memory, PAGE_SIZE_BYTES)
  const isOutsideUntouched = [0, PAGE_SIZE_BYTES - 1, 2 * PAGE_SIZE_BYTES].every(
    (at) => memory[at] === 0xee,
  )
  if (!isOutsideUntouched) throw new Error('an encoder wrote outside its page')
  return memory
}

/** Flips bits all over a page and expects `isAccepted` to say no each time. */
function acceptedFlips(page: Uint8Array, isAccepted: () => boolean): number[] {
  const accepted: number[] = []
  // A prime stride meets every byte and, over the whole, every bit of a byte.
  for (let bit = 0; bit < BIT_COUNT; bit += 7) {
    page[bit >> 3] ^= 1 << (bit & 7)
    if (isAccepted()) accepted.push(bit)
    page[bit >> 3] ^= 1 << (bit & 7)
  }
  return accepted
}

const sample: Superblock = {
  poolId: new Uint8Array(16).fill(7),
  generation: 3,
  refuseFeatures: 0,
  readOnlyFeatures: 0,
  ignoreFeatures: 0,
  clean: true,
  createdMs: 5,
  capacityBytes: 0,
  position: { segment: 1, slot: 1, sequence: 1, previousChecksum: new Uint32Array(2) },
  nextSegmentId: 2,
  nextDiskId: 1,
  catalogue: { segment: 0, slot: 0, blockCount: 0 },
  unfinishedIds: [9, 8],
}

t.test('a superblock decodes to what was encoded', async (t) => {
  const property = fc.property(superblocks, (superblock) => {
    const page = new Uint8Array(PAGE_SIZE_BYTES)
    encodeSuperblock(superblock, page, checksum)
    t.same(decodeSuperblock(page, checksum), { kind: 'valid', superblock })
  })
  fc.assert(property, { numRuns: 50 })
})

t.test(
  'a superblock with any bit flipped, cut short or of another version is not ours',
  async (t) => {
    const page = new Uint8Array(PAGE_SIZE_BYTES)
    encodeSuperblock(sample, page, checksum)
    const isValid = (): boolean => decodeSuperblock(page, checksum).kind !== 'invalid'
    t.ok(isValid())
    t.strictSame(acceptedFlips(page, isValid), [])
    t.equal(decodeSuperblock(page.subarray(0, 512), checksum).kind, 'invalid')
    new DataView(page.buffer).setUint32(8, 2, true)
    sealPage(page, 0, checksum)
    t.strictSame(decodeSuperblock(page, checksum), { kind: 'foreign-version', formatVersion: 2 })
  },
)

t.test('a torn superblock leaves the generation before', async (t) => {
  const file = new Uint8Array(2 * PAGE_SIZE_BYTES)
  const pageOf = (generation: number): Uint8Array =>
    file.subarray((generation % 2) * PAGE_SIZE_BYTES, (1 + (generation % 2)) * PAGE_SIZE_BYTES)
  const newest = (): number => {
    const verdicts = [0, 1].map((index) => decodeSuperblock(pageOf(index), checksum))
    const generations = verdicts.map((one) =>
      one.kind === 'valid' ? one.superblock.generation : 0,
    )
    return Math.max(...generations)
  }
  encodeSuperblock({ ...sample, generation: 1 }, pageOf(1), checksum)
  for (let generation = 2; generation < 6; generation += 1) {
    const next = new Uint8Array(PAGE_SIZE_BYTES)
    encodeSuperblock({ ...sample, generation }, next, checksum)
    const before = pageOf(generation).slice()
    for (let sectorCount = 0; sectorCount < 8; sectorCount += 1) {
      pageOf(generation).set(before)
      pageOf(generation).set(next.subarray(0, sectorCount * 512))
      t.equal(newest(), generation - 1)
    }
    pageOf(generation).set(next)
    t.equal(newest(), generation)
  }
})

t.test('segment headers and footers decode to what was encoded', async (t) => {
  const kind = fc.constantFrom(SegmentKind.log, SegmentKind.bulk)
  const used = fc.integer({ min: DATA_SLOT_FIRST, max: DATA_SLOT_END })
  const sums = fc.uint32Array({ minLength: 2 * TABLE_PAGE_COUNT, maxLength: 2 * TABLE_PAGE_COUNT })
  const property = fc.property(
    u32,
    kind,
    used,
    sums,
    poolId,
    (segment, kind, count, sums, pool) => {
      const header = { segment, kind, importId: count }
      const one = withPage((m, o) => encodeSegmentHeader(header, pool, m, o, checksum))
      t.same(tryDecodeSegmentHeader(one, PAGE_SIZE_BYTES, pool, checksum), header)
      const footer = { segment, kind, usedSlotCount: count, tableChecksums: sums }
      const two = withPage((m, o) => encodeSegmentFooter(footer, pool, m, o, checksum))
      t.same(tryDecodeSegmentFooter(two, PAGE_SIZE_BYTES, pool, segment, checksum), footer)
      const other = pool.map((byte) => byte ^ 1)
      t.equal(tryDecodeSegmentHeader(one, PAGE_SIZE_BYTES, other, checksum), null, 'another pool')
      t.equal(tryDecodeSegmentFooter(two, PAGE_SIZE_BYTES, other, segment, checksum), null)
      t.equal(tryDecodeSegmentFooter(two, PAGE_SIZE_BYTES, pool, segment + 1, checksum), null)
      t.equal(tryDecodeSegmentHeader(two, PAGE_SIZE_BYTES, pool, checksum), null, 'a footer')
      t.equal(
        tryDecodeSegmentFooter(one, PAGE_SIZE_BYTES, pool, segment, checksum),
        null,
        'a header',
      )
    },
  )
  fc.assert(property, { numRuns: 30 })
})

t.test('segment pages with any bit flipped are refused', async (t) => {
  const pool = sample.poolId
  const header = new Uint8Array(PAGE_SIZE_BYTES)
  encodeSegmentHeader({ segment: 3, kind: SegmentKind.log, importId: 0 }, pool, header, 0, checksum)
  const isHeader = (): boolean => tryDecodeSegmentHeader(header, 0, pool, checksum) !== null
  t.ok(isHeader())
  t.strictSame(acceptedFlips(header, isHeader), [])
  const footer = new Uint8Array(PAGE_SIZE_BYTES)
  const tableChecksums = new Uint32Array(2 * TABLE_PAGE_COUNT).fill(5)
  const fields = { segment: 3, kind: SegmentKind.bulk, usedSlotCount: 9, tableChecksums }
  encodeSegmentFooter(fields, pool, footer, 0, checksum)
  const isFooter = (): boolean => tryDecodeSegmentFooter(footer, 0, pool, 3, checksum) !== null
  t.ok(isFooter())
  t.strictSame(acceptedFlips(footer, isFooter), [])
})

t.test('footers that cannot be are refused though their checksum holds', async (t) => {
  const pool = sample.poolId
  const page = new Uint8Array(PAGE_SIZE_BYTES)
  const tableChecksums = new Uint32Array(2 * TABLE_PAGE_COUNT)
  const fields = { segment: 3, kind: SegmentKind.log, usedSlotCount: 9, tableChecksums }
  const nonsense: [number, number][] = [
    [8, 2],
    [32, 0],
    [32, 3],
    [36, 0],
    [36, 3],
    [40, 0],
    [40, DATA_SLOT_END + 1],
  ]
  const settled = {
    directoryBytes: new Uint32Array(TABLE_PAGE_COUNT),
    directoryCodec: Codec.lz4,
    frameBytes: 0,
    frameSlotCount: 0,
    aliasCount: 0,
    zeroCount: 0,
  }
  for (const [offset, value] of [
    [304, DIRECTORY_PAGE_BYTES + 1],
    [432, 3],
  ] as const) {
    encodeSegmentFooter({ ...fields, settled }, pool, page, 0, checksum)
    t.not(tryDecodeSegmentFooter(page, 0, pool, 3, checksum), null, 'settled')
    new DataView(page.buffer).setUint32(offset, value, true)
    sealPage(page, 0, checksum)
    const decoded = tryDecodeSegmentFooter(page, 0, pool, 3, checksum)
    t.equal(decoded, null, `settled, ${value} at ${offset}`)
  }
  for (const [offset, value] of nonsense) {
    encodeSegmentFooter(fields, pool, page, 0, checksum)
    new DataView(page.buffer).setUint32(offset, value, true)
    sealPage(page, 0, checksum)
    const decoded = tryDecodeSegmentFooter(page, 0, pool, 3, checksum)
    t.equal(decoded, null, `${value} at ${offset}`)
  }
})

t.test('segment file names are their ids and nothing else is', async (t) => {
  const ids = fc.integer({ min: 1, max: 2 ** 32 - 1 })
  fc.assert(fc.property(ids, (id) => tryParseSegmentFileName(segmentFileName(id)) === id))
  const names = ['0000000000.seg', '4294967296.seg', '1.seg', '0000000001.seg~', ' 0000000001.seg']
  for (const name of names) t.equal(tryParseSegmentFileName(name), null, name)
  fc.assert(
    fc.property(fc.string(), (name) => {
      const id = tryParseSegmentFileName(name)
      return id === null || segmentFileName(id) === name
    }),
  )
})

interface Record {
  header: RecordHeader
  entries: { disk: number; block: number; kind: number; count: number }[]
  sums: Uint32Array
}

const entry = fc.record({
  disk: u32,
  block: fc.nat({ max: 2 ** 36 - 1 }),
  kind: fc.constantFrom(...Object.values(EntryKind)),
  count: fc.integer({ min: 1, max: 2 ** 36 }),
})

const records: fc.Arbitrary<Record> = fc
  .tuple(fc.array(entry, { maxLength: RECORD_ENTRY_COUNT_MAX }), u32, u32, u53, u53, words)
  .map(([drawn, segment, slot, sequence, durableSequence, previousChecksum]) => {
    let blockCount = 0
    const entries = []
    for (const one of drawn) {
      const owns = blocksOfEntry(one.kind, 1) === 1
      let count = owns ? 1 + (one.count % 40) : one.count
      if (one.kind === EntryKind.grow) count = 1 + (count % 4096)
      const owned = blocksOfEntry(one.kind, count)
      if (!recordFits(entries.length + 1, blockCount + owned)) break
      entries.push({ ...one, count })
      blockCount += owned
    }
    const fields = { segment, slot, sequence, durableSequence, previousChecksum, blockCount }
    const sums = Uint32Array.from({ length: 2 * blockCount }, (_, i) => i * 2654435761)
    return { header: fields, entries, sums }
  })

function encodeRecord({ header, entries, sums }: Record, pool: Uint8Array): Uint8Array {
  const columns = new RecordEntries()
  entries.forEach((one, i) => {
    columns.diskIds[i] = one.disk
    columns.blockIndexes[i] = one.block
    columns.kinds[i] = one.kind
    columns.counts[i] = one.count
  })
  columns.count = entries.length
  return withPage((m, o) => encodeRecordHeader(header, columns, sums, pool, m, o, checksum))
}

function decodeRecord(memory: Uint8Array, offset: number, pool: Uint8Array): Record | null {
  const columns = new RecordEntries()
  const sums = new Uint32Array(2 * RECORD_BLOCK_COUNT_MAX)
  const header = tryDecodeRecordHeader(memory, offset, pool, checksum, columns, sums)
  if (header === null) return null
  const entries = Array.from({ length: columns.count }, (_, i) => ({
    disk: columns.diskIds[i],
    block: columns.blockIndexes[i],
    kind: columns.kinds[i],
    count: columns.counts[i],
  }))
  return { header, entries, sums: sums.slice(0, 2 * header.blockCount) }
}

t.test('a record header decodes to what was encoded', async (t) => {
  const property = fc.property(records, poolId, (record, pool) => {
    const memory = encodeRecord(record, pool)
    t.same(decodeRecord(memory, PAGE_SIZE_BYTES, pool), record)
    const other = pool.map((byte) => byte ^ 128)
    t.equal(decodeRecord(memory, PAGE_SIZE_BYTES, other), null, 'another pool')
    const own = new Uint32Array(2)
    readRecordChecksum(memory, PAGE_SIZE_BYTES, own)
    const stored = new DataView(memory.buffer, PAGE_SIZE_BYTES + PAGE_CHECKSUM_OFFSET)
    t.strictSame([...own], [stored.getUint32(0, true), stored.getUint32(4, true)])
  })
  fc.assert(property, { numRuns: 50 })
})

t.test('a record header with any bit flipped is refused', async (t) => {
  const [record] = fc.sample(records, { numRuns: 1, seed: 3 })
  const page = encodeRecord(record, sample.poolId).slice(PAGE_SIZE_BYTES, 2 * PAGE_SIZE_BYTES)
  const isRecord = (): boolean => decodeRecord(page, 0, sample.poolId) !== null
  t.ok(isRecord())
  t.strictSame(acceptedFlips(page, isRecord), [])
})

t.test('record headers that cannot be are refused though their checksum holds', async (t) => {
  const one = { disk: 1, block: 0, kind: EntryKind.data, count: 2 }
  const header = {
    segment: 1,
    slot: 1,
    sequence: 1,
    durableSequence: 1,
    previousChecksum: new Uint32Array(2),
    blockCount: 2,
  }
  const record = { header, entries: [one], sums: new Uint32Array(4) }
  const cases: [string, (view: DataView) => void][] = [
    ['more blocks than entries own', (view) => view.setUint16(58, 3, true)],
    ['fewer blocks than entries own', (view) => view.setUint16(58, 1, true)],
    ['more entries than a page holds', (view) => view.setUint16(56, 400, true)],
    ['more blocks than a record holds', (view) => view.setUint16(58, 256, true)],
    ['an unknown kind', (view) => view.setUint8(64 + 10, 8)],
    ['kind zero', (view) => view.setUint8(64 + 10, 0)],
    ['an empty entry', (view) => view.setUint32(64 + 12, 0, true)],
    ['a count that overflows', (view) => view.setUint8(64 + 11, 255)],
    ['a sequence past 2^53', (view) => view.setUint32(36, 2 ** 21, true)],
    ['a durable sequence past 2^53', (view) => view.setUint32(44, 2 ** 21, true)],
  ]
  for (const [name, change] of cases) {
    const page = encodeRecord(record, sample.poolId).slice(PAGE_SIZE_BYTES, 2 * PAGE_SIZE_BYTES)
    change(new DataView(page.buffer))
    sealPage(page, 0, checksum)
    t.equal(decodeRecord(page, 0, sample.poolId), null, name)
  }
})

t.test('random bytes under a sound checksum never make a decoder throw', async (t) => {
  const magics = ['VARVESB1', 'VARVSEG1', 'VARVFTR1', 'VARVREC1'].map((text) => Buffer.from(text))
  const head = fc.uint8Array({ minLength: 120, maxLength: 400 })
  const property = fc.property(fc.constantFrom(...magics), head, (magic, bytes) => {
    const page = new Uint8Array(PAGE_SIZE_BYTES)
    page.set(bytes)
    page.set(magic)
    const pool = page.slice(8, 24)
    sealPage(page, 0, checksum)
    decodeSuperblock(page, checksum)
    tryDecodeSegmentHeader(page, 0, page.slice(16, 32), checksum)
    tryDecodeSegmentFooter(page, 0, page.slice(16, 32), 1, checksum)
    const record = decodeRecord(page, 0, pool)
    return record === null || recordFits(record.entries.length, record.header.blockCount)
  })
  fc.assert(property, { numRuns: 300 })
  t.pass()
})

t.test('a growth is of at most 256 TiB, to the byte', async (t) => {
  const header = {
    segment: 1,
    slot: 1,
    sequence: 1,
    durableSequence: 1,
    previousChecksum: new Uint32Array(2),
    blockCount: 0,
  }
  const isTaken = (block: number, count: number): boolean => {
    const entries = [{ disk: 1, block, kind: EntryKind.grow, count }]
    const page = encodeRecord({ header, entries, sums: new Uint32Array(0) }, sample.poolId)
    return decodeRecord(page, PAGE_SIZE_BYTES, sample.poolId) !== null
  }
  t.ok(isTaken(0, 1))
  t.ok(isTaken(7, 4096))
  t.ok(isTaken(2 ** 36, 1))
  t.notOk(isTaken(7, 4097), 'more than a block and a byte')
  t.notOk(isTaken(2 ** 36, 2), 'more than a map has')
  t.equal(grownSizeBytes(7, 1), 7 * 4096)
  t.equal(grownSizeBytes(7, 4096), 8 * 4096 - 1)
})
