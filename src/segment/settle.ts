/**
 * Settling: a sealed segment is rewritten as frames and a directory. Zero blocks vanish, blocks
 * that lie at a lower address too become aliases, dead slots are dropped, the rest is compressed.
 * No address changes its meaning.
 *
 * Ordering argument (I6). The new file is written aside and synced, then read back: every frame is
 * decoded from what was written and each block held against the checksum the old file had for it.
 * Only then is it renamed over the old one, and the folder synced. A cut before the rename leaves
 * the old file and a leftover that the next open removes; after it, one or the other, which say
 * the same. What the new file's aliases point to is durable and stays: it lies in segments sealed
 * before the checkpoint that began this run, and is marked, so that this run takes it from nobody.
 */
import { assert, must } from '../base/assert.ts'
import type { Codec, Codecs } from '../base/codec.ts'
import { FRAME_BYTES_MAX } from '../base/codec.ts'
import { CorruptionError, OperatingError } from '../base/errors.ts'
import { BLOCK_SIZE_BYTES } from '../base/units.ts'
import { PLACE_DEAD, PLACE_FRAME, PLACE_ZERO, aliasSlot, isLower } from '../format/directory.ts'
import type { FramePlace } from '../format/directory.ts'
import { PAGE_SIZE_BYTES } from '../format/page.ts'
import type { SegmentFooter } from '../format/segment.ts'
import {
  DATA_SLOT_END,
  DATA_SLOT_FIRST,
  DIRECTORY_OFFSET_BYTES,
  DIRECTORY_PAGE_BYTES,
  FOOTER_SLOT,
  SETTLING_SUFFIX,
  TABLE_PAGE_COUNT,
  encodeSegmentFooter,
  encodeSegmentHeader,
} from '../format/segment.ts'
import { allocateArena } from '../io/arena.ts'
import type { Io } from '../io/io.ts'
import { ioResult } from '../io/io.ts'
import { Deduper } from './dedup.ts'
import type { Admission } from './dedup.ts'
import type { DedupIndex } from './dedup-index.ts'
import { FrameWriter } from './frame-writer.ts'
import { Rewrite } from './rewrite.ts'
import type { SettleReport } from './rewrite.ts'
import { importIdOf } from './segment-store.ts'
import type { SegmentStore } from './segment-store.ts'
import { ZeroBlocks } from './zero-blocks.ts'

/** Blocks dealt with between two pauses: about a tenth of a millisecond of the engine's time. */
const STEP_BLOCK_COUNT = 32
/** Slots without bytes of their own, passed over between two pauses. */
const PASSED_SLOT_COUNT = 512
const STEP_BYTES: number = STEP_BLOCK_COUNT * BLOCK_SIZE_BYTES

assert(STEP_BYTES >= 2 * FRAME_BYTES_MAX, 'a frame fits, stored and decoded')

export interface SettleRequest {
  id: number
  codec: Codec
  /** Whether the slot has to be kept. */
  isLive: (slot: number) => boolean
  /** Whether an alias may point there. */
  admits: Admission
  /** Awaited between steps: gives guests their turn. Rejects to give up. */
  pace: () => Promise<void>
  /**
   * Healing: puts the right bytes of a slot that cannot be read at `arenaOffset`, or says that
   * nobody has them; then the slot stays unreadable. Absent: such a slot ends the run.
   */
  recover?: (slot: number, arenaOffset: number) => Promise<boolean>
}

export class SegmentSettler {
  readonly #io: Io
  readonly #store: SegmentStore
  readonly #codecs: Codecs
  readonly #index: DedupIndex
  readonly #deduper: Deduper
  readonly #zeroBlocks: ZeroBlocks
  /** Arena memory for the blocks of a step … */
  readonly #step: number
  /** … and for those they are compared with. */
  readonly #compared: number
  readonly #found: Uint32Array = new Uint32Array(2 * STEP_BLOCK_COUNT)
  readonly #hashes: Uint32Array = new Uint32Array(2 * STEP_BLOCK_COUNT)

  private constructor(
    store: SegmentStore,
    codecs: Codecs,
    index: DedupIndex,
    step: number,
    compared: number,
  ) {
    this.#io = store.io
    this.#store = store
    this.#codecs = codecs
    this.#index = index
    this.#deduper = new Deduper(store, index, compared)
    this.#step = step
    this.#compared = compared
    this.#zeroBlocks = new ZeroBlocks(store.checksum)
  }

  static async create(
    store: SegmentStore,
    codecs: Codecs,
    index: DedupIndex,
  ): Promise<SegmentSettler> {
    const { arena } = store.io
    const step = await allocateArena(arena, STEP_BYTES)
    const compared = await allocateArena(arena, STEP_BYTES)
    return new SegmentSettler(store, codecs, index, step, compared)
  }

  close(): void {
    this.#io.arena.free(this.#step, STEP_BYTES)
    this.#io.arena.free(this.#compared, STEP_BYTES)
  }

  /**
   * Rewrites the segment, one at a time. Rejects `segment-corrupt` or `io` when a live block
   * cannot be read, `no-space`, or what `pace` rejects with; the segment is then as it was.
   */
  async settle(request: SettleRequest): Promise<SettleReport> {
    const { id } = request
    // Else a read that has to open the file could find the new one, and take it for the old.
    const state = await this.#store.hold(id)
    try {
      return await this.#rewrite(request)
    } finally {
      this.#store.unpin(state)
    }
  }

  async #rewrite(request: SettleRequest): Promise<SettleReport> {
    const { id } = request
    const path = this.#store.pathOf(id)
    const table = await this.#store.loadTable(id)
    const file = await this.#io.open(`${path}${SETTLING_SUFFIX}`, 'create')
    let isRenamed = false
    try {
      const rewrite = new Rewrite(id, table, file)
      await this.#writeHeader(rewrite)
      await this.#writeBlocks(rewrite, request)
      const footer = await this.#writeDirectory(rewrite, request)
      await this.#store.syncFile(file, id)
      await this.#verify(rewrite, request)
      await this.#io.rename(`${path}${SETTLING_SUFFIX}`, path)
      isRenamed = true
      this.#store.replace(id, file, footer)
      await this.#store.syncFolder()
      return rewrite.report
    } catch (error) {
      if (!isRenamed) {
        await this.#io.close(file)
        await this.#io.remove(`${path}${SETTLING_SUFFIX}`)
      }
      throw error
    }
  }

  async #writeHeader(rewrite: Rewrite): Promise<void> {
    const state = this.#store.get(rewrite.id)
    const kind = must(await this.#store.readKind(state), 'the kind of a sealed segment')
    // 0 where its own header was damaged: it has long been finished, and any import will do.
    const importId = importIdOf(kind, state.importId, rewrite.id)
    const header = { segment: rewrite.id, kind, importId }
    const { memory } = this.#io.arena
    encodeSegmentHeader(header, this.#store.poolId, memory, this.#step, this.#store.checksum)
    this.#write(rewrite, 0, this.#step, PAGE_SIZE_BYTES)
  }

  async #writeBlocks(rewrite: Rewrite, request: SettleRequest): Promise<void> {
    const writer = await FrameWriter.create(this.#io, this.#codecs, request.codec, {
      write: (offsetBytes, arenaOffset, lengthBytes) => {
        this.#write(rewrite, offsetBytes, arenaOffset, lengthBytes)
      },
      setFrame: (slot, word0, word1) => {
        rewrite.setFrame(slot, word0, word1)
      },
    })
    try {
      let slot = DATA_SLOT_FIRST
      while (slot < DATA_SLOT_END) {
        const count = runFrom(rewrite, request, slot)
        if (count === 0) {
          await this.#passOver(rewrite, request, slot)
          slot += 1
          if (slot % PASSED_SLOT_COUNT === 0) await request.pace()
        } else {
          await this.#settleRun(rewrite, request, writer, slot, count)
          await request.pace()
          slot += count
        }
      }
      await writer.finish()
      rewrite.report.frameBytes = writer.storedBytes
    } finally {
      await writer.close()
    }
  }

  /** Deals with a slot that is dead, or zero or an alias already. */
  async #passOver(rewrite: Rewrite, request: SettleRequest, slot: number): Promise<void> {
    const { table, id } = rewrite
    const kind = table.kindOf(slot)
    if (!request.isLive(slot)) {
      if (kind !== PLACE_DEAD) rewrite.report.droppedCount += 1
    } else if (kind === PLACE_DEAD) {
      const fact = `a disk refers to slot ${slot} of segment ${id}, where no block lies`
      const hint = 'run "varve check" on the pool'
      throw new CorruptionError('segment-corrupt', fact, { hint, details: { segment: id, slot } })
    } else if (kind === PLACE_ZERO) {
      rewrite.setZero(slot)
    } else {
      const places = must(table.places, 'the places of a settled segment')
      const target = aliasSlot(places[2 * slot + 1])
      const direct = { segment: places[2 * slot], slot: target }
      const resolved = this.#store.resolve(direct.segment, target)
      // What is healed keeps also aliases that nobody refers to, and what they led to may be gone.
      const end = await (request.recover === undefined ? resolved : resolved.catch(() => direct))
      rewrite.setAlias(slot, end.segment, end.slot)
    }
  }

  async #settleRun(
    rewrite: Rewrite,
    request: SettleRequest,
    writer: FrameWriter,
    first: number,
    count: number,
  ): Promise<void> {
    const { id, admits } = request
    const result = await ioResult((completion) => {
      this.#store.read(id, first, count, this.#step, completion, 0)
    })
    if (result !== 0) {
      if (request.recover === undefined) throw damagedBlock(id, first, -result)
      await this.#recoverRun(rewrite, request.recover, first, count)
    }
    this.#hashes.set(rewrite.table.checksums.subarray(2 * first, 2 * (first + count)))
    const isBelow: Admission = (segment, slot) =>
      isLower(segment, slot, id, first + count) && admits(segment, slot)
    await this.#deduper.match(this.#step, count, this.#hashes, isBelow, this.#found)
    for (let i = 0; i < count; i += 1) {
      if (this.#isZeroBlock(i)) rewrite.setZero(first + i)
      else await this.#place(rewrite, writer, first + i, i)
    }
  }

  /** Block by block: what cannot be had is written as zeros, which its checksum will not match. */
  async #recoverRun(
    rewrite: Rewrite,
    recover: (slot: number, arenaOffset: number) => Promise<boolean>,
    first: number,
    count: number,
  ): Promise<void> {
    const { memory } = this.#io.arena
    for (let i = 0; i < count; i += 1) {
      const at = this.#blockOffset(i)
      const result = await ioResult((completion) => {
        this.#store.read(rewrite.id, first + i, 1, at, completion, 0, true)
      })
      if (result === 0 || (await recover(first + i, at))) continue
      memory.fill(0, at, at + BLOCK_SIZE_BYTES)
      rewrite.lost.add(first + i)
    }
  }

  async #place(rewrite: Rewrite, writer: FrameWriter, slot: number, index: number): Promise<void> {
    const found = this.#duplicateOf(rewrite, slot, index)
    if (found !== null) {
      const end = await this.#store.resolve(found.segment, found.slot)
      rewrite.setAlias(slot, end.segment, end.slot)
      return
    }
    const tag = this.#hashes[2 * index]
    this.#index.set(tag, this.#hashes[2 * index + 1], rewrite.id, slot)
    rewrite.expectFrame(slot)
    await writer.add(slot, this.#blockOffset(index))
  }

  #duplicateOf(
    rewrite: Rewrite,
    slot: number,
    index: number,
  ): { segment: number; slot: number } | null {
    const { id } = rewrite
    const found = { segment: this.#found[2 * index], slot: this.#found[2 * index + 1] }
    if (found.segment !== 0 && isLower(found.segment, found.slot, id, slot)) return found
    // An equal block earlier in this step was not in the index when the step was matched.
    const earlier = this.#index
    const isThere = earlier.find(this.#hashes[2 * index], this.#hashes[2 * index + 1])
    if (!isThere || earlier.segment !== id) return null
    const back = slot - earlier.slot
    if (back <= 0 || back > index || !rewrite.expectsFrame(earlier.slot)) return null
    return this.#equal(index, index - back) ? { segment: id, slot: earlier.slot } : null
  }

  #equal(index: number, earlier: number): boolean {
    const { memory } = this.#io.arena
    const ours = this.#blockOffset(index)
    const theirs = this.#blockOffset(earlier)
    const oursEnd = ours + BLOCK_SIZE_BYTES
    return memory.compare(memory, theirs, theirs + BLOCK_SIZE_BYTES, ours, oursEnd) === 0
  }

  #isZeroBlock(index: number): boolean {
    const { memory } = this.#io.arena
    return this.#zeroBlocks.isZero(memory, this.#blockOffset(index), this.#hashes, 2 * index)
  }

  #blockOffset(index: number): number {
    return this.#step + index * BLOCK_SIZE_BYTES
  }

  async #writeDirectory(rewrite: Rewrite, request: SettleRequest): Promise<SegmentFooter> {
    const { codec } = request
    const { pages, indexes } = rewrite.directoryPages()
    const lengths = new Uint32Array(indexes.length)
    const stored = Buffer.alloc(pages.length)
    const pageBytes = DIRECTORY_PAGE_BYTES
    await this.#codecs.encode(codec, pages, 0, pages.length, pageBytes, stored, 0, lengths)
    const directoryBytes = new Uint32Array(TABLE_PAGE_COUNT)
    const tableChecksums = new Uint32Array(2 * TABLE_PAGE_COUNT)
    const { memory } = this.#io.arena
    const { checksum, poolId } = this.#store
    let from = 0
    for (const [i, index] of indexes.entries()) {
      directoryBytes[index] = lengths[i]
      checksum.hashBytes(stored, from, lengths[i], tableChecksums, 2 * index)
      stored.copy(memory, this.#step, from, from + lengths[i])
      this.#write(rewrite, DIRECTORY_OFFSET_BYTES + from, this.#step, lengths[i])
      from += lengths[i]
    }
    const state = this.#store.get(rewrite.id)
    const { aliasCount, zeroCount, frameSlotCount, frameBytes } = rewrite.report
    const counts = { frameBytes, frameSlotCount, aliasCount, zeroCount }
    const footer: SegmentFooter = {
      segment: rewrite.id,
      kind: must(state.kind, 'the kind of a sealed segment'),
      usedSlotCount: must(state.footer, 'the footer of a sealed segment').usedSlotCount,
      tableChecksums,
      settled: { directoryBytes, directoryCodec: codec, ...counts },
    }
    encodeSegmentFooter(footer, poolId, memory, this.#step, checksum)
    this.#write(rewrite, FOOTER_SLOT * BLOCK_SIZE_BYTES, this.#step, PAGE_SIZE_BYTES)
    return footer
  }

  /** Reads every frame back and holds its blocks against the checksums they had before. */
  async #verify(rewrite: Rewrite, request: SettleRequest): Promise<void> {
    const decoded = this.#step + FRAME_BYTES_MAX
    let verifiedCount = 0
    for (const { frame, checksums, slots } of rewrite.frames()) {
      const result = await ioResult((completion) => {
        const { offsetBytes, storedBytes } = frame
        this.#io.read(rewrite.file, offsetBytes, this.#step, storedBytes, completion, 0)
      })
      if (result !== frame.storedBytes || !this.#decode(frame, decoded)) throw unequal(request.id)
      const { memory } = this.#io.arena
      const { blockCount } = frame
      for (let i = 0; i < blockCount; i += 1) {
        if (rewrite.lost.has(slots[i])) continue
        const at = decoded + i * BLOCK_SIZE_BYTES
        const bad = this.#store.checksum.verifyBlocks(memory, at, 1, checksums, 2 * i)
        if (bad !== -1) throw unequal(request.id)
      }
      verifiedCount += blockCount
      await request.pace()
    }
    const { frameSlotCount } = rewrite.report
    assert(verifiedCount === frameSlotCount, 'every block that was kept is in a frame (I6)')
  }

  #decode({ codec, storedBytes, blockCount }: FramePlace, decoded: number): boolean {
    const { memory } = this.#io.arena
    const args = [memory, this.#step, storedBytes, memory, decoded] as const
    return this.#codecs.decode(codec, ...args, blockCount * BLOCK_SIZE_BYTES)
  }

  #write(rewrite: Rewrite, offsetBytes: number, arenaOffset: number, lengthBytes: number): void {
    this.#store.write(rewrite.file, rewrite.id, offsetBytes, arenaOffset, lengthBytes)
  }
}

function damagedBlock(segment: number, slot: number, errno: number): OperatingError {
  const fact = `segment ${segment} cannot be settled: a block is damaged`
  const hint = 'run "varve scrub" on the pool'
  return new OperatingError('io', fact, { errno, hint, details: { segment, slot } })
}

/** The disk does not give back what it was given; the segment stays as it was (I6). */
function unequal(id: number): OperatingError {
  const fact = `segment ${id} cannot be settled: what was written does not read back the same`
  return new OperatingError('io', fact, { details: { segment: id } })
}

/** Live slots from `slot` on whose bytes have to be read; 0 when this one has none of its own. */
function runFrom(rewrite: Rewrite, request: SettleRequest, slot: number): number {
  let count = 0
  while (
    count < STEP_BLOCK_COUNT &&
    slot + count < DATA_SLOT_END &&
    rewrite.table.kindOf(slot + count) === PLACE_FRAME &&
    request.isLive(slot + count)
  ) {
    count += 1
  }
  return count
}
