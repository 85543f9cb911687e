/**
 * Finds blocks that are stored already. The index names candidates; candidates that lie one behind
 * the other are read together, and only equal bytes make a duplicate (I7).
 */
import { LRUCache } from 'lru-cache'
import { BLOCK_SIZE_BYTES, SEGMENT_SLOT_COUNT } from '../base/units.ts'
import { PLACE_ALIAS } from '../format/directory.ts'
import { DATA_SLOT_END, DATA_SLOT_FIRST } from '../format/segment.ts'
import type { Arena } from '../io/arena.ts'
import { ARENA_PIECE_BYTES_MAX } from '../io/arena.ts'
import { ioResult } from '../io/io.ts'
import { homeOf, homeShift } from './dedup-index.ts'
import type { DedupIndex } from './dedup-index.ts'
import type { SegmentStore } from './segment-store.ts'
import type { SegmentTable } from './segment-table.ts'

/** Segments whose tables are kept: 192 KiB or 320 KiB each. */
const NEIGHBOUR_COUNT_MAX = 16
const NEIGHBOUR_CAPACITY: number = 2 * SEGMENT_SLOT_COUNT
const NEIGHBOUR_SHIFT: number = homeShift(NEIGHBOUR_CAPACITY)

/** Blocks matched at once. */
export const MATCH_BLOCK_COUNT_MAX: number = ARENA_PIECE_BYTES_MAX / BLOCK_SIZE_BYTES

/** Whether an address may be referred to now. */
export type Admission = (segment: number, slot: number) => boolean

export class Deduper {
  readonly #index: DedupIndex
  readonly #store: SegmentStore
  readonly #arena: Arena
  readonly #piece: number
  readonly #neighbours: LRUCache<number, Neighbours>
  readonly #candidates: Uint32Array = new Uint32Array(2 * MATCH_BLOCK_COUNT_MAX)

  /** `piece`: arena memory for as many candidates as blocks are matched at once. */
  constructor(store: SegmentStore, index: DedupIndex, piece: number) {
    this.#store = store
    this.#arena = store.io.arena
    this.#index = index
    this.#piece = piece
    this.#neighbours = new LRUCache({ max: NEIGHBOUR_COUNT_MAX })
  }

  /**
   * For `count` blocks at `arenaOffset`, whose checksums are two words each at `hashes[2 * i]`:
   * writes the address of an equal block into `found[2 * i]` and `[2 * i + 1]`, or zeros. What
   * `admits` refuses is not looked at; the caller asks again before it refers to it.
   */
  async match(
    arenaOffset: number,
    count: number,
    hashes: Uint32Array,
    admits: Admission,
    found: Uint32Array,
  ): Promise<void> {
    found.fill(0, 0, 2 * count)
    if (this.#index.sampleBits > 0) await this.#fetchNeighbours(hashes, count)
    const candidates = this.#candidates
    let any = false
    for (let i = 0; i < count; i += 1) {
      const isThere = this.#find(hashes[2 * i], hashes[2 * i + 1])
      const { segment, slot } = this.#index
      const isAdmitted = isThere && this.#store.has(segment) && admits(segment, slot)
      candidates[2 * i] = isAdmitted ? segment : 0
      candidates[2 * i + 1] = isAdmitted ? slot : 0
      any ||= isAdmitted
    }
    if (!any) return
    for (let at = 0; at < count; at += 1) {
      if (candidates[2 * at] === 0) continue
      const run = addressRun(candidates, at, count)
      await this.#compare(arenaOffset + at * BLOCK_SIZE_BYTES, at, run, found)
      at += run - 1
    }
  }

  /** Leaves the address in `index.segment` and `index.slot`. */
  #find(tag: number, high: number): boolean {
    if (this.#index.isSampled(tag)) {
      if (this.#index.find(tag, high)) return true
      if (this.#index.sampleBits === 0) return false
    }
    for (const [segment, neighbours] of this.#neighbours.entries()) {
      const slot = neighbours.find(tag, high)
      if (slot === 0) continue
      this.#index.segment = segment
      this.#index.slot = slot
      return true
    }
    return false
  }

  /** Loads the tables that the sampled ones lead to; what cannot be loaded is not there. */
  async #fetchNeighbours(hashes: Uint32Array, count: number): Promise<void> {
    for (let i = 0; i < count; i += 1) {
      const tag = hashes[2 * i]
      if (!this.#index.isSampled(tag) || !this.#index.find(tag, hashes[2 * i + 1])) continue
      const { segment } = this.#index
      if (this.#neighbours.get(segment) !== undefined) continue
      if (!this.#store.has(segment) || !this.#store.get(segment).sealed) continue
      const table = await this.#store.loadTable(segment).catch(() => null)
      if (table !== null) this.#neighbours.set(segment, new Neighbours(table))
    }
  }

  async #compare(arenaOffset: number, at: number, run: number, found: Uint32Array): Promise<void> {
    const segment = this.#candidates[2 * at]
    const slot = this.#candidates[2 * at + 1]
    const result = await ioResult((completion) => {
      this.#store.read(segment, slot, run, this.#piece, completion, 0, true)
    })
    if (result !== 0) {
      if (run > 1) await this.#compareHalves(arenaOffset, at, run, found)
      return
    }
    const { memory } = this.#arena
    for (let i = 0; i < run; i += 1) {
      const theirs = this.#piece + i * BLOCK_SIZE_BYTES
      const ours = arenaOffset + i * BLOCK_SIZE_BYTES
      const difference = memory.compare(
        memory,
        theirs,
        theirs + BLOCK_SIZE_BYTES,
        ours,
        ours + BLOCK_SIZE_BYTES,
      )
      if (difference !== 0) continue
      found[2 * (at + i)] = segment
      found[2 * (at + i) + 1] = slot + i
    }
  }

  /** One block that is gone must not take its neighbours along. */
  async #compareHalves(
    arenaOffset: number,
    at: number,
    run: number,
    found: Uint32Array,
  ): Promise<void> {
    const half = run >> 1
    await this.#compare(arenaOffset, at, half, found)
    await this.#compare(arenaOffset + half * BLOCK_SIZE_BYTES, at + half, run - half, found)
  }
}

/** The fingerprints of one segment, to be looked up: those that the index has not sampled. */
class Neighbours {
  readonly #table: SegmentTable
  /** Slots by their tag; 0 is free. */
  readonly #slots: Uint16Array = new Uint16Array(NEIGHBOUR_CAPACITY)

  constructor(table: SegmentTable) {
    this.#table = table
    for (let slot = DATA_SLOT_FIRST; slot < DATA_SLOT_END; slot += 1) {
      // What an alias points to is the better candidate, and has the same fingerprint.
      if (!table.hasBlock(slot) || table.kindOf(slot) === PLACE_ALIAS) continue
      let at = homeOf(table.checksums[2 * slot], NEIGHBOUR_SHIFT)
      while (this.#slots[at] !== 0) at = (at + 1) & (NEIGHBOUR_CAPACITY - 1)
      this.#slots[at] = slot
    }
  }

  /** A slot, or 0. */
  find(tag: number, high: number): number {
    const { checksums } = this.#table
    for (let at = homeOf(tag, NEIGHBOUR_SHIFT); ; at = (at + 1) & (NEIGHBOUR_CAPACITY - 1)) {
      const slot = this.#slots[at]
      if (slot === 0) return 0
      if (checksums[2 * slot] === tag && checksums[2 * slot + 1] === high) return slot
    }
  }
}

/** How many of the addresses from `index` on, two words each, lie one behind the other. */
export function addressRun(addresses: Uint32Array, index: number, count: number): number {
  const segment = addresses[2 * index]
  const slot = addresses[2 * index + 1]
  let run = 1
  while (
    index + run < count &&
    addresses[2 * (index + run)] === segment &&
    addresses[2 * (index + run) + 1] === slot + run
  ) {
    run += 1
  }
  return run
}
