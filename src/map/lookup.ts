import {
  KIND_BLOCK,
  KIND_HUGE,
  KIND_SHIFT,
  NODE_ENTRY_COUNT,
  NODE_ENTRY_SHIFT,
  SLOT_MASK,
} from '../format/node.ts'

/** Blocks below one entry of a node of each level. */
export const SPAN_BLOCK_COUNTS: readonly number[] = [1, 2 ** 9, 2 ** 18, 2 ** 27]

const INDEX_MASK = NODE_ENTRY_COUNT - 1

/** Which entry of a node of `level` leads to a block. */
export function entryIndex(blockIndex: number, level: number): number {
  // 36 bits do not fit an integer operation: the top nine are split off by division.
  if (level === 3) return Math.floor(blockIndex / 2 ** 27)
  return (blockIndex >>> (NODE_ENTRY_SHIFT * level)) & INDEX_MASK
}

/**
 * What a lookup found, or which node it lacks. Made once by a caller and filled again and again:
 * a lookup allocates nothing.
 */
export class Lookup {
  /** KIND_UNMAPPED, KIND_ZERO or KIND_BLOCK. */
  kind = 0
  /** Of the first block, when the kind is KIND_BLOCK, else 0. */
  segment = 0
  slot = 0
  /** Blocks from the one asked for: of this kind and, if KIND_BLOCK, at consecutive slots. */
  count = 0
  /** After a fault: the node that must be loaded. */
  faultSegment = 0
  faultSlot = 0
  faultLevel = 0
}

/** Describes the run that begins at entry `index` of a leaf. */
export function leafRun(entries: Uint32Array, index: number, countMax: number, out: Lookup): void {
  const word0 = entries[2 * index]
  const word1 = entries[2 * index + 1]
  const kind = word1 >>> KIND_SHIFT
  const end = Math.min(NODE_ENTRY_COUNT, index + countMax)
  const step = kind === KIND_BLOCK ? 1 : 0
  let next = index + 1
  let expected = word1 + step
  // Consecutive slots are consecutive words, for the slot is in the lowest bits.
  while (next < end && entries[2 * next + 1] === expected && entries[2 * next] === word0) {
    next += 1
    expected += step
  }
  out.kind = kind
  out.segment = word0
  out.slot = word1 & SLOT_MASK
  out.count = next - index
}

/** Describes the run that begins inside entry `index`, not a node, of a node above the leaves. */
export function upperRun(
  entries: Uint32Array,
  index: number,
  level: number,
  blockIndex: number,
  countMax: number,
  out: Lookup,
): void {
  const word0 = entries[2 * index]
  const word1 = entries[2 * index + 1]
  const kind = word1 >>> KIND_SHIFT
  const span = SPAN_BLOCK_COUNTS[level]
  const offset = blockIndex % span
  const step = kind === KIND_HUGE ? NODE_ENTRY_COUNT : 0
  let count = span - offset
  let next = index + 1
  let expected = word1 + step
  while (
    count < countMax &&
    next < NODE_ENTRY_COUNT &&
    entries[2 * next + 1] === expected &&
    entries[2 * next] === word0
  ) {
    count += span
    next += 1
    expected += step
  }
  out.kind = kind === KIND_HUGE ? KIND_BLOCK : kind
  out.segment = word0
  out.slot = kind === KIND_HUGE ? (word1 & SLOT_MASK) + offset : 0
  out.count = Math.min(count, countMax)
}
