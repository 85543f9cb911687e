import { assert } from '../base/assert.ts'
import type { Codec } from '../base/codec.ts'
import { SEGMENT_SLOT_COUNT } from '../base/units.ts'
import {
  DIRECTORY_PAGE_WORDS,
  FRAME_BLOCK_COUNT_MAX,
  PLACE_DEAD,
  PLACE_FRAME,
  PLACE_WORD_FIRST,
  ZERO_PLACE_WORD1,
  aliasWord1,
  findPlaceFault,
  frameBlockCount,
  frameCodec,
  frameIndex,
  frameOffset,
  frameStoredBytes,
  placeKind,
} from '../format/directory.ts'
import type { FramePlace } from '../format/directory.ts'
import {
  DATA_SLOT_END,
  DATA_SLOT_FIRST,
  DIRECTORY_PAGE_BYTES,
  TABLE_PAGE_COUNT,
} from '../format/segment.ts'
import type { IoFile } from '../io/io.ts'
import { TABLE_PAGE_WORDS } from './segment-state.ts'
import type { SegmentTable } from './segment-table.ts'

/** What settling made of a segment. */
export interface SettleReport {
  /** Of all frames, as stored. */
  frameBytes: number
  frameSlotCount: number
  aliasCount: number
  zeroCount: number
  /** Slots that held something nobody refers to. */
  droppedCount: number
}

/** The directory that a rewritten segment is given, as it grows. */
export class Rewrite {
  readonly id: number
  /** Of the file as it was. */
  readonly table: SegmentTable
  readonly file: IoFile
  readonly report: SettleReport = {
    frameBytes: 0,
    frameSlotCount: 0,
    aliasCount: 0,
    zeroCount: 0,
    droppedCount: 0,
  }
  /** Slots whose bytes nobody has: they keep their checksum, and do not match it. */
  readonly lost: Set<number> = new Set()
  readonly #checksums: Uint32Array = new Uint32Array(2 * SEGMENT_SLOT_COUNT)
  readonly #expected: Set<number> = new Set()
  readonly #places: Uint32Array = new Uint32Array(2 * SEGMENT_SLOT_COUNT)

  constructor(id: number, table: SegmentTable, file: IoFile) {
    this.id = id
    this.table = table
    this.file = file
  }

  /** The slot's block will be in a frame; `setFrame` says where once that is written. */
  expectFrame(slot: number): void {
    this.#keepChecksum(slot)
    this.report.frameSlotCount += 1
    this.#expected.add(slot)
  }

  /** Whether the slot keeps its block as its own. */
  expectsFrame(slot: number): boolean {
    return this.#expected.has(slot)
  }

  setFrame(slot: number, word0: number, word1: number): void {
    this.#set(slot, word0, word1)
  }

  setZero(slot: number): void {
    this.#keepChecksum(slot)
    this.report.zeroCount += 1
    this.#set(slot, 0, ZERO_PLACE_WORD1)
  }

  setAlias(slot: number, segment: number, target: number): void {
    this.#keepChecksum(slot)
    this.report.aliasCount += 1
    this.#set(slot, segment, aliasWord1(target))
  }

  /** The pages to be stored, one behind the other, and which they are. */
  directoryPages(): { pages: Uint8Array; indexes: number[] } {
    const indexes: number[] = []
    for (let index = 0; index < TABLE_PAGE_COUNT; index += 1) {
      if (this.#holdsAny(index)) indexes.push(index)
    }
    const pages = new Uint8Array(indexes.length * DIRECTORY_PAGE_BYTES)
    const words = new Uint32Array(pages.buffer)
    for (const [at, index] of indexes.entries()) {
      const from = index * TABLE_PAGE_WORDS
      const sums = this.#checksums.subarray(from, from + TABLE_PAGE_WORDS)
      const places = this.#places.subarray(from, from + TABLE_PAGE_WORDS)
      words.set(sums, at * DIRECTORY_PAGE_WORDS)
      words.set(places, at * DIRECTORY_PAGE_WORDS + PLACE_WORD_FIRST)
    }
    return { pages, indexes }
  }

  /** Every frame in the order of the file, with its slots and the checksums they must have. */
  *frames(): Generator<{ frame: FramePlace; checksums: Uint32Array; slots: Uint16Array }> {
    const checksums = new Uint32Array(2 * FRAME_BLOCK_COUNT_MAX)
    const slots = new Uint16Array(FRAME_BLOCK_COUNT_MAX)
    let endBytes = 0
    let index = 0
    for (let slot = DATA_SLOT_FIRST; slot < DATA_SLOT_END; slot += 1) {
      const word0 = this.#places[2 * slot]
      const word1 = this.#places[2 * slot + 1]
      if (placeKind(word1) !== PLACE_FRAME) continue
      assert(frameIndex(word0) === index, 'a frame’s blocks are in the order of their slots')
      checksums[2 * index] = this.#checksums[2 * slot]
      checksums[2 * index + 1] = this.#checksums[2 * slot + 1]
      slots[index] = slot
      index += 1
      if (index < frameBlockCount(word1)) continue
      index = 0
      const frame = {
        offsetBytes: frameOffset(word0),
        storedBytes: frameStoredBytes(word1),
        blockCount: frameBlockCount(word1),
        codec: frameCodec(word0) as Codec,
      }
      assert(frame.offsetBytes >= endBytes, 'frames do not overlap')
      endBytes = frame.offsetBytes + frame.storedBytes
      yield { frame, checksums, slots }
    }
    assert(index === 0, 'the last frame is whole')
  }

  #holdsAny(index: number): boolean {
    const from = index * TABLE_PAGE_WORDS
    for (let word = from + 1; word < from + TABLE_PAGE_WORDS; word += 2) {
      if (placeKind(this.#places[word]) !== PLACE_DEAD) return true
    }
    return false
  }

  /** The block stays what it was, and so does its checksum. */
  #keepChecksum(slot: number): void {
    assert(this.table.hasBlock(slot), 'only a block that is there is kept')
    this.#checksums[2 * slot] = this.table.checksums[2 * slot]
    this.#checksums[2 * slot + 1] = this.table.checksums[2 * slot + 1]
  }

  #set(slot: number, word0: number, word1: number): void {
    const fault = findPlaceFault(this.id, slot, word0, word1)
    assert(fault === null, fault ?? '')
    this.#places[2 * slot] = word0
    this.#places[2 * slot + 1] = word1
  }
}
