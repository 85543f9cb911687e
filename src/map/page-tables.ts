/**
 * The maps of all volumes and snapshots of a pool: a page table each, sharing nodes.
 *
 * Lookups and updates are synchronous. One that needs a node which is not in memory says so
 * instead (a page fault, naming the node); the caller waits for `fault` and tries again.
 *
 *     while (!tables.lookup(root, block, count, found)) await tables.fault(found)
 *
 *     while (!tables.tryReside(root, block, count, found)) await tables.fault(found)
 *     tables.setBlocks(root, epoch, block, count, segment, slot)   // in the same turn
 *
 * An epoch is a number that belongs to one writable state of one volume. Who copies a root that
 * can still be written to gives the writable one a number never used before: that is all that
 * keeps the copy as it is (I5).
 */
import { assert, assertSafe } from '../base/assert.ts'
import {
  KIND_NODE,
  KIND_SHIFT,
  KIND_UNMAPPED,
  KIND_ZERO,
  MAP_BLOCK_COUNT,
  NODE_ENTRY_COUNT,
  NODE_LEVEL_ROOT,
  SLOT_MASK,
} from '../format/node.ts'
import { DATA_SLOT_END, DATA_SLOT_FIRST } from '../format/segment.ts'
import { DirtyNodes } from './dirty-nodes.ts'
import type { NodeWriter } from './dirty-nodes.ts'
import { SPAN_BLOCK_COUNTS, entryIndex, leafRun, upperRun } from './lookup.ts'
import type { Lookup } from './lookup.ts'
import { KIND_DIRTY, dirtyChildAt } from './map-node.ts'
import type { MapNode } from './map-node.ts'
import { MapRoot } from './map-root.ts'
import { NodeCache } from './node-cache.ts'
import type { NodeSource } from './node-cache.ts'
import { MapUpdater } from './update.ts'
import { MappedCounter } from './mapped-count.ts'
import type { NodeReader } from './node-reader.ts'
import { walkMap } from './walk.ts'
import type { MapVisitor } from './walk.ts'

export type { NodeSource } from './node-cache.ts'
export type { NodeWriter } from './dirty-nodes.ts'
export type { MapVisitor } from './walk.ts'
export { Lookup } from './lookup.ts'

const DIRTY_NODE_COUNT_MAX_DEFAULT = 16_384

export interface PageTablesOptions {
  /** Budget of clean nodes; dirty ones are extra, see `isDirtyFull`. */
  nodeCacheBytes: number
  /** Dirty nodes, about 4.5 KiB each, beyond which `isDirtyFull`. */
  dirtyNodeCountMax?: number
  source: NodeSource
  /** Awaited now and then by long walks so that others get a turn. Default: setImmediate. */
  pause?: () => Promise<void>
}

export class PageTables implements NodeReader {
  readonly #cache: NodeCache
  readonly #dirty: DirtyNodes
  readonly #updater: MapUpdater
  readonly #counter: MappedCounter
  readonly #dirtyCountMax: number
  readonly pause: () => Promise<void>
  /**
   * The leaf that was looked into last, and the node above it, which leads to a gibibyte; right
   * until their root is updated or released, nodes are flushed, or one comes into the cache.
   */
  #lastRoot: MapRoot | null = null
  #lastLeafIndex = -1
  #lastParent: MapNode | null = null
  #lastParentIndex = -1
  #lastEntries: Uint32Array = new Uint32Array(0)
  #lastArrivalCount = 0

  constructor(options: PageTablesOptions) {
    this.#cache = new NodeCache(options.nodeCacheBytes, options.source)
    this.#dirty = new DirtyNodes(this.#cache)
    this.#updater = new MapUpdater(this.#cache, this.#dirty)
    this.#counter = new MappedCounter(this)
    this.#dirtyCountMax = options.dirtyNodeCountMax ?? DIRTY_NODE_COUNT_MAX_DEFAULT
    this.pause = options.pause ?? (() => new Promise((resolve) => setImmediate(resolve)))
  }

  /** Nodes that wait to be written. */
  get dirtyCount(): number {
    return this.#dirty.count
  }

  /** Time to flush: updates go on working, but memory is no longer bounded. */
  get isDirtyFull(): boolean {
    return this.#dirty.count >= this.#dirtyCountMax
  }

  /** Clean nodes in memory. */
  get cachedCount(): number {
    return this.#cache.count
  }

  /** Reads that went to the source so far. */
  get loadCount(): number {
    return this.#cache.loadCount
  }

  /** A root of its own with the same content, O(1). Raise the epoch of those still written to. */
  copyRoot(root: MapRoot): MapRoot {
    assert(!root.isReleased, 'the root is in use')
    const node = root.dirtyNode()
    const copy = new MapRoot(root.word0, root.word1)
    if (node !== null) {
      node.references += 1
      copy.setNode(node)
    }
    return copy
  }

  /** Lets go of what only this root holds. Using it afterwards is an assertion. */
  releaseRoot(root: MapRoot): void {
    const node = root.dirtyNode()
    root.markReleased()
    if (node !== null) this.#dirty.release(node)
    if (this.#lastRoot === root) this.#lastRoot = null
  }

  /**
   * Describes up to `countMax` blocks from `blockIndex` in `out`: what they are, and how many in
   * a row. The run may be shorter than it could be, never empty. False: a node is missing, see
   * {@link fault}.
   */
  lookup(root: MapRoot, blockIndex: number, countMax: number, out: Lookup): boolean {
    if (
      root === this.#lastRoot &&
      Math.floor(blockIndex / NODE_ENTRY_COUNT) === this.#lastLeafIndex &&
      this.#cache.arrivalCount === this.#lastArrivalCount
    ) {
      assert(countMax >= 1, 'a lookup is for at least one block')
      leafRun(this.#lastEntries, blockIndex % NODE_ENTRY_COUNT, countMax, out)
      return true
    }
    return this.#lookupFromRoot(root, blockIndex, countMax, out)
  }

  /** Loads the node that `out` lacks. Rejects with the source's error, or `node-corrupt`. */
  async fault(out: Lookup): Promise<void> {
    await this.#cache.load(out.faultSegment, out.faultSlot, out.faultLevel)
  }

  /**
   * True when a change of these blocks finds every node it needs in memory, until the end of the
   * turn or the next flush. False: a node is missing, see {@link fault}.
   */
  tryReside(root: MapRoot, blockIndex: number, count: number, out: Lookup): boolean {
    assertRange(blockIndex, count)
    const end = blockIndex + count
    return (
      this.#residesTo(root, blockIndex, blockIndex, end, out) &&
      this.#residesTo(root, end - 1, blockIndex, end, out)
    )
  }

  /** Maps `count` blocks to consecutive slots from `slot`. Needs {@link tryReside} before it. */
  setBlocks(
    root: MapRoot,
    epoch: number,
    blockIndex: number,
    count: number,
    segment: number,
    slot: number,
  ): void {
    assertRange(blockIndex, count)
    assert(segment > 0 && segment < 2 ** 32, 'a block lies in a segment')
    assert(slot >= DATA_SLOT_FIRST, 'a block lies in a data slot')
    assert(slot + count <= DATA_SLOT_END, 'a run ends in the segment it begins in')
    this.#lastRoot = null
    this.#updater.setBlocks(root, epoch, blockIndex, count, segment, slot)
  }

  /** Makes `count` blocks KIND_UNMAPPED or KIND_ZERO. Needs {@link tryReside} before it. */
  setKind(root: MapRoot, epoch: number, blockIndex: number, count: number, kind: number): void {
    assertRange(blockIndex, count)
    assert(kind === KIND_UNMAPPED || kind === KIND_ZERO, 'a kind without an address')
    this.#lastRoot = null
    this.#updater.setKind(root, epoch, blockIndex, count, kind)
  }

  /** See `DirtyNodes.flush`: children first, oldest first; how many are not dirty any more. */
  flushSome(countMax: number, writer: NodeWriter): number {
    assert(Number.isSafeInteger(countMax) && countMax > 0, 'a flush is of at least one node')
    this.#lastRoot = null
    return this.#dirty.flush(countMax, writer)
  }

  /** Writes all dirty nodes of all maps: then every root has an address. */
  flushAll(writer: NodeWriter): number {
    this.#lastRoot = null
    const flushedCount = this.#dirty.flush(Number.MAX_SAFE_INTEGER, writer)
    assert(this.#dirty.count === 0, 'a full flush leaves nothing dirty')
    return flushedCount
  }

  /** Shows a visitor every block of a map and every written node, in no particular order. */
  walk(root: MapRoot, visitor: MapVisitor): Promise<void> {
    return walkMap(root, visitor, this)
  }

  /** Blocks of a map that have an address. Subtrees counted before are not walked again. */
  mappedBlockCount(root: MapRoot): Promise<number> {
    return this.#counter.count(root)
  }

  /** The entries of a written node, past the cache. Rejects as {@link fault} does. */
  readNode(segment: number, slot: number, level: number): Promise<Uint32Array> {
    return this.#cache.readOnce(segment, slot, level)
  }

  /** The entries of a written node that is in memory, for this turn; null when it is not. */
  recallNode(segment: number, slot: number): Uint32Array | null {
    return this.#cache.recall(segment, slot)
  }

  #lookupFromRoot(root: MapRoot, blockIndex: number, countMax: number, out: Lookup): boolean {
    assert(blockIndex >= 0 && blockIndex < MAP_BLOCK_COUNT, 'a block is below 2^36')
    assert(countMax >= 1, 'a lookup is for at least one block')
    const parentIndex = Math.floor(blockIndex / SPAN_BLOCK_COUNTS[2])
    const isNear =
      root === this.#lastRoot &&
      parentIndex === this.#lastParentIndex &&
      this.#cache.arrivalCount === this.#lastArrivalCount
    let node = isNear ? this.#lastParent : root.dirtyNode()
    if (node === null) {
      if (root.word1 === KIND_UNMAPPED) {
        out.kind = KIND_UNMAPPED
        out.segment = 0
        out.slot = 0
        out.count = Math.min(MAP_BLOCK_COUNT - blockIndex, countMax)
        return true
      }
      node = this.#resident(root.word0, root.word1, NODE_LEVEL_ROOT, out)
    }
    let parent: MapNode | null = null
    while (node !== null && node.level > 0) {
      parent = node
      const index = entryIndex(blockIndex, node.level)
      const { entries } = node
      const kind = entries[2 * index + 1] >>> KIND_SHIFT
      if (kind === KIND_NODE) {
        node = this.#resident(entries[2 * index], entries[2 * index + 1], node.level - 1, out)
      } else if (kind === KIND_DIRTY) {
        // A healed marker is another entry: look at it again.
        node = dirtyChildAt(node, index) ?? node
      } else {
        upperRun(entries, index, node.level, blockIndex, countMax, out)
        return true
      }
    }
    if (node === null) return false
    this.#lastRoot = root
    this.#lastParent = parent
    this.#lastParentIndex = parentIndex
    this.#lastLeafIndex = Math.floor(blockIndex / NODE_ENTRY_COUNT)
    this.#lastEntries = node.entries
    this.#lastArrivalCount = this.#cache.arrivalCount
    leafRun(node.entries, blockIndex % NODE_ENTRY_COUNT, countMax, out)
    return true
  }

  /** Whether the nodes above `blockIndex` that the range cuts through are in memory. */
  #residesTo(root: MapRoot, blockIndex: number, start: number, end: number, out: Lookup): boolean {
    let node = root.dirtyNode()
    if (node === null) {
      if (root.word1 === KIND_UNMAPPED) return true
      node = this.#resident(root.word0, root.word1, NODE_LEVEL_ROOT, out)
    }
    while (node !== null && node.level > 0) {
      const span = SPAN_BLOCK_COUNTS[node.level]
      const spanStart = blockIndex - (blockIndex % span)
      if (spanStart >= start && spanStart + span <= end) return true
      const index = entryIndex(blockIndex, node.level)
      const kind = node.entries[2 * index + 1] >>> KIND_SHIFT
      if (kind === KIND_DIRTY) {
        node = dirtyChildAt(node, index) ?? node
      } else if (kind === KIND_NODE) {
        const { entries, level } = node
        node = this.#resident(entries[2 * index], entries[2 * index + 1], level - 1, out)
      } else {
        return true
      }
    }
    return node !== null
  }

  /** The node an entry names, or null after noting in `out` that it must be loaded. */
  #resident(word0: number, word1: number, level: number, out: Lookup): MapNode | null {
    assert(word1 >>> KIND_SHIFT === KIND_NODE, 'the root is in use')
    const node = this.#cache.tryGet(word0, word1, level)
    if (node !== null) return node
    out.faultSegment = word0
    out.faultSlot = word1 & SLOT_MASK
    out.faultLevel = level
    return null
  }
}

function assertRange(blockIndex: number, count: number): void {
  assertSafe(blockIndex, 'block index')
  assertSafe(count, 'block count')
  assert(count >= 1, 'a range has at least one block')
  assert(blockIndex + count <= MAP_BLOCK_COUNT, 'a range ends within the 2^36 blocks of a map')
}
