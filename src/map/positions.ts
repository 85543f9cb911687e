/** Where in a map certain addresses are: the way back from damage to the bytes of a disk. */
import { must } from '../base/assert.ts'
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
import { SPAN_BLOCK_COUNTS } from './lookup.ts'
import { KIND_DIRTY, dirtyChildAt, viewOf } from './map-node.ts'
import type { NodeView } from './map-node.ts'
import type { MapRoot } from './map-root.ts'
import { PacedReader, healedKind } from './node-reader.ts'
import type { NodeReader } from './node-reader.ts'

export interface PositionVisitor {
  /** A quick no for most segments. */
  isTouched(segment: number): boolean
  isWanted(segment: number, slot: number): boolean
  /** The address, of a block or a node, stands for these blocks of the map. */
  found(segment: number, slot: number, blockIndex: number, blockCount: number): void
}

/** Looks through many maps, into what they share once. */
export class PositionFinder {
  readonly #visitor: PositionVisitor
  readonly #reader: PacedReader
  /** Written nodes below which nothing was found. */
  readonly #empty: Set<number> = new Set()
  #foundCount = 0

  constructor(reader: NodeReader, visitor: PositionVisitor) {
    this.#reader = new PacedReader(reader)
    this.#visitor = visitor
  }

  /** `root` must not change meanwhile. */
  async find(root: MapRoot): Promise<void> {
    const node = root.dirtyNode()
    if (node !== null) await this.#visit(viewOf(node), NODE_LEVEL_ROOT, 0)
    else if (root.word1 !== 0) await this.#enter(root.word0, root.word1, NODE_LEVEL_ROOT, 0)
  }

  async #enter(word0: number, word1: number, level: number, blockIndex: number): Promise<void> {
    const slot = word1 & SLOT_MASK
    const key = word0 * SEGMENT_SLOT_COUNT + slot
    if (this.#empty.has(key)) return
    const before = this.#foundCount
    const isWanted = this.#visitor.isWanted(word0, slot)
    if (isWanted) this.#note(word0, slot, blockIndex, SPAN_BLOCK_COUNTS[level] * NODE_ENTRY_COUNT)
    try {
      const view = await this.#reader.read(word0, word1, level)
      // Of a node that is to be healed the blocks below are as good as ever.
      if (!isWanted) await this.#visit(view, level, blockIndex)
    } catch (error) {
      if (!(error instanceof VarveError)) throw error
    }
    if (this.#foundCount === before) this.#empty.add(key)
  }

  async #visit(view: NodeView, level: number, blockIndex: number): Promise<void> {
    const { entries } = view
    for (let index = 0; index < NODE_ENTRY_COUNT; index += 1) {
      const kind = level === 0 ? entries[1 + 2 * index] >>> KIND_SHIFT : healedKind(view, index)
      const word0 = entries[2 * index]
      const word1 = entries[2 * index + 1]
      const block = blockIndex + index * SPAN_BLOCK_COUNTS[level]
      if (kind === KIND_NODE) await this.#enter(word0, word1, level - 1, block)
      else if (kind === KIND_DIRTY) {
        await this.#visit(viewOf(must(dirtyChildAt(view, index), 'a child')), level - 1, block)
      } else if (kind === KIND_BLOCK) this.#judge(word0, word1 & SLOT_MASK, block, 1)
      else if (kind === KIND_HUGE) {
        this.#judge(word0, word1 & SLOT_MASK, block, NODE_ENTRY_COUNT)
      }
    }
  }

  #judge(segment: number, slot: number, blockIndex: number, count: number): void {
    if (!this.#visitor.isTouched(segment)) return
    for (let i = 0; i < count; i += 1) {
      if (this.#visitor.isWanted(segment, slot + i))
        this.#note(segment, slot + i, blockIndex + i, 1)
    }
  }

  #note(segment: number, slot: number, blockIndex: number, blockCount: number): void {
    this.#foundCount += 1
    this.#visitor.found(segment, slot, blockIndex, blockCount)
  }
}
