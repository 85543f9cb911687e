/**
 * The checksum of every slot: from the table of a sealed segment, from the directory of a settled
 * one, which says where the blocks are, too, or put together from the record headers of one that
 * is still open. The last used tables are kept.
 */
import type { Checksum } from '../base/checksum.ts'
import type { Codecs } from '../base/codec.ts'
import { SEGMENT_SLOT_COUNT } from '../base/units.ts'
import { PLACE_DEAD, placeKind } from '../format/directory.ts'
import { PAGE_SIZE_BYTES } from '../format/page.ts'
import type { SegmentFooter } from '../format/segment.ts'
import {
  SegmentKind,
  TABLE_PAGE_COUNT,
  TABLE_PAGE_SLOT_COUNT,
  TABLE_PAGE_SLOT_SHIFT,
  TABLE_SLOT,
} from '../format/segment.ts'
import type { Superblock } from '../format/superblock.ts'
import { DirectoryReader } from './directory-reader.ts'
import type { PoolReader } from './pool-reader.ts'
import type { RecordDecoder } from './record-decoder.ts'
import { walkHeaders } from './record-decoder.ts'
import type { Finding, Findings } from './report.ts'
import type { SegmentSurvey, SurveyedSegment } from './segment-survey.ts'
import { mustReach } from './segment-survey.ts'

/** 128 KiB each, or 256 KiB. */
const TABLE_COUNT_MAX = 128

export class SegmentTable {
  /** Two words a slot, zeros for a slot without a block. */
  readonly words: Uint32Array = new Uint32Array(2 * SEGMENT_SLOT_COUNT)
  /** Why the checksums of a page of the table are not known; null where they are. */
  readonly pageFindings: (Finding | null)[] = new Array<Finding | null>(TABLE_PAGE_COUNT).fill(null)
  /** Two words a slot of a settled segment; null where a slot is its own place. */
  readonly places: Uint32Array | null
  /** What is wrong with single places. */
  readonly slotFindings: Map<number, Finding> = new Map<number, Finding>()

  constructor(places: Uint32Array | null) {
    this.places = places
  }

  hasBlock(slot: number): boolean {
    if (this.places !== null) return placeKind(this.places[2 * slot + 1]) !== PLACE_DEAD
    return this.words[2 * slot] !== 0 || this.words[2 * slot + 1] !== 0
  }

  /** Not every slot is known. */
  get hasFindings(): boolean {
    return this.slotFindings.size > 0 || this.pageFindings.some((finding) => finding !== null)
  }

  findingOf(slot: number): Finding | null {
    return this.pageFindings[slot >>> TABLE_PAGE_SLOT_SHIFT] ?? this.slotFindings.get(slot) ?? null
  }
}

export class SegmentTables {
  readonly #reader: PoolReader
  readonly #checksum: Checksum
  readonly #decoder: RecordDecoder
  readonly #superblock: Superblock
  readonly #survey: SegmentSurvey
  readonly #findings: Findings
  readonly #directories: DirectoryReader
  readonly #tables = new Map<number, SegmentTable>()
  /** Findings of damaged table pages, so that loading a table again does not repeat them. */
  readonly #pageFindings = new Map<number, Finding>()
  /** Segments whose torn seal has been told. */
  readonly #tornIds = new Set<number>()
  /** Segments found to be longer than their seal says. */
  readonly #shortIds = new Set<number>()

  constructor(
    reader: PoolReader,
    codecs: Codecs,
    decoder: RecordDecoder,
    superblock: Superblock,
    survey: SegmentSurvey,
    findings: Findings,
  ) {
    this.#reader = reader
    this.#checksum = decoder.checksum
    this.#decoder = decoder
    this.#superblock = superblock
    this.#survey = survey
    this.#findings = findings
    this.#directories = new DirectoryReader(reader, decoder.checksum, codecs, findings)
  }

  /** Null when there is no such segment. Uses the reader's memory. */
  async load(id: number): Promise<SegmentTable | null> {
    const segment = this.#survey.get(id)
    if (segment === null) return null
    const isShort = this.#survey.isSealedShort(id)
    // What was read before the replay is of the seal alone.
    if (isShort && !this.#shortIds.has(id)) this.#tables.delete(id)
    if (isShort) this.#shortIds.add(id)
    let table = this.#tables.get(id)
    if (table === undefined) {
      const { footer } = segment
      const isOpen = footer === null || isShort
      table = isOpen ? await this.#rebuild(segment) : await this.#readSealed(segment, footer)
      for (const oldest of this.#tables.keys()) {
        if (this.#tables.size < TABLE_COUNT_MAX) break
        this.#tables.delete(oldest)
      }
    }
    this.#tables.delete(id)
    this.#tables.set(id, table)
    return table
  }

  async #readSealed(segment: SurveyedSegment, footer: SegmentFooter): Promise<SegmentTable> {
    const { settled } = footer
    const { sizeBytes } = segment
    if (settled === undefined) return (await this.#read(segment, footer)) ?? this.#rebuild(segment)
    const places = new Uint32Array(2 * SEGMENT_SLOT_COUNT)
    const table = new SegmentTable(places)
    await this.#directories.fill(table, places, footer, settled, sizeBytes)
    return table
  }

  /** Null: the seal is torn, as a crash may leave it, and the records say the same. */
  async #read(
    segment: SurveyedSegment,
    { segment: id, tableChecksums: expected }: SegmentFooter,
  ): Promise<SegmentTable | null> {
    const table = new SegmentTable(null)
    const result = await this.#reader.readSlots(id, TABLE_SLOT, TABLE_PAGE_COUNT)
    const { memory, offsetBytes } = this.#reader
    const found = new Uint32Array(2 * TABLE_PAGE_COUNT)
    this.#checksum.hashBlocks(memory, offsetBytes, TABLE_PAGE_COUNT, found, 0)
    for (let page = 0; page < TABLE_PAGE_COUNT; page += 1) {
      const isSame =
        found[2 * page] === expected[2 * page] && found[2 * page + 1] === expected[2 * page + 1]
      if (result >= 0 && isSame) continue
      if (result >= 0 && this.#mayBeTorn(segment)) return null
      table.pageFindings[page] = this.#complain(id, page, result)
    }
    const bytes = memory.subarray(offsetBytes, offsetBytes + TABLE_PAGE_COUNT * PAGE_SIZE_BYTES)
    new Uint8Array(table.words.buffer).set(bytes)
    return table
  }

  /**
   * Table and footer reach the disk in any order, and only a checkpoint in a later segment says
   * that both have. Opening the pool seals such a segment again.
   */
  #mayBeTorn({ id, kind }: SurveyedSegment): boolean {
    if (kind !== SegmentKind.log || id < this.#superblock.position.segment) return false
    if (this.#tornIds.has(id)) return true
    this.#tornIds.add(id)
    const fact = 'its table does not match its footer, as after a crash while it was sealed'
    this.#findings.warnings.add('segment-table-corrupt', `segment ${id}`, fact)
    return true
  }

  #complain(id: number, page: number, result: number): Finding {
    const key = id * TABLE_PAGE_COUNT + page
    let finding = this.#pageFindings.get(key)
    if (finding !== undefined) return finding
    const first = page * TABLE_PAGE_SLOT_COUNT
    const slots = `slots ${first} to ${first + TABLE_PAGE_SLOT_COUNT - 1}`
    const reason = result < 0 ? `cannot be read (errno ${-result})` : 'are damaged'
    finding = this.#findings.errors.add(
      result < 0 ? 'read-failed' : 'segment-table-corrupt',
      `segment ${id} slot ${TABLE_SLOT + page}`,
      `the checksums of ${slots} ${reason}; blocks there cannot be verified`,
    )
    this.#pageFindings.set(key, finding)
    return finding
  }

  async #rebuild({ id, kind }: SurveyedSegment): Promise<SegmentTable> {
    const table = new SegmentTable(null)
    if (kind === SegmentKind.bulk) return table
    const decoder = this.#decoder
    await walkHeaders(this.#reader, decoder, id, mustReach(id, this.#superblock), {
      header: ({ slot, blockCount }) => {
        const words = decoder.blockChecksums.subarray(0, 2 * blockCount)
        table.words.set(words, 2 * (slot + 1))
      },
      // The survey has reported it.
      gap: () => undefined,
    })
    return table
  }
}
