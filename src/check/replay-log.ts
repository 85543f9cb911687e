/**
 * Replays the log from the checkpoint's position as recovery does, and tells a torn tail, which
 * is what a crash leaves, from the loss of something acknowledged, which is not.
 *
 * The argument for `log-gap`. Let E be the sequence that replay expected and did not find. A
 * record's `durableSequence` D says that every record below D was durable when it was written. So
 * a sound record of this pool, at its own place, with D > E proves that record E was once durable.
 * Records of another timeline, which an earlier recovery abandoned, raise no false alarm: that
 * recovery found every record below their D, ended at some E' >= D, and numbered on from E'. This
 * replay passes through the same E', so E >= E' >= D. Records whose D is at most E prove nothing:
 * they were written but never known to be durable. What no later record vouches for (the last
 * records acknowledged before the power went) cannot be told from a tear by anybody.
 */
import { BLOCK_SIZE_BYTES } from '../base/units.ts'
import { CorruptionError } from '../base/errors.ts'
import { PartKind, decodePart, verifyOperation } from '../format/catalogue.ts'
import type { RecordHeader } from '../format/record.ts'
import { EntryKind, blocksOfEntry, grownSizeBytes, readRecordChecksum } from '../format/record.ts'
import { DATA_SLOT_END, DATA_SLOT_FIRST, SegmentKind } from '../format/segment.ts'
import type { LogPosition } from '../format/superblock.ts'
import type { Disk, Disks } from './disks.ts'
import { blockCountOf } from './disks.ts'
import type { PoolReader } from './pool-reader.ts'
import { READ_SLOT_COUNT_MAX } from './pool-reader.ts'
import type { RecordDecoder } from './record-decoder.ts'
import type { CheckedPosition, Findings } from './report.ts'
import { placeOf } from './report.ts'
import type { SegmentSurvey, SurveyedSegment } from './segment-survey.ts'

export interface ReplayResult {
  recordCount: number
  /** Records that change a disk or the catalogue; a checkpoint's own do not. */
  changeCount: number
  /** Where the next record would be. */
  position: CheckedPosition
}

export class LogReplay {
  readonly #reader: PoolReader
  readonly #decoder: RecordDecoder
  readonly #survey: SegmentSurvey
  readonly #disks: Disks
  readonly #findings: Findings
  /** Where replay stopped in each segment it went through. */
  readonly #endSlots = new Map<number, number>()
  readonly #chain = new Uint32Array(2)
  #expected = 0
  #recordCount = 0
  #changeCount = 0

  constructor(
    reader: PoolReader,
    decoder: RecordDecoder,
    survey: SegmentSurvey,
    disks: Disks,
    findings: Findings,
  ) {
    this.#reader = reader
    this.#decoder = decoder
    this.#survey = survey
    this.#disks = disks
    this.#findings = findings
  }

  async run(start: LogPosition): Promise<ReplayResult> {
    this.#expected = start.sequence
    this.#chain.set(start.previousChecksum)
    const first = this.#survey.get(start.segment)
    if (first === null && start.slot > DATA_SLOT_FIRST) {
      const where = placeOf(start.segment, start.slot)
      this.#findings.errors.add('segment-missing', where, 'the log begins in a lost segment')
    }
    if (first?.kind === SegmentKind.bulk) {
      const where = placeOf(start.segment, start.slot)
      this.#findings.errors.add('superblock-nonsense', where, 'the log begins in a bulk segment')
    }
    const position = { segment: start.segment, slot: start.slot, sequence: 0 }
    for (const segment of this.#survey.segments) {
      if (segment.id < start.segment || segment.kind !== SegmentKind.log) continue
      if (segment.footer?.settled !== undefined) {
        const fact = 'it was settled, but the log is to be replayed from here on'
        this.#findings.errors.add('segment-settled-early', `segment ${segment.id}`, fact)
        continue
      }
      const slot = segment.id === start.segment ? start.slot : DATA_SLOT_FIRST
      const endSlot = await this.#replaySegment(segment, slot)
      if (endSlot === slot) continue
      position.segment = segment.id
      position.slot = endSlot
    }
    await this.#findLostRecords(start)
    return {
      recordCount: this.#recordCount,
      changeCount: this.#changeCount,
      position: { ...position, sequence: this.#expected },
    }
  }

  /** Returns the slot after the last record replayed. */
  async #replaySegment(segment: SurveyedSegment, startSlot: number): Promise<number> {
    let slot = startSlot
    let windowSlot = slot
    let windowEnd = slot
    while (slot < DATA_SLOT_END) {
      let offset = this.#reader.offsetBytes + (slot - windowSlot) * BLOCK_SIZE_BYTES
      let header = slot < windowEnd ? this.#tryNext(segment.id, slot, offset) : null
      // Read on where the window ends before the record does, or before its header.
      if (slot >= windowEnd || (header !== null && slot + 1 + header.blockCount > windowEnd)) {
        const count = Math.min(READ_SLOT_COUNT_MAX, DATA_SLOT_END - slot)
        if (!(await this.#readWindow(segment.id, slot, count))) break
        windowSlot = slot
        windowEnd = slot + count
        offset = this.#reader.offsetBytes
        header = this.#tryNext(segment.id, slot, offset)
      }
      if (header === null || !this.#areBlocksSound(header, offset)) break
      this.#apply(header, offset)
      slot += 1 + header.blockCount
    }
    if (slot > startSlot) {
      this.#endSlots.set(segment.id, slot)
      this.#survey.noteReplayed(segment.id, slot)
    }
    return slot
  }

  async #readWindow(segment: number, slot: number, count: number): Promise<boolean> {
    const result = await this.#reader.readSlots(segment, slot, count)
    if (result >= 0) return true
    const fact = `the log cannot be read (errno ${-result})`
    this.#findings.errors.add('read-failed', placeOf(segment, slot, count), fact)
    return false
  }

  #tryNext(segment: number, slot: number, offset: number): RecordHeader | null {
    const header = this.#decoder.tryDecode(this.#reader.memory, offset, segment, slot)
    if (header === null || header.sequence !== this.#expected) return null
    const { previousChecksum } = header
    if (previousChecksum[0] !== this.#chain[0]) return null
    return previousChecksum[1] === this.#chain[1] ? header : null
  }

  #areBlocksSound(header: RecordHeader, offset: number): boolean {
    const { checksum, blockChecksums } = this.#decoder
    const { memory } = this.#reader
    const blocks = offset + BLOCK_SIZE_BYTES
    return checksum.verifyBlocks(memory, blocks, header.blockCount, blockChecksums, 0) === -1
  }

  #apply(header: RecordHeader, offset: number): void {
    const where = placeOf(header.segment, header.slot)
    if (header.durableSequence > header.sequence) {
      const fact = `record ${header.sequence} says that ${header.durableSequence - 1} was durable`
      this.#findings.errors.add('record-nonsense', where, fact)
    }
    const { entries } = this.#decoder
    let block = 0
    let isChange = false
    for (let i = 0; i < entries.count; i += 1) {
      const kind = entries.kinds[i]
      if (kind === EntryKind.data || kind === EntryKind.trim || kind === EntryKind.zero) {
        this.#applyRange(i, header, block, where)
      } else if (kind === EntryKind.grow) {
        this.#applyGrowth(i, header, where)
      } else if (kind === EntryKind.operation) {
        const start = offset + (1 + block) * BLOCK_SIZE_BYTES
        this.#applyOperation(start, entries.counts[i], where)
      }
      if (kind !== EntryKind.node && kind !== EntryKind.catalogue) isChange = true
      block += blocksOfEntry(kind, entries.counts[i])
    }
    if (isChange) this.#changeCount += 1
    readRecordChecksum(this.#reader.memory, offset, this.#chain)
    this.#expected = header.sequence + 1
    this.#recordCount += 1
  }

  #applyRange(index: number, header: RecordHeader, block: number, where: string): void {
    const { entries } = this.#decoder
    const start = entries.blockIndexes[index]
    const count = entries.counts[index]
    const disk = this.#findChanged(entries.diskIds[index], header, where)
    if (disk === null) return
    if (start + count > blockCountOf(disk)) {
      const name = this.#disks.nameOf(disk)
      const fact = `record ${header.sequence} writes past the end of "${name}"`
      this.#findings.errors.add('record-past-end', where, fact)
      return
    }
    const isData = entries.kinds[index] === EntryKind.data
    const segment = isData ? header.segment : 0
    const slot = isData ? header.slot + 1 + block : 0
    this.#disks.overlay(disk, { start, count, segment, slot })
  }

  #applyGrowth(index: number, header: RecordHeader, where: string): void {
    const { entries } = this.#decoder
    const disk = this.#findChanged(entries.diskIds[index], header, where)
    if (disk === null) return
    const sizeBytes = grownSizeBytes(entries.blockIndexes[index], entries.counts[index])
    disk.sizeBytes = Math.max(disk.sizeBytes, sizeBytes)
  }

  /** The volume that a record changes, or null when there is none. */
  #findChanged(id: number, header: RecordHeader, where: string): Disk | null {
    const disk = this.#disks.get(id)
    if (disk?.kind === 'volume') return disk
    if (disk !== null) {
      const fact = `record ${header.sequence} writes to the snapshot "${this.#disks.nameOf(disk)}"`
      this.#findings.errors.add('record-nonsense', where, fact)
    } else if (!this.#disks.isIncomplete) {
      const isKnown = this.#disks.wasRemoved(id)
      const list = isKnown ? this.#findings.warnings : this.#findings.errors
      const code = isKnown ? 'record-removed-disk' : 'record-unknown-disk'
      list.add(code, where, `record ${header.sequence} writes to disk ${id}, which is not there`)
    }
    return null
  }

  #applyOperation(start: number, blockCount: number, where: string): void {
    const { memory } = this.#reader
    try {
      const part = decodePart(memory.subarray(start, start + blockCount * BLOCK_SIZE_BYTES))
      if (part.kind !== PartKind.operation) {
        this.#findings.errors.add('operation-corrupt', where, 'a checkpoint part is journalled')
        return
      }
      if (part.lines.length !== 1) {
        const fact = `${part.lines.length} operations are journalled as one`
        this.#findings.errors.add('operation-corrupt', where, fact)
      }
      for (const line of part.lines) this.#disks.applyOperation(verifyOperation(line), where)
    } catch (error) {
      if (!(error instanceof CorruptionError)) throw error
      this.#findings.errors.add('operation-corrupt', where, error.message)
    }
  }

  /** Looks past every end of the log for records that vouch for the one that is missing. */
  async #findLostRecords(start: LogPosition): Promise<void> {
    for (const { id, kind, footer, sizeBytes } of this.#survey.segments) {
      if (id < start.segment || kind === SegmentKind.bulk) continue
      if (footer?.settled !== undefined) continue
      const first = id === start.segment ? start.slot : DATA_SLOT_FIRST
      const end = Math.min(DATA_SLOT_END, Math.ceil(sizeBytes / BLOCK_SIZE_BYTES))
      let slot = this.#endSlots.get(id) ?? first
      while (slot < end) {
        const count = Math.min(READ_SLOT_COUNT_MAX, end - slot)
        if (!(await this.#readWindow(id, slot, count))) break
        if (this.#hasWitness(id, slot, count)) return
        slot += count
      }
    }
  }

  /** Whether the window read at `slot` holds proof of a gap; reports it if so. */
  #hasWitness(segment: number, slot: number, count: number): boolean {
    const { memory, offsetBytes } = this.#reader
    for (let at = 0; at < count; at += 1) {
      const offset = offsetBytes + at * BLOCK_SIZE_BYTES
      const header = this.#decoder.tryDecode(memory, offset, segment, slot + at)
      if (header === null || header.durableSequence <= this.#expected) continue
      const fact =
        `record ${this.#expected} is missing or damaged, yet record ${header.sequence} says that ` +
        `everything below ${header.durableSequence} was durable`
      this.#findings.errors.add('log-gap', placeOf(segment, slot + at), fact)
      return true
    }
    return false
  }
}
