/**
 * Compatibility-sensitive: the numbers of docs/format.md, written out by hand. A change that makes
 * this fail needs a new format version, not a new number here.
 */
import { readFileSync } from 'node:fs'
import t from 'tap'
import { openWasmChecksum } from '../../../src/base/xxh64-wasm.ts'
import {
  CATALOGUE_MAGIC,
  PART_PAYLOAD_BYTES_MAX,
  PartKind,
  encodePart,
} from '../../../src/format/catalogue.ts'
import {
  KIND_BLOCK,
  KIND_HUGE,
  KIND_NODE,
  KIND_UNMAPPED,
  KIND_ZERO,
  MAP_BLOCK_COUNT,
  entryWord,
} from '../../../src/format/node.ts'
import { FORMAT_VERSION, PAGE_SIZE_BYTES, isPageSound } from '../../../src/format/page.ts'
import {
  EntryKind,
  RECORD_BLOCK_COUNT_MAX,
  RECORD_ENTRY_COUNT_MAX,
  RECORD_MAGIC,
  RecordEntries,
  encodeRecordHeader,
} from '../../../src/format/record.ts'
import {
  DATA_SLOT_END,
  DATA_SLOT_FIRST,
  FOOTER_MAGIC,
  FOOTER_SLOT,
  SEGMENT_MAGIC,
  SegmentKind,
  TABLE_PAGE_COUNT,
  TABLE_PAGE_SLOT_COUNT,
  TABLE_SLOT,
  encodeSegmentFooter,
  encodeSegmentHeader,
} from '../../../src/format/segment.ts'
import {
  SUPERBLOCK_UNFINISHED_COUNT_MAX,
  SUPERBLOCK_MAGIC,
  encodeSuperblock,
} from '../../../src/format/superblock.ts'

const checksum = await openWasmChecksum()
const poolId = Uint8Array.from({ length: 16 }, (_, i) => 0xf0 + i)
const page = new Uint8Array(PAGE_SIZE_BYTES)
const view = new DataView(page.buffer)

function u32At(...offsets: number[]): number[] {
  return offsets.map((offset) => view.getUint32(offset, true))
}

function u64At(...offsets: number[]): number[] {
  return offsets.map((offset) => Number(view.getBigUint64(offset, true)))
}

function magicOf(bytes: Uint8Array): string {
  return Buffer.from(bytes.subarray(0, 8)).toString('latin1')
}

t.test('limits and kinds are those of version 1', async (t) => {
  t.equal(FORMAT_VERSION, 1)
  t.strictSame([SUPERBLOCK_UNFINISHED_COUNT_MAX, MAP_BLOCK_COUNT], [992, 2 ** 36])
  t.strictSame([RECORD_BLOCK_COUNT_MAX, RECORD_ENTRY_COUNT_MAX], [255, 251])
  t.equal(PART_PAYLOAD_BYTES_MAX, 255 * 4096 - 32)
  t.strictSame([DATA_SLOT_FIRST, DATA_SLOT_END, TABLE_SLOT, FOOTER_SLOT], [1, 16351, 16351, 16383])
  t.strictSame([TABLE_PAGE_COUNT, TABLE_PAGE_SLOT_COUNT], [32, 512])
  t.strictSame([SegmentKind.log, SegmentKind.bulk], [1, 2])
  t.strictSame(Object.values(EntryKind), [1, 2, 3, 4, 5, 6, 7])
  t.strictSame(Object.values(PartKind), [1, 2, 3])
  const kinds = [KIND_UNMAPPED, KIND_ZERO, KIND_BLOCK, KIND_NODE, KIND_HUGE]
  t.strictSame(kinds, [0, 1, 2, 3, 4])
  t.equal(entryWord(KIND_HUGE, 16383), 0x4000_3fff)
})

t.test('the superblock lies as drawn', async (t) => {
  const superblock = {
    poolId,
    generation: 2 ** 33 + 1,
    refuseFeatures: 2,
    readOnlyFeatures: 3,
    ignoreFeatures: 4,
    clean: true,
    createdMs: 2 ** 40 + 5,
    capacityBytes: 2 ** 41 + 6,
    position: {
      segment: 8,
      slot: 9,
      sequence: 2 ** 42 + 7,
      previousChecksum: Uint32Array.of(10, 11),
    },
    nextSegmentId: 12,
    nextDiskId: 13,
    catalogue: { segment: 14, slot: 15, blockCount: 16 },
    unfinishedIds: [17, 18],
  }
  encodeSuperblock(superblock, page, checksum)
  t.equal(magicOf(page), 'VARVESB1')
  t.equal(SUPERBLOCK_MAGIC, 'VARVESB1')
  t.strictSame(u32At(8, 12, 40, 44, 48, 52), [1, 1, 2, 3, 4, 0])
  t.strictSame(page.slice(16, 32), poolId)
  t.strictSame(u64At(32, 56, 64, 72), [2 ** 33 + 1, 2 ** 40 + 5, 2 ** 41 + 6, 2 ** 42 + 7])
  t.strictSame(u32At(80, 84, 88, 92, 96, 100), [8, 9, 10, 11, 12, 13])
  t.strictSame(u32At(104, 108, 112, 116, 120, 124, 128), [14, 15, 16, 2, 17, 18, 0])
  t.ok(isPageSound(page, 0, checksum))
})

t.test('segment header and footer lie as drawn', async (t) => {
  encodeSegmentHeader(
    { segment: 77, kind: SegmentKind.bulk, importId: 76 },
    poolId,
    page,
    0,
    checksum,
  )
  t.strictSame([magicOf(page), SEGMENT_MAGIC], ['VARVSEG1', 'VARVSEG1'])
  t.strictSame(u32At(8, 12, 32, 36), [1, 77, 2, 76])
  t.strictSame(page.slice(16, 32), poolId)
  const tableChecksums = Uint32Array.from({ length: 64 }, (_, i) => 1000 + i)
  const footer = { segment: 77, kind: SegmentKind.log, usedSlotCount: 99, tableChecksums }
  encodeSegmentFooter(footer, poolId, page, 0, checksum)
  t.strictSame([magicOf(page), FOOTER_MAGIC], ['VARVFTR1', 'VARVFTR1'])
  t.strictSame(u32At(8, 12, 32, 36, 40, 44), [1, 77, 1, 1, 99, 0])
  t.strictSame(page.slice(16, 32), poolId)
  t.strictSame(u32At(48, 52, 48 + 252, 304), [1000, 1001, 1063, 0])
})

t.test('a record header lies as drawn', async (t) => {
  const entries = new RecordEntries()
  entries.diskIds.set([21, 22])
  entries.blockIndexes.set([2 ** 35 + 1, 5])
  entries.kinds.set([EntryKind.trim, EntryKind.data])
  entries.counts.set([2 ** 34 + 3, 2])
  entries.count = 2
  const header = {
    segment: 31,
    slot: 32,
    sequence: 2 ** 36 + 33,
    durableSequence: 2 ** 36 + 30,
    previousChecksum: Uint32Array.of(34, 35),
    blockCount: 2,
  }
  const sums = Uint32Array.of(41, 42, 43, 44)
  encodeRecordHeader(header, entries, sums, poolId, page, 0, checksum)
  t.strictSame([magicOf(page), RECORD_MAGIC], ['VARVREC1', 'VARVREC1'])
  t.strictSame(page.slice(8, 24), poolId)
  t.strictSame(u32At(24, 28, 48, 52, 60), [31, 32, 34, 35, 0])
  t.strictSame(u64At(32, 40), [2 ** 36 + 33, 2 ** 36 + 30])
  t.strictSame([view.getUint16(56, true), view.getUint16(58, true)], [2, 2])
  t.strictSame([u32At(64, 68), view.getUint16(72, true)], [[21, 1], 8])
  t.strictSame([page[74], page[75], u32At(76)], [2, 4, [3]])
  t.strictSame(u32At(80, 84, 92), [22, 5, 2])
  t.strictSame(u32At(96, 100, 104, 108, 112), [41, 42, 43, 44, 0])
})

t.test('a catalogue part lies as drawn', async (t) => {
  const part = encodePart(PartKind.delta, { segment: 51, slot: 52, blockCount: 53 }, '{"a":1}')
  page.set(part)
  t.strictSame([magicOf(page), CATALOGUE_MAGIC], ['VARVCAT1', 'VARVCAT1'])
  t.strictSame(u32At(8, 12, 16, 20, 24, 28), [3, 7, 51, 52, 53, 0])
  t.equal(Buffer.from(page.subarray(32, 40)).toString(), '{"a":1}\0')
})

t.test('the page that describes the format has every magic and the version', async (t) => {
  const text = readFileSync(findFile('docs/format.md'), 'utf8')
  const magics = [SUPERBLOCK_MAGIC, SEGMENT_MAGIC, FOOTER_MAGIC, RECORD_MAGIC, CATALOGUE_MAGIC]
  for (const magic of magics) t.ok(text.includes(`\`${magic}\``), magic)
  t.match(text, `Format version **${FORMAT_VERSION}**`)
  for (const op of ['create', 'snapshot', 'clone', 'restore', 'remove', 'rename', 'resize']) {
    t.ok(text.includes(`\`${op}\``), op)
  }
})

/** A file of the package, from wherever this test was compiled to. */
function findFile(path: string): string {
  for (let up = new URL('.', import.meta.url); up.pathname !== '/'; up = new URL('..', up)) {
    try {
      const manifest = JSON.parse(readFileSync(new URL('package.json', up), 'utf8')) as unknown
      if ((manifest as { name?: string }).name === 'varve') return new URL(path, up).pathname
    } catch {
      // Not here: look further up.
    }
  }
  throw new Error('no package.json named varve')
}
