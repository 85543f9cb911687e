/** Record headers that lie where they say they lie. */
import type { Checksum } from '../base/checksum.ts'
import type { RecordHeader } from '../format/record.ts'
import { RECORD_BLOCK_COUNT_MAX, RecordEntries, tryDecodeRecordHeader } from '../format/record.ts'
import { DATA_SLOT_END, DATA_SLOT_FIRST } from '../format/segment.ts'
import type { PoolReader } from './pool-reader.ts'

export class RecordDecoder {
  /** Of the header decoded last. */
  readonly entries: RecordEntries = new RecordEntries()
  /** Of the header decoded last: two words a block. */
  readonly blockChecksums: Uint32Array = new Uint32Array(2 * RECORD_BLOCK_COUNT_MAX)
  readonly checksum: Checksum
  readonly #poolId: Uint8Array

  constructor(poolId: Uint8Array, checksum: Checksum) {
    this.#poolId = poolId
    this.checksum = checksum
  }

  /** Null unless a sound header of this pool was written for this very place and fits there. */
  tryDecode(
    memory: Uint8Array,
    offsetBytes: number,
    segment: number,
    slot: number,
  ): RecordHeader | null {
    const { entries, blockChecksums, checksum } = this
    const header = tryDecodeRecordHeader(
      memory,
      offsetBytes,
      this.#poolId,
      checksum,
      entries,
      blockChecksums,
    )
    if (header === null || header.segment !== segment || header.slot !== slot) return null
    return slot + 1 + header.blockCount <= DATA_SLOT_END ? header : null
  }
}

/** Told what a walk along the headers of an open segment meets. */
export interface HeaderVisitor {
  /** `decoder.blockChecksums` holds those of the record. */
  header(header: RecordHeader): void
  /** No sound header lies at `slot` although the walk must get past it. */
  gap(slot: number): void
}

/**
 * Walks from header to header of a log segment without looking at blocks. Ends at the first slot
 * without a sound header; below `mustReachSlot` it reports a gap instead and searches on, slot by
 * slot. Returns the slot where it ended.
 */
export async function walkHeaders(
  reader: PoolReader,
  decoder: RecordDecoder,
  segment: number,
  mustReachSlot: number,
  visitor: HeaderVisitor,
): Promise<number> {
  let slot = DATA_SLOT_FIRST
  let isInGap = false
  while (slot < DATA_SLOT_END) {
    const result = await reader.readSlots(segment, slot, 1)
    const header =
      result < 0 ? null : decoder.tryDecode(reader.memory, reader.offsetBytes, segment, slot)
    if (header !== null) {
      visitor.header(header)
      slot += 1 + header.blockCount
      isInGap = false
      continue
    }
    if (slot >= mustReachSlot) return slot
    if (!isInGap) visitor.gap(slot)
    isInGap = true
    slot += 1
  }
  return DATA_SLOT_END
}
