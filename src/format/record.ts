/**
 * A record: one self-validating batch of the log. A header page, then its blocks in order.
 *
 *     0   8  magic "VARVREC1"
 *     8  16  pool id
 *    24   4  segment      \ where this header lies: an old or misdirected record is not
 *    28   4  slot         / mistaken for the next one
 *    32   8  sequence, from 1, one more than the record before
 *    40   8  durable: every record below this sequence was durable when this was written
 *    48   8  header checksum of the record before
 *    56   2  number of entries
 *    58   2  number of blocks
 *    60   4  zero
 *    64  16  × entries
 *     …   8  × blocks: XXH64 of each
 *  4088   8  checksum
 *
 * An entry: what its blocks are, or what becomes of a range without blocks.
 *
 *     0   4  disk id (0 for nodes and the catalogue)
 *     4   4  block index, low 32 bits
 *     8   2  block index, high 16 bits
 *    10   1  kind
 *    11   1  count, bits 32 to 39
 *    12   4  count of blocks of the disk, low 32 bits
 *
 * `data` has `count` blocks in the record; `trim` and `zero` have none; `node` has `count` map
 * nodes; `operation` one catalogue operation in `count` blocks, `catalogue` one part of a
 * checkpointed catalogue. `grow` is about a size: the disk has at least `block index` blocks and
 * `count` - 1 bytes.
 */
import type { Checksum } from '../base/checksum.ts'
import { setUint53, tryUint53 } from '../base/bytes.ts'
import { assert } from '../base/assert.ts'
import { layout } from '../base/layout.ts'
import { BLOCK_SIZE_BYTES, VOLUME_SIZE_BYTES_MAX } from '../base/units.ts'
import {
  PAGE_CHECKSUM_OFFSET,
  PAGE_SIZE_BYTES,
  bytesEqual,
  copyBytes,
  hasMagic,
  isPageSound,
  pageView,
  sealPage,
  writeMagic,
} from './page.ts'

export const RECORD_MAGIC = 'VARVREC1'

const FIELD = layout({
  magic: 8,
  poolId: 16,
  segment: 4,
  slot: 4,
  sequence: 8,
  durableSequence: 8,
  previousChecksum: 8,
  entryCount: 2,
  blockCount: 2,
  reserved: 4,
})
assert(FIELD.endOffset === 64, 'the record header is as drawn')

export const EntryKind = {
  data: 1,
  trim: 2,
  zero: 3,
  node: 4,
  operation: 5,
  catalogue: 6,
  grow: 7,
} as const
export type EntryKind = (typeof EntryKind)[keyof typeof EntryKind]

const ENTRY_SIZE_BYTES = 16
const CHECKSUM_SIZE_BYTES = 8
/** Header and blocks of a record fit one arena piece of 1 MiB. */
export const RECORD_BLOCK_COUNT_MAX = 255
/** 2^40 - 1: more blocks than a volume has. */
export const ENTRY_COUNT_MAX: number = 2 ** 40 - 1
const TWO_32 = 2 ** 32

/** Whether a header with these counts fits its page. */
export function recordFits(entryCount: number, blockCount: number): boolean {
  const endOffset =
    FIELD.endOffset + entryCount * ENTRY_SIZE_BYTES + blockCount * CHECKSUM_SIZE_BYTES
  return blockCount <= RECORD_BLOCK_COUNT_MAX && endOffset <= PAGE_CHECKSUM_OFFSET
}

/** Room for entries when a record has no blocks; the length of {@link RecordEntries}' columns. */
export const RECORD_ENTRY_COUNT_MAX: number = Math.floor(
  (PAGE_CHECKSUM_OFFSET - FIELD.endOffset) / ENTRY_SIZE_BYTES,
)

/** Entries of one record as columns, so that filling and replaying them allocates nothing. */
export class RecordEntries {
  readonly diskIds: Uint32Array = new Uint32Array(RECORD_ENTRY_COUNT_MAX)
  readonly blockIndexes: Float64Array = new Float64Array(RECORD_ENTRY_COUNT_MAX)
  readonly kinds: Uint8Array = new Uint8Array(RECORD_ENTRY_COUNT_MAX)
  readonly counts: Float64Array = new Float64Array(RECORD_ENTRY_COUNT_MAX)
  count = 0
}

/** Blocks in the record that an entry of this kind owns. */
export function blocksOfEntry(kind: number, count: number): number {
  const hasNone = kind === EntryKind.trim || kind === EntryKind.zero || kind === EntryKind.grow
  return hasNone ? 0 : count
}

/** The size that an entry of the kind `grow` is about. */
export function grownSizeBytes(blockIndex: number, count: number): number {
  return blockIndex * BLOCK_SIZE_BYTES + count - 1
}

export interface RecordHeader {
  segment: number
  slot: number
  sequence: number
  durableSequence: number
  /** Two words. */
  previousChecksum: Uint32Array
  blockCount: number
}

/**
 * Encodes the header page at `offsetBytes`; `blockChecksums` holds two words a block. The page's
 * own checksum, which the next record names, can be read with {@link readRecordChecksum}.
 */
export function encodeRecordHeader(
  header: RecordHeader,
  entries: RecordEntries,
  blockChecksums: Uint32Array,
  poolId: Uint8Array,
  memory: Uint8Array,
  offsetBytes: number,
  checksum: Checksum,
): void {
  assert(recordFits(entries.count, header.blockCount), 'the record fits its header')
  memory.fill(0, offsetBytes, offsetBytes + PAGE_SIZE_BYTES)
  const view = pageView(memory, offsetBytes)
  writeMagic(view, RECORD_MAGIC)
  copyBytes(poolId, view, FIELD.poolId)
  view.setUint32(FIELD.segment, header.segment, true)
  view.setUint32(FIELD.slot, header.slot, true)
  setUint53(view, FIELD.sequence, header.sequence)
  setUint53(view, FIELD.durableSequence, header.durableSequence)
  view.setUint32(FIELD.previousChecksum, header.previousChecksum[0], true)
  view.setUint32(FIELD.previousChecksum + 4, header.previousChecksum[1], true)
  view.setUint16(FIELD.entryCount, entries.count, true)
  view.setUint16(FIELD.blockCount, header.blockCount, true)
  let offset = FIELD.endOffset
  for (let i = 0; i < entries.count; i += 1) {
    const blockIndex = entries.blockIndexes[i]
    const count = entries.counts[i]
    view.setUint32(offset, entries.diskIds[i], true)
    view.setUint32(offset + 4, blockIndex % TWO_32, true)
    view.setUint16(offset + 8, Math.floor(blockIndex / TWO_32), true)
    view.setUint8(offset + 10, entries.kinds[i])
    view.setUint8(offset + 11, Math.floor(count / TWO_32))
    view.setUint32(offset + 12, count % TWO_32, true)
    offset += ENTRY_SIZE_BYTES
  }
  for (let i = 0; i < 2 * header.blockCount; i += 1) {
    view.setUint32(offset, blockChecksums[i], true)
    offset += 4
  }
  sealPage(memory, offsetBytes, checksum)
}

/** Copies the header page's own checksum to `out[0]`, `out[1]`. */
export function readRecordChecksum(
  memory: Uint8Array,
  offsetBytes: number,
  out: Uint32Array,
): void {
  const view = pageView(memory, offsetBytes)
  out[0] = view.getUint32(PAGE_CHECKSUM_OFFSET, true)
  out[1] = view.getUint32(PAGE_CHECKSUM_OFFSET + 4, true)
}

/**
 * Decodes a header page into `entries` and `blockChecksums` (room for
 * 2 * RECORD_BLOCK_COUNT_MAX words). Null when it is not a sound header of this pool with
 * entries that make sense; whether it is the *next* record is the caller's to judge.
 */
export function tryDecodeRecordHeader(
  memory: Uint8Array,
  offsetBytes: number,
  poolId: Uint8Array,
  checksum: Checksum,
  entries: RecordEntries,
  blockChecksums: Uint32Array,
): RecordHeader | null {
  // Asked of thousands of pages one after the other, of which most are nothing like it.
  if (memory[offsetBytes] !== RECORD_MAGIC.charCodeAt(0)) return null
  const view = pageView(memory, offsetBytes)
  if (!hasMagic(view, RECORD_MAGIC) || !bytesEqual(poolId, view, FIELD.poolId)) return null
  if (!isPageSound(memory, offsetBytes, checksum)) return null
  const entryCount = view.getUint16(FIELD.entryCount, true)
  const blockCount = view.getUint16(FIELD.blockCount, true)
  const sequence = tryUint53(view, FIELD.sequence)
  const durableSequence = tryUint53(view, FIELD.durableSequence)
  if (sequence === null || durableSequence === null) return null
  if (!recordFits(entryCount, blockCount)) return null
  const ownedCount = decodeEntries(view, entryCount, entries)
  if (ownedCount !== blockCount) return null
  const offset = FIELD.endOffset + entryCount * ENTRY_SIZE_BYTES
  for (let i = 0; i < 2 * blockCount; i += 1) {
    blockChecksums[i] = view.getUint32(offset + 4 * i, true)
  }
  return {
    segment: view.getUint32(FIELD.segment, true),
    slot: view.getUint32(FIELD.slot, true),
    sequence,
    durableSequence,
    previousChecksum: Uint32Array.of(
      view.getUint32(FIELD.previousChecksum, true),
      view.getUint32(FIELD.previousChecksum + 4, true),
    ),
    blockCount,
  }
}

function isGrowth(blockIndex: number, count: number): boolean {
  return count <= BLOCK_SIZE_BYTES && grownSizeBytes(blockIndex, count) <= VOLUME_SIZE_BYTES_MAX
}

/** Blocks that the entries own together, or -1 when an entry makes no sense. */
function decodeEntries(view: DataView, entryCount: number, entries: RecordEntries): number {
  let ownedCount = 0
  let offset = FIELD.endOffset
  for (let i = 0; i < entryCount; i += 1) {
    const kind = view.getUint8(offset + 10)
    const count = view.getUint8(offset + 11) * TWO_32 + view.getUint32(offset + 12, true)
    if (kind < EntryKind.data || kind > EntryKind.grow || count === 0) return -1
    const blockIndex = view.getUint16(offset + 8, true) * TWO_32 + view.getUint32(offset + 4, true)
    if (kind === EntryKind.grow && !isGrowth(blockIndex, count)) return -1
    entries.diskIds[i] = view.getUint32(offset, true)
    entries.blockIndexes[i] = blockIndex
    entries.kinds[i] = kind
    entries.counts[i] = count
    ownedCount += blocksOfEntry(kind, count)
    offset += ENTRY_SIZE_BYTES
  }
  entries.count = entryCount
  return ownedCount
}
