/**
 * Settles segments of a built pool, from the drawing of the format and with no code of the settler:
 * places are put together bit by bit. What it makes can be changed and sealed again.
 */
import { Codec } from '../../src/base/codec.ts'
import type { Checksum } from '../../src/base/checksum.ts'
import { BLOCK_SIZE_BYTES, SEGMENT_SLOT_COUNT } from '../../src/base/units.ts'
import type { SettledLayout } from '../../src/format/segment.ts'
import {
  DIRECTORY_PAGE_BYTES,
  FOOTER_SLOT,
  TABLE_PAGE_COUNT,
  TABLE_PAGE_SLOT_COUNT,
  encodeSegmentFooter,
} from '../../src/format/segment.ts'
import { deflate } from './deflate-codecs.ts'
import type { PoolBuilder } from './pool-builder.ts'
import { POOL_ID, blockOf } from './pool-builder.ts'
import type { Sample, SampleHooks } from './sample-pool.ts'
import { buildSample } from './sample-pool.ts'

/** Where the frames begin, and the directory, in slots of the file. */
export const FRAMES_SLOT = 1
export const DIRECTORY_SLOT: number = SEGMENT_SLOT_COUNT

export const ZERO_WORD1: number = 3 * 2 ** 30

export function frameWords(
  offset: number,
  storedBytes: number,
  blockCount: number,
  index: number,
  codec: number,
): [number, number] {
  return [
    index * 2 ** 28 + codec * 2 ** 26 + offset,
    2 ** 30 + (blockCount - 1) * 2 ** 17 + storedBytes,
  ]
}

export function aliasWords(segment: number, slot: number): [number, number] {
  return [segment, 2 * 2 ** 30 + slot]
}

/** Address of the first block with the same bytes, by the bytes. */
export type KnownBlocks = Map<string, [number, number]>

export class SettledSegment {
  readonly builder: PoolBuilder
  readonly id: number
  readonly codec: Codec
  /** Two words a slot, each. */
  readonly checksums: Uint32Array
  readonly places: Uint32Array = new Uint32Array(2 * SEGMENT_SLOT_COUNT)
  readonly counts = { frameBytes: 0, frameSlotCount: 0, aliasCount: 0, zeroCount: 0 }
  readonly #frames: Uint8Array[] = []
  #offset: number = BLOCK_SIZE_BYTES

  constructor(builder: PoolBuilder, id: number, codec: Codec, known: KnownBlocks) {
    this.builder = builder
    this.id = id
    this.codec = codec
    const { pages, table } = builder.segment(id)
    this.checksums = table.slice()
    let waiting: number[] = []
    for (let slot = 1; slot < builder.segment(id).usedSlotCount; slot += 1) {
      if (table[2 * slot] === 0 && table[2 * slot + 1] === 0) continue
      const block = Buffer.from(builder.page(id, slot))
      const key = block.toString('latin1')
      const equal = known.get(key)
      if (block.every((byte) => byte === 0)) {
        this.setPlace(slot, [0, ZERO_WORD1])
        this.counts.zeroCount += 1
      } else if (equal !== undefined) {
        this.setPlace(slot, aliasWords(...equal))
        this.counts.aliasCount += 1
      } else {
        known.set(key, [id, slot])
        waiting.push(slot)
      }
      if (waiting.length === 4) {
        this.#addFrame(waiting)
        waiting = []
      }
    }
    if (waiting.length > 0) this.#addFrame(waiting)
    const header = builder.page(id, 0)
    pages.clear()
    pages.set(0, header)
    pages.set(FRAMES_SLOT, new Uint8Array(Buffer.concat(this.#frames)))
    this.seal()
  }

  place(slot: number): [number, number] {
    return [this.places[2 * slot], this.places[2 * slot + 1]]
  }

  setPlace(slot: number, words: readonly [number, number]): void {
    this.places.set(words, 2 * slot)
  }

  setChecksum(slot: number, words: readonly [number, number]): void {
    this.checksums.set(words, 2 * slot)
  }

  /** The first slot with a place of this kind. */
  slotOfKind(kind: number): number {
    for (let slot = 0; slot < SEGMENT_SLOT_COUNT; slot += 1) {
      if (this.places[2 * slot + 1] >>> 30 === kind) return slot
    }
    throw new Error(`segment ${this.id} has no place of kind ${kind}`)
  }

  /** Puts directory and footer as they are now into the file, with good checksums. */
  seal(): void {
    const { builder, id } = this
    const directoryBytes = new Uint32Array(TABLE_PAGE_COUNT)
    const tableChecksums = new Uint32Array(2 * TABLE_PAGE_COUNT)
    const stored: Uint8Array[] = []
    for (let page = 0; page < TABLE_PAGE_COUNT; page += 1) {
      const from = 2 * page * TABLE_PAGE_SLOT_COUNT
      const to = from + 2 * TABLE_PAGE_SLOT_COUNT
      const words = Uint32Array.from([
        ...this.checksums.subarray(from, to),
        ...this.places.subarray(from, to),
      ])
      if (words.every((word) => word === 0)) continue
      const raw = new Uint8Array(words.buffer)
      if (raw.length !== DIRECTORY_PAGE_BYTES) throw new Error('a page is 8 KiB')
      const bytes = deflate(this.codec, raw)
      stored.push(bytes)
      directoryBytes[page] = bytes.length
      builder.checksum.hashBytes(bytes, 0, bytes.length, tableChecksums, 2 * page)
    }
    const settled: SettledLayout = { directoryBytes, directoryCodec: this.codec, ...this.counts }
    const { kind, usedSlotCount, pages } = builder.segment(id)
    const footer = new Uint8Array(BLOCK_SIZE_BYTES)
    const fields = { segment: id, kind, usedSlotCount, tableChecksums, settled }
    encodeSegmentFooter(fields, POOL_ID, footer, 0, builder.checksum)
    pages.set(FOOTER_SLOT, footer)
    pages.set(DIRECTORY_SLOT, new Uint8Array(Buffer.concat(stored)))
  }

  #addFrame(slots: number[]): void {
    const raw = Buffer.concat(slots.map((slot) => this.builder.page(this.id, slot)))
    const bytes = deflate(this.codec, raw)
    const codec = bytes.length === raw.length ? Codec.raw : this.codec
    for (const [index, slot] of slots.entries()) {
      this.setPlace(slot, frameWords(this.#offset, bytes.length, slots.length, index, codec))
    }
    this.#frames.push(bytes)
    this.#offset += bytes.length
    this.counts.frameBytes += bytes.length
    this.counts.frameSlotCount += slots.length
  }
}

export interface SettledSample extends Sample {
  /** Segment 1, a log segment, and segment 2, the import. */
  log: SettledSegment
  bulk: SettledSegment
}

/** Of every eight imported blocks one is zero, one lies in segment 1, one earlier in its own. */
function repeatBlocks(blocks: Uint8Array[]): void {
  for (const i of blocks.keys()) {
    if (i % 8 === 3) blocks[i] = new Uint8Array(BLOCK_SIZE_BYTES)
    if (i % 8 === 5) blocks[i] = blockOf(1 + ((i >> 3) % 8))
    if (i % 8 === 6) blocks[i] = blocks[i % 3]
  }
}

/** The sample pool with its two sealed segments settled. */
export function buildSettledSample(
  checksum: Checksum,
  hooks: SampleHooks = {},
  codec: Codec = Codec.lz4,
): SettledSample {
  const sample = buildSample(checksum, {
    ...hooks,
    imported: (blocks) => {
      repeatBlocks(blocks)
      hooks.imported?.(blocks)
    },
    superblock: (superblock) => {
      superblock.refuseFeatures = 3
      hooks.superblock?.(superblock)
    },
  })
  const known: KnownBlocks = new Map()
  const log = new SettledSegment(sample.builder, 1, codec, known)
  const bulk = new SettledSegment(sample.builder, 2, codec, known)
  return { ...sample, log, bulk }
}
