/**
 * Heals what a scrub has found. Runs while nothing is reclaimed or settled, so that a segment stays
 * what it is meanwhile.
 *
 * A block is had again from, in this order: a cache that has it clean, a node in memory, an equal
 * block elsewhere (any slot of the pool whose recorded checksum is the same and whose bytes match
 * it), or its own bytes with one bit turned over. Where it lies uncompressed it is written in place
 * (`segment-heal.ts`); a segment with damaged frames is rewritten as settling does it, with every
 * block that can be had.
 */
import { VarveError } from '../base/errors.ts'
import { BLOCK_SIZE_BYTES } from '../base/units.ts'
import { Codec } from '../base/codec.ts'
import { PLACE_FRAME, frameOffset, isPlainFrame, plainBlockOffset } from '../format/directory.ts'
import { ioResult } from '../io/io.ts'
import { allocateArena } from '../io/arena.ts'
import { EqualBlocks, addressKey } from '../segment/equal-blocks.ts'
import { SegmentHealer, wordsAt } from '../segment/segment-heal.ts'
import type { FaultKind, SegmentFault, SegmentScrubber } from '../segment/segment-scrub.ts'
import type { SegmentTable } from '../segment/segment-table.ts'
import { SegmentSettler } from '../segment/settle.ts'
import type { PoolCore } from './core.ts'
import type { LiveState } from './scrub-live.ts'

/** One segment, before and after. */
export interface HealedSegment {
  id: number
  found: SegmentFault[]
  left: SegmentFault[]
}

const BLOCK_KINDS: ReadonlySet<FaultKind> = new Set<FaultKind>(['block', 'frame'])

export class ScrubHealing {
  readonly #core: PoolCore
  readonly #scrubber: SegmentScrubber
  readonly #live: LiveState
  readonly #pace: () => Promise<void>
  readonly #healer: SegmentHealer
  readonly #piece: number
  /** Known once `gather` has run. */
  equal: EqualBlocks = new EqualBlocks([])

  private constructor(
    core: PoolCore,
    scrubber: SegmentScrubber,
    live: LiveState,
    pace: () => Promise<void>,
    healer: SegmentHealer,
    piece: number,
  ) {
    this.#core = core
    this.#scrubber = scrubber
    this.#live = live
    this.#pace = pace
    this.#healer = healer
    this.#piece = piece
  }

  static async create(
    core: PoolCore,
    scrubber: SegmentScrubber,
    live: LiveState,
    pace: () => Promise<void>,
  ): Promise<ScrubHealing> {
    const piece = await allocateArena(core.io.arena, BLOCK_SIZE_BYTES)
    const healer = await SegmentHealer.create(core.store, core.codecs, pace)
    return new ScrubHealing(core, scrubber, live, pace, healer, piece)
  }

  close(): void {
    this.#healer.close()
    this.#core.io.arena.free(this.#piece, BLOCK_SIZE_BYTES)
  }

  /** Looks at the segments again, and heals. Rejects what `pace` does. */
  async run(ids: readonly number[]): Promise<HealedSegment[]> {
    const { store } = this.#core
    const segments: HealedSegment[] = []
    for (const id of ids) {
      if (!store.has(id) || !store.get(id).sealed) continue
      const found = await this.#healPages(id)
      if (found.length > 0) segments.push({ id, found, left: [] })
    }
    const isAny = segments.some(({ found }) => found.some(({ kind }) => kind !== 'padding'))
    if (isAny) await this.#gather(segments)
    for (const { id, found } of segments) {
      const slots = slotsOf(found.filter(({ kind }) => BLOCK_KINDS.has(kind)))
      if (slots.length > 0) await this.#healBlocks(id, slots)
    }
    for (const segment of segments) segment.left = await this.#scan(segment.id)
    return segments
  }

  #scan(id: number): Promise<SegmentFault[]> {
    return this.#scrubber.scan(id, (slot) => this.#live.marked.isReached(id, slot))
  }

  /** What is no block, first: it says how to judge blocks. Returns all that was found. */
  async #healPages(id: number): Promise<SegmentFault[]> {
    const faults = await this.#scan(id)
    const pages = faults.filter(({ kind }) => !BLOCK_KINDS.has(kind))
    if (pages.length === 0) return faults
    for (const { kind, slot, count } of pages) {
      for (let i = 0; i < (kind === 'record' ? count : 1); i += 1) {
        await this.#attempt(() => this.#healPage(id, kind, slot + i))
      }
    }
    const again = await this.#healPagesBehind(id, faults)
    return [...pages, ...again.filter(({ kind }) => BLOCK_KINDS.has(kind))]
  }

  /** With a footer that is sound again, more may be seen. */
  async #healPagesBehind(id: number, before: readonly SegmentFault[]): Promise<SegmentFault[]> {
    const again = await this.#scan(id)
    if (!before.some(({ kind }) => kind === 'footer')) return again
    const tables = again.filter(({ kind }) => kind === 'table')
    for (const { slot } of tables) {
      await this.#attempt(() => this.#healPage(id, 'table', slot))
    }
    return tables.length === 0 ? again : this.#scan(id)
  }

  #healPage(id: number, kind: FaultKind, slot: number): Promise<boolean> {
    const healer = this.#healer
    if (kind === 'header') return healer.header(id)
    if (kind === 'footer') return healer.footer(id)
    if (kind === 'table') return healer.table(id, slot)
    if (kind === 'record') return healer.record(id, slot)
    return kind === 'padding' ? healer.padding(id) : Promise.resolve(false)
  }

  /** What the world refuses to heal stays damaged; nobody else is the worse for it. */
  async #attempt(work: () => Promise<boolean>): Promise<boolean> {
    try {
      return await work()
    } catch (error) {
      if (!(error instanceof VarveError) || error.code === 'canceled') throw error
      return false
    }
  }

  async #gather(segments: readonly HealedSegment[]): Promise<void> {
    const { store } = this.#core
    const damaged: number[] = []
    for (const { id, found } of segments) {
      for (const slot of slotsOf(found)) damaged.push(addressKey(id, slot))
    }
    this.equal = new EqualBlocks(damaged)
    for (const { id, found } of segments) {
      const table = await this.#tryTable(id)
      if (table === null) continue
      const blocks = found.filter(({ kind }) => BLOCK_KINDS.has(kind))
      for (const slot of slotsOf(blocks)) this.equal.want(table.checksums, slot)
    }
    await this.equal.gather(store, this.#pace)
  }

  async #tryTable(id: number): Promise<SegmentTable | null> {
    try {
      return await this.#core.store.loadTable(id)
    } catch (error) {
      if (!(error instanceof VarveError)) throw error
      return null
    }
  }

  async #healBlocks(id: number, slots: readonly number[]): Promise<void> {
    const table = await this.#tryTable(id)
    if (table === null) return
    const { places } = table
    let isRewriteWorthwhile = false
    for (const slot of slots) {
      if (table.kindOf(slot) !== PLACE_FRAME) continue
      await this.#attempt(async () => {
        const offsetBytes = plainOffset(places, slot)
        if (!(await this.#recover(id, table, slot, offsetBytes, this.#piece))) return false
        if (offsetBytes === null) {
          isRewriteWorthwhile = true
          return true
        }
        await this.#healer.block(id, offsetBytes, this.#piece)
        if (places !== null) this.#core.store.forgetFrame(id, frameOffset(places[2 * slot]))
        return true
      })
    }
    if (isRewriteWorthwhile) await this.#attempt(() => this.#rewrite(id, table))
  }

  /** Puts the block's bytes at `at`; `offsetBytes`: where they lie uncompressed, or null. */
  async #recover(
    id: number,
    table: SegmentTable,
    slot: number,
    offsetBytes: number | null,
    at: number,
  ): Promise<boolean> {
    const { tables } = this.#core
    if (await this.#readsAs(id, slot, table, slot, at)) return true
    const node = tables.recallNode(id, slot)
    if (node !== null) {
      const { memory } = this.#core.io.arena
      memory.set(new Uint8Array(node.buffer, node.byteOffset, BLOCK_SIZE_BYTES), at)
      if (this.#matches(table, slot, at)) return true
    }
    for (const copy of this.equal.copiesOf(table.checksums, slot)) {
      await this.#pace()
      if (await this.#readsAs(copy.segment, copy.slot, table, slot, at)) return true
    }
    if (offsetBytes === null) return false
    return this.#healer.tryMendBlock(id, offsetBytes, wordsAt(table.checksums, slot), at)
  }

  /** Whether the block at an address can be read, to `at`, and is the one that is wanted. */
  async #readsAs(
    segment: number,
    slot: number,
    table: SegmentTable,
    wanted: number,
    at: number,
  ): Promise<boolean> {
    const result = await ioResult((completion) => {
      this.#core.store.read(segment, slot, 1, at, completion, 0, true)
    })
    return result === 0 && this.#matches(table, wanted, at)
  }

  #matches(table: SegmentTable, slot: number, at: number): boolean {
    const { checksum, io } = this.#core
    return checksum.verifyBlocks(io.arena.memory, at, 1, table.checksums, 2 * slot) === -1
  }

  /** Keeps every slot as it is, and every alias; only frames are made anew. */
  async #rewrite(id: number, table: SegmentTable): Promise<boolean> {
    const { store, codecs, dedupIndex, space } = this.#core
    store.verifyFolderDurable()
    const codec = (await store.tryFooter(id))?.settled?.directoryCodec ?? Codec.raw
    const settler = await SegmentSettler.create(store, codecs, dedupIndex)
    try {
      await space.withReserve(() =>
        settler.settle({
          id,
          codec,
          isLive: (slot) => table.hasBlock(slot),
          admits: () => false,
          pace: this.#pace,
          recover: (slot, at) => this.#recover(id, table, slot, null, at),
        }),
      )
    } finally {
      settler.close()
    }
    return true
  }
}

/** Where in its file a block lies uncompressed; null: it is encoded with others. */
function plainOffset(places: Uint32Array | null, slot: number): number | null {
  if (places === null) return slot * BLOCK_SIZE_BYTES
  return isPlainFrame(places[2 * slot + 1]) ? plainBlockOffset(places[2 * slot]) : null
}

/** Every slot that the faults make unreadable. */
function slotsOf(faults: readonly SegmentFault[]): number[] {
  const slots: number[] = []
  for (const { slot, count } of faults) {
    for (let i = 0; i < count; i += 1) slots.push(slot + i)
  }
  return slots
}
