import { assert } from '../base/assert.ts'
import { KIND_NODE, KIND_SHIFT, KIND_UNMAPPED, SLOT_MASK, entryWord } from '../format/node.ts'
import { WORD_DIRTY } from './map-node.ts'
import type { MapNode } from './map-node.ts'

/** Kind of a root that was given back. Every use of it ends in an assertion. */
const KIND_RELEASED = 15

/**
 * What a volume or a snapshot holds: the entry that names its map, unmapped, a node, or a marker
 * with a dirty node. Made by {@link emptyRoot}, {@link rootAt} and `PageTables.copyRoot`.
 */
export class MapRoot {
  word0: number
  word1: number
  node: MapNode | null = null

  constructor(word0: number, word1: number) {
    this.word0 = word0
    this.word1 = word1
  }

  /** The dirty root node, or null when the words say all; heals like a parent's entry. */
  dirtyNode(): MapNode | null {
    const node = this.node
    if (node === null || node.dirty) return node
    this.setWords(node.word0, node.word1)
    return null
  }

  setNode(node: MapNode): void {
    this.node = node
    this.word0 = 0
    this.word1 = WORD_DIRTY
  }

  setWords(word0: number, word1: number): void {
    this.node = null
    this.word0 = word0
    this.word1 = word1
  }

  get isReleased(): boolean {
    return this.word1 >>> KIND_SHIFT === KIND_RELEASED
  }

  markReleased(): void {
    assert(!this.isReleased, 'a root is released once')
    this.setWords(0, entryWord(KIND_RELEASED, 0))
  }
}

/** The map of a disk nothing was ever written to. */
export function emptyRoot(): MapRoot {
  return new MapRoot(0, 0)
}

/** The map whose root node was written at this address. */
export function rootAt(segment: number, slot: number): MapRoot {
  assert(segment > 0 && slot > 0 && slot <= SLOT_MASK, 'a root node lies in a segment')
  return new MapRoot(segment, entryWord(KIND_NODE, slot))
}

/** Where the root node lies; null for a map with nothing in it. All of it must be written. */
export function rootAddress(root: MapRoot): { segment: number; slot: number } | null {
  assert(root.dirtyNode() === null, 'a map has an address once it is flushed')
  assert(!root.isReleased, 'the root is in use')
  if (root.word1 >>> KIND_SHIFT === KIND_UNMAPPED) return null
  return { segment: root.word0, slot: root.word1 & SLOT_MASK }
}
