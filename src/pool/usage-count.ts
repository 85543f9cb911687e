/**
 * The count: how many stored bytes each set of disks reaches. What is decided, and why, is in
 * docs/decisions/2026-11-25-accounting.md; what is made of it, in `usage-figures.ts`.
 */
import { CorruptionError } from '../base/errors.ts'
import { BLOCK_SIZE_BYTES, SEGMENT_SLOT_COUNT } from '../base/units.ts'
import type { PartAddress } from '../format/catalogue.ts'
import {
  PLACE_ALIAS,
  PLACE_DEAD,
  PLACE_FRAME,
  PLACE_ZERO,
  aliasSlot,
  frameBlockCount,
  frameIndex,
  frameStoredBytes,
  placeKind,
} from '../format/directory.ts'
import { DATA_SLOT_END, DATA_SLOT_FIRST } from '../format/segment.ts'
import { KIND_NODE, entryWord } from '../format/node.ts'
import type { PoolCore } from './core.ts'
import { OwnerSets } from './usage-owners.ts'
import { SetCounts, SlotOwners, ZeroSlots } from './usage-slots.ts'
import { MergedWalk } from './usage-walk.ts'
import type { MergedVisitor, Version } from './usage-walk.ts'

/** The owner of what no disk owns: the catalogue, imports in progress. */
export const OWNER_INTERNAL = 0

/** Where a map begins; null: nothing is mapped. */
export type RootPlace = { segment: number; slot: number } | null

/** A state of the pool that stays as it is while it is counted. */
export interface CountRequest {
  /** By owner; the first is nobody's, see {@link OWNER_INTERNAL}. */
  roots: readonly RootPlace[]
  importRoots: readonly RootPlace[]
  catalogueParts: readonly PartAddress[]
  /** Of the largest disk, for the progress. */
  blockCount: number
}

export interface CountRun {
  /** Awaited between steps, and rejects to give up. */
  pace: () => Promise<void>
  progress: (phase: 'maps' | 'segments', done: number, total: number) => void
}

/**
 * Owners up to `ownerCount` reach a block as data; the same numbers from `ownerCount` on, as a
 * node or a part of the catalogue.
 */
export interface SpaceCount {
  readonly ownerCount: number
  readonly sets: OwnerSets
  /** Mapped addresses that are not zeros, by the disks that have them. */
  readonly mapped: SetCounts
  /** Mapped addresses that are zeros in a settled segment. */
  readonly mappedZeros: SetCounts
  /** Blocks that are zeros by the map. */
  readonly mapZeros: SetCounts
  /** Stored blocks, and what they take. */
  readonly stored: SetCounts
  readonly storedBytes: SetCounts
}

/** Part `index` of `total` divided by `count` in whole numbers: the first are one more. */
export function partOf(total: number, count: number, index: number): number {
  return Math.floor((total + count - 1 - index) / count)
}

/** Rejects with a CorruptionError, `io`, or with what `pace` rejects. */
export async function countSpace(
  core: PoolCore,
  request: CountRequest,
  run: CountRun,
): Promise<SpaceCount> {
  const counter = new Counter(core, request, run)
  await counter.run()
  return counter
}

class Counter implements SpaceCount, MergedVisitor {
  readonly ownerCount: number
  readonly sets: OwnerSets = new OwnerSets()
  readonly mapped: SetCounts = new SetCounts()
  readonly mappedZeros: SetCounts = new SetCounts()
  readonly mapZeros: SetCounts = new SetCounts()
  readonly stored: SetCounts = new SetCounts()
  readonly storedBytes: SetCounts = new SetCounts()
  readonly #core: PoolCore
  readonly #request: CountRequest
  readonly #run: CountRun
  readonly #slots: SlotOwners = new SlotOwners(this.sets)
  readonly #zeroSlots: ZeroSlots = new ZeroSlots()
  /** By set of owners, the set of the same owners that reach a node. */
  readonly #asNodes: Map<number, number> = new Map()

  constructor(core: PoolCore, request: CountRequest, run: CountRun) {
    this.#core = core
    this.#request = request
    this.#run = run
    this.ownerCount = request.roots.length
  }

  async run(): Promise<void> {
    const { tables } = this.#core
    await this.#findZeros()
    const internal = this.#asNode(this.sets.of([OWNER_INTERNAL]))
    for (const { segment, slot, blockCount } of this.#request.catalogueParts) {
      for (let i = 0; i < blockCount; i += 1) this.#slots.add(segment, slot + i, internal)
    }
    await new MergedWalk(this.sets, this, tables, this.#run.pace).run(this.#roots())
    await this.#weighAll()
  }

  node(segment: number, slot: number, owners: number): void {
    this.#slots.add(segment, slot, this.#asNode(owners))
  }

  blocks(segment: number, slot: number, count: number, owners: number): void {
    for (let at = slot; at < slot + count; at += 1) {
      if (this.#zeroSlots.has(segment, at)) {
        this.mappedZeros.add(owners, 1)
      } else {
        this.mapped.add(owners, 1)
        this.#slots.add(segment, at, owners)
      }
    }
  }

  zeros(count: number, owners: number): void {
    this.mapZeros.add(owners, count)
  }

  reached(blockIndex: number): void {
    const { blockCount } = this.#request
    this.#run.progress('maps', Math.min(blockIndex, blockCount), blockCount)
  }

  /** The different root nodes with those that have them. */
  #roots(): Version[] {
    const owners: Map<number, number[]> = new Map()
    const note = (root: RootPlace, owner: number): void => {
      if (root === null) return
      const key = root.segment * SEGMENT_SLOT_COUNT + root.slot
      const known = owners.get(key)
      if (known === undefined) owners.set(key, [owner])
      else if (known.at(-1) !== owner) known.push(owner)
    }
    for (const root of this.#request.importRoots) note(root, OWNER_INTERNAL)
    for (const [owner, root] of this.#request.roots.entries()) note(root, owner)
    return [...owners].map(([key, who]) => {
      const slot = key % SEGMENT_SLOT_COUNT
      const word0 = (key - slot) / SEGMENT_SLOT_COUNT
      return { word0, word1: entryWord(KIND_NODE, slot), owners: this.sets.of(who) }
    })
  }

  /** Zeros are told from data while the maps are walked: only then is known who maps them where. */
  async #findZeros(): Promise<void> {
    const { store } = this.#core
    for (const id of store.ids()) {
      // What a reclaim takes away meanwhile is none of what is counted.
      if (!store.has(id)) continue
      const zeroCount = (await store.tryFooter(id))?.settled?.zeroCount ?? 0
      if (zeroCount === 0 || !store.has(id)) continue
      const { places } = await store.loadTable(id)
      for (let slot = DATA_SLOT_FIRST; places !== null && slot < DATA_SLOT_END; slot += 1) {
        if (placeKind(places[2 * slot + 1]) === PLACE_ZERO) this.#zeroSlots.add(id, slot)
      }
      await this.#run.pace()
    }
  }

  /** From the highest segment down: an alias is seen before what it points to. */
  async #weighAll(): Promise<void> {
    const { store } = this.#core
    const ids = store.ids().reverse()
    for (const [done, id] of ids.entries()) {
      const owners = this.#slots.of(id)
      if (owners === null) continue
      const isSettled = (await store.tryFooter(id))?.settled !== undefined
      const places = isSettled ? (await store.loadTable(id)).places : null
      if (places === null) this.#weighRaw(owners)
      else this.#weighSettled(id, owners, places)
      this.#slots.drop(id)
      this.#run.progress('segments', done, ids.length)
      await this.#run.pace()
    }
    this.#run.progress('segments', ids.length, ids.length)
    // A map names them, and they are not there: this throws.
    for (const id of this.#slots.segmentIds()) store.get(id)
  }

  #weighRaw(owners: Uint32Array): void {
    for (let slot = DATA_SLOT_FIRST; slot < DATA_SLOT_END; slot += 1) {
      if (owners[slot] !== 0) this.#weigh(owners[slot], BLOCK_SIZE_BYTES)
    }
  }

  #weighSettled(id: number, owners: Uint32Array, places: Uint32Array): void {
    for (let slot = DATA_SLOT_END - 1; slot >= DATA_SLOT_FIRST; slot -= 1) {
      if (owners[slot] === 0) continue
      const word0 = places[2 * slot]
      const word1 = places[2 * slot + 1]
      const kind = placeKind(word1)
      if (kind === PLACE_FRAME) {
        const bytes = partOf(frameStoredBytes(word1), frameBlockCount(word1), frameIndex(word0))
        this.#weigh(owners[slot], bytes)
      } else if (kind === PLACE_ALIAS) {
        this.#slots.add(word0, aliasSlot(word1), owners[slot])
      } else if (kind === PLACE_DEAD) throw lost(id, slot)
    }
  }

  #weigh(owners: number, bytes: number): void {
    this.stored.add(owners, 1)
    this.storedBytes.add(owners, bytes)
  }

  #asNode(owners: number): number {
    const known = this.#asNodes.get(owners)
    if (known !== undefined) return known
    const runs = Array.from(this.sets.runs(owners), (owner) => owner + this.ownerCount)
    const asNode = this.sets.ofRuns(runs)
    this.#asNodes.set(owners, asNode)
    return asNode
  }
}

function lost(segment: number, slot: number): CorruptionError {
  const fact = `a disk refers to slot ${slot} of segment ${segment}, where no block lies`
  const hint = 'run "varve check" on the pool'
  return new CorruptionError('segment-corrupt', fact, { hint, details: { segment, slot } })
}
