import { assert } from '../base/assert.ts'
import { KIND_NODE, KIND_SHIFT, NODE_LEVEL_ROOT, SLOT_MASK } from '../format/node.ts'
import { KIND_DIRTY, dirtyChildAt, viewOf } from './map-node.ts'
import type { NodeView } from './map-node.ts'
import type { MapRoot } from './map-root.ts'

/** Nodes for those who pass once over many of them. */
export interface NodeReader {
  /** The entries of a written node; they must not be changed. */
  readNode(segment: number, slot: number, level: number): Promise<Uint32Array>
  /** Lets others have a turn of the loop. */
  pause(): Promise<void>
}

/** How many nodes are visited between pauses: about 0.1 ms. */
const PAUSE_NODE_COUNT = 64

/** Reads nodes and pauses in between. */
export class PacedReader {
  readonly #reader: NodeReader
  #visitedCount = 0

  constructor(reader: NodeReader) {
    this.#reader = reader
  }

  /** The node an entry of a node one level higher names. */
  async read(word0: number, word1: number, level: number): Promise<NodeView> {
    assert(word1 >>> KIND_SHIFT === KIND_NODE, 'the map in use has an entry that names a node')
    this.#visitedCount += 1
    if (this.#visitedCount % PAUSE_NODE_COUNT === 0) await this.#reader.pause()
    return { entries: await this.#reader.readNode(word0, word1 & SLOT_MASK, level), children: null }
  }

  /** The root node; null for a map with nothing in it. */
  async readRoot(root: MapRoot): Promise<NodeView | null> {
    const node = root.dirtyNode()
    if (node !== null) return viewOf(node)
    if (root.word1 === 0) return null
    return this.read(root.word0, root.word1, NODE_LEVEL_ROOT)
  }
}

/**
 * The kind of the entry at `index`, after healing: KIND_DIRTY only for a child that is still
 * dirty.
 */
export function healedKind(view: NodeView, index: number): number {
  const kind = view.entries[2 * index + 1] >>> KIND_SHIFT
  if (kind !== KIND_DIRTY || dirtyChildAt(view, index) !== null) return kind
  return view.entries[2 * index + 1] >>> KIND_SHIFT
}
