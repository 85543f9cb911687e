/** Reads single blocks and short runs by address and holds them against their checksums. */
import type { Checksum } from '../base/checksum.ts'
import { BLOCK_SIZE_BYTES } from '../base/units.ts'
import type { PoolReader } from './pool-reader.ts'
import type { FindingCode } from './report.ts'
import { placeOf } from './report.ts'
import type { SegmentSurvey } from './segment-survey.ts'
import type { SegmentTables } from './segment-tables.ts'

export interface ReadFault {
  code: FindingCode
  where: string
  fact: string
}

export class BlockReader {
  readonly #reader: PoolReader
  readonly #checksum: Checksum
  readonly #survey: SegmentSurvey
  readonly #tables: SegmentTables

  constructor(
    reader: PoolReader,
    checksum: Checksum,
    survey: SegmentSurvey,
    tables: SegmentTables,
  ) {
    this.#reader = reader
    this.#checksum = checksum
    this.#survey = survey
    this.#tables = tables
  }

  /** The bytes of `count` slots, valid until the next read, or what is wrong with them. */
  async read(segment: number, slot: number, count: number): Promise<Uint8Array | ReadFault> {
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
        return { code: tableFinding.code, where, fact: 'its checksum is damaged' }
      }
      if (table.hasBlock(at)) continue
      return { code: 'address-no-block', where: placeOf(segment, at), fact: 'no block lies there' }
    }
    const result = await this.#reader.readSlots(segment, slot, count)
    if (result < 0) {
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
}
