/**
 * Verifies what no disk refers to and yet is there: dead blocks, the headers of records that no
 * recovery needs, dead blocks in frames, and the rest of the page in which the last frame ends.
 * Damage there costs nobody anything, and says what the disk is like: a warning. What was punched
 * reads as zeros. Not looked at is what lies behind the used slots of a segment that was never
 * settled, where a crash may leave anything.
 */
import { isZero } from '../base/bytes.ts'
import { BLOCK_SIZE_BYTES } from '../base/units.ts'
import { PLACE_FRAME, frameOffset, frameStoredBytes, placeKind } from '../format/directory.ts'
import type { SettledLayout } from '../format/segment.ts'
import { DATA_SLOT_END, DATA_SLOT_FIRST, SegmentKind } from '../format/segment.ts'
import type { Superblock } from '../format/superblock.ts'
import type { Damage } from './damage.ts'
import type { FrameReader } from './frame-reader.ts'
import { offsetInFrame } from './frame-reader.ts'
import { isUnfinished } from './judge-segments.ts'
import type { PoolReader } from './pool-reader.ts'
import { READ_SLOT_COUNT_MAX } from './pool-reader.ts'
import type { RecordDecoder } from './record-decoder.ts'
import type { Findings } from './report.ts'
import { placeOf } from './report.ts'
import type { SegmentSurvey, SurveyedSegment } from './segment-survey.ts'
import { mustReach } from './segment-survey.ts'
import type { SegmentTable, SegmentTables } from './segment-tables.ts'
import type { SlotSet } from './slot-set.ts'

export class UnusedVerifier {
  readonly #reader: PoolReader
  readonly #decoder: RecordDecoder
  readonly #frames: FrameReader
  readonly #superblock: Superblock
  readonly #survey: SegmentSurvey
  readonly #tables: SegmentTables
  readonly #live: SlotSet
  readonly #damage: Damage
  readonly #findings: Findings

  constructor(
    reader: PoolReader,
    decoder: RecordDecoder,
    frames: FrameReader,
    superblock: Superblock,
    survey: SegmentSurvey,
    tables: SegmentTables,
    live: SlotSet,
    damage: Damage,
    findings: Findings,
  ) {
    this.#reader = reader
    this.#decoder = decoder
    this.#frames = frames
    this.#superblock = superblock
    this.#survey = survey
    this.#tables = tables
    this.#live = live
    this.#damage = damage
    this.#findings = findings
  }

  /** Live blocks have been verified. */
  async run(): Promise<void> {
    for (const segment of this.#survey.segments) {
      const { id, footer } = segment
      if (isUnfinished(this.#superblock, segment) && !this.#live.hasSegment(id)) continue
      const table = await this.#tables.load(id)
      if (table === null) continue
      if (footer?.settled !== undefined) await this.#verifySettled(id, table, footer.settled)
      else await this.#verifyRaw(segment, table)
    }
  }

  /** A node that is lost is not live, for nothing can be read through it, but it was. */
  #isUsed(id: number, slot: number): boolean {
    return this.#live.has(id, slot) || this.#damage.find(id, slot) !== null
  }

  async #verifyRaw(segment: SurveyedSegment, table: SegmentTable): Promise<void> {
    const { id, footer } = segment
    const end = footer?.usedSlotCount ?? mustReach(id, this.#superblock)
    for (let first = DATA_SLOT_FIRST; first < end; first += READ_SLOT_COUNT_MAX) {
      const count = Math.min(READ_SLOT_COUNT_MAX, end - first)
      const result = await this.#reader.readSlots(id, first, count)
      for (let slot = first; slot < first + count; slot += 1) {
        if (this.#isUsed(id, slot) || table.findingOf(slot) !== null) continue
        if (result < 0) {
          this.#warn(id, slot, 'it cannot be read')
          break
        }
        const offset = this.#reader.offsetBytes + (slot - first) * BLOCK_SIZE_BYTES
        if (!this.#isSlotSound(segment, table, slot, offset)) {
          const isBlock = table.hasBlock(slot)
          this.#warn(id, slot, isBlock ? 'a dead block is damaged' : 'a record’s header is damaged')
        }
      }
    }
  }

  #isSlotSound(
    { id, kind }: SurveyedSegment,
    table: SegmentTable,
    slot: number,
    offset: number,
  ): boolean {
    const { memory } = this.#reader
    if (isZero(memory, offset, offset + BLOCK_SIZE_BYTES)) return true
    if (table.hasBlock(slot)) {
      const { checksum } = this.#decoder
      return checksum.verifyBlocks(memory, offset, 1, table.words, 2 * slot) === -1
    }
    if (kind === SegmentKind.bulk) return false
    return this.#decoder.tryDecode(memory, offset, id, slot) !== null
  }

  async #verifySettled(id: number, table: SegmentTable, settled: SettledLayout): Promise<void> {
    const { places } = table
    if (places === null || table.hasFindings) return
    const { checksum } = this.#decoder
    let endBytes = BLOCK_SIZE_BYTES
    for (let slot = DATA_SLOT_FIRST; slot < DATA_SLOT_END; slot += 1) {
      const word0 = places[2 * slot]
      const word1 = places[2 * slot + 1]
      if (placeKind(word1) !== PLACE_FRAME) continue
      endBytes = Math.max(endBytes, frameOffset(word0) + frameStoredBytes(word1))
      if (this.#isUsed(id, slot)) continue
      const fault = await this.#frames.load(id, word0, word1)
      const at = offsetInFrame(word0)
      const isSame =
        fault === null &&
        checksum.verifyBlocks(this.#frames.blocks, at, 1, table.words, 2 * slot) === -1
      if (!isSame) this.#warn(id, slot, 'a dead block of a frame is damaged')
    }
    if (endBytes !== BLOCK_SIZE_BYTES + settled.frameBytes) {
      const fact = 'its frames do not lie one behind the other'
      this.#findings.warnings.add('unused-corrupt', `segment ${id}`, fact)
      return
    }
    await this.#verifyPadding(id, endBytes)
  }

  async #verifyPadding(id: number, endBytes: number): Promise<void> {
    const lengthBytes = BLOCK_SIZE_BYTES - (endBytes % BLOCK_SIZE_BYTES)
    if (lengthBytes === BLOCK_SIZE_BYTES) return
    const result = await this.#reader.readBytes(id, endBytes, lengthBytes)
    const { memory, offsetBytes } = this.#reader
    if (result >= 0 && isZero(memory, offsetBytes, offsetBytes + lengthBytes)) return
    this.#warn(id, Math.floor(endBytes / BLOCK_SIZE_BYTES), 'what follows the frames is not zero')
  }

  #warn(segment: number, slot: number, fact: string): void {
    const where = placeOf(segment, slot)
    this.#findings.warnings.add('unused-corrupt', where, `${fact}; nothing refers to it`)
  }
}
