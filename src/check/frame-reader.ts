/** Decodes the frames of settled segments; keeps the last one. */
import type { Codecs } from '../base/codec.ts'
import { FRAME_BYTES_MAX, isCodec } from '../base/codec.ts'
import { BLOCK_SIZE_BYTES } from '../base/units.ts'
import {
  frameBlockCount,
  frameCodec,
  frameIndex,
  frameOffset,
  frameStoredBytes,
} from '../format/directory.ts'
import type { PoolReader } from './pool-reader.ts'
import type { FindingCode } from './report.ts'

export interface FrameFault {
  code: FindingCode
  fact: string
}

export const FRAME_CORRUPT: FrameFault = {
  code: 'frame-corrupt',
  fact: 'its frame cannot be decoded',
}

export class FrameReader {
  /** Of the frame decoded last. */
  readonly blocks: Uint8Array = Buffer.alloc(FRAME_BYTES_MAX)
  readonly #reader: PoolReader
  readonly #codecs: Codecs
  // Where the frame in `blocks` lies, and what became of it; segment 0: nowhere.
  #segment = 0
  #offset = 0
  #word1 = 0
  #fault: FrameFault | null = null

  constructor(reader: PoolReader, codecs: Codecs) {
    this.#reader = reader
    this.#codecs = codecs
  }

  /** Reads and decodes the frame of a place without a fault, unless it is the last one still. */
  async load(segment: number, word0: number, word1: number): Promise<FrameFault | null> {
    const offset = frameOffset(word0)
    const isHere = segment === this.#segment && offset === this.#offset && word1 === this.#word1
    if (isHere) return this.#fault
    const result = await this.#reader.readBytes(segment, offset, frameStoredBytes(word1))
    if (result < 0) {
      return { code: 'read-failed', fact: `its frame cannot be read (errno ${-result})` }
    }
    const fault = this.decode(this.#reader.offsetBytes, word0, word1)
    this.#segment = segment
    this.#offset = offset
    this.#word1 = word1
    this.#fault = fault
    return fault
  }

  /** Decodes a frame that lies at `at` in the reader's memory. */
  decode(at: number, word0: number, word1: number): FrameFault | null {
    this.#segment = 0
    const codec = frameCodec(word0)
    if (!isCodec(codec)) return FRAME_CORRUPT
    const { memory } = this.#reader
    const storedBytes = frameStoredBytes(word1)
    const rawBytes = frameBlockCount(word1) * BLOCK_SIZE_BYTES
    if (storedBytes === rawBytes) {
      this.blocks.set(memory.subarray(at, at + rawBytes))
      return null
    }
    const isSound = this.#codecs.decode(codec, memory, at, storedBytes, this.blocks, 0, rawBytes)
    return isSound ? null : FRAME_CORRUPT
  }
}

/** Where in the decoded frame the block of a place lies. */
export function offsetInFrame(word0: number): number {
  return frameIndex(word0) * BLOCK_SIZE_BYTES
}
