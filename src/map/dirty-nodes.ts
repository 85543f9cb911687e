/**
 * All nodes that have no address yet, of all maps, by level and age; and their writing out.
 *
 * A dirty node is counted by those who hold it: dirty parents and roots. It leaves when it is
 * written, or when the last of them lets go. A root that is forgotten instead of released keeps
 * its nodes here only until they are written: that costs a useless write, never memory.
 */
import { assert } from '../base/assert.ts'
import {
  KIND_BLOCK,
  KIND_HUGE,
  KIND_NODE,
  KIND_SHIFT,
  KIND_UNMAPPED,
  KIND_ZERO,
  NODE_ENTRY_COUNT,
  NODE_LEVEL_COUNT,
  NODE_LEVEL_ROOT,
  NODE_WORD_COUNT,
  SLOT_MASK,
  entryWord,
  findNodeFault,
} from '../format/node.ts'
import { DATA_SLOT_END, DATA_SLOT_FIRST } from '../format/segment.ts'
import type { NodeCache } from './node-cache.ts'
import { Lookup, leafRun } from './lookup.ts'
import { KIND_DIRTY, MapNode, WORD_DIRTY, WORD_ZERO, dirtyChildAt } from './map-node.ts'

/** Where written nodes go. */
export interface NodeWriter {
  /**
   * Takes a copy of `nodes`, all of one level, and gives each an address never given before:
   * segment and slot of node `i` in `out[2 * i]`, `out[2 * i + 1]`. When it throws, all of them
   * stay dirty.
   */
  writeNodes(nodes: readonly Uint32Array[], levels: readonly number[], out: Uint32Array): void
}

const BATCH_COUNT_MAX = 512

class AgeList {
  oldest: MapNode | null = null
  newest: MapNode | null = null

  push(node: MapNode): void {
    node.older = this.newest
    if (this.newest === null) this.oldest = node
    else this.newest.newer = node
    this.newest = node
  }

  remove(node: MapNode): void {
    if (node.older === null) this.oldest = node.newer
    else node.older.newer = node.newer
    if (node.newer === null) this.newest = node.older
    else node.newer.older = node.older
    node.older = null
    node.newer = null
  }
}

export class DirtyNodes {
  readonly #cache: NodeCache
  readonly #lists: AgeList[] = Array.from({ length: NODE_LEVEL_COUNT }, () => new AgeList())
  readonly #addresses = new Uint32Array(2 * BATCH_COUNT_MAX)
  readonly #run = new Lookup()
  #count = 0

  constructor(cache: NodeCache) {
    this.#cache = cache
  }

  get count(): number {
    return this.#count
  }

  /** A dirty node over `entries`, which have no markers, with one reference: the caller's. */
  create(entries: Uint32Array, level: number, epoch: number): MapNode {
    const node = new MapNode(entries, level, epoch, 0, WORD_DIRTY)
    this.#lists[level].push(node)
    this.#count += 1
    return node
  }

  /**
   * A dirty copy of a node of any state that still has entries, to take its place in a map; it
   * shares the dirty children.
   *
   * A clean node of the same epoch is in no other map: the cache lets go of it, and a leaf's
   * entries are not copied but taken, which spares the collector a page for each leaf and
   * checkpoint. Who walks a map meanwhile has raised the epoch, or has borrowed the leaf from the
   * cache: reclaim, which walks the last checkpoint's maps while guests write on.
   */
  copy(node: MapNode, epoch: number): MapNode {
    const isOwn = !node.dirty && node.epoch === epoch
    if (isOwn) this.#cache.drop(node)
    const isTaken = isOwn && node.level === 0 && !node.isLent
    const entries = isTaken ? node.takeEntries() : node.entries.slice()
    const copy = this.create(entries, node.level, epoch)
    if (node.children === null) return copy
    for (let index = 0; index < NODE_ENTRY_COUNT; index += 1) {
      if (node.children[index] === null) continue
      const child = dirtyChildAt(node, index)
      if (child === null) {
        copy.entries[2 * index] = node.entries[2 * index]
        copy.entries[2 * index + 1] = node.entries[2 * index + 1]
      } else {
        child.references += 1
        copy.setChild(index, child)
      }
    }
    return copy
  }

  /** One holder lets go of a node; of a node that has been written nothing needs to be known. */
  release(node: MapNode): void {
    if (!node.dirty) return
    assert(node.references > 0, 'a dirty node is released by those who hold it')
    node.references -= 1
    if (node.references > 0) return
    this.#lists[node.level].remove(node)
    this.#count -= 1
    if (node.children === null) return
    for (const child of node.children) {
      if (child !== null) this.release(child)
    }
  }

  /**
   * Writes up to `countMax` dirty nodes, lowest levels first, oldest first within a level, so
   * that no node is written before its children. Returns how many are not dirty any more; fewer
   * than `countMax` means that none is left. Throws what the writer throws: what the failed call
   * was given stays dirty, and the flush may be tried again.
   */
  flush(countMax: number, writer: NodeWriter): number {
    let flushedCount = 0
    for (let level = 0; level < NODE_LEVEL_COUNT; level += 1) {
      while (this.#lists[level].oldest !== null && flushedCount < countMax) {
        const batchMax = Math.min(BATCH_COUNT_MAX, countMax - flushedCount)
        flushedCount += this.#flushBatch(level, batchMax, writer)
      }
    }
    return flushedCount
  }

  /** Flushes at least one node of `level`; every level below it is clean. */
  #flushBatch(level: number, countMax: number, writer: NodeWriter): number {
    const batch: MapNode[] = []
    let foldedCount = 0
    let next = this.#lists[level].oldest
    while (next !== null && batch.length + foldedCount < countMax) {
      const node = next
      next = node.newer
      healChildren(node)
      if (this.#tryFold(node)) foldedCount += 1
      else batch.push(node)
    }
    if (batch.length > 0) this.#writeBatch(level, batch, writer)
    return batch.length + foldedCount
  }

  #writeBatch(level: number, batch: readonly MapNode[], writer: NodeWriter): void {
    const pages = batch.map((node) => node.entries)
    for (const entries of pages) {
      const fault = findNodeFault(entries, level)
      assert(fault === null, `a node of level ${level} to be written ${String(fault)}`)
    }
    const levels = new Array<number>(batch.length).fill(level)
    this.#addresses.fill(0)
    writer.writeNodes(pages, levels, this.#addresses)
    for (let i = 0; i < batch.length; i += 1) {
      const segment = this.#addresses[2 * i]
      const slot = this.#addresses[2 * i + 1]
      assert(segment > 0, 'a written node has a segment')
      assert(slot >= DATA_SLOT_FIRST && slot < DATA_SLOT_END, 'a written node has a data slot')
      const { epoch } = batch[i]
      const clean = new MapNode(pages[i], level, epoch, segment, entryWord(KIND_NODE, slot))
      this.#retire(batch[i], clean.word0, clean.word1)
      this.#cache.insertWritten(clean)
    }
  }

  /** Spares writing a node that one entry of its parent can stand for. */
  #tryFold(node: MapNode): boolean {
    const word0 = node.entries[0]
    const word1 = node.entries[1]
    const kind = word1 >>> KIND_SHIFT
    if (node.level > 0 && kind !== KIND_UNMAPPED && kind !== KIND_ZERO) return false
    // A root is an address or nothing: a volume that is all zeros keeps its root node.
    if (node.level === NODE_LEVEL_ROOT && kind === KIND_ZERO) return false
    leafRun(node.entries, 0, NODE_ENTRY_COUNT, this.#run)
    if (this.#run.count < NODE_ENTRY_COUNT) return false
    if (kind === KIND_BLOCK) this.#retire(node, word0, entryWord(KIND_HUGE, word1 & SLOT_MASK))
    else this.#retire(node, 0, kind === KIND_ZERO ? WORD_ZERO : 0)
    return true
  }

  #retire(node: MapNode, word0: number, word1: number): void {
    this.#lists[node.level].remove(node)
    this.#count -= 1
    node.retire(word0, word1)
  }
}

/** Replaces every marker by what its child became; all children have been written. */
function healChildren(node: MapNode): void {
  if (node.children === null) return
  for (let index = 0; index < NODE_ENTRY_COUNT; index += 1) {
    if (node.entries[2 * index + 1] >>> KIND_SHIFT !== KIND_DIRTY) continue
    const child = dirtyChildAt(node, index)
    assert(child === null, 'a node is written after its children')
  }
}

/** A leaf or node whose every entry says the same as an entry above it said. */
export function expandEntry(word0: number, word1: number): Uint32Array {
  const entries = new Uint32Array(NODE_WORD_COUNT)
  const kind = word1 >>> KIND_SHIFT
  assert(kind === KIND_UNMAPPED || kind === KIND_ZERO || kind === KIND_HUGE, 'an entry to expand')
  if (kind === KIND_UNMAPPED) return entries
  const step = kind === KIND_HUGE ? 1 : 0
  let word = kind === KIND_HUGE ? entryWord(KIND_BLOCK, word1 & SLOT_MASK) : WORD_ZERO
  for (let index = 0; index < NODE_ENTRY_COUNT; index += 1) {
    entries[2 * index] = word0
    entries[2 * index + 1] = word
    word += step
  }
  return entries
}
