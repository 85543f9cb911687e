/**
 * Clean nodes in memory under a byte budget, by address.
 *
 * An lru-cache holds them; a direct-mapped table in front answers most lookups without hashing
 * into it (147 ns measured, against about 5). The table is a subset of the cache: what is evicted
 * leaves it too. Order of use matters only when something is evicted, and only arrivals evict: so
 * a node tells the lru-cache that it was used once per arrival at most, not once per lookup.
 */
import { LRUCache } from 'lru-cache'
import { assert } from '../base/assert.ts'
import { SEGMENT_SLOT_COUNT } from '../base/units.ts'
import { KIND_NODE, NODE_SIZE_BYTES, SLOT_MASK, entryWord, verifyNode } from '../format/node.ts'
import { MapNode } from './map-node.ts'

/** Where nodes come from. */
export interface NodeSource {
  /**
   * The 1,024 words of the node at an address, checked against its checksum. They become the
   * cache's: nothing may change them. Rejects with CorruptionError or OperatingError.
   */
  loadNode(segment: number, slot: number): Promise<Uint32Array>
}

/** What the budget is charged for a node: its page, its objects and its places in the tables. */
const NODE_FOOTPRINT_BYTES: number = NODE_SIZE_BYTES + 512
/** Below this, operations that need two paths at once would evict each other's nodes forever. */
export const NODE_CACHE_COUNT_MIN = 16
const FRONT_COUNT_MAX = 2 ** 20

function addressNumber(word0: number, word1: number): number {
  return word0 * SEGMENT_SLOT_COUNT + (word1 & SLOT_MASK)
}

export class NodeCache {
  readonly #source: NodeSource
  readonly #nodes: LRUCache<number, MapNode>
  readonly #front: (MapNode | null)[]
  readonly #frontMask: number
  readonly #loads = new Map<number, Promise<MapNode>>()
  /** Nodes that came into the cache so far: loads and flushes. */
  #arrivalCount = 0
  #loadCount = 0

  constructor(sizeBytes: number, source: NodeSource) {
    const countMax = Math.max(NODE_CACHE_COUNT_MIN, Math.floor(sizeBytes / NODE_FOOTPRINT_BYTES))
    // Twice the nodes, so that two seldom want the same place.
    const frontCount = Math.min(FRONT_COUNT_MAX, 2 ** Math.ceil(Math.log2(countMax * 2)))
    this.#source = source
    this.#front = new Array<MapNode | null>(frontCount).fill(null)
    this.#frontMask = frontCount - 1
    this.#nodes = new LRUCache({ max: countMax, dispose: (node) => this.#forget(node) })
  }

  get count(): number {
    return this.#nodes.size
  }

  /** Reads that went to the source. */
  get loadCount(): number {
    return this.#loadCount
  }

  get arrivalCount(): number {
    return this.#arrivalCount
  }

  /** The node an entry names, or null when it must be loaded first. Allocates nothing. */
  tryGet(word0: number, word1: number, level: number): MapNode | null {
    const place = this.#placeOf(word0, word1)
    let node = this.#front[place]
    if (node === null || node.word0 !== word0 || node.word1 !== word1) {
      const found = this.#nodes.get(addressNumber(word0, word1))
      if (found === undefined) return null
      node = found
      this.#front[place] = node
      node.usedAt = this.#arrivalCount
    } else if (node.usedAt !== this.#arrivalCount) {
      node.usedAt = this.#arrivalCount
      this.#nodes.get(addressNumber(word0, word1))
    }
    // A node can only be met at another level when an entry lies: load it again and judge it.
    return node.level === level ? node : null
  }

  /** Takes in a node that was just written at the address its words name. */
  insertWritten(node: MapNode): void {
    const address = addressNumber(node.word0, node.word1)
    assert(!this.#nodes.has(address), 'an address is written once')
    this.#insert(address, node)
  }

  /** Lets go of a node that no map refers to any more: it would only push out others. */
  drop(node: MapNode): void {
    this.#nodes.delete(addressNumber(node.word0, node.word1))
  }

  /** Loads a node into the cache; those who ask for the same one at once share the load. */
  load(segment: number, slot: number, level: number): Promise<MapNode> {
    const address = segment * SEGMENT_SLOT_COUNT + slot
    const running = this.#loads.get(address)
    if (running !== undefined) return running
    const load = this.#fetch(segment, slot, level)
      .then((node) => {
        this.#insert(address, node)
        return node
      })
      .finally(() => this.#loads.delete(address))
    this.#loads.set(address, load)
    return load
  }

  /**
   * The entries of a node for one who passes once over many: from the cache where they are, else
   * from the source without a place in the cache, so that a walk does not push out what guests use.
   */
  async readOnce(segment: number, slot: number, level: number): Promise<Uint32Array> {
    const node = this.#nodes.peek(segment * SEGMENT_SLOT_COUNT + slot)
    if (node?.level === level) {
      node.isLent = true
      return node.entries
    }
    return (await this.#fetch(segment, slot, level)).entries
  }

  /** The entries of a node, from memory only, for this turn of the loop. */
  recall(segment: number, slot: number): Uint32Array | null {
    return this.#nodes.peek(segment * SEGMENT_SLOT_COUNT + slot)?.entries ?? null
  }

  async #fetch(segment: number, slot: number, level: number): Promise<MapNode> {
    this.#loadCount += 1
    const entries = await this.#source.loadNode(segment, slot)
    verifyNode(entries, level)
    return new MapNode(entries, level, 0, segment, entryWord(KIND_NODE, slot))
  }

  #insert(address: number, node: MapNode): void {
    assert(!node.dirty, 'the cache holds clean nodes')
    this.#arrivalCount += 1
    node.usedAt = this.#arrivalCount
    this.#nodes.set(address, node)
    this.#front[this.#placeOf(node.word0, node.word1)] = node
  }

  #forget(node: MapNode): void {
    const place = this.#placeOf(node.word0, node.word1)
    if (this.#front[place] === node) this.#front[place] = null
  }

  /** Nodes are written to neighbouring slots, so a segment's nodes get neighbouring places. */
  #placeOf(word0: number, word1: number): number {
    return ((Math.imul(word0, 0x9e3779b1) >>> 8) + (word1 & SLOT_MASK)) & this.#frontMask
  }
}
