/**
 * Puts damaged places of a sealed segment right, in place.
 *
 * Why that is safe. What is written is exactly what the place held: bytes that match a checksum
 * recorded elsewhere (a block, a page of the table) or their own (a page with one bit turned over),
 * or that follow from what is sound (a log segment's header). The place is unreadable before, so a
 * cut in the middle, or a reader beside it, meets what it met before: bytes that do not match.
 * What lies beside them in the same page is written as it was read, sector by sector the same. It
 * is synced before it is called healed, and no other place refers to it having been damaged.
 */
import { must } from '../base/assert.ts'
import type { Codecs } from '../base/codec.ts'
import { mendOneBit } from '../base/one-bit.ts'
import { BLOCK_SIZE_BYTES } from '../base/units.ts'
import { PAGE_CHECKSUM_OFFSET, PAGE_SIZE_BYTES, isPageSound, pageView } from '../format/page.ts'
import { RECORD_BLOCK_COUNT_MAX, RecordEntries, tryDecodeRecordHeader } from '../format/record.ts'
import type { SegmentFooter } from '../format/segment.ts'
import {
  DATA_SLOT_FIRST,
  DIRECTORY_PAGE_BYTES,
  FOOTER_SLOT,
  SegmentKind,
  TABLE_PAGE_SLOT_COUNT,
  TABLE_SLOT,
  directoryPageOffset,
  encodeSegmentFooter,
  encodeSegmentHeader,
  tryDecodeSegmentFooter,
  tryDecodeSegmentHeader,
} from '../format/segment.ts'
import { allocateArena } from '../io/arena.ts'
import type { IoFile } from '../io/io.ts'
import { ioResult } from '../io/io.ts'
import { TABLE_PAGE_WORDS } from './segment-state.ts'
import type { SegmentState } from './segment-state.ts'
import type { SegmentStore } from './segment-store.ts'

type Words = readonly [number, number]

/** The segment at work: held, so that its file stays what it is. */
interface Held {
  state: SegmentState
  file: IoFile
}

export class SegmentHealer {
  readonly #store: SegmentStore
  readonly #codecs: Codecs
  readonly #piece: number
  readonly #pace: () => Promise<void>
  readonly #found: Uint32Array = new Uint32Array(2)

  private constructor(
    store: SegmentStore,
    codecs: Codecs,
    piece: number,
    pace: () => Promise<void>,
  ) {
    this.#store = store
    this.#codecs = codecs
    this.#piece = piece
    this.#pace = pace
  }

  static async create(
    store: SegmentStore,
    codecs: Codecs,
    pace: () => Promise<void>,
  ): Promise<SegmentHealer> {
    const piece = await allocateArena(store.io.arena, DIRECTORY_PAGE_BYTES)
    return new SegmentHealer(store, codecs, piece, pace)
  }

  close(): void {
    this.#store.io.arena.free(this.#piece, DIRECTORY_PAGE_BYTES)
  }

  /** Each says whether the place is sound now. Rejects `io`, `no-space`. */
  header(id: number): Promise<boolean> {
    return this.#with(id, async (held) => {
      const { poolId, checksum, io } = this.#store
      const { memory } = io.arena
      const { state } = held
      const isMended = await this.#mendPage(held, 0)
      const there = isMended ? tryDecodeSegmentHeader(memory, this.#piece, poolId, checksum) : null
      // A write that went astray leaves the header of another segment.
      const found = there?.segment === id ? there : null
      const kind = found?.kind ?? (await this.#store.readKind(state))
      // Whose import a segment is, only its header says.
      const isKnown = state.isHeaderSound || kind === SegmentKind.log
      if (found === null && (kind === null || !isKnown)) return false
      const importId = found?.importId ?? state.importId
      const header = { segment: id, kind: must(kind, 'the kind'), importId }
      encodeSegmentHeader(header, poolId, memory, this.#piece, checksum)
      await this.#put(held, 0, PAGE_SIZE_BYTES)
      state.importId = importId
      state.isHeaderSound = true
      return true
    })
  }

  footer(id: number): Promise<boolean> {
    return this.#with(id, async (held) => {
      const { poolId, checksum, io } = this.#store
      const offsetBytes = FOOTER_SLOT * BLOCK_SIZE_BYTES
      const { memory } = io.arena
      const isMended =
        (await this.#mendPage(held, offsetBytes)) &&
        tryDecodeSegmentFooter(memory, this.#piece, poolId, id, checksum) !== null
      if (!isMended) {
        // It was sound when it was read for the first time.
        if (held.state.footer === null) return false
        encodeSegmentFooter(held.state.footer, poolId, memory, this.#piece, checksum)
      }
      return this.#put(held, offsetBytes, PAGE_SIZE_BYTES)
    })
  }

  /** A record's header. */
  record(id: number, slot: number): Promise<boolean> {
    return this.#with(id, async (held) => {
      const { poolId, checksum, io } = this.#store
      const offsetBytes = slot * BLOCK_SIZE_BYTES
      if (!(await this.#mendPage(held, offsetBytes))) return false
      const sums = new Uint32Array(2 * RECORD_BLOCK_COUNT_MAX)
      const args = [io.arena.memory, this.#piece, poolId, checksum] as const
      const header = tryDecodeRecordHeader(...args, new RecordEntries(), sums)
      if (header?.segment !== id || header.slot !== slot) return false
      return this.#put(held, offsetBytes, PAGE_SIZE_BYTES)
    })
  }

  /** The page of the table, or of the directory, that `slot` belongs to. */
  table(id: number, slot: number): Promise<boolean> {
    return this.#with(id, async (held) => {
      const footer = await this.#store.tryFooter(id)
      if (footer === null) return false
      const index = Math.floor(slot / TABLE_PAGE_SLOT_COUNT)
      const { settled } = footer
      const storedBytes = settled === undefined ? PAGE_SIZE_BYTES : settled.directoryBytes[index]
      const offsetBytes =
        settled === undefined
          ? (TABLE_SLOT + index) * BLOCK_SIZE_BYTES
          : directoryPageOffset(settled, index)
      const expected = wordsAt(footer.tableChecksums, index)
      const isKnown =
        (await this.#recallPage(held.state, footer, index, storedBytes, expected)) ||
        (await this.#rebuildPage(held, footer, index, expected)) ||
        (await this.#mend(held, offsetBytes, storedBytes, expected))
      return isKnown && this.#put(held, offsetBytes, storedBytes)
    })
  }

  /** The rest of the page in which the last frame ends: zeros. */
  padding(id: number): Promise<boolean> {
    return this.#with(id, async (held) => {
      const frameBytes = (await this.#store.tryFooter(id))?.settled?.frameBytes ?? 0
      const endBytes = BLOCK_SIZE_BYTES + frameBytes
      const lengthBytes = BLOCK_SIZE_BYTES - (endBytes % BLOCK_SIZE_BYTES)
      const { memory } = this.#store.io.arena
      memory.fill(0, this.#piece, this.#piece + lengthBytes)
      return this.#put(held, endBytes, lengthBytes)
    })
  }

  /** Writes a block, which lies at `arenaOffset`, where the file has it uncompressed. */
  block(id: number, offsetBytes: number, arenaOffset: number): Promise<boolean> {
    return this.#with(id, (held) => {
      const { memory } = this.#store.io.arena
      memory.copyWithin(this.#piece, arenaOffset, arenaOffset + BLOCK_SIZE_BYTES)
      return this.#put(held, offsetBytes, BLOCK_SIZE_BYTES)
    })
  }

  /** Whether the block lies there with one bit turned over; then it is at `arenaOffset`, right. */
  tryMendBlock(
    id: number,
    offsetBytes: number,
    expected: Words,
    arenaOffset: number,
  ): Promise<boolean> {
    return this.#with(id, async (held) => {
      if (!(await this.#mend(held, offsetBytes, BLOCK_SIZE_BYTES, expected))) return false
      const { memory } = this.#store.io.arena
      memory.copyWithin(arenaOffset, this.#piece, this.#piece + BLOCK_SIZE_BYTES)
      return true
    })
  }

  async #with(id: number, work: (held: Held) => Promise<boolean>): Promise<boolean> {
    const state = await this.#store.hold(id)
    try {
      return await work({ state, file: must(state.file, 'the file of a held segment') })
    } finally {
      this.#store.unpin(state)
    }
  }

  async #put({ file, state }: Held, offsetBytes: number, lengthBytes: number): Promise<boolean> {
    this.#store.write(file, state.id, offsetBytes, this.#piece, lengthBytes)
    await this.#store.syncFile(file, state.id)
    return true
  }

  async #read({ file }: Held, offsetBytes: number, lengthBytes: number): Promise<boolean> {
    const result = await ioResult((completion) => {
      this.#store.io.read(file, offsetBytes, this.#piece, lengthBytes, completion, 0)
    })
    return result === lengthBytes
  }

  async #mend(
    held: Held,
    offsetBytes: number,
    lengthBytes: number,
    expected: Words,
  ): Promise<boolean> {
    if (!(await this.#read(held, offsetBytes, lengthBytes))) return false
    const { checksum, io } = this.#store
    const { memory } = io.arena
    return mendOneBit(checksum, memory, this.#piece, lengthBytes, expected, this.#pace)
  }

  /** A page that carries its own checksum: the bit is in what that covers, or in itself. */
  async #mendPage(held: Held, offsetBytes: number): Promise<boolean> {
    if (!(await this.#read(held, offsetBytes, PAGE_SIZE_BYTES))) return false
    const { checksum, io } = this.#store
    const { memory } = io.arena
    if (isPageSound(memory, this.#piece, checksum)) return true
    const view = pageView(memory, this.#piece)
    const said = [
      view.getUint32(PAGE_CHECKSUM_OFFSET, true),
      view.getUint32(PAGE_CHECKSUM_OFFSET + 4, true),
    ] as const
    const found = this.#found
    checksum.hashBytes(memory, this.#piece, PAGE_CHECKSUM_OFFSET, found, 0)
    if (bitCount(found[0] ^ said[0]) + bitCount(found[1] ^ said[1]) === 1) {
      view.setUint32(PAGE_CHECKSUM_OFFSET, found[0], true)
      view.setUint32(PAGE_CHECKSUM_OFFSET + 4, found[1], true)
      return true
    }
    return mendOneBit(checksum, memory, this.#piece, PAGE_CHECKSUM_OFFSET, said, this.#pace)
  }

  /** What is still in memory of the page, if it comes out as it was stored. */
  async #recallPage(
    state: SegmentState,
    footer: SegmentFooter,
    index: number,
    storedBytes: number,
    expected: Words,
  ): Promise<boolean> {
    const page = state.pages[index]
    if (page === null) return false
    const bytes = new Uint8Array(page.buffer, page.byteOffset, page.byteLength)
    const stored = Buffer.alloc(bytes.length)
    const lengths = new Uint32Array(1)
    const codec = footer.settled?.directoryCodec
    if (codec === undefined || storedBytes === bytes.length) stored.set(bytes)
    else await this.#codecs.encode(codec, bytes, 0, bytes.length, bytes.length, stored, 0, lengths)
    stored.copy(this.#store.io.arena.memory, this.#piece, 0, storedBytes)
    return this.#matches(storedBytes, expected)
  }

  /** A raw segment's checksums are in its records, too, or those of its blocks as they are. */
  async #rebuildPage(
    held: Held,
    footer: SegmentFooter,
    index: number,
    expected: Words,
  ): Promise<boolean> {
    if (footer.settled !== undefined) return false
    const first = index * TABLE_PAGE_SLOT_COUNT
    const words = new Uint32Array(TABLE_PAGE_WORDS)
    const end = Math.min(footer.usedSlotCount, first + TABLE_PAGE_SLOT_COUNT)
    if (footer.kind === SegmentKind.log) await this.#gatherFromRecords(held, first, end, words)
    else await this.#hashBlocks(held, first, end, words)
    const { memory } = this.#store.io.arena
    memory.set(new Uint8Array(words.buffer), this.#piece)
    return this.#matches(PAGE_SIZE_BYTES, expected)
  }

  /** The table of the slots from `first` up to `end`. */
  async #gatherFromRecords(
    held: Held,
    first: number,
    end: number,
    words: Uint32Array,
  ): Promise<void> {
    const { poolId, checksum, io } = this.#store
    const { memory } = io.arena
    const sums = new Uint32Array(2 * RECORD_BLOCK_COUNT_MAX)
    const entries = new RecordEntries()
    for (let slot = DATA_SLOT_FIRST; slot < end; slot += 1) {
      await this.#pace()
      if (!(await this.#read(held, slot * BLOCK_SIZE_BYTES, PAGE_SIZE_BYTES))) continue
      const args = [memory, this.#piece, poolId, checksum, entries, sums] as const
      const header = tryDecodeRecordHeader(...args)
      if (header?.segment !== held.state.id || header.slot !== slot) continue
      for (let i = 0; i < header.blockCount; i += 1) {
        const at = 2 * (slot + 1 + i - first)
        if (at >= 0 && at < words.length) words.set(sums.subarray(2 * i, 2 * i + 2), at)
      }
      slot += header.blockCount
    }
  }

  async #hashBlocks(held: Held, first: number, end: number, words: Uint32Array): Promise<void> {
    const { checksum, io } = this.#store
    for (let slot = Math.max(DATA_SLOT_FIRST, first); slot < end; slot += 1) {
      if (!(await this.#read(held, slot * BLOCK_SIZE_BYTES, BLOCK_SIZE_BYTES))) return
      checksum.hashBlocks(io.arena.memory, this.#piece, 1, words, 2 * (slot - first))
    }
  }

  #matches(lengthBytes: number, expected: Words): boolean {
    const found = this.#found
    this.#store.checksum.hashBytes(this.#store.io.arena.memory, this.#piece, lengthBytes, found, 0)
    return found[0] === expected[0] && found[1] === expected[1]
  }
}

export function wordsAt(words: Uint32Array, index: number): Words {
  return [words[2 * index], words[2 * index + 1]]
}

function bitCount(word: number): number {
  let count = 0
  for (let rest = word >>> 0; rest !== 0; rest &= rest - 1) count += 1
  return count
}
