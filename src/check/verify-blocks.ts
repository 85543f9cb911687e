/** Reads every live block, in the order of the files, and holds it against its checksum. */
import type { Checksum } from '../base/checksum.ts'
import { BLOCK_SIZE_BYTES } from '../base/units.ts'
import { DATA_SLOT_END, DATA_SLOT_FIRST } from '../format/segment.ts'
import type { Superblock } from '../format/superblock.ts'
import { BadRuns } from './bad-runs.ts'
import type { Damage } from './damage.ts'
import type { FrameReader } from './frame-reader.ts'
import { isUnfinished } from './judge-segments.ts'
import type { PoolReader } from './pool-reader.ts'
import { READ_SLOT_COUNT_MAX } from './pool-reader.ts'
import type { Findings } from './report.ts'
import type { SegmentSurvey } from './segment-survey.ts'
import type { SegmentTable, SegmentTables } from './segment-tables.ts'
import type { SlotSet } from './slot-set.ts'
import { SettledVerifier } from './verify-settled.ts'

/** Reading a short stretch of dead blocks costs less than a second read. */
const GAP_SLOT_COUNT_MAX = 16

export class BlockVerifier {
  readonly #reader: PoolReader
  readonly #checksum: Checksum
  readonly #superblock: Superblock
  readonly #survey: SegmentSurvey
  readonly #tables: SegmentTables
  readonly #live: SlotSet
  readonly #damage: Damage
  readonly #bad: BadRuns
  readonly #settled: SettledVerifier
  #verifiedBytes = 0

  constructor(
    reader: PoolReader,
    checksum: Checksum,
    frames: FrameReader,
    superblock: Superblock,
    survey: SegmentSurvey,
    tables: SegmentTables,
    live: SlotSet,
    damage: Damage,
    findings: Findings,
  ) {
    this.#reader = reader
    this.#checksum = checksum
    this.#superblock = superblock
    this.#survey = survey
    this.#tables = tables
    this.#live = live
    this.#damage = damage
    this.#bad = new BadRuns(damage, findings)
    this.#settled = new SettledVerifier(reader, checksum, frames, tables, live, damage, this.#bad)
  }

  /** Of live blocks found to match. */
  get verifiedBytes(): number {
    return this.#verifiedBytes + this.#settled.verifiedCount * BLOCK_SIZE_BYTES
  }

  /** `progress` is told the bytes read so far and in all. */
  async run(progress: (done: number, total: number) => void): Promise<void> {
    const totalBytes = this.#live.size * BLOCK_SIZE_BYTES
    let done = 0
    progress(0, totalBytes)
    for (const segment of this.#survey.segments) {
      const { id, footer } = segment
      const isLive = this.#live.hasSegment(id)
      // The table of a sealed segment is verified by loading it, live blocks or not.
      const isWhole = footer !== null && !isUnfinished(this.#superblock, segment)
      if (!isLive && !isWhole) continue
      const table = await this.#tables.load(id)
      if (!isLive || table === null) continue
      if (table.places !== null) {
        done += (await this.#settled.verify(id, table, table.places)) * BLOCK_SIZE_BYTES
        progress(done, totalBytes)
        continue
      }
      let slot = this.#nextLive(id, DATA_SLOT_FIRST)
      while (slot < DATA_SLOT_END) {
        const endSlot = this.#stretchEnd(id, slot)
        done += (await this.#verifyStretch(table, id, slot, endSlot)) * BLOCK_SIZE_BYTES
        progress(done, totalBytes)
        slot = this.#nextLive(id, endSlot)
      }
    }
    this.#bad.flush()
  }

  #nextLive(segment: number, from: number): number {
    let slot = from
    while (slot < DATA_SLOT_END && !this.#live.has(segment, slot)) slot += 1
    return slot
  }

  /** End of a stretch of slots worth reading at once. */
  #stretchEnd(segment: number, first: number): number {
    const limit = Math.min(first + READ_SLOT_COUNT_MAX, DATA_SLOT_END)
    let end = first + 1
    for (let slot = end; slot < limit && slot - end <= GAP_SLOT_COUNT_MAX; slot += 1) {
      if (this.#live.has(segment, slot)) end = slot + 1
    }
    return end
  }

  /** Returns the number of live slots between `first` and `end`. */
  async #verifyStretch(
    table: SegmentTable,
    segment: number,
    first: number,
    end: number,
  ): Promise<number> {
    const result = await this.#reader.readSlots(segment, first, end - first)
    let liveCount = 0
    for (let slot = first; slot < end; slot += 1) {
      if (!this.#live.has(segment, slot)) continue
      liveCount += 1
      const tableFinding = table.findingOf(slot)
      if (tableFinding !== null) {
        this.#damage.add(segment, slot, 1, tableFinding)
      } else if (!table.hasBlock(slot)) {
        this.#bad.add('address-no-block', segment, slot)
      } else if (result < 0) {
        await this.#verifyAlone(table, segment, slot)
      } else {
        this.#verify(table, segment, slot, (slot - first) * BLOCK_SIZE_BYTES)
      }
    }
    return liveCount
  }

  /** One unreadable sector must not take its neighbours along. */
  async #verifyAlone(table: SegmentTable, segment: number, slot: number): Promise<void> {
    const result = await this.#reader.readSlots(segment, slot, 1)
    if (result < 0) this.#bad.add('read-failed', segment, slot)
    else this.#verify(table, segment, slot, 0)
  }

  #verify(table: SegmentTable, segment: number, slot: number, offset: number): void {
    const { memory, offsetBytes } = this.#reader
    const start = offsetBytes + offset
    const bad = this.#checksum.verifyBlocks(memory, start, 1, table.words, 2 * slot)
    if (bad === -1) this.#verifiedBytes += BLOCK_SIZE_BYTES
    else this.#bad.add('block-corrupt', segment, slot)
  }
}
