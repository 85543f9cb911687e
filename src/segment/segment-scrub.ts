/**
 * Reads a whole sealed segment from its file, past every cache, and judges it: header, footer, the
 * pages of its table or directory, record headers, every block, live or not, and what fills up the
 * last page of frames. What a hole may be (a slot never written, or punched) is no fault while it
 * reads as zeros and nobody refers to it.
 */
import { must } from '../base/assert.ts'
import { isZero } from '../base/bytes.ts'
import type { Codec, Codecs } from '../base/codec.ts'
import { FRAME_BYTES_MAX } from '../base/codec.ts'
import { CorruptionError, OperatingError } from '../base/errors.ts'
import { BLOCK_SIZE_BYTES } from '../base/units.ts'
import {
  PLACE_FRAME,
  findPlaceFault,
  frameBlockCount,
  frameCodec,
  frameIndex,
  frameOffset,
  frameStoredBytes,
} from '../format/directory.ts'
import { PAGE_SIZE_BYTES } from '../format/page.ts'
import { RECORD_BLOCK_COUNT_MAX, RecordEntries, tryDecodeRecordHeader } from '../format/record.ts'
import type { SegmentFooter } from '../format/segment.ts'
import {
  DATA_SLOT_END,
  DATA_SLOT_FIRST,
  FOOTER_SLOT,
  SegmentKind,
  TABLE_PAGE_SLOT_COUNT,
  TABLE_PAGE_SLOT_SHIFT,
  tryDecodeSegmentFooter,
  tryDecodeSegmentHeader,
} from '../format/segment.ts'
import { allocateArena } from '../io/arena.ts'
import type { IoFile } from '../io/io.ts'
import { ioResult } from '../io/io.ts'
import type { SegmentState } from './segment-state.ts'
import type { SegmentStore } from './segment-store.ts'
import { SegmentTable, TABLE_PAGE_INDEXES, TablePageLoader } from './segment-table.ts'

/** Read and judged between two pauses: about a tenth of a millisecond of the engine's time. */
const WINDOW_SLOT_COUNT = 128
const WINDOW_BYTES: number = WINDOW_SLOT_COUNT * BLOCK_SIZE_BYTES

/** `file`: it cannot be opened. `record`: a record's header. `padding`: behind the last frame. */
export type FaultKind =
  'file' | 'header' | 'footer' | 'table' | 'record' | 'block' | 'frame' | 'padding'

export interface SegmentFault {
  kind: FaultKind
  /** The first slot it makes unreadable or, of what is no slot, where it lies in the file. */
  slot: number
  count: number
}

/** The segment being read. */
interface Scanned {
  id: number
  file: IoFile
  footer: SegmentFooter
  table: SegmentTable
  /** By page of the table. */
  isKnown: boolean[]
  isLive: (slot: number) => boolean
  faults: SegmentFault[]
}

export class SegmentScrubber {
  readonly #store: SegmentStore
  readonly #codecs: Codecs
  readonly #loader: TablePageLoader
  readonly #window: number
  readonly #decoded: Buffer = Buffer.alloc(FRAME_BYTES_MAX)
  readonly #entries: RecordEntries = new RecordEntries()
  readonly #blockChecksums: Uint32Array = new Uint32Array(2 * RECORD_BLOCK_COUNT_MAX)
  readonly #pace: (readBytes: number) => Promise<void>

  private constructor(
    store: SegmentStore,
    codecs: Codecs,
    window: number,
    pace: (readBytes: number) => Promise<void>,
  ) {
    this.#store = store
    this.#codecs = codecs
    this.#loader = new TablePageLoader(store.io, store.checksum, codecs)
    this.#window = window
    this.#pace = pace
  }

  /** `pace` is told what was read since the last call, and rejects to give up. */
  static async create(
    store: SegmentStore,
    codecs: Codecs,
    pace: (readBytes: number) => Promise<void>,
  ): Promise<SegmentScrubber> {
    const window = await allocateArena(store.io.arena, WINDOW_BYTES)
    return new SegmentScrubber(store, codecs, window, pace)
  }

  close(): void {
    this.#loader.close()
    this.#store.io.arena.free(this.#window, WINDOW_BYTES)
  }

  /** `isLive`: a slot that a disk refers to must not read as a hole. Rejects what `pace` does. */
  async scan(id: number, isLive: (slot: number) => boolean): Promise<SegmentFault[]> {
    const faults: SegmentFault[] = []
    let state: SegmentState
    try {
      state = await this.#store.hold(id)
    } catch (error) {
      if (!(error instanceof OperatingError)) throw error
      return [{ kind: 'file', slot: 0, count: 1 }]
    }
    try {
      const file = must(state.file, 'the file of a held segment')
      if (!(await this.#isHeaderSound(id, file))) faults.push({ kind: 'header', slot: 0, count: 1 })
      const footer = await this.#readFooter(id, file)
      if (footer === null) {
        faults.push({ kind: 'footer', slot: DATA_SLOT_FIRST, count: DATA_SLOT_END - 1 })
        return faults
      }
      const table = new SegmentTable(footer.settled !== undefined)
      const isKnown = TABLE_PAGE_INDEXES.map(() => true)
      const scanned = { id, file, footer, table, isKnown, isLive, faults }
      await this.#readTable(scanned)
      await (table.places === null ? this.#scanSlots(scanned) : this.#scanFrames(scanned))
      return faults
    } finally {
      this.#store.unpin(state)
    }
  }

  async #isHeaderSound(id: number, file: IoFile): Promise<boolean> {
    if ((await this.#read(file, 0, PAGE_SIZE_BYTES)) < PAGE_SIZE_BYTES) return false
    const { poolId, checksum, io } = this.#store
    const header = tryDecodeSegmentHeader(io.arena.memory, this.#window, poolId, checksum)
    return header?.segment === id
  }

  async #readFooter(id: number, file: IoFile): Promise<SegmentFooter | null> {
    const offsetBytes = FOOTER_SLOT * BLOCK_SIZE_BYTES
    if ((await this.#read(file, offsetBytes, PAGE_SIZE_BYTES)) < PAGE_SIZE_BYTES) return null
    const { poolId, checksum, io } = this.#store
    return tryDecodeSegmentFooter(io.arena.memory, this.#window, poolId, id, checksum)
  }

  async #readTable(scanned: Scanned): Promise<void> {
    const { file, footer, table, isKnown, faults } = scanned
    for (const index of TABLE_PAGE_INDEXES) {
      try {
        table.setPage(index, await this.#loader.load(file, footer, index))
      } catch (error) {
        if (!(error instanceof CorruptionError || error instanceof OperatingError)) throw error
        isKnown[index] = false
        const slot = index * TABLE_PAGE_SLOT_COUNT
        faults.push({ kind: 'table', slot, count: TABLE_PAGE_SLOT_COUNT })
      }
    }
    await this.#pace(footer.settled === undefined ? TABLE_PAGE_INDEXES.length * PAGE_SIZE_BYTES : 0)
  }

  async #scanSlots(scanned: Scanned): Promise<void> {
    const { footer, file } = scanned
    for (let slot = DATA_SLOT_FIRST; slot < footer.usedSlotCount; slot += WINDOW_SLOT_COUNT) {
      const count = Math.min(WINDOW_SLOT_COUNT, footer.usedSlotCount - slot)
      const offsetBytes = slot * BLOCK_SIZE_BYTES
      const result = await this.#read(file, offsetBytes, count * BLOCK_SIZE_BYTES)
      const suspects =
        result === count * BLOCK_SIZE_BYTES
          ? this.#suspects(scanned, slot, count)
          : Array.from({ length: count }, (_, i) => slot + i)
      // Once more, alone: one bad sector must not take its neighbours along, and what was punched
      // or written while it was read is no damage.
      for (const suspect of suspects) await this.#judgeAlone(scanned, suspect)
      await this.#pace(count * BLOCK_SIZE_BYTES)
    }
  }

  /** Slots of the window that are not what they should be. */
  #suspects(scanned: Scanned, first: number, count: number): number[] {
    const { table, isKnown } = scanned
    const { checksum, io } = this.#store
    const suspects: number[] = []
    let at = 0
    while (at < count) {
      let run = 0
      while (at + run < count && isKnownBlock(table, isKnown, first + at + run)) run += 1
      const offset = this.#window + at * BLOCK_SIZE_BYTES
      const sums = table.checksums
      const bad =
        run === 0 ? 0 : checksum.verifyBlocks(io.arena.memory, offset, run, sums, 2 * (first + at))
      at += bad < 0 ? run : bad
      if (bad < 0 || at >= count) continue
      if (this.#judge(scanned, first + at, this.#window + at * BLOCK_SIZE_BYTES) !== null) {
        suspects.push(first + at)
      }
      at += 1
    }
    return suspects
  }

  async #judgeAlone(scanned: Scanned, slot: number): Promise<void> {
    const result = await this.#read(scanned.file, slot * BLOCK_SIZE_BYTES, BLOCK_SIZE_BYTES)
    const isBlock = isKnownBlock(scanned.table, scanned.isKnown, slot)
    const kind =
      result === BLOCK_SIZE_BYTES
        ? this.#judge(scanned, slot, this.#window)
        : isBlock
          ? 'block'
          : 'record'
    if (kind !== null) addFault(scanned.faults, kind, slot)
  }

  /** What is wrong with a raw slot whose bytes lie at `offset`, or null. */
  #judge(scanned: Scanned, slot: number, offset: number): FaultKind | null {
    const { table, isKnown, footer, id, isLive } = scanned
    if (!isKnown[slot >> TABLE_PAGE_SLOT_SHIFT]) return null
    const { checksum, io, poolId } = this.#store
    const { memory } = io.arena
    if (table.hasBlock(slot)) {
      if (checksum.verifyBlocks(memory, offset, 1, table.checksums, 2 * slot) < 0) return null
      const isHole = isZero(memory, offset, offset + BLOCK_SIZE_BYTES)
      return isHole && !isLive(slot) ? null : 'block'
    }
    if (isLive(slot)) return 'block'
    if (isZero(memory, offset, offset + BLOCK_SIZE_BYTES)) return null
    if (footer.kind !== SegmentKind.log) return 'record'
    const sums = this.#blockChecksums
    const args = [memory, offset, poolId, checksum, this.#entries, sums] as const
    const header = tryDecodeRecordHeader(...args)
    return header?.segment === id && header.slot === slot ? null : 'record'
  }

  async #scanFrames(scanned: Scanned): Promise<void> {
    const { table, isKnown, id, file } = scanned
    const places = must(table.places, 'the places of a settled segment')
    const slots: number[] = []
    for (let slot = DATA_SLOT_FIRST; slot < DATA_SLOT_END; slot += 1) {
      if (!isKnown[slot >> TABLE_PAGE_SLOT_SHIFT]) continue
      const fault = findPlaceFault(id, slot, places[2 * slot], places[2 * slot + 1])
      if (fault !== null) addFault(scanned.faults, 'block', slot)
      else if (table.kindOf(slot) === PLACE_FRAME) slots.push(slot)
    }
    const start = (slot: number): number => frameOffset(places[2 * slot])
    const end = (slot: number): number => start(slot) + frameStoredBytes(places[2 * slot + 1])
    slots.sort((a, b) => start(a) - start(b) || a - b)
    let first = 0
    while (first < slots.length) {
      const startBytes = start(slots[first])
      let last = first
      while (last + 1 < slots.length && end(slots[last + 1]) <= startBytes + WINDOW_BYTES) last += 1
      const lengthBytes = end(slots[last]) - startBytes
      const result = await this.#read(file, startBytes, lengthBytes)
      const group = slots.slice(first, last + 1)
      await this.#judgeFrames(scanned, group, startBytes, result === lengthBytes)
      await this.#pace(lengthBytes)
      first = last + 1
    }
    scanned.faults.sort((a, b) => a.slot - b.slot)
    await this.#judgePadding(scanned)
  }

  async #judgeFrames(
    scanned: Scanned,
    slots: readonly number[],
    windowBytes: number,
    isRead: boolean,
  ): Promise<void> {
    const { table, file, faults } = scanned
    const places = must(table.places, 'the places of a settled segment')
    let decodedOffset = -1
    let isDecoded = false
    for (const slot of slots) {
      const word0 = places[2 * slot]
      const word1 = places[2 * slot + 1]
      const offset = frameOffset(word0)
      if (offset !== decodedOffset) {
        decodedOffset = offset
        let at = this.#window + offset - windowBytes
        if (!isRead) at = await this.#readFrame(file, word0, word1)
        isDecoded = at >= 0 && this.#decode(at, word0, word1)
      }
      const index = frameIndex(word0) * BLOCK_SIZE_BYTES
      const { checksum } = this.#store
      const { checksums } = table
      if (!isDecoded) addFault(faults, 'frame', slot)
      else if (checksum.verifyBlocks(this.#decoded, index, 1, checksums, 2 * slot) >= 0) {
        addFault(faults, 'block', slot)
      }
    }
  }

  /** One unreadable sector must not take other frames along. -1: it lies there. */
  async #readFrame(file: IoFile, word0: number, word1: number): Promise<number> {
    const storedBytes = frameStoredBytes(word1)
    const result = await this.#read(file, frameOffset(word0), storedBytes)
    return result === storedBytes ? this.#window : -1
  }

  #decode(at: number, word0: number, word1: number): boolean {
    const { memory } = this.#store.io.arena
    const storedBytes = frameStoredBytes(word1)
    const rawBytes = frameBlockCount(word1) * BLOCK_SIZE_BYTES
    const codec = frameCodec(word0) as Codec
    return this.#codecs.decode(codec, memory, at, storedBytes, this.#decoded, 0, rawBytes)
  }

  /** The page in which the last frame ends is zeros from there on. */
  async #judgePadding({ file, footer, isKnown, faults }: Scanned): Promise<void> {
    const endBytes = BLOCK_SIZE_BYTES + must(footer.settled, 'the layout').frameBytes
    const withinBytes = endBytes % BLOCK_SIZE_BYTES
    if (withinBytes === 0 || isKnown.includes(false)) return
    const result = await this.#read(file, endBytes - withinBytes, BLOCK_SIZE_BYTES)
    const { memory } = this.#store.io.arena
    const from = this.#window + withinBytes
    if (result === BLOCK_SIZE_BYTES && isZero(memory, from, this.#window + BLOCK_SIZE_BYTES)) return
    addFault(faults, 'padding', Math.floor(endBytes / BLOCK_SIZE_BYTES))
  }

  #read(file: IoFile, offsetBytes: number, lengthBytes: number): Promise<number> {
    return ioResult((completion) => {
      this.#store.io.read(file, offsetBytes, this.#window, lengthBytes, completion, 0)
    })
  }
}

function isKnownBlock(table: SegmentTable, isKnown: readonly boolean[], slot: number): boolean {
  return isKnown[slot >> TABLE_PAGE_SLOT_SHIFT] && table.hasBlock(slot)
}

/** Joined to the last one where they meet. */
function addFault(faults: SegmentFault[], kind: FaultKind, slot: number): void {
  const last = faults.at(-1)
  if (last?.kind === kind && last.slot + last.count === slot) last.count += 1
  else faults.push({ kind, slot, count: 1 })
}
