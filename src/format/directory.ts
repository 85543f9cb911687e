/**
 * The directory of a settled segment: for each slot, the checksum of its block and the place where
 * the bytes are now. It has 32 pages of 512 slots; a page in which nothing lies is not stored.
 *
 * Page, before it is encoded (8 KiB)
 *      0  4096  XXH64 of each slot's block, 8 bytes a slot
 *   4096  4096  place of each slot, two u32
 *
 * Place     word 0    31  28 27 26 25                    0
 *   frame             [index][codec][ offset in the file  ]
 *           word 1    31 30 29           21 20   17 16    0
 *                     [ 1 ][     zero      ][blocks-1][bytes]   stored bytes of the frame
 *   alias   word 0    segment
 *           word 1    [ 2 ][     zero            13 slot 0]
 *   zero    word 0    0
 *           word 1    [ 3 ][              zero            ]
 *   dead    both words and the checksum are 0
 *
 * A *frame* is 1 to 16 blocks encoded together. It is decoded whole; `index` says which of its
 * blocks is the slot's. A frame whose stored bytes equal its blocks' is stored raw.
 *
 * An *alias* says that an equal block lies at another address. That address is always lower than
 * its own: so aliases can be followed (each step goes down) and marked (one pass from the highest
 * segment to the lowest sees every alias before what it points to), and can never form a loop.
 */
import type { Codec } from '../base/codec.ts'
import { assert } from '../base/assert.ts'
import { BLOCK_SIZE_BYTES } from '../base/units.ts'
import {
  DATA_SLOT_END,
  DATA_SLOT_FIRST,
  DIRECTORY_PAGE_BYTES,
  TABLE_PAGE_SLOT_COUNT,
} from './segment.ts'

export const PLACE_DEAD = 0
export const PLACE_FRAME = 1
export const PLACE_ALIAS = 2
export const PLACE_ZERO = 3

export const FRAME_BLOCK_COUNT_MAX = 16

const KIND_SHIFT = 30
const OFFSET_BITS = 26
const OFFSET_MASK = 2 ** OFFSET_BITS - 1
const CODEC_SHIFT = 26
const CODEC_MASK = 3
const INDEX_SHIFT = 28
const LENGTH_MASK = 0x1ffff
const BLOCKS_SHIFT = 17
const BLOCKS_MASK = 0xf
const SLOT_MASK = 0x3fff

/** Words of a directory page: the places follow the checksums. */
export const DIRECTORY_PAGE_WORDS: number = DIRECTORY_PAGE_BYTES / 4
/** Index of the first place word in a directory page. */
export const PLACE_WORD_FIRST: number = 2 * TABLE_PAGE_SLOT_COUNT

assert(DIRECTORY_PAGE_WORDS === 2 * PLACE_WORD_FIRST, 'a page is half checksums, half places')
assert(FRAME_BLOCK_COUNT_MAX * BLOCK_SIZE_BYTES <= LENGTH_MASK, 'a frame’s length fits its bits')
assert(DATA_SLOT_END <= SLOT_MASK + 1, 'a slot fits its bits')

/** Where a frame lies in its segment's file. */
export interface FramePlace {
  offsetBytes: number
  storedBytes: number
  blockCount: number
  codec: Codec
}

export function placeKind(word1: number): number {
  return word1 >>> KIND_SHIFT
}

export const ZERO_PLACE_WORD1: number = (PLACE_ZERO << KIND_SHIFT) >>> 0

export function frameWord0(frame: FramePlace, index: number): number {
  assert(frame.offsetBytes > 0 && frame.offsetBytes <= OFFSET_MASK, 'a frame’s offset fits')
  assert(index >= 0 && index < frame.blockCount, 'the block is one of the frame’s')
  return ((index << INDEX_SHIFT) | (frame.codec << CODEC_SHIFT) | frame.offsetBytes) >>> 0
}

export function frameWord1(frame: FramePlace): number {
  const { storedBytes, blockCount } = frame
  assert(blockCount >= 1 && blockCount <= FRAME_BLOCK_COUNT_MAX, 'a frame has 1 to 16 blocks')
  assert(storedBytes > 0 && storedBytes <= blockCount * BLOCK_SIZE_BYTES, 'a frame never grows')
  return ((PLACE_FRAME << KIND_SHIFT) | ((blockCount - 1) << BLOCKS_SHIFT) | storedBytes) >>> 0
}

export function frameOffset(word0: number): number {
  return word0 & OFFSET_MASK
}

/** One of `Codec`, or 3, which none has. */
export function frameCodec(word0: number): number {
  return (word0 >>> CODEC_SHIFT) & CODEC_MASK
}

export function frameIndex(word0: number): number {
  return word0 >>> INDEX_SHIFT
}

export function frameStoredBytes(word1: number): number {
  return word1 & LENGTH_MASK
}

export function frameBlockCount(word1: number): number {
  return ((word1 >>> BLOCKS_SHIFT) & BLOCKS_MASK) + 1
}

/** Whether the frame's blocks did not get shorter: they are stored as they are, and can be read. */
export function isPlainFrame(word1: number): boolean {
  return frameStoredBytes(word1) === frameBlockCount(word1) * BLOCK_SIZE_BYTES
}

/** Where in its file a block of a plain frame lies. */
export function plainBlockOffset(word0: number): number {
  return frameOffset(word0) + frameIndex(word0) * BLOCK_SIZE_BYTES
}

export function aliasWord1(slot: number): number {
  assert(slot >= DATA_SLOT_FIRST && slot < DATA_SLOT_END, 'an alias points to a data slot')
  return ((PLACE_ALIAS << KIND_SHIFT) | slot) >>> 0
}

export function aliasSlot(word1: number): number {
  return word1 & SLOT_MASK
}

/** True when (segment, slot) lies below (ofSegment, ofSlot): the only way an alias may point. */
export function isLower(segment: number, slot: number, ofSegment: number, ofSlot: number): boolean {
  return segment < ofSegment || (segment === ofSegment && slot < ofSlot)
}

/**
 * What is wrong with the place of (segment, slot), or null. The caller decides whose fault it is:
 * the data's when it was read, ours when it is about to be written.
 */
export function findPlaceFault(
  segment: number,
  slot: number,
  word0: number,
  word1: number,
): string | null {
  switch (placeKind(word1)) {
    case PLACE_DEAD:
      return word0 === 0 && word1 === 0 ? null : 'a dead slot has a place'
    case PLACE_ZERO:
      return word0 === 0 && word1 === ZERO_PLACE_WORD1 ? null : 'a zero slot has a place'
    case PLACE_ALIAS: {
      const target = aliasSlot(word1)
      if (target < DATA_SLOT_FIRST || target >= DATA_SLOT_END)
        return 'an alias points past the data'
      return isLower(word0, target, segment, slot) ? null : 'an alias does not point downwards'
    }
    default: {
      const storedBytes = frameStoredBytes(word1)
      const rawBytes = frameBlockCount(word1) * BLOCK_SIZE_BYTES
      if (storedBytes === 0 || storedBytes > rawBytes) return 'a frame has no possible length'
      if (frameIndex(word0) >= frameBlockCount(word1)) return 'a frame ends before the block'
      if (frameOffset(word0) < BLOCK_SIZE_BYTES) return 'a frame lies in the header'
      if (frameOffset(word0) + storedBytes > DATA_SLOT_END * BLOCK_SIZE_BYTES) {
        return 'a frame lies past the data'
      }
      return frameCodec(word0) === CODEC_MASK ? 'a frame’s codec is unknown' : null
    }
  }
}
