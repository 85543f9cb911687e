/**
 * Builds pools by hand from the descriptions of the format, without the pool: page by page, so
 * that a test can leave out, misplace or damage any of them.
 */
import type { Checksum } from '../../src/base/checksum.ts'
import { must } from '../../src/base/assert.ts'
import { BLOCK_SIZE_BYTES, SEGMENT_SIZE_BYTES, SEGMENT_SLOT_COUNT } from '../../src/base/units.ts'
import type { PartAddress } from '../../src/format/catalogue.ts'
import { PartKind, encodePart } from '../../src/format/catalogue.ts'
import { entryWord } from '../../src/format/node.ts'
import {
  EntryKind,
  RecordEntries,
  encodeRecordHeader,
  readRecordChecksum,
} from '../../src/format/record.ts'
import {
  DATA_SLOT_FIRST,
  FOOTER_SLOT,
  SEGMENT_FOLDER,
  TABLE_PAGE_COUNT,
  TABLE_SLOT,
  encodeSegmentFooter,
  encodeSegmentHeader,
  segmentFileName,
} from '../../src/format/segment.ts'
import { SegmentKind } from '../../src/format/segment.ts'
import type { Superblock } from '../../src/format/superblock.ts'
import { SUPERBLOCK_FILE, encodeSuperblock } from '../../src/format/superblock.ts'
import type { Io } from '../../src/io/io.ts'

export interface BuiltEntry {
  kind: number
  disk?: number
  block?: number
  /** Blocks in the record; their number is the entry's count unless `count` says otherwise. */
  blocks?: Uint8Array[]
  count?: number
}

export interface BuiltRecord {
  slot: number
  /** Slot of the first block. */
  firstBlockSlot: number
  sequence: number
}

export interface BuiltSegment {
  kind: SegmentKind
  /** By slot; longer than a block where a settled segment has frames or its directory. */
  pages: Map<number, Uint8Array>
  table: Uint32Array
  usedSlotCount: number
}

export const POOL_ID: Uint8Array = Uint8Array.from({ length: 16 }, (_, i) => 0xa0 + i)

/** A block that is recognisably itself. */
export function blockOf(seed: number): Uint8Array {
  const words = Uint32Array.from({ length: BLOCK_SIZE_BYTES / 4 }, (_, i) => seed * 65537 + i)
  return new Uint8Array(words.buffer)
}

/** A node page with the given entries: index → [kind, segment, slot]. */
export function nodeOf(entries: Record<number, readonly [number, number, number]>): Uint8Array {
  const words = new Uint32Array(1024)
  for (const [index, [kind, segment, slot]] of Object.entries(entries)) {
    words[2 * Number(index)] = segment
    words[2 * Number(index) + 1] = entryWord(kind, slot)
  }
  return new Uint8Array(words.buffer)
}

function splitBlocks(bytes: Uint8Array): Uint8Array[] {
  return Array.from({ length: bytes.length / BLOCK_SIZE_BYTES }, (_, i) =>
    bytes.slice(i * BLOCK_SIZE_BYTES, (i + 1) * BLOCK_SIZE_BYTES),
  )
}

export class PoolBuilder {
  readonly checksum: Checksum
  /** Names in segments/ that are no segments. */
  readonly strayNames: string[] = []
  /** The file `superblock`, two pages. */
  readonly superblockBytes: Uint8Array = new Uint8Array(2 * BLOCK_SIZE_BYTES)
  readonly segments: Map<number, BuiltSegment> = new Map<number, BuiltSegment>()
  /** Of the next record. */
  sequence = 1
  readonly chain: Uint32Array = new Uint32Array(2)

  constructor(checksum: Checksum) {
    this.checksum = checksum
  }

  segment(id: number): BuiltSegment {
    return must(this.segments.get(id), `segment ${id}`)
  }

  page(id: number, slot: number): Uint8Array {
    return must(this.segment(id).pages.get(slot), `slot ${slot} of segment ${id}`)
  }

  flip(id: number, slot: number, offsetBytes = 100): void {
    this.page(id, slot)[offsetBytes] ^= 1
  }

  addSegment(id: number, kind: SegmentKind, headerId: number = id): void {
    const header = new Uint8Array(BLOCK_SIZE_BYTES)
    encodeSegmentHeader(
      { segment: headerId, kind, importId: kind === SegmentKind.bulk ? headerId : 0 },
      POOL_ID,
      header,
      0,
      this.checksum,
    )
    const table = new Uint32Array(2 * SEGMENT_SLOT_COUNT)
    const pages = new Map([[0, header]])
    this.segments.set(id, { kind, pages, table, usedSlotCount: DATA_SLOT_FIRST })
  }

  /** Appends plain blocks, as a bulk segment holds them; returns the slot of the first. */
  addBlocks(id: number, blocks: Uint8Array[]): number {
    const segment = this.segment(id)
    const first = segment.usedSlotCount
    for (const block of blocks) {
      const slot = segment.usedSlotCount
      segment.pages.set(slot, block.slice())
      this.checksum.hashBlocks(block, 0, 1, segment.table, 2 * slot)
      segment.usedSlotCount += 1
    }
    return first
  }

  /** Appends the next record of the log. `durable`: by default everything before it was. */
  addRecord(id: number, entries: BuiltEntry[], durable: number = this.sequence): BuiltRecord {
    const segment = this.segment(id)
    const slot = segment.usedSlotCount
    segment.usedSlotCount += 1
    const columns = new RecordEntries()
    const blocks = entries.flatMap((entry) => entry.blocks ?? [])
    for (const [i, entry] of entries.entries()) {
      columns.diskIds[i] = entry.disk ?? 0
      columns.blockIndexes[i] = entry.block ?? 0
      columns.kinds[i] = entry.kind
      columns.counts[i] = entry.count ?? entry.blocks?.length ?? 1
    }
    columns.count = entries.length
    const firstBlockSlot = this.addBlocks(id, blocks)
    const header = {
      segment: id,
      slot,
      sequence: this.sequence,
      durableSequence: durable,
      previousChecksum: this.chain.slice(),
      blockCount: blocks.length,
    }
    const page = new Uint8Array(BLOCK_SIZE_BYTES)
    const checksums = segment.table.subarray(2 * firstBlockSlot)
    encodeRecordHeader(header, columns, checksums, POOL_ID, page, 0, this.checksum)
    segment.pages.set(slot, page)
    readRecordChecksum(page, 0, this.chain)
    this.sequence += 1
    return { slot, firstBlockSlot, sequence: header.sequence }
  }

  /** Journals operations, each with an entry of its own, in one record. */
  addOperation(id: number, ...operations: unknown[]): BuiltRecord {
    const entries = operations.map((operation) => {
      const nothing = { segment: 0, slot: 0, blockCount: 0 }
      const part = encodePart(PartKind.operation, nothing, JSON.stringify(operation))
      return { kind: EntryKind.operation, blocks: splitBlocks(part) }
    })
    return this.addRecord(id, entries)
  }

  addPart(id: number, kind: PartKind, previous: PartAddress, lines: unknown[]): PartAddress {
    const payload = lines.map((line) => JSON.stringify(line)).join('\n')
    const blocks = splitBlocks(encodePart(kind, previous, payload))
    const record = this.addRecord(id, [{ kind: EntryKind.catalogue, blocks }])
    return { segment: id, slot: record.firstBlockSlot, blockCount: blocks.length }
  }

  seal(id: number): void {
    const segment = this.segment(id)
    const { kind, usedSlotCount } = segment
    const table = new Uint8Array(segment.table.buffer)
    const tableChecksums = new Uint32Array(2 * TABLE_PAGE_COUNT)
    this.checksum.hashBlocks(table, 0, TABLE_PAGE_COUNT, tableChecksums, 0)
    splitBlocks(table.subarray(0, TABLE_PAGE_COUNT * BLOCK_SIZE_BYTES)).forEach((page, i) =>
      segment.pages.set(TABLE_SLOT + i, page),
    )
    const footer = new Uint8Array(BLOCK_SIZE_BYTES)
    const fields = { segment: id, kind, usedSlotCount, tableChecksums }
    encodeSegmentFooter(fields, POOL_ID, footer, 0, this.checksum)
    segment.pages.set(FOOTER_SLOT, footer)
  }

  /** Writes the superblock to the page of its generation. */
  setSuperblock(superblock: Superblock): void {
    const page = new Uint8Array(BLOCK_SIZE_BYTES)
    encodeSuperblock(superblock, page, this.checksum)
    this.superblockBytes.set(page, (superblock.generation % 2) * BLOCK_SIZE_BYTES)
  }

  /** Writes the pool to a folder that does not exist yet. */
  async save(io: Io, path: string): Promise<void> {
    await io.createDirectory(path)
    await io.createDirectory(`${path}/${SEGMENT_FOLDER}`)
    await writeFile(io, `${path}/${SUPERBLOCK_FILE}`, new Map([[0, this.superblockBytes]]), 0)
    for (const name of this.strayNames) {
      await writeFile(io, `${path}/${SEGMENT_FOLDER}/${name}`, new Map(), 0)
    }
    for (const [id, { pages }] of this.segments) {
      const name = `${path}/${SEGMENT_FOLDER}/${segmentFileName(id)}`
      await writeFile(io, name, pages, pages.has(FOOTER_SLOT) ? SEGMENT_SIZE_BYTES : 0)
    }
  }
}

/** Most that the arena has in one piece. */
const WRITE_BYTES = 2 ** 20

async function writeFile(
  io: Io,
  path: string,
  pages: Map<number, Uint8Array>,
  sizeBytes: number,
): Promise<void> {
  const file = await io.open(path, 'create')
  if (sizeBytes > 0) await io.truncate(file, sizeBytes)
  for (const [slot, page] of pages) {
    for (let from = 0; from < page.length; from += WRITE_BYTES) {
      const bytes = page.subarray(from, from + WRITE_BYTES)
      const piece = io.arena.allocate(bytes.length)
      io.arena.memory.set(bytes, piece)
      const vector = { pairs: Uint32Array.of(piece, bytes.length), count: 1 }
      const result = io.writeSync(file, slot * BLOCK_SIZE_BYTES + from, vector)
      io.arena.free(piece, bytes.length)
      if (result !== bytes.length) throw new Error(`cannot write ${path}: ${result}`)
    }
  }
  await io.close(file)
}
