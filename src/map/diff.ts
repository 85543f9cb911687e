/**
 * What changed between two maps: a walk down both at once that skips what they share.
 *
 * Blocks are equal when they have the same address, or when both read as zeros. That makes it
 * O(changes), and exact for maps of one lineage; equal bytes at two addresses count as a change.
 */
import { must } from '../base/assert.ts'
import {
  KIND_BLOCK,
  KIND_HUGE,
  KIND_NODE,
  KIND_SHIFT,
  KIND_ZERO,
  NODE_ENTRY_COUNT,
  NODE_LEVEL_ROOT,
} from '../format/node.ts'
import { expandEntry } from './dirty-nodes.ts'
import { SPAN_BLOCK_COUNTS } from './lookup.ts'
import { KIND_DIRTY, dirtyChildAt, viewOf } from './map-node.ts'
import type { NodeView } from './map-node.ts'
import type { MapRoot } from './map-root.ts'
import { PacedReader, healedKind } from './node-reader.ts'
import type { NodeReader } from './node-reader.ts'

export interface ChangedRun {
  blockIndex: number
  count: number
  /** What the range is in the later map: KIND_BLOCK, KIND_ZERO or KIND_UNMAPPED. */
  kind: number
}

/** Two nodes at the same place of two maps, and how far they were compared. */
interface Frame {
  readonly from: NodeView
  readonly to: NodeView
  readonly level: number
  readonly blockIndex: number
  next: number
}

/** Blocks from `start` to `end`, exclusive. */
interface BlockRange {
  readonly start: number
  readonly end: number
}

/** The entry with which a frame whose first block is `blockIndex` begins. */
function firstIndex(range: BlockRange, blockIndex: number, level: number): number {
  return Math.max(0, Math.floor((range.start - blockIndex) / SPAN_BLOCK_COUNTS[level]))
}

/**
 * The ranges from `startBlock` to `endBlock` that read differently in `to` than in `from` (null: a
 * map with nothing in it), ascending; neighbours of one kind are merged. Both roots must stay as
 * they are until the end: pass copies, raise the epoch of what is written to, release them
 * afterwards. Throws what loading a node throws.
 */
export async function* diff(
  from: MapRoot | null,
  to: MapRoot,
  startBlock: number,
  endBlock: number,
  reader: NodeReader,
): AsyncGenerator<ChangedRun, void, undefined> {
  let run = null as ChangedRun | null
  const range = { start: startBlock, end: endBlock }
  for await (const part of changes(from, to, range, new PacedReader(reader))) {
    const blockIndex = Math.max(part.blockIndex, startBlock)
    const count = Math.min(part.blockIndex + part.count, endBlock) - blockIndex
    if (run?.kind === part.kind && run.blockIndex + run.count === blockIndex) {
      run.count += count
      continue
    }
    if (run !== null) yield run
    run = { blockIndex, count, kind: part.kind }
  }
  if (run !== null) yield run
}

async function* changes(
  from: MapRoot | null,
  to: MapRoot,
  range: BlockRange,
  reader: PacedReader,
): AsyncGenerator<ChangedRun, void, undefined> {
  const top = await topFrame(from, to, range, reader)
  const stack: Frame[] = top === null ? [] : [top]
  while (stack.length > 0) {
    const frame = stack[stack.length - 1]
    if (frame.next === NODE_ENTRY_COUNT) {
      stack.pop()
      continue
    }
    const index = frame.next
    if (frame.blockIndex + index * SPAN_BLOCK_COUNTS[frame.level] >= range.end) return
    frame.next += 1
    if (isSame(frame, index)) continue
    if (isNode(frame.from, index) || isNode(frame.to, index)) {
      stack.push(await childFrame(frame, index, range, reader))
      continue
    }
    yield changedRun(frame, index)
  }
}

async function topFrame(
  from: MapRoot | null,
  to: MapRoot,
  range: BlockRange,
  reader: PacedReader,
): Promise<Frame | null> {
  // The same root node, dirty or not, or nothing on both sides.
  const fromNode = from === null ? null : from.dirtyNode()
  if (fromNode === to.dirtyNode()) {
    if (fromNode !== null) return null
    if ((from?.word0 ?? 0) === to.word0 && (from?.word1 ?? 0) === to.word1) return null
  }
  const nothing = { entries: expandEntry(0, 0), children: null }
  const fromView = from === null ? null : await reader.readRoot(from)
  const toView = await reader.readRoot(to)
  return {
    from: fromView ?? nothing,
    to: toView ?? nothing,
    level: NODE_LEVEL_ROOT,
    blockIndex: 0,
    next: firstIndex(range, 0, NODE_LEVEL_ROOT),
  }
}

async function childFrame(
  frame: Frame,
  index: number,
  range: BlockRange,
  reader: PacedReader,
): Promise<Frame> {
  const level = frame.level - 1
  const blockIndex = frame.blockIndex + index * SPAN_BLOCK_COUNTS[frame.level]
  return {
    from: await childView(frame.from, index, level, reader),
    to: await childView(frame.to, index, level, reader),
    level,
    blockIndex,
    next: firstIndex(range, blockIndex, level),
  }
}

/** The node below an entry; one that says the same where the entry stands for a whole subtree. */
async function childView(
  view: NodeView,
  index: number,
  level: number,
  reader: PacedReader,
): Promise<NodeView> {
  const kind = healedKind(view, index)
  if (kind === KIND_DIRTY) return viewOf(must(dirtyChildAt(view, index), 'a dirty child'))
  const word0 = view.entries[2 * index]
  const word1 = view.entries[2 * index + 1]
  if (kind === KIND_NODE) return reader.read(word0, word1, level)
  return { entries: expandEntry(word0, word1), children: null }
}

function isNode(view: NodeView, index: number): boolean {
  const kind = healedKind(view, index)
  return kind === KIND_NODE || kind === KIND_DIRTY
}

/** True when the entries of both sides name the same subtree or both read as zeros. */
function isSame(frame: Frame, index: number): boolean {
  const { from, to } = frame
  const fromKind = healedKind(from, index)
  const toKind = healedKind(to, index)
  if (fromKind <= KIND_ZERO && toKind <= KIND_ZERO) return true
  if (fromKind !== toKind) return false
  if (fromKind === KIND_DIRTY) return dirtyChildAt(from, index) === dirtyChildAt(to, index)
  return (
    from.entries[2 * index] === to.entries[2 * index] &&
    from.entries[2 * index + 1] === to.entries[2 * index + 1]
  )
}

/**
 * The run that begins at `index` and moves the frame past it. Two entries without nodes below
 * them that differ, differ in every block.
 */
function changedRun(frame: Frame, index: number): ChangedRun {
  const { from, to } = frame
  const span = SPAN_BLOCK_COUNTS[frame.level]
  const kind = to.entries[2 * index + 1] >>> KIND_SHIFT
  while (
    frame.next < NODE_ENTRY_COUNT &&
    to.entries[2 * frame.next + 1] >>> KIND_SHIFT === kind &&
    !isNode(from, frame.next) &&
    !isSame(frame, frame.next)
  ) {
    frame.next += 1
  }
  return {
    blockIndex: frame.blockIndex + index * span,
    count: (frame.next - index) * span,
    kind: kind === KIND_HUGE ? KIND_BLOCK : kind,
  }
}
