/**
 * Reads the directories of settled segments: each page is held against the footer's checksum of
 * what is stored, decoded, and every place in it judged. What is wrong is reported once, however
 * often a directory is read.
 */
import type { Checksum } from '../base/checksum.ts'
import type { Codecs } from '../base/codec.ts'
import { PLACE_WORD_FIRST, findPlaceFault } from '../format/directory.ts'
import type { SegmentFooter, SettledLayout } from '../format/segment.ts'
import {
  DIRECTORY_PAGE_BYTES,
  TABLE_PAGE_COUNT,
  TABLE_PAGE_SLOT_COUNT,
  directoryPageOffset,
} from '../format/segment.ts'
import { SEGMENT_SLOT_COUNT } from '../base/units.ts'
import { findDirectoryFaults } from './judge-directory.ts'
import type { PoolReader } from './pool-reader.ts'
import type { Finding, FindingCode, Findings } from './report.ts'
import type { SegmentTable } from './segment-tables.ts'

interface PageFault {
  code: FindingCode
  reason: string
}

/** Even where what is missing would have been zeros: whoever reads it meets the end of the file. */
const CUT_OFF: PageFault = { code: 'directory-corrupt', reason: 'are cut off' }

export class DirectoryReader {
  readonly #reader: PoolReader
  readonly #checksum: Checksum
  readonly #codecs: Codecs
  readonly #findings: Findings
  readonly #found: Uint32Array = new Uint32Array(2)
  readonly #page: Uint32Array<ArrayBuffer> = new Uint32Array(DIRECTORY_PAGE_BYTES / 4)
  readonly #judged = new Set<number>()
  /** By segment and what is wrong. */
  readonly #known = new Map<string, Finding>()

  constructor(reader: PoolReader, checksum: Checksum, codecs: Codecs, findings: Findings) {
    this.#reader = reader
    this.#checksum = checksum
    this.#codecs = codecs
    this.#findings = findings
  }

  /** Fills `table`, whose places are `places`. Throws `unsupported` for a codec that is missing. */
  async fill(
    table: SegmentTable,
    places: Uint32Array,
    footer: SegmentFooter,
    settled: SettledLayout,
    sizeBytes: number,
  ): Promise<void> {
    const { segment } = footer
    for (let page = 0; page < TABLE_PAGE_COUNT; page += 1) {
      if (settled.directoryBytes[page] === 0) continue
      const endBytes = directoryPageOffset(settled, page) + settled.directoryBytes[page]
      const fault = endBytes > sizeBytes ? CUT_OFF : await this.#readPage(footer, settled, page)
      if (fault !== null) {
        table.pageFindings[page] = this.#complain(segment, page, fault)
        continue
      }
      const at = 2 * page * TABLE_PAGE_SLOT_COUNT
      table.words.set(this.#page.subarray(0, PLACE_WORD_FIRST), at)
      places.set(this.#page.subarray(PLACE_WORD_FIRST), at)
    }
    this.#judgePlaces(segment, table, places)
    if (this.#judged.has(segment)) return
    this.#judged.add(segment)
    const isFaulty = (slot: number): boolean => table.findingOf(slot) !== null
    const directory = { checksums: table.words, places, isFaulty }
    const isWhole = !table.hasFindings
    for (const fact of findDirectoryFaults(directory, footer, settled, isWhole, this.#checksum)) {
      this.#findings.errors.add('directory-nonsense', `segment ${segment}`, fact)
    }
  }

  /** Leaves the page in `#page`, or says why it is not there. */
  async #readPage(
    footer: SegmentFooter,
    settled: SettledLayout,
    page: number,
  ): Promise<PageFault | null> {
    const storedBytes = settled.directoryBytes[page]
    const offsetBytes = directoryPageOffset(settled, page)
    const result = await this.#reader.readBytes(footer.segment, offsetBytes, storedBytes)
    if (result < 0) return { code: 'read-failed', reason: `cannot be read (errno ${-result})` }
    const { memory, offsetBytes: at } = this.#reader
    this.#checksum.hashBytes(memory, at, storedBytes, this.#found, 0)
    const { tableChecksums } = footer
    const isSame =
      this.#found[0] === tableChecksums[2 * page] && this.#found[1] === tableChecksums[2 * page + 1]
    if (!isSame) return { code: 'directory-corrupt', reason: 'are damaged' }
    const target = new Uint8Array(this.#page.buffer)
    if (storedBytes === DIRECTORY_PAGE_BYTES) {
      target.set(memory.subarray(at, at + storedBytes))
      return null
    }
    const codec = settled.directoryCodec
    const rawBytes = DIRECTORY_PAGE_BYTES
    const isSound = this.#codecs.decode(codec, memory, at, storedBytes, target, 0, rawBytes)
    return isSound ? null : { code: 'directory-corrupt', reason: 'cannot be decoded' }
  }

  #complain(segment: number, page: number, { code, reason }: PageFault): Finding {
    const key = `${segment} page ${page}`
    const first = page * TABLE_PAGE_SLOT_COUNT
    const slots = `slots ${first} to ${first + TABLE_PAGE_SLOT_COUNT - 1}`
    const fact = `the places of ${slots} ${reason}; blocks there cannot be found`
    const finding =
      this.#known.get(key) ??
      this.#findings.errors.add(code, `segment ${segment} directory page ${page}`, fact)
    this.#known.set(key, finding)
    return finding
  }

  #judgePlaces(segment: number, table: SegmentTable, places: Uint32Array): void {
    for (let slot = 0; slot < SEGMENT_SLOT_COUNT; slot += 1) {
      const fault = findPlaceFault(segment, slot, places[2 * slot], places[2 * slot + 1])
      if (fault === null) continue
      const key = `${segment} ${fault}`
      const finding =
        this.#known.get(key) ??
        this.#findings.errors.add('directory-nonsense', `segment ${segment} slot ${slot}`, fault)
      this.#known.set(key, finding)
      table.slotFindings.set(slot, finding)
    }
  }
}
