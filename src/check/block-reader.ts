/** Reads single blocks and short runs by address and holds them against their checksums. */
import type { Checksum } from '../base/checksum.ts'
import { BLOCK_SIZE_BYTES } from '../base/units.ts'
import { PLACE_ALIAS, PLACE_ZERO, aliasSlot, placeKind } from '../format/directory.ts'
import type { FrameReader } from './frame-reader.ts'
import { offsetInFrame } from './frame-reader.ts'
import type { PoolReader } from './pool-reader.ts'
import type { FindingCode } from './report.ts'
import { placeOf } from './report.ts'
import type { SegmentSurvey } from './segment-survey.ts'
import type { SegmentTable, SegmentTables } from './segment-tables.ts'

export interface ReadFault {
  code: FindingCode
  where: string
  fact: string
}

/** Where the bytes of a slot are: a slot of its own, or a place in a directory. */
interface BlockPlace {
  segment: number
  slot: number
  table: SegmentTable
}

export class BlockReader {
  readonly #reader: PoolReader
  readonly #checksum: Checksum
  readonly #frames: FrameReader
  readonly #survey: SegmentSurvey
  readonly #tables: SegmentTables

  constructor(
    reader: PoolReader,
    checksum: Checksum,
    frames: FrameReader,
    survey: SegmentSurvey,
    tables: SegmentTables,
  ) {
    this.#reader = reader
    this.#checksum = checksum
    this.#frames = frames
    this.#survey = survey
    this.#tables = tables
  }

  /** The bytes of `count` slots, valid until the next read, or what is wrong with them. */
  async read(segment: number, slot: number, count: number): Promise<Uint8Array | ReadFault> {
    const table = await this.#mustHold(segment, slot, count)
    if (!('words' in table)) return table
    if (table.places === null) return this.#readRaw(table, segment, slot, count)
    const bytes = new Uint8Array(count * BLOCK_SIZE_BYTES)
    for (let i = 0; i < count; i += 1) {
      const at = i * BLOCK_SIZE_BYTES
      const block = bytes.subarray(at, at + BLOCK_SIZE_BYTES)
      const fault = await this.#readSettled({ segment, slot: slot + i, table }, block)
      if (fault !== null) return fault
    }
    return bytes
  }

  /** The table of a segment in which `count` slots from this one hold blocks. */
  async #mustHold(segment: number, slot: number, count: number): Promise<SegmentTable | ReadFault> {
    const where = placeOf(segment, slot, count)
    const fault = this.#survey.findAddressFault(segment, slot, count)
    if (fault !== null) return { ...fault, where }
    const table = await this.#tables.load(segment)
    if (table === null) {
      return { code: 'address-missing-segment', where, fact: `segment ${segment} has no file` }
    }
    for (let at = slot; at < slot + count; at += 1) {
      const tableFinding = table.findingOf(at)
      if (tableFinding !== null) {
        return {
          code: tableFinding.code,
          where,
          fact: `what says where it is: ${tableFinding.message}`,
        }
      }
      if (table.hasBlock(at)) continue
      return { code: 'address-no-block', where: placeOf(segment, at), fact: 'no block lies there' }
    }
    return table
  }

  async #readRaw(
    table: SegmentTable,
    segment: number,
    slot: number,
    count: number,
  ): Promise<Uint8Array | ReadFault> {
    const result = await this.#reader.readSlots(segment, slot, count)
    if (result < 0) {
      const where = placeOf(segment, slot, count)
      return { code: 'read-failed', where, fact: `it cannot be read (errno ${-result})` }
    }
    const { memory, offsetBytes } = this.#reader
    const bad = this.#checksum.verifyBlocks(memory, offsetBytes, count, table.words, 2 * slot)
    if (bad >= 0) {
      const fact = 'its bytes do not match their checksum'
      return { code: 'block-corrupt', where: placeOf(segment, slot + bad), fact }
    }
    return memory.subarray(offsetBytes, offsetBytes + count * BLOCK_SIZE_BYTES)
  }

  /** Fills `block`, or says what is wrong. */
  async #readSettled(first: BlockPlace, block: Uint8Array): Promise<ReadFault | null> {
    const end = await this.#follow(first)
    if ('fact' in end) return end
    const { segment, slot, table } = end
    const where = placeOf(segment, slot)
    const word0 = table.places?.[2 * slot] ?? 0
    const word1 = table.places?.[2 * slot + 1] ?? 0
    if (table.places === null) {
      const read = await this.#readRaw(table, segment, slot, 1)
      if (!(read instanceof Uint8Array)) return read
      block.set(read)
    } else if (placeKind(word1) === PLACE_ZERO) {
      block.fill(0)
    } else {
      const fault = await this.#frames.load(segment, word0, word1)
      if (fault !== null) return { ...fault, where }
      const at = offsetInFrame(word0)
      block.set(this.#frames.blocks.subarray(at, at + BLOCK_SIZE_BYTES))
    }
    const isSound = this.#checksum.verifyBlocks(block, 0, 1, table.words, 2 * slot) === -1
    if (isSound) return null
    return { code: 'block-corrupt', where, fact: 'its bytes do not match their checksum' }
  }

  /** Each alias points lower than the one before, or its table would say so: this ends. */
  async #follow(first: BlockPlace): Promise<BlockPlace | ReadFault> {
    let { segment, slot, table } = first
    while (table.places !== null && placeKind(table.places[2 * slot + 1]) === PLACE_ALIAS) {
      const where = placeOf(segment, slot)
      const low = table.words[2 * slot]
      const high = table.words[2 * slot + 1]
      segment = table.places[2 * slot]
      slot = aliasSlot(table.places[2 * slot + 1])
      const next = await this.#mustHold(segment, slot, 1)
      if (!('words' in next)) return next
      if (next.words[2 * slot] !== low || next.words[2 * slot + 1] !== high) {
        return { code: 'alias-unequal', where, fact: 'it points to a block that is not equal' }
      }
      table = next
    }
    return { segment, slot, table }
  }
}
