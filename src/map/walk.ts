/** A walk over all that one map refers to: the mark of mark-and-sweep. */
import { must } from '../base/assert.ts'
import { VarveError } from '../base/errors.ts'
import {
  KIND_BLOCK,
  KIND_HUGE,
  KIND_NODE,
  NODE_ENTRY_COUNT,
  NODE_LEVEL_ROOT,
  SLOT_MASK,
} from '../format/node.ts'
import { Lookup, leafRun } from './lookup.ts'
import { KIND_DIRTY, dirtyChildAt, viewOf } from './map-node.ts'
import type { NodeView } from './map-node.ts'
import type { MapRoot } from './map-root.ts'
import { PacedReader, healedKind } from './node-reader.ts'
import type { NodeReader } from './node-reader.ts'

export interface MapVisitor {
  /** A node that has been written. False: seen before, what is below it is skipped. */
  enterNode(segment: number, slot: number, level: number): boolean
  /** Blocks at consecutive slots. */
  blocks(segment: number, slot: number, count: number): void
  /** A node that cannot be read: the walk goes on beside it. Absent: the walk rejects. */
  unreadable?(segment: number, slot: number, level: number): void
}

/** Nodes read at once: one read after the other would leave the disk idle most of the time. */
export const READ_AHEAD_COUNT = 32

/**
 * Nodes that have no address yet are passed through without `enterNode`, each time they are met.
 * `root` must not change meanwhile: take a copy and raise the epoch of the volume. Flushing
 * beside the walk is fine.
 */
export async function walkMap(
  root: MapRoot,
  visitor: MapVisitor,
  reader: NodeReader,
): Promise<void> {
  const paced = new PacedReader(reader)
  const named = root.dirtyNode() === null && root.word1 !== 0
  if (named && !visitor.enterNode(root.word0, root.word1 & SLOT_MASK, NODE_LEVEL_ROOT)) return
  const walk = new Walk(visitor, paced)
  const view = await walk.tolerate(paced.readRoot(root), root.word0, root.word1, NODE_LEVEL_ROOT)
  if (view !== null) await walk.visit(view, NODE_LEVEL_ROOT)
}

class Walk {
  readonly #visitor: MapVisitor
  readonly #reader: PacedReader
  readonly #run = new Lookup()

  constructor(visitor: MapVisitor, reader: PacedReader) {
    this.#visitor = visitor
    this.#reader = reader
  }

  /** Null for a node that cannot be read, where the visitor can do without. */
  async tolerate<T>(
    read: Promise<T>,
    word0: number,
    word1: number,
    level: number,
  ): Promise<T | null> {
    try {
      return await read
    } catch (error) {
      if (this.#visitor.unreadable === undefined || !(error instanceof VarveError)) throw error
      this.#visitor.unreadable(word0, word1 & SLOT_MASK, level)
      return null
    }
  }

  async visit(view: NodeView, level: number): Promise<void> {
    if (level === 0) this.#visitLeaf(view.entries)
    else await this.#visitChildren(view, level)
  }

  async #visitChildren(view: NodeView, level: number): Promise<void> {
    const { entries } = view
    let reads: Promise<NodeView | null>[] = []
    for (let index = 0; index < NODE_ENTRY_COUNT; index += 1) {
      const kind = healedKind(view, index)
      const word0 = entries[2 * index]
      const word1 = entries[2 * index + 1]
      const slot = word1 & SLOT_MASK
      if (kind === KIND_HUGE) {
        this.#visitor.blocks(word0, slot, NODE_ENTRY_COUNT)
      } else if (kind === KIND_DIRTY && reads.length > 0) {
        // What is being read must not fail unheard while we are below the child. Meanwhile the
        // child may be written: then look at its entry again.
        await this.#visitRead(reads, level - 1)
        reads = []
        index -= 1
      } else if (kind === KIND_DIRTY) {
        const child = must(dirtyChildAt(view, index), 'a dirty child')
        await this.visit(viewOf(child), level - 1)
      } else if (kind === KIND_NODE && this.#visitor.enterNode(word0, slot, level - 1)) {
        const read = this.#reader.read(word0, word1, level - 1)
        reads.push(this.tolerate(read, word0, word1, level - 1))
        if (reads.length === READ_AHEAD_COUNT) {
          await this.#visitRead(reads, level - 1)
          reads = []
        }
      }
    }
    await this.#visitRead(reads, level - 1)
  }

  async #visitRead(reads: readonly Promise<NodeView | null>[], level: number): Promise<void> {
    if (reads.length === 0) return
    for (const view of await Promise.all(reads)) {
      if (view !== null) await this.visit(view, level)
    }
  }

  #visitLeaf(entries: Uint32Array): void {
    const run = this.#run
    for (let index = 0; index < NODE_ENTRY_COUNT; index += run.count) {
      leafRun(entries, index, NODE_ENTRY_COUNT, run)
      if (run.kind === KIND_BLOCK) this.#visitor.blocks(run.segment, run.slot, run.count)
    }
  }
}
