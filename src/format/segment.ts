/**
 * A segment file: 64 MiB of address space in 16,384 slots of 4 KiB, sparse where nothing lies.
 *
 *   slot      0  header page
 *   slots     1 … 16350  records (log) or plain blocks (bulk)
 *   slots 16351 … 16382  on seal: the checksum table, one XXH64 a slot, 32 pages of 512
 *   slot  16383  on seal: footer page
 *
 * A segment that is settled was rewritten; slots no longer say where their bytes are, the directory
 * does (`directory.ts`):
 *
 *   byte      0  header page, as it was
 *   byte   4096  frames, one behind the other, to byte 16351 × 4096 at most
 *   slot  16383  footer page
 *   slot  16384  the directory's pages as stored, one behind the other
 *
 * Header page                              Footer page
 *    0   8  magic "VARVSEG1"                  0    8  magic "VARVFTR1"
 *    8   4  format version                    8    4  format version
 *   12   4  segment id                       12    4  segment id
 *   16  16  pool id                          16   16  pool id
 *   32   4  kind: 1 log, 2 bulk              32    4  kind
 *   36   4  import id, 0 for a log segment   36    4  encoding: 1 raw, 2 settled
 * 4088   8  checksum                         40    4  used slots: first slot never written
 *                                            44    4  zero
 *                                            48  256  XXH64 of each table page, as stored
 *                                           304  128  settled: bytes of each directory page as
 *                                                     stored; 0: no slot of it holds anything
 *                                           432    4  settled: codec of those not stored raw
 *                                           436    4  settled: bytes of all frames
 *                                           440    4  settled: slots in frames
 *                                           444    4  settled: aliases
 *                                           448    4  settled: zeros
 *                                          4088    8  checksum
 *
 * A table entry is zero for a slot that holds no block: the header, record headers, what was
 * never written. A footer is valid only whole; a torn one means: not sealed.
 */
import type { Checksum } from '../base/checksum.ts'
import { isCodec } from '../base/codec.ts'
import type { Codec } from '../base/codec.ts'
import { assert } from '../base/assert.ts'
import { layout } from '../base/layout.ts'
import { BLOCK_SIZE_BYTES, SEGMENT_SLOT_COUNT } from '../base/units.ts'
import {
  FORMAT_VERSION,
  PAGE_SIZE_BYTES,
  bytesEqual,
  copyBytes,
  hasMagic,
  isPageSound,
  pageView,
  sealPage,
  writeMagic,
} from './page.ts'

export const SEGMENT_FOLDER = 'segments'
export const SEGMENT_MAGIC = 'VARVSEG1'
export const FOOTER_MAGIC = 'VARVFTR1'

export const SegmentKind = { log: 1, bulk: 2 } as const
export type SegmentKind = (typeof SegmentKind)[keyof typeof SegmentKind]

const ENCODING_RAW = 1
const ENCODING_SETTLED = 2

/** Checksums in one 4 KiB page of the table. */
export const TABLE_PAGE_SLOT_COUNT = 512
export const TABLE_PAGE_SLOT_SHIFT = 9
export const TABLE_PAGE_COUNT: number = SEGMENT_SLOT_COUNT / TABLE_PAGE_SLOT_COUNT
export const FOOTER_SLOT: number = SEGMENT_SLOT_COUNT - 1
export const TABLE_SLOT: number = FOOTER_SLOT - TABLE_PAGE_COUNT
/** First slot that can hold a block. */
export const DATA_SLOT_FIRST = 1
/** First slot that cannot. */
export const DATA_SLOT_END: number = TABLE_SLOT
/** Where the directory of a settled segment begins. */
export const DIRECTORY_OFFSET_BYTES: number = SEGMENT_SLOT_COUNT * BLOCK_SIZE_BYTES
/** A directory page before it is encoded: 512 checksums, then 512 places. */
export const DIRECTORY_PAGE_BYTES: number = 2 * PAGE_SIZE_BYTES

const HEADER = layout({ magic: 8, formatVersion: 4, segment: 4, poolId: 16, kind: 4, importId: 4 })
const FOOTER = layout({
  magic: 8,
  formatVersion: 4,
  segment: 4,
  poolId: 16,
  kind: 4,
  encoding: 4,
  usedSlotCount: 4,
  reserved: 4,
  tableChecksums: 256,
  directoryBytes: 128,
  directoryCodec: 4,
  frameBytes: 4,
  frameSlotCount: 4,
  aliasCount: 4,
  zeroCount: 4,
})
assert(FOOTER.endOffset === 452, 'the footer is as drawn')
assert(TABLE_PAGE_COUNT === 32 && DATA_SLOT_END === 16351, 'the segment is as drawn')

/** Added to a segment's file name while its settled form is being written aside. */
export const SETTLING_SUFFIX = '.settling'

/** Added to a segment's file name when the segment is gone and the file kept for a later one. */
export const RECYCLED_SUFFIX = '.recycled'

const NAME_PATTERN = /^(\d{10})\.seg$/

/** `0000000042.seg`. */
export function segmentFileName(segment: number): string {
  return `${String(segment).padStart(10, '0')}.seg`
}

/** The id in a segment's file name; null for any other name. */
export function tryParseSegmentFileName(name: string): number | null {
  const match = NAME_PATTERN.exec(name)
  if (match === null) return null
  const id = Number(match[1])
  return id >= 1 && id < 2 ** 32 ? id : null
}

export interface SegmentHeader {
  segment: number
  kind: SegmentKind
  /** The first segment of the import a bulk segment belongs to; 0 for a log segment. */
  importId: number
}

function isKind(kind: number): kind is SegmentKind {
  return kind === SegmentKind.log || kind === SegmentKind.bulk
}

export function encodeSegmentHeader(
  header: SegmentHeader,
  poolId: Uint8Array,
  memory: Uint8Array,
  offsetBytes: number,
  checksum: Checksum,
): void {
  memory.fill(0, offsetBytes, offsetBytes + PAGE_SIZE_BYTES)
  const view = pageView(memory, offsetBytes)
  writeMagic(view, SEGMENT_MAGIC)
  view.setUint32(HEADER.formatVersion, FORMAT_VERSION, true)
  view.setUint32(HEADER.segment, header.segment, true)
  copyBytes(poolId, view, HEADER.poolId)
  view.setUint32(HEADER.kind, header.kind, true)
  view.setUint32(HEADER.importId, header.importId, true)
  sealPage(memory, offsetBytes, checksum)
}

/** Null when the page is not the sound header of a segment of this pool. */
export function tryDecodeSegmentHeader(
  memory: Uint8Array,
  offsetBytes: number,
  poolId: Uint8Array,
  checksum: Checksum,
): SegmentHeader | null {
  const view = pageView(memory, offsetBytes)
  if (!hasMagic(view, SEGMENT_MAGIC) || !isPageSound(memory, offsetBytes, checksum)) return null
  if (view.getUint32(HEADER.formatVersion, true) !== FORMAT_VERSION) return null
  if (!bytesEqual(poolId, view, HEADER.poolId)) return null
  const kind = view.getUint32(HEADER.kind, true)
  if (!isKind(kind)) return null
  const segment = view.getUint32(HEADER.segment, true)
  return { segment, kind, importId: view.getUint32(HEADER.importId, true) }
}

export interface SegmentFooter {
  segment: number
  kind: SegmentKind
  /** First slot never written; DATA_SLOT_FIRST to DATA_SLOT_END. */
  usedSlotCount: number
  /** Two words for each of the TABLE_PAGE_COUNT pages. */
  tableChecksums: Uint32Array
  /** Absent: a raw segment. */
  settled?: SettledLayout
}

/** What the footer of a settled segment adds. */
export interface SettledLayout {
  /** Of each of the TABLE_PAGE_COUNT pages, as stored; 0: no slot of it holds anything. */
  directoryBytes: Uint32Array
  /** Of the pages stored in fewer than DIRECTORY_PAGE_BYTES; the others are stored raw. */
  directoryCodec: Codec
  /** Of all frames, as stored. */
  frameBytes: number
  frameSlotCount: number
  aliasCount: number
  zeroCount: number
}

export function encodeSegmentFooter(
  footer: SegmentFooter,
  poolId: Uint8Array,
  memory: Uint8Array,
  offsetBytes: number,
  checksum: Checksum,
): void {
  memory.fill(0, offsetBytes, offsetBytes + PAGE_SIZE_BYTES)
  const view = pageView(memory, offsetBytes)
  writeMagic(view, FOOTER_MAGIC)
  view.setUint32(FOOTER.formatVersion, FORMAT_VERSION, true)
  view.setUint32(FOOTER.segment, footer.segment, true)
  copyBytes(poolId, view, FOOTER.poolId)
  view.setUint32(FOOTER.kind, footer.kind, true)
  const { settled } = footer
  view.setUint32(FOOTER.encoding, settled === undefined ? ENCODING_RAW : ENCODING_SETTLED, true)
  view.setUint32(FOOTER.usedSlotCount, footer.usedSlotCount, true)
  for (let i = 0; i < 2 * TABLE_PAGE_COUNT; i += 1) {
    view.setUint32(FOOTER.tableChecksums + 4 * i, footer.tableChecksums[i], true)
  }
  if (settled !== undefined) encodeSettled(settled, view)
  sealPage(memory, offsetBytes, checksum)
}

function encodeSettled(settled: SettledLayout, view: DataView): void {
  for (let i = 0; i < TABLE_PAGE_COUNT; i += 1) {
    view.setUint32(FOOTER.directoryBytes + 4 * i, settled.directoryBytes[i], true)
  }
  view.setUint32(FOOTER.directoryCodec, settled.directoryCodec, true)
  view.setUint32(FOOTER.frameBytes, settled.frameBytes, true)
  view.setUint32(FOOTER.frameSlotCount, settled.frameSlotCount, true)
  view.setUint32(FOOTER.aliasCount, settled.aliasCount, true)
  view.setUint32(FOOTER.zeroCount, settled.zeroCount, true)
}

/** Null when a field says what no writer writes. */
function tryDecodeSettled(view: DataView): SettledLayout | null {
  const directoryBytes = new Uint32Array(TABLE_PAGE_COUNT)
  for (let i = 0; i < TABLE_PAGE_COUNT; i += 1) {
    directoryBytes[i] = view.getUint32(FOOTER.directoryBytes + 4 * i, true)
    if (directoryBytes[i] > DIRECTORY_PAGE_BYTES) return null
  }
  const directoryCodec = view.getUint32(FOOTER.directoryCodec, true)
  if (!isCodec(directoryCodec)) return null
  return {
    directoryBytes,
    directoryCodec,
    frameBytes: view.getUint32(FOOTER.frameBytes, true),
    frameSlotCount: view.getUint32(FOOTER.frameSlotCount, true),
    aliasCount: view.getUint32(FOOTER.aliasCount, true),
    zeroCount: view.getUint32(FOOTER.zeroCount, true),
  }
}

/** Where directory page `index` is stored. */
export function directoryPageOffset(settled: SettledLayout, index: number): number {
  let offsetBytes = DIRECTORY_OFFSET_BYTES
  for (let i = 0; i < index; i += 1) offsetBytes += settled.directoryBytes[i]
  return offsetBytes
}

/**
 * Whose footer the page is, or null where it is none: in a file that was another segment's before,
 * that segment's stays until this one is sealed.
 */
export function footerSegment(
  memory: Uint8Array,
  offsetBytes: number,
  poolId: Uint8Array,
  checksum: Checksum,
): number | null {
  const view = pageView(memory, offsetBytes)
  if (!hasMagic(view, FOOTER_MAGIC) || !isPageSound(memory, offsetBytes, checksum)) return null
  if (view.getUint32(FOOTER.formatVersion, true) !== FORMAT_VERSION) return null
  if (!bytesEqual(poolId, view, FOOTER.poolId)) return null
  return view.getUint32(FOOTER.segment, true)
}

/** Null when the page is not the sound footer of this segment of this pool. */
export function tryDecodeSegmentFooter(
  memory: Uint8Array,
  offsetBytes: number,
  poolId: Uint8Array,
  segment: number,
  checksum: Checksum,
): SegmentFooter | null {
  if (footerSegment(memory, offsetBytes, poolId, checksum) !== segment) return null
  const view = pageView(memory, offsetBytes)
  const encoding = view.getUint32(FOOTER.encoding, true)
  if (encoding !== ENCODING_RAW && encoding !== ENCODING_SETTLED) return null
  const kind = view.getUint32(FOOTER.kind, true)
  const usedSlotCount = view.getUint32(FOOTER.usedSlotCount, true)
  if (!isKind(kind)) return null
  if (usedSlotCount < DATA_SLOT_FIRST || usedSlotCount > DATA_SLOT_END) return null
  const tableChecksums = new Uint32Array(2 * TABLE_PAGE_COUNT)
  for (let i = 0; i < tableChecksums.length; i += 1) {
    tableChecksums[i] = view.getUint32(FOOTER.tableChecksums + 4 * i, true)
  }
  if (encoding === ENCODING_RAW) return { segment, kind, usedSlotCount, tableChecksums }
  const settled = tryDecodeSettled(view)
  return settled === null ? null : { segment, kind, usedSlotCount, tableChecksums, settled }
}
