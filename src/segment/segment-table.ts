/** The checksum table or directory of a segment: by the page for reads, whole for rewrites. */
import type { Checksum } from '../base/checksum.ts'
import type { Codecs } from '../base/codec.ts'
import { CorruptionError, OperatingError } from '../base/errors.ts'
import { BLOCK_SIZE_BYTES, SEGMENT_SLOT_COUNT } from '../base/units.ts'
import {
  DIRECTORY_PAGE_WORDS,
  PLACE_DEAD,
  PLACE_FRAME,
  PLACE_WORD_FIRST,
  placeKind,
} from '../format/directory.ts'
import { PAGE_SIZE_BYTES } from '../format/page.ts'
import type { SegmentFooter, SettledLayout } from '../format/segment.ts'
import {
  DIRECTORY_PAGE_BYTES,
  TABLE_PAGE_COUNT,
  TABLE_PAGE_SLOT_COUNT,
  TABLE_SLOT,
  directoryPageOffset,
} from '../format/segment.ts'
import type { Io, IoFile } from '../io/io.ts'
import { ioResult } from '../io/io.ts'
import { PagePool } from './page-pool.ts'
import { TABLE_PAGE_WORDS } from './segment-state.ts'

/** Pages being loaded at once. */
const LOAD_COUNT = 8

/** Of a segment as a whole: 128 KiB, or 256 KiB when it is settled. */
export class SegmentTable {
  /** Two words a slot; zero where no block lies. */
  readonly checksums: Uint32Array = new Uint32Array(2 * SEGMENT_SLOT_COUNT)
  /** Two words a slot; null for a raw segment, where a slot is its own place. */
  readonly places: Uint32Array | null

  constructor(isSettled: boolean) {
    this.places = isSettled ? new Uint32Array(2 * SEGMENT_SLOT_COUNT) : null
  }

  /** True when a block lies there, as itself, an alias or zeros. */
  hasBlock(slot: number): boolean {
    if (this.places !== null) return placeKind(this.places[2 * slot + 1]) !== PLACE_DEAD
    return this.checksums[2 * slot] !== 0 || this.checksums[2 * slot + 1] !== 0
  }

  /** One of `PLACE_*`; a raw segment's blocks count as frames of their own. */
  kindOf(slot: number): number {
    if (this.places !== null) return placeKind(this.places[2 * slot + 1])
    return this.hasBlock(slot) ? PLACE_FRAME : PLACE_DEAD
  }

  /** Takes over a page as it is kept for reads. */
  setPage(index: number, page: Uint32Array): void {
    const at = index * TABLE_PAGE_WORDS
    this.checksums.set(page.subarray(0, TABLE_PAGE_WORDS), at)
    this.places?.set(page.subarray(PLACE_WORD_FIRST, DIRECTORY_PAGE_WORDS), at)
  }
}

/** Reads and checks single pages. */
export class TablePageLoader {
  readonly #io: Io
  readonly #checksum: Checksum
  readonly #codecs: Codecs
  readonly #staging: PagePool
  readonly #found: Uint32Array = new Uint32Array(2)

  constructor(io: Io, checksum: Checksum, codecs: Codecs) {
    this.#io = io
    this.#checksum = checksum
    this.#codecs = codecs
    this.#staging = new PagePool(io.arena, LOAD_COUNT, DIRECTORY_PAGE_BYTES)
  }

  /** Rejects `segment-corrupt`, or `io`. */
  async load(file: IoFile, footer: SegmentFooter, index: number): Promise<Uint32Array> {
    const staging = await this.#staging.take()
    try {
      const { settled } = footer
      if (settled !== undefined)
        return await this.#loadDirectory(file, footer, settled, index, staging)
      const offsetBytes = (TABLE_SLOT + index) * BLOCK_SIZE_BYTES
      await this.#readStored(file, footer, index, offsetBytes, PAGE_SIZE_BYTES, staging)
      const words = new Uint32Array(TABLE_PAGE_WORDS)
      this.#copy(staging, words)
      return words
    } finally {
      this.#staging.give(staging)
    }
  }

  close(): void {
    this.#staging.release(this.#io.arena)
  }

  async #loadDirectory(
    file: IoFile,
    footer: SegmentFooter,
    settled: SettledLayout,
    index: number,
    staging: number,
  ): Promise<Uint32Array> {
    const words = new Uint32Array(DIRECTORY_PAGE_WORDS)
    const storedBytes = settled.directoryBytes[index]
    if (storedBytes === 0) return words
    const offsetBytes = directoryPageOffset(settled, index)
    await this.#readStored(file, footer, index, offsetBytes, storedBytes, staging)
    const { memory } = this.#io.arena
    const bytes = new Uint8Array(words.buffer)
    const codec = settled.directoryCodec
    if (!this.#codecs.decode(codec, memory, staging, storedBytes, bytes, 0, bytes.length)) {
      throw damaged(footer.segment, index)
    }
    return words
  }

  /** What was stored, held against the footer's checksum of it. */
  async #readStored(
    file: IoFile,
    footer: SegmentFooter,
    index: number,
    offsetBytes: number,
    storedBytes: number,
    staging: number,
  ): Promise<void> {
    const result = await ioResult((completion) => {
      this.#io.read(file, offsetBytes, staging, storedBytes, completion, 0)
    })
    if (result < 0) {
      throw new OperatingError('io', `${file.path} cannot be read`, { errno: -result })
    }
    if (result < storedBytes) throw damaged(footer.segment, index)
    const found = this.#found
    this.#checksum.hashBytes(this.#io.arena.memory, staging, storedBytes, found, 0)
    const isSound =
      found[0] === footer.tableChecksums[2 * index] &&
      found[1] === footer.tableChecksums[2 * index + 1]
    if (!isSound) throw damaged(footer.segment, index)
  }

  #copy(staging: number, words: Uint32Array): void {
    const { memory } = this.#io.arena
    new Uint8Array(words.buffer).set(memory.subarray(staging, staging + words.byteLength))
  }
}

function damaged(segment: number, index: number): CorruptionError {
  const slots = `${index * TABLE_PAGE_SLOT_COUNT} to ${(index + 1) * TABLE_PAGE_SLOT_COUNT - 1}`
  const fact = `segment ${segment} has a damaged checksum table (page ${index}, slots ${slots})`
  return new CorruptionError('segment-corrupt', fact, { details: { segment } })
}

/** Every page there can be. */
export const TABLE_PAGE_INDEXES: readonly number[] = Array.from(
  { length: TABLE_PAGE_COUNT },
  (_, index) => index,
)
