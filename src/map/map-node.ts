/**
 * A node in memory, in one of five states:
 *
 *   dirty    counted and listed by DirtyNodes; has no address yet. `references` says how many
 *            dirty parents and roots hold it.
 *   clean    in the cache; `word0`, `word1` are the entry that names it. Never changes again.
 *   taken    was clean, and the only map that had it has made a dirty leaf of its entries.
 *   retired  was dirty and has been written. What is left is a shell whose `word0`, `word1` tell
 *            those who still hold it which entry to put in its place: its address, a huge run,
 *            or nothing at all. The entries live on in a clean node.
 *   dropped  was dirty and lost its last reference; it will never be written.
 *
 * A dirty child has no address, so its parent's entry is a marker and `children[index]` holds the
 * child. When the child has been written the parent is not told, for it may have several: whoever
 * meets a marker with a retired child heals it. Marker and child are always set and cleared
 * together, so a pair (entries, children) read once stays whole even while its node is written.
 */
import { assert, must } from '../base/assert.ts'
import {
  KIND_SHIFT,
  KIND_ZERO,
  NODE_ENTRY_COUNT,
  NODE_WORD_COUNT,
  entryWord,
} from '../format/node.ts'

/** Kind of an entry whose child is dirty. Only in memory: no written node may have it. */
export const KIND_DIRTY = 5

export const WORD_ZERO: number = entryWord(KIND_ZERO, 0)
export const WORD_DIRTY: number = entryWord(KIND_DIRTY, 0)

const SHARED = 'I5: a node that more than one map holds is not changed in place: raise the epoch'
const NO_ENTRIES = new Uint32Array(0)

export class MapNode {
  // What every lookup reads comes first, to lie in one line of the processor's cache.
  entries: Uint32Array
  readonly level: number
  dirty: boolean
  /** The entry that names this node once it is not dirty any more. */
  word0: number
  word1: number
  /** Clean nodes only: the cache's count of arrivals when it last marked this node as used. */
  usedAt = 0
  /** Clean nodes only: somebody may still look at the entries. */
  isLent = false
  /** Dirty nodes above the leaves only: the dirty children, where the entry is a marker. */
  children: (MapNode | null)[] | null
  /**
   * The volume state that may change this node in place while it is dirty, and that has it to
   * itself when it is clean: who copies a root raises the epoch. 0: it was loaded, nobody knows.
   */
  readonly epoch: number
  /** Dirty nodes only: the dirty parents and roots that hold it. */
  references: number
  /** Dirty nodes only: changes in place so far, here or below. */
  changeCount = 0
  /** Dirty nodes only: blocks mapped below, or -1 while not counted since the last change. */
  mappedCount = -1
  /** Neighbours in the list of dirty nodes of this level, by age. */
  older: MapNode | null = null
  newer: MapNode | null = null

  constructor(entries: Uint32Array, level: number, epoch: number, word0: number, word1: number) {
    assert(entries.length === NODE_WORD_COUNT, 'a node has 1024 words')
    this.entries = entries
    this.level = level
    this.dirty = word1 === WORD_DIRTY
    this.word0 = word0
    this.word1 = word1
    this.children = this.dirty && level > 0 ? new Array<null>(NODE_ENTRY_COUNT).fill(null) : null
    this.epoch = epoch
    this.references = this.dirty ? 1 : 0
  }

  /** Puts a dirty child at `index`. The caller has taken care of what was there. */
  setChild(index: number, child: MapNode): void {
    assert(child.dirty && child.level === this.level - 1, 'a marker is for a dirty child')
    must(this.children, 'the children of a dirty node')[index] = child
    this.entries[2 * index] = 0
    this.entries[2 * index + 1] = WORD_DIRTY
  }

  /** To be called before a change in place, for every node from the root down to the change. */
  noteChange(): void {
    assert(this.dirty && this.references === 1, SHARED)
    this.changeCount += 1
    this.mappedCount = -1
  }

  /**
   * The entries of a clean leaf, to be changed: its address will not be asked for again, and nobody
   * has them in their hands.
   */
  takeEntries(): Uint32Array {
    assert(!this.dirty && !this.isLent && this.level === 0, 'only a leaf of one map is taken')
    const { entries } = this
    this.entries = NO_ENTRIES
    return entries
  }

  /** Turns a dirty node that has been written, or need not be, into a shell. */
  retire(word0: number, word1: number): void {
    assert(this.dirty && this.references > 0, 'a node retires once')
    this.dirty = false
    this.references = 0
    this.word0 = word0
    this.word1 = word1
    this.entries = NO_ENTRIES
    this.children = null
  }
}

/**
 * Entries of a node with the dirty children its markers stand for. Unlike the node it was taken
 * from it may be kept across turns of the loop, whatever becomes of that node.
 */
export interface NodeView {
  readonly entries: Uint32Array
  readonly children: (MapNode | null)[] | null
}

export function viewOf(node: MapNode): NodeView {
  return { entries: node.entries, children: node.children }
}

/**
 * The dirty child behind the marker at `index`; or null after healing the marker, when the child
 * has been written: the entry then says what it became.
 */
export function dirtyChildAt(view: NodeView, index: number): MapNode | null {
  const children = must(view.children, 'the children of a node with a marker')
  const child = must(children[index], 'the child behind a marker')
  if (child.dirty) return child
  assert(child.word1 >>> KIND_SHIFT !== KIND_DIRTY, 'a written child has an entry')
  view.entries[2 * index] = child.word0
  view.entries[2 * index + 1] = child.word1
  children[index] = null
  return null
}
