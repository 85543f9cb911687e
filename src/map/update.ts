/**
 * Changes to maps: copy-on-write down a path, and what is put at its end.
 *
 * All of it is synchronous and loads nothing: every node on the paths to the ends of a changed
 * range must be in memory (`PageTables.tryReside`). Nodes wholly inside the range are replaced
 * unseen.
 */
import { assert, must } from '../base/assert.ts'
import {
  KIND_BLOCK,
  KIND_HUGE,
  KIND_NODE,
  KIND_SHIFT,
  KIND_UNMAPPED,
  NODE_ENTRY_COUNT,
  NODE_LEVEL_ROOT,
  NODE_WORD_COUNT,
  entryWord,
} from '../format/node.ts'
import { expandEntry } from './dirty-nodes.ts'
import type { DirtyNodes } from './dirty-nodes.ts'
import type { NodeCache } from './node-cache.ts'
import { SPAN_BLOCK_COUNTS, entryIndex } from './lookup.ts'
import { KIND_DIRTY, dirtyChildAt } from './map-node.ts'
import type { MapNode } from './map-node.ts'
import type { MapRoot } from './map-root.ts'

const NOT_RESIDENT =
  'a changed path is in memory: tryReside must succeed in the same turn, before the change'

export class MapUpdater {
  readonly #cache: NodeCache
  readonly #dirty: DirtyNodes
  /** The nodes that the last descent passed, by level. */
  readonly #path: MapNode[] = []

  constructor(cache: NodeCache, dirty: DirtyNodes) {
    this.#cache = cache
    this.#dirty = dirty
  }

  /** Maps `count` blocks to consecutive slots; an aligned 512 of them take one huge entry. */
  setBlocks(
    root: MapRoot,
    epoch: number,
    blockIndex: number,
    count: number,
    segment: number,
    slot: number,
  ): void {
    const end = blockIndex + count
    let block = blockIndex
    let nextSlot = slot
    while (block < end) {
      const first = block % NODE_ENTRY_COUNT
      const length = Math.min(NODE_ENTRY_COUNT - first, end - block)
      if (length === NODE_ENTRY_COUNT) {
        const node = this.#descend(root, epoch, block, 1)
        this.#setEntry(node, entryIndex(block, 1), segment, entryWord(KIND_HUGE, nextSlot))
      } else {
        const { entries } = this.#descend(root, epoch, block, 0)
        for (let i = 0; i < length; i += 1) {
          entries[2 * (first + i)] = segment
          entries[2 * (first + i) + 1] = entryWord(KIND_BLOCK, nextSlot + i)
        }
      }
      block += length
      nextSlot += length
    }
  }

  /** Makes `count` blocks unmapped or zero, whole subtrees at once, at the highest level. */
  setKind(root: MapRoot, epoch: number, blockIndex: number, count: number, kind: number): void {
    const end = blockIndex + count
    let block = blockIndex
    while (block < end) {
      let level = NODE_LEVEL_ROOT
      while (block % SPAN_BLOCK_COUNTS[level] !== 0 || block + SPAN_BLOCK_COUNTS[level] > end) {
        level -= 1
      }
      const span = SPAN_BLOCK_COUNTS[level]
      const first = entryIndex(block, level)
      const length = Math.min(NODE_ENTRY_COUNT - first, Math.floor((end - block) / span))
      const sameCount = this.#sameCount(root, block, level, length, kind)
      if (sameCount > 0) {
        // May lie past `end`: the entry that says so already can span more than was asked.
        block += sameCount
        continue
      }
      const node = this.#descend(root, epoch, block, level)
      const word1 = entryWord(kind, 0)
      for (let i = first; i < first + length; i += 1) this.#setEntry(node, i, 0, word1)
      if (kind === KIND_UNMAPPED) this.#foldUnmapped(root, block, level)
      block += length * span
    }
  }

  /**
   * How many blocks from `block` need no change: those below an upper entry that is of `kind`
   * already, or all `length` entries of the node of `level`. 0: a change is needed.
   */
  #sameCount(root: MapRoot, block: number, level: number, length: number, kind: number): number {
    const wanted = entryWord(kind, 0)
    let node = root.dirtyNode()
    if (node === null) {
      if (root.word1 === wanted) return SPAN_BLOCK_COUNTS[NODE_LEVEL_ROOT] * NODE_ENTRY_COUNT
      if (root.word1 >>> KIND_SHIFT !== KIND_NODE) return 0
      node = must(this.#cache.tryGet(root.word0, root.word1, NODE_LEVEL_ROOT), NOT_RESIDENT)
    }
    while (node.level > level) {
      const index = entryIndex(block, node.level)
      const span = SPAN_BLOCK_COUNTS[node.level]
      if (node.entries[2 * index + 1] === wanted) return span - (block % span)
      const child = this.#childAt(node, index)
      if (child === null) return 0
      node = child
    }
    const first = entryIndex(block, level)
    for (let i = first; i < first + length; i += 1) {
      if (node.entries[2 * i + 1] !== wanted) return 0
    }
    return length * SPAN_BLOCK_COUNTS[level]
  }

  /** The child node at `index`, or null when the entry is none. */
  #childAt(node: MapNode, index: number): MapNode | null {
    const { entries } = node
    if (entries[2 * index + 1] >>> KIND_SHIFT === KIND_DIRTY) {
      const child = dirtyChildAt(node, index)
      if (child !== null) return child
    }
    const word1 = entries[2 * index + 1]
    if (word1 >>> KIND_SHIFT !== KIND_NODE) return null
    return must(this.#cache.tryGet(entries[2 * index], word1, node.level - 1), NOT_RESIDENT)
  }

  /** The node of `level` above `block`, every node on the way made changeable for `epoch`. */
  #descend(root: MapRoot, epoch: number, block: number, level: number): MapNode {
    let node = this.#ownRoot(root, epoch)
    this.#path[NODE_LEVEL_ROOT] = node
    while (node.level > level) {
      node = this.#ownChild(node, entryIndex(block, node.level), epoch)
      this.#path[node.level] = node
    }
    return node
  }

  #ownRoot(root: MapRoot, epoch: number): MapNode {
    const dirty = root.dirtyNode()
    if (dirty !== null) {
      if (dirty.epoch === epoch) {
        dirty.noteChange()
        return dirty
      }
      const copy = this.#dirty.copy(dirty, epoch)
      this.#dirty.release(dirty)
      root.setNode(copy)
      return copy
    }
    let node: MapNode
    if (root.word1 >>> KIND_SHIFT === KIND_NODE) {
      const clean = this.#cache.tryGet(root.word0, root.word1, NODE_LEVEL_ROOT)
      node = this.#dirty.copy(must(clean, NOT_RESIDENT), epoch)
    } else {
      assert(root.word1 >>> KIND_SHIFT === KIND_UNMAPPED, 'the root is in use')
      node = this.#dirty.create(new Uint32Array(NODE_WORD_COUNT), NODE_LEVEL_ROOT, epoch)
    }
    root.setNode(node)
    return node
  }

  #ownChild(parent: MapNode, index: number, epoch: number): MapNode {
    const child = this.#childAt(parent, index)
    let own: MapNode
    if (child === null) {
      // An entry that stands for the whole subtree is demoted to a node that says the same.
      const word0 = parent.entries[2 * index]
      const word1 = parent.entries[2 * index + 1]
      own = this.#dirty.create(expandEntry(word0, word1), parent.level - 1, epoch)
    } else if (child.dirty && child.epoch === epoch) {
      child.noteChange()
      return child
    } else {
      own = this.#dirty.copy(child, epoch)
      if (child.dirty) this.#dirty.release(child)
    }
    parent.setChild(index, own)
    return own
  }

  #setEntry(node: MapNode, index: number, word0: number, word1: number): void {
    const child = node.children === null ? null : node.children[index]
    if (child !== null && node.children !== null) {
      this.#dirty.release(child)
      node.children[index] = null
    }
    node.entries[2 * index] = word0
    node.entries[2 * index + 1] = word1
  }

  /** Replaces the nodes that the last descent passed, from `level` up, while they hold nothing. */
  #foldUnmapped(root: MapRoot, block: number, level: number): void {
    for (let at = level; isUnmapped(this.#path[at]); at += 1) {
      if (at === NODE_LEVEL_ROOT) {
        this.#dirty.release(this.#path[at])
        root.setWords(0, 0)
        return
      }
      this.#setEntry(this.#path[at + 1], entryIndex(block, at + 1), 0, 0)
    }
  }
}

function isUnmapped(node: MapNode): boolean {
  const { entries } = node
  for (let word = 1; word < NODE_WORD_COUNT; word += 2) {
    if (entries[word] !== KIND_UNMAPPED) return false
  }
  return true
}
