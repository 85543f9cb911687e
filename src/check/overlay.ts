/**
 * What the replayed log lays over a disk's map: spans of blocks, each pointing to consecutive
 * slots or reading as zeros. A span is one object however long it is, so that trimming 64 TiB
 * costs as much as trimming a block.
 *
 * The spans form a treap (a search tree by block, a heap by random priority) whose nodes never
 * change: an update copies the path it touches and shares the rest. So a snapshot or clone is a
 * copy of one reference, and disks share what they have in common.
 */
import { Prng } from '../base/prng.ts'

/** `count` blocks of a disk from `start`. Segment 0: they read as zeros. */
export interface Span {
  readonly start: number
  readonly count: number
  readonly segment: number
  readonly slot: number
}

interface SpanNode extends Span {
  readonly priority: number
  readonly left: SpanNode | null
  readonly right: SpanNode | null
  /** Blocks in this span and all below it. */
  readonly sum: number
}

function sumOf(node: SpanNode | null): number {
  return node === null ? 0 : node.sum
}

function nodeOf(
  span: Span,
  priority: number,
  left: SpanNode | null,
  right: SpanNode | null,
): SpanNode {
  const { start, count, segment, slot } = span
  const sum = sumOf(left) + count + sumOf(right)
  return { start, count, segment, slot, priority, left, right, sum }
}

/** Everything before block `at` and everything from it on; a span across it is cut. */
function split(node: SpanNode | null, at: number): [SpanNode | null, SpanNode | null] {
  if (node === null) return [null, null]
  const end = node.start + node.count
  if (end <= at) {
    const [low, high] = split(node.right, at)
    return [nodeOf(node, node.priority, node.left, low), high]
  }
  if (node.start >= at) {
    const [low, high] = split(node.left, at)
    return [low, nodeOf(node, node.priority, high, node.right)]
  }
  const lowSpan = { ...node, count: at - node.start }
  const highSpan = {
    start: at,
    count: end - at,
    segment: node.segment,
    slot: node.segment === 0 ? 0 : node.slot + at - node.start,
  }
  return [
    nodeOf(lowSpan, node.priority, node.left, null),
    nodeOf(highSpan, node.priority, null, node.right),
  ]
}

/** Joins two trees, everything in `low` before everything in `high`. */
function merge(low: SpanNode | null, high: SpanNode | null): SpanNode | null {
  if (low === null) return high
  if (high === null) return low
  if (low.priority >= high.priority) {
    return nodeOf(low, low.priority, low.left, merge(low.right, high))
  }
  return nodeOf(high, high.priority, merge(low, high.left), high.right)
}

function coveredBelow(root: SpanNode | null, at: number): number {
  let covered = 0
  let node = root
  while (node !== null) {
    if (at <= node.start) {
      node = node.left
      continue
    }
    covered += sumOf(node.left) + Math.min(node.count, at - node.start)
    if (at <= node.start + node.count) break
    node = node.right
  }
  return covered
}

/** Immutable; {@link OverlayFactory} makes the first and every next one. */
export class Overlay {
  readonly #root: SpanNode | null

  constructor(root: SpanNode | null) {
    this.#root = root
  }

  /** How many blocks of `[start, end)` the overlay decides. */
  coveredIn(start: number, end: number): number {
    if (this.#root === null) return 0
    return coveredBelow(this.#root, end) - coveredBelow(this.#root, start)
  }

  /** With `span` in place of whatever was there. */
  with(span: Span, priority: number): Overlay {
    const [low, rest] = split(this.#root, span.start)
    const high = split(rest, span.start + span.count)[1]
    return new Overlay(merge(merge(low, nodeOf(span, priority, null, null)), high))
  }

  /**
   * Calls `visit` with every span, in order, except below nodes in `seen`, to which it adds every
   * node it passes: spans that disks share are visited once.
   */
  visit(seen: WeakSet<object>, visit: (span: Span) => void): void {
    const stack: SpanNode[] = []
    let node = this.#root
    while (node !== null || stack.length > 0) {
      while (node !== null && !seen.has(node)) {
        stack.push(node)
        node = node.left
      }
      const next = stack.pop()
      if (next === undefined) return
      seen.add(next)
      visit(next)
      node = next.right
    }
  }
}

/** Makes overlays whose priorities nobody who wrote the pool could foresee. */
export class OverlayFactory {
  readonly empty: Overlay = new Overlay(null)
  readonly #prng: Prng

  constructor(seed: number) {
    this.#prng = new Prng(seed)
  }

  with(overlay: Overlay, span: Span): Overlay {
    return overlay.with(span, this.#prng.nextU32())
  }
}
