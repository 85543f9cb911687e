/**
 * How many blocks a map maps, remembered by node. A written node never changes, so neither does
 * its count: a thousand clones that share a root cost one walk, and a volume that changed a
 * little since the last count costs what changed.
 */
import { LRUCache } from 'lru-cache'
import { VarveError } from '../base/errors.ts'
import { SEGMENT_SLOT_COUNT } from '../base/units.ts'
import {
  KIND_BLOCK,
  KIND_HUGE,
  KIND_NODE,
  KIND_SHIFT,
  NODE_ENTRY_COUNT,
  NODE_LEVEL_ROOT,
  SLOT_MASK,
} from '../format/node.ts'
import { KIND_DIRTY, dirtyChildAt, viewOf } from './map-node.ts'
import type { MapNode, NodeView } from './map-node.ts'
import type { MapRoot } from './map-root.ts'
import { PacedReader, healedKind } from './node-reader.ts'
import type { NodeReader } from './node-reader.ts'
import { READ_AHEAD_COUNT } from './walk.ts'

/** About 100 bytes each. */
const REMEMBERED_COUNT_MAX = 65_536

export class MappedCounter {
  readonly #reader: PacedReader
  /** By address: a count, or one that is being counted, so that those who ask at once share it. */
  readonly #known = new LRUCache<number, number>({
    // By size: `max` would take the memory for all of them at once, of every pool that opens.
    maxSize: REMEMBERED_COUNT_MAX,
    sizeCalculation: () => 1,
  })
  readonly #running = new Map<number, Promise<number>>()
  /** Nodes that could not be read: what is below them is not counted, and no sum of it kept. */
  #unreadableCount = 0

  constructor(reader: NodeReader) {
    this.#reader = new PacedReader(reader)
  }

  /**
   * Of a root that is written to meanwhile it may count some blocks of before, some of after; of a
   * damaged map, what can be read.
   */
  async count(root: MapRoot): Promise<number> {
    const node = root.dirtyNode()
    if (node !== null) return this.#countDirty(node)
    if (root.word1 === 0) return 0
    return this.#countAt(root.word0, root.word1, NODE_LEVEL_ROOT)
  }

  async #countDirty(node: MapNode): Promise<number> {
    if (node.mappedCount >= 0) return node.mappedCount
    const { changeCount } = node
    const unreadableCount = this.#unreadableCount
    const count = await this.#countBelow(viewOf(node), node.level)
    // A change while we waited may or may not be counted in.
    const isSame = node.changeCount === changeCount && this.#unreadableCount === unreadableCount
    if (isSame) node.mappedCount = count
    return count
  }

  async #countAt(word0: number, word1: number, level: number): Promise<number> {
    const address = word0 * SEGMENT_SLOT_COUNT + (word1 & SLOT_MASK)
    const known = this.#known.get(address) ?? this.#running.get(address)
    if (known !== undefined) return known
    const running = this.#countNode(address, word0, word1, level).finally(() =>
      this.#running.delete(address),
    )
    this.#running.set(address, running)
    return running
  }

  async #countNode(address: number, word0: number, word1: number, level: number): Promise<number> {
    const unreadableCount = this.#unreadableCount
    let view: NodeView
    try {
      view = await this.#reader.read(word0, word1, level)
    } catch (error) {
      if (!(error instanceof VarveError)) throw error
      this.#unreadableCount += 1
      return 0
    }
    const count = await this.#countBelow(view, level)
    if (this.#unreadableCount === unreadableCount) this.#known.set(address, count)
    return count
  }

  async #countBelow(view: NodeView, level: number): Promise<number> {
    if (level === 0) return leafBlockCount(view.entries)
    // Side by side only where it counts most: on every level it would be 32 to the third.
    const waitCountMax = level === 1 ? READ_AHEAD_COUNT : 1
    let count = 0
    let waits: Promise<number>[] = []
    for (let index = 0; index < NODE_ENTRY_COUNT; index += 1) {
      const kind = healedKind(view, index)
      if (kind === KIND_HUGE) {
        count += NODE_ENTRY_COUNT
      } else if (kind === KIND_NODE) {
        waits.push(this.#countAt(view.entries[2 * index], view.entries[2 * index + 1], level - 1))
      } else if (kind === KIND_DIRTY) {
        const child = dirtyChildAt(view, index)
        if (child !== null) waits.push(this.#countDirty(child))
      }
      if (waits.length === waitCountMax || index === NODE_ENTRY_COUNT - 1) {
        for (const part of await Promise.all(waits)) count += part
        waits = []
      }
    }
    return count
  }
}

function leafBlockCount(entries: Uint32Array): number {
  let count = 0
  for (let word = 1; word < 2 * NODE_ENTRY_COUNT; word += 2) {
    if (entries[word] >>> KIND_SHIFT === KIND_BLOCK) count += 1
  }
  return count
}
