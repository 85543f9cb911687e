/**
 * Reads the records of one log segment in order, as recovery does. A record counts only if its
 * header is sound and names this pool, segment and slot, if it continues the chain of sequence
 * and checksum, and if each of its blocks matches (I3).
 */
import type { Checksum } from '../base/checksum.ts'
import { OperatingError } from '../base/errors.ts'
import { BLOCK_SIZE_BYTES, MIB } from '../base/units.ts'
import { PAGE_SIZE_BYTES } from '../format/page.ts'
import type { RecordHeader } from '../format/record.ts'
import {
  RECORD_BLOCK_COUNT_MAX,
  RecordEntries,
  readRecordChecksum,
  tryDecodeRecordHeader,
} from '../format/record.ts'
import { DATA_SLOT_END, DATA_SLOT_FIRST } from '../format/segment.ts'
import type { Io, IoFile } from '../io/io.ts'
import { ioResult } from '../io/io.ts'
import type { SegmentState } from './segment-state.ts'
import type { SegmentStore } from './segment-store.ts'

/** What the next record must continue; null accepts any first record. */
export interface ChainEnd {
  sequence: number
  /** Two words. */
  previousChecksum: Uint32Array
}

/** One valid record; `memory[blocksOffset…]` holds its blocks until the visit ends. */
export interface ScannedRecord {
  header: RecordHeader
  entries: RecordEntries
  blockChecksums: Uint32Array
  firstBlockSlot: number
  blocksOffset: number
}

export interface ScanEnd {
  /** First slot that no valid record covers. */
  slot: number
  recordCount: number
  chain: ChainEnd | null
}

const WINDOW_BYTES = MIB

export class SegmentScanner {
  readonly #io: Io
  readonly #store: SegmentStore
  readonly #checksum: Checksum
  readonly #window: number
  readonly #entries: RecordEntries = new RecordEntries()
  readonly #blockChecksums: Uint32Array = new Uint32Array(2 * RECORD_BLOCK_COUNT_MAX)

  constructor(io: Io, store: SegmentStore) {
    this.#io = io
    this.#store = store
    this.#checksum = store.checksum
    const window = io.arena.allocate(WINDOW_BYTES)
    if (window < 0) {
      throw new OperatingError('no-space', 'no memory for reading the log', {
        hint: 'give the engine a larger arena',
      })
    }
    this.#window = window
  }

  close(): void {
    this.#io.arena.free(this.#window, WINDOW_BYTES)
  }

  /** Visits the valid records from `slot` on. Rejects only on read errors and the visitor's. */
  async scan(
    state: SegmentState,
    slot: number,
    chain: ChainEnd | null,
    visit: (record: ScannedRecord) => Promise<void> | void,
  ): Promise<ScanEnd> {
    const file = await this.#store.openFile(state)
    let at = slot
    let windowSlot = slot
    let windowBytes = await this.#fill(file, slot)
    let recordCount = 0
    let next = chain
    while (at < DATA_SLOT_END) {
      let offset = (at - windowSlot) * BLOCK_SIZE_BYTES
      const whole = this.#recordBytes(offset, windowBytes)
      if (whole > windowBytes - offset) {
        if (offset === 0) break
        windowSlot = at
        windowBytes = await this.#fill(file, at)
        offset = 0
      }
      const header = this.#tryRecord(state.id, at, offset, windowBytes, next)
      if (header === null) break
      const page = this.#window + offset
      const end: ChainEnd = {
        sequence: header.sequence + 1,
        previousChecksum: new Uint32Array(2),
      }
      readRecordChecksum(this.#io.arena.memory, page, end.previousChecksum)
      await visit({
        header,
        entries: this.#entries,
        blockChecksums: this.#blockChecksums,
        firstBlockSlot: at + 1,
        blocksOffset: page + PAGE_SIZE_BYTES,
      })
      next = end
      recordCount += 1
      at += 1 + header.blockCount
    }
    return { slot: at, recordCount, chain: next }
  }

  /**
   * Shows the headers of all records below `endSlot`, whose blocks may be damaged, with the
   * checksums of those. Returns the slots where no sound header lies although one must.
   */
  async scanHeaders(
    state: SegmentState,
    endSlot: number,
    visit: (header: RecordHeader, blockChecksums: Uint32Array) => void,
  ): Promise<number[]> {
    const file = await this.#store.openFile(state)
    const lost: number[] = []
    let isLost = false
    let windowSlot = 0
    let windowBytes = 0
    for (let at = DATA_SLOT_FIRST; at < endSlot;) {
      let offset = (at - windowSlot) * BLOCK_SIZE_BYTES
      if (offset + PAGE_SIZE_BYTES > windowBytes) {
        windowSlot = at
        windowBytes = await this.#fill(file, at)
        offset = 0
      }
      const header = windowBytes < offset + PAGE_SIZE_BYTES ? null : this.#decode(offset)
      const isHere = header?.segment === state.id && header.slot === at
      if (isHere && at + 1 + header.blockCount <= DATA_SLOT_END) {
        visit(header, this.#blockChecksums)
        at += 1 + header.blockCount
        isLost = false
        continue
      }
      if (!isLost) lost.push(at)
      isLost = true
      at += 1
    }
    return lost
  }

  /** Whether the segment's first record continues the chain. */
  async peek(state: SegmentState, chain: ChainEnd): Promise<boolean> {
    const windowBytes = await this.#fill(await this.#store.openFile(state), DATA_SLOT_FIRST)
    return this.#tryRecord(state.id, DATA_SLOT_FIRST, 0, windowBytes, chain) !== null
  }

  /**
   * Looks at every slot from `slot` on for sound headers, valid blocks or not, and returns the
   * highest `durableSequence` any of them carries: what was durable when they were written.
   */
  async highestDurable(state: SegmentState, slot: number): Promise<number> {
    const file = await this.#store.openFile(state)
    let highest = 0
    for (let at = slot; at < DATA_SLOT_END; at += WINDOW_BYTES / BLOCK_SIZE_BYTES) {
      const windowBytes = await this.#fill(file, at)
      if (windowBytes === 0) break
      for (let offset = 0; offset + PAGE_SIZE_BYTES <= windowBytes; offset += PAGE_SIZE_BYTES) {
        const header = this.#decode(offset)
        if (header?.segment !== state.id) continue
        if (header.slot !== at + offset / PAGE_SIZE_BYTES) continue
        highest = Math.max(highest, header.durableSequence)
      }
    }
    return highest
  }

  /** Bytes of the record whose header lies at `offset` of the window; one page if it is none. */
  #recordBytes(offset: number, windowBytes: number): number {
    if (windowBytes - offset < PAGE_SIZE_BYTES) return PAGE_SIZE_BYTES
    const header = this.#decode(offset)
    return PAGE_SIZE_BYTES * (1 + (header?.blockCount ?? 0))
  }

  #decode(offset: number): RecordHeader | null {
    return tryDecodeRecordHeader(
      this.#io.arena.memory,
      this.#window + offset,
      this.#store.poolId,
      this.#checksum,
      this.#entries,
      this.#blockChecksums,
    )
  }

  #tryRecord(
    segment: number,
    slot: number,
    offset: number,
    windowBytes: number,
    chain: ChainEnd | null,
  ): RecordHeader | null {
    if (windowBytes - offset < PAGE_SIZE_BYTES) return null
    const header = this.#decode(offset)
    if (header === null) return null
    if (header.segment !== segment || header.slot !== slot) return null
    if (chain !== null) {
      if (header.sequence !== chain.sequence) return null
      if (header.previousChecksum[0] !== chain.previousChecksum[0]) return null
      if (header.previousChecksum[1] !== chain.previousChecksum[1]) return null
    }
    const blocks = offset + PAGE_SIZE_BYTES
    if (blocks + header.blockCount * BLOCK_SIZE_BYTES > windowBytes) return null
    if (slot + 1 + header.blockCount > DATA_SLOT_END) return null
    const { memory } = this.#io.arena
    const bad = this.#checksum.verifyBlocks(
      memory,
      this.#window + blocks,
      header.blockCount,
      this.#blockChecksums,
      0,
    )
    return bad === -1 ? header : null
  }

  /**
   * Reads a window from `slot` on; 0: the file ends before it. What lies past the end reads as
   * zeros, as it will when sealing has made the file longer: a record of which only zeros are
   * missing must not be torn for this recovery and whole for a later one.
   */
  async #fill(file: IoFile, slot: number): Promise<number> {
    const lengthBytes = Math.min(WINDOW_BYTES, (DATA_SLOT_END - slot) * BLOCK_SIZE_BYTES)
    if (lengthBytes <= 0) return 0
    const result = await ioResult((completion) => {
      this.#io.read(file, slot * BLOCK_SIZE_BYTES, this.#window, lengthBytes, completion, 0)
    })
    if (result < 0) {
      throw new OperatingError('io', `${file.path} cannot be read`, {
        errno: -result,
        hint: 'repair the disk, or open the pool on a copy of it',
      })
    }
    if (result === 0) return 0
    this.#io.arena.memory.fill(0, this.#window + result, this.#window + lengthBytes)
    return lengthBytes
  }
}
