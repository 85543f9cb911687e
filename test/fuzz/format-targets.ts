/** The decoders of what lies on disk, each held against what it must mean. */
import { BLOCK_SIZE_BYTES, SEGMENT_SLOT_COUNT } from '../../src/base/units.ts'
import { findDirectoryFaults } from '../../src/check/judge-directory.ts'
import {
  PartKind,
  decodePart,
  encodePart,
  verifyLine,
  verifyOperation,
} from '../../src/format/catalogue.ts'
import {
  DIRECTORY_PAGE_WORDS,
  PLACE_ALIAS,
  PLACE_FRAME,
  PLACE_WORD_FIRST,
  aliasSlot,
  findPlaceFault,
  frameBlockCount,
  frameCodec,
  frameIndex,
  frameOffset,
  frameStoredBytes,
  isLower,
  placeKind,
} from '../../src/format/directory.ts'
import {
  ENTRIES_PER_PAGE,
  decodeFingerprintPage,
  encodeFingerprintHead,
  encodeFingerprintPage,
  tryDecodeFingerprintHead,
} from '../../src/format/fingerprints.ts'
import {
  KIND_BLOCK,
  KIND_HUGE,
  KIND_NODE,
  KIND_SHIFT,
  KIND_ZERO,
  NODE_WORD_COUNT,
  SLOT_MASK,
  decodeNode,
} from '../../src/format/node.ts'
import { PAGE_SIZE_BYTES, sealPage } from '../../src/format/page.ts'
import {
  EntryKind,
  RECORD_BLOCK_COUNT_MAX,
  RecordEntries,
  blocksOfEntry,
  encodeRecordHeader,
  tryDecodeRecordHeader,
} from '../../src/format/record.ts'
import {
  DATA_SLOT_END,
  DATA_SLOT_FIRST,
  SegmentKind,
  TABLE_PAGE_COUNT,
  TABLE_PAGE_SLOT_COUNT,
  directoryPageOffset,
  encodeSegmentFooter,
  encodeSegmentHeader,
  tryDecodeSegmentFooter,
  tryDecodeSegmentHeader,
  tryParseSegmentFileName,
} from '../../src/format/segment.ts'
import { decodeSuperblock, encodeSuperblock } from '../../src/format/superblock.ts'
import { openChecksum } from '../../src/io/open-io.ts'
import { POOL_ID, nodeOf } from '../support/pool-builder.ts'
import { buildSettledSample } from '../support/settled-builder.ts'
import type { FuzzTarget } from './target.ts'
import { judge } from './target.ts'

const checksum = await openChecksum()

function page(fill: (page: Uint8Array) => void): Uint8Array {
  const bytes = new Uint8Array(PAGE_SIZE_BYTES)
  fill(bytes)
  return bytes
}

function repairPage(input: Uint8Array): void {
  if (input.length === PAGE_SIZE_BYTES) sealPage(input, 0, checksum)
}

/** What is shorter than a page never reaches a decoder of pages. */
function wholePage(input: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(PAGE_SIZE_BYTES)
  bytes.set(input.subarray(0, PAGE_SIZE_BYTES))
  return bytes
}

const sample = buildSettledSample(checksum)

const superblock: FuzzTarget = {
  name: 'superblock',
  sizeBytesMax: PAGE_SIZE_BYTES,
  seeds: () => [
    sample.builder.superblockBytes.slice(0, PAGE_SIZE_BYTES),
    sample.builder.superblockBytes.slice(PAGE_SIZE_BYTES),
  ],
  repair: repairPage,
  run(input) {
    const verdict = decodeSuperblock(input, checksum)
    if (verdict.kind !== 'valid') return
    const again = new Uint8Array(PAGE_SIZE_BYTES)
    encodeSuperblock(verdict.superblock, again, checksum)
    const second = decodeSuperblock(again, checksum)
    judge(second.kind === 'valid', 'what is decoded can be encoded')
    judge(
      JSON.stringify(second.superblock) === JSON.stringify(verdict.superblock),
      'and decodes to the same',
    )
  },
}

const segmentHeader: FuzzTarget = {
  name: 'segment-header',
  sizeBytesMax: PAGE_SIZE_BYTES,
  seeds: () =>
    [SegmentKind.log, SegmentKind.bulk].map((kind) =>
      page((memory) =>
        encodeSegmentHeader({ segment: 7, kind, importId: 7 }, POOL_ID, memory, 0, checksum),
      ),
    ),
  repair: repairPage,
  run(input) {
    const header = tryDecodeSegmentHeader(wholePage(input), 0, POOL_ID, checksum)
    if (header === null) return
    judge(header.kind === SegmentKind.log || header.kind === SegmentKind.bulk, 'a kind there is')
    const name = Buffer.from(input.subarray(40, 60)).toString('latin1')
    const id = tryParseSegmentFileName(name)
    judge(id === null || (id >= 1 && id < 2 ** 32), 'a name with an id there can be')
  },
}

const segmentFooter: FuzzTarget = {
  name: 'segment-footer',
  sizeBytesMax: PAGE_SIZE_BYTES,
  seeds: () => [
    page((memory) => {
      const tableChecksums = new Uint32Array(2 * TABLE_PAGE_COUNT)
      const footer = { segment: 1, kind: SegmentKind.log, usedSlotCount: 9, tableChecksums }
      encodeSegmentFooter(footer, POOL_ID, memory, 0, checksum)
    }),
    sample.builder.page(1, SEGMENT_SLOT_COUNT - 1).slice(),
  ],
  repair: repairPage,
  run(input) {
    const footer = tryDecodeSegmentFooter(wholePage(input), 0, POOL_ID, 1, checksum)
    if (footer === null) return
    judge(
      footer.usedSlotCount >= DATA_SLOT_FIRST && footer.usedSlotCount <= DATA_SLOT_END,
      'used slots within the data',
    )
    if (footer.settled === undefined) return
    const end = directoryPageOffset(footer.settled, TABLE_PAGE_COUNT)
    judge(end <= 2 * 64 * 2 ** 20, 'a directory of a size there can be')
  },
}

const entries = new RecordEntries()
const blockChecksums = new Uint32Array(2 * RECORD_BLOCK_COUNT_MAX)

function seedRecord(kinds: readonly number[], blockCount: number): Uint8Array {
  const columns = new RecordEntries()
  for (const [i, kind] of kinds.entries()) {
    columns.kinds[i] = kind
    columns.counts[i] = 1
    columns.diskIds[i] = 1
    columns.blockIndexes[i] = i
  }
  columns.count = kinds.length
  const previousChecksum = new Uint32Array(2)
  const place = { segment: 3, slot: 9, sequence: 7, durableSequence: 6, previousChecksum }
  return page((memory) => {
    const header = { ...place, blockCount }
    encodeRecordHeader(header, columns, blockChecksums, POOL_ID, memory, 0, checksum)
  })
}

const record: FuzzTarget = {
  name: 'record',
  sizeBytesMax: PAGE_SIZE_BYTES,
  seeds: () => [
    seedRecord([EntryKind.data, EntryKind.trim, EntryKind.grow, EntryKind.zero], 1),
    seedRecord([EntryKind.node, EntryKind.operation, EntryKind.catalogue], 3),
    seedRecord([], 0),
  ],
  repair: repairPage,
  run(input) {
    const bytes = wholePage(input)
    const header = tryDecodeRecordHeader(bytes, 0, POOL_ID, checksum, entries, blockChecksums)
    if (header === null) return
    let ownedCount = 0
    for (let i = 0; i < entries.count; i += 1) {
      judge(entries.counts[i] >= 1 && entries.counts[i] < 2 ** 40, 'a count there can be')
      judge(entries.kinds[i] >= 1 && entries.kinds[i] <= EntryKind.grow, 'a kind there is')
      ownedCount += blocksOfEntry(entries.kinds[i], entries.counts[i])
    }
    judge(ownedCount === header.blockCount, 'each block belongs to an entry')
    judge(header.blockCount <= RECORD_BLOCK_COUNT_MAX, 'a record fits its memory')
    const again = new Uint8Array(PAGE_SIZE_BYTES)
    encodeRecordHeader(header, entries, blockChecksums, POOL_ID, again, 0, checksum)
    const second = tryDecodeRecordHeader(again, 0, POOL_ID, checksum, entries, blockChecksums)
    judge(second !== null, 'what is decoded can be encoded')
  },
}

function isSlotRun(slot: number, count: number): boolean {
  return slot >= DATA_SLOT_FIRST && slot + count <= DATA_SLOT_END
}

/** By the drawing, without the decoder's shortcuts. */
function judgeNodeEntry(segment: number, word: number, level: number): void {
  const kind = word >>> KIND_SHIFT
  if (kind <= KIND_ZERO) {
    judge(segment === 0 && (word & 0xfffffff) === 0, 'no address where none is meant')
    return
  }
  judge(segment !== 0 && ((word >>> 14) & 0x3fff) === 0, 'an address, and nothing beside it')
  const levels = { [KIND_BLOCK]: [0], [KIND_NODE]: [1, 2, 3], [KIND_HUGE]: [1] }[kind] ?? []
  judge(levels.includes(level), 'a kind that the level has')
  judge(isSlotRun(word & SLOT_MASK, kind === KIND_HUGE ? 512 : 1), 'slots that hold blocks')
}

/** The byte behind the page says its level. */
const node: FuzzTarget = {
  name: 'node',
  sizeBytesMax: 1 + BLOCK_SIZE_BYTES,
  seeds: () => {
    const of = (level: number, kind: number): Uint8Array => {
      const bytes = nodeOf({ 0: [kind, 1, 1], 1: [kind, 2, 77], 300: [KIND_ZERO, 0, 0] })
      return Buffer.concat([bytes, Buffer.from([level])])
    }
    return [of(0, KIND_BLOCK), of(1, KIND_HUGE), of(1, KIND_NODE), of(3, KIND_NODE)]
  },
  run(input) {
    const level = (input.at(-1) ?? 0) & 3
    const bytes = wholePage(input)
    const words = decodeNode(bytes, 0, level)
    for (let i = 0; i < NODE_WORD_COUNT; i += 2) judgeNodeEntry(words[i], words[i + 1], level)
  },
}

const OPERATIONS: readonly unknown[] = [
  {
    op: 'create',
    id: 1,
    name: 'a',
    sizeBytes: 4096,
    createdMs: 1,
    labels: { k: 'v' },
    root: null,
    importId: 0,
  },
  { op: 'snapshot', createdMs: 2, snapshots: [{ id: 10, volumeId: 1, name: 't' }] },
  { op: 'clone', createdMs: 2, sourceId: 2, clones: [{ id: 11, name: 'd' }] },
  { op: 'restore', volumeId: 1, snapshotId: 2 },
  { op: 'remove', ids: [1, 2, 3] },
  { op: 'rename', id: 1, name: 'b' },
  { op: 'resize', id: 1, sizeBytes: 8192 },
  {
    op: 'share',
    id: 1,
    blockIndex: 5,
    runs: [
      [1, 2, 3],
      [4, 0, 1],
      [7, 0, 0],
    ],
  },
  { op: 'hold', id: 1, tag: 'x' },
  { op: 'release', id: 1, tag: 'x' },
]
const DISK = {
  disk: {
    id: 1,
    name: 'a',
    kind: 'volume',
    volumeId: 1,
    sizeBytes: 4096,
    root: [1, 2],
    createdMs: 1,
    modifiedMs: 1,
    originId: null,
    labels: { k: 'v' },
    holds: ['h'],
  },
}

/** The length, so that what was inserted or cut counts. */
function repairPart(input: Uint8Array): void {
  if (input.length < 32) return
  const end = input.findLastIndex((byte) => byte !== 0) + 1
  new DataView(input.buffer, input.byteOffset).setUint32(12, Math.max(0, end - 32), true)
}

const catalogue: FuzzTarget = {
  name: 'catalogue',
  sizeBytesMax: 3 * PAGE_SIZE_BYTES,
  seeds: () => {
    const nothing = { segment: 0, slot: 0, blockCount: 0 }
    const before = { segment: 1, slot: 5, blockCount: 2 }
    const operations = OPERATIONS.map((operation) =>
      encodePart(PartKind.operation, nothing, JSON.stringify(operation)),
    )
    const lines = [DISK, { removed: [2, 3] }].map((line) => JSON.stringify(line)).join('\n')
    return [
      ...operations,
      encodePart(PartKind.full, nothing, lines),
      encodePart(PartKind.delta, before, lines),
    ]
  },
  repair: repairPart,
  run(input) {
    const part = decodePart(input)
    judge(part.previous.blockCount <= RECORD_BLOCK_COUNT_MAX, 'a part fits a record')
    for (const line of part.lines) {
      if (part.kind === PartKind.operation) verifyOperation(line)
      else verifyLine(line)
    }
  },
}

function judgePlace(slot: number, word0: number, word1: number): void {
  const kind = placeKind(word1)
  if (kind === PLACE_ALIAS) {
    judge(isSlotRun(aliasSlot(word1), 1), 'an alias leads to data')
    judge(isLower(word0, aliasSlot(word1), 5, slot), 'an alias leads down')
  }
  if (kind !== PLACE_FRAME) return
  const rawBytes = frameBlockCount(word1) * BLOCK_SIZE_BYTES
  const storedBytes = frameStoredBytes(word1)
  judge(storedBytes > 0 && storedBytes <= rawBytes, 'a frame never grows')
  judge((frameIndex(word0) + 1) * BLOCK_SIZE_BYTES <= rawBytes, 'the block lies in its frame')
  judge(frameOffset(word0) >= BLOCK_SIZE_BYTES, 'a frame lies behind the header')
  judge(
    frameOffset(word0) + storedBytes <= DATA_SLOT_END * BLOCK_SIZE_BYTES,
    'a frame lies before the footer',
  )
  judge(frameCodec(word0) <= 2, 'a codec there is')
}

const zeroChecksum = new Uint32Array(2)
checksum.hashBlocks(new Uint8Array(BLOCK_SIZE_BYTES), 0, 1, zeroChecksum, 0)

/** One page of places, anywhere in the directory of segment 5. */
const directory: FuzzTarget = {
  name: 'directory',
  sizeBytesMax: 1 + 4 * DIRECTORY_PAGE_WORDS,
  seeds: () => {
    const { log, bulk } = sample
    return [log, bulk].map(({ checksums, places }) => {
      const words = new Uint32Array(DIRECTORY_PAGE_WORDS)
      words.set(checksums.subarray(0, PLACE_WORD_FIRST))
      words.set(places.subarray(0, PLACE_WORD_FIRST), PLACE_WORD_FIRST)
      return Buffer.concat([Buffer.from([0]), new Uint8Array(words.buffer)])
    })
  },
  run(input) {
    const index = (input[0] ?? 0) % TABLE_PAGE_COUNT
    const words = new Uint32Array(DIRECTORY_PAGE_WORDS)
    new Uint8Array(words.buffer).set(input.subarray(1, 1 + words.byteLength))
    const checksums = new Uint32Array(2 * SEGMENT_SLOT_COUNT)
    const places = new Uint32Array(2 * SEGMENT_SLOT_COUNT)
    checksums.set(words.subarray(0, PLACE_WORD_FIRST), index * PLACE_WORD_FIRST)
    places.set(words.subarray(PLACE_WORD_FIRST), index * PLACE_WORD_FIRST)
    const faulty = new Set<number>()
    for (let i = 0; i < TABLE_PAGE_SLOT_COUNT; i += 1) {
      const slot = index * TABLE_PAGE_SLOT_COUNT + i
      const [word0, word1] = [places[2 * slot], places[2 * slot + 1]]
      if (findPlaceFault(5, slot, word0, word1) === null) judgePlace(slot, word0, word1)
      else faulty.add(slot)
    }
    const settled = {
      directoryBytes: new Uint32Array(TABLE_PAGE_COUNT),
      directoryCodec: 0 as const,
      frameBytes: 0,
      frameSlotCount: 0,
      aliasCount: 0,
      zeroCount: 0,
    }
    const tableChecksums = new Uint32Array(2 * TABLE_PAGE_COUNT)
    const footer = {
      segment: 5,
      kind: SegmentKind.log,
      usedSlotCount: 600,
      tableChecksums,
      settled,
    }
    const isFaulty = (slot: number): boolean => faulty.has(slot)
    const all = { checksums, places, isFaulty }
    findDirectoryFaults(all, footer, settled, faulty.size === 0, checksum)
  },
}

const fingerprints: FuzzTarget = {
  name: 'fingerprints',
  sizeBytesMax: PAGE_SIZE_BYTES,
  seeds: () => [
    page((memory) => {
      const head = { generation: 4, sampleBits: 2, pageCount: 1 }
      encodeFingerprintHead(head, POOL_ID, memory, 0, checksum)
    }),
    page((memory) => {
      const entryAt = (
        i: number,
      ): { segment: number; slot: number; tag: number; extra: number } => ({
        segment: i + 1,
        slot: i + 1,
        tag: i,
        extra: i,
      })
      encodeFingerprintPage(ENTRIES_PER_PAGE, entryAt, memory, 0, checksum)
    }),
  ],
  repair: repairPage,
  run(input) {
    const bytes = wholePage(input)
    tryDecodeFingerprintHead(bytes, 0, POOL_ID, checksum)
    let count = 0
    decodeFingerprintPage(bytes, 0, checksum, (segment) => {
      judge(segment !== 0, 'an entry names a segment')
      count += 1
    })
    judge(count <= ENTRIES_PER_PAGE, 'no more entries than fit')
  },
}

export const TARGETS: readonly FuzzTarget[] = [
  superblock,
  segmentHeader,
  segmentFooter,
  record,
  node,
  catalogue,
  directory,
  fingerprints,
]
