/**
 * A node of a map: one 4 KiB page of 512 entries, the page of a page table. On disk and in memory
 * are the same: a `Uint32Array(1024)`, little-endian.
 *
 *   page   8 × index   entry of child `index`, 512 of them
 *
 *   entry  word 0    31                             0
 *                    [           segment            ]
 *          word 1    31   28 27       14 13         0
 *                    [ kind ][   zero   ][   slot   ]
 *
 *   kind  name      level   segment, slot
 *   0     unmapped  any     0, 0: reads as zeros; nothing of the subtree takes space
 *   1     zero      any     0, 0: reads as zeros, and is meant to stay allocated
 *   2     block     0       where the block lies
 *   3     node      1 to 3  where the node of the next lower level lies
 *   4     huge      1       the first of 512 consecutive slots, which are the 512 blocks below
 *
 * A node carries no magic, level or checksum of its own: it lies in a segment like any block and
 * is covered by the segment's checksum of its slot; its level follows from the path to it.
 */
import { endianness } from 'node:os'
import { assert } from '../base/assert.ts'
import { CorruptionError } from '../base/errors.ts'
import { BLOCK_SIZE_BYTES } from '../base/units.ts'
import { DATA_SLOT_END, DATA_SLOT_FIRST } from './segment.ts'

export const NODE_SIZE_BYTES: number = BLOCK_SIZE_BYTES
export const NODE_ENTRY_COUNT = 512
export const NODE_ENTRY_SHIFT = 9
export const NODE_WORD_COUNT = 1024
/** Level 0 is a leaf, the root is of level 3. */
export const NODE_LEVEL_COUNT = 4
export const NODE_LEVEL_ROOT = 3
/** Four levels of nine bits. */
export const MAP_BLOCK_COUNT: number = 2 ** (NODE_ENTRY_SHIFT * NODE_LEVEL_COUNT)

export const KIND_UNMAPPED = 0
export const KIND_ZERO = 1
export const KIND_BLOCK = 2
export const KIND_NODE = 3
export const KIND_HUGE = 4

export const KIND_SHIFT = 28
export const SLOT_MASK = 0x3fff
const RESERVED_MASK = ((1 << KIND_SHIFT) - 1) & ~SLOT_MASK

// The page is the array in memory only where the host agrees with the format.
assert(endianness() === 'LE', 'the host is little-endian')
assert(NODE_WORD_COUNT * 4 === NODE_SIZE_BYTES, 'a node fills one block')
assert(DATA_SLOT_END <= SLOT_MASK + 1, 'a slot fits its bits')

/** Word 1 of an entry. */
export function entryWord(kind: number, slot: number): number {
  return (kind << KIND_SHIFT) | slot
}

/**
 * What is wrong with a node of `level`, or null. The caller decides whose fault it is: the data's
 * when it was read, ours when it is about to be written.
 */
export function findNodeFault(entries: Uint32Array, level: number): string | null {
  if (entries.length !== NODE_WORD_COUNT) return `has ${entries.length} words, not 1024`
  const commonKind = level === 0 ? KIND_BLOCK : KIND_NODE
  for (let word = 0; word < NODE_WORD_COUNT; word += 2) {
    const segment = entries[word]
    const word1 = entries[word + 1]
    // Nearly all entries are unmapped or of the level's own kind, and every node written or
    // loaded passes here: those are judged in a few instructions.
    if ((segment | word1) === 0) continue
    const slot = word1 ^ entryWord(commonKind, 0)
    if (segment !== 0 && slot >= DATA_SLOT_FIRST && slot < DATA_SLOT_END) continue
    const fault = findEntryFault(segment, word1, level)
    if (fault !== null) return `entry ${word / 2} ${fault}`
  }
  return null
}

function findEntryFault(segment: number, word1: number, level: number): string | null {
  const kind = word1 >>> KIND_SHIFT
  if (kind === KIND_UNMAPPED || kind === KIND_ZERO) {
    if (segment === 0 && word1 === entryWord(kind, 0)) return null
    return 'names no address by its kind, but has one'
  }
  if (kind > KIND_HUGE) return `is of unknown kind ${kind}`
  const fits = kind === KIND_BLOCK ? level === 0 : kind === KIND_NODE ? level > 0 : level === 1
  if (!fits) return `is of kind ${kind}, which level ${level} does not have`
  if ((word1 & RESERVED_MASK) !== 0) return 'has reserved bits set'
  if (segment === 0) return 'points into segment 0, which does not exist'
  const slot = word1 & SLOT_MASK
  const slotCount = kind === KIND_HUGE ? NODE_ENTRY_COUNT : 1
  if (slot < DATA_SLOT_FIRST || slot + slotCount > DATA_SLOT_END) {
    return `points to ${slotCount} slots from ${slot}, outside a segment's data`
  }
  return null
}

/** Throws CorruptionError `node-corrupt` unless `entries` can be a node of `level`. */
export function verifyNode(entries: Uint32Array, level: number): void {
  const fault = findNodeFault(entries, level)
  if (fault === null) return
  throw new CorruptionError('node-corrupt', `a map node of level ${level} ${fault}`, {
    hint: 'Run a check of the pool; a snapshot that does not share this node is not affected.',
    details: { level },
  })
}

/** Copies a node to `offsetBytes` of `memory`. */
export function encodeNode(entries: Uint32Array, memory: Uint8Array, offsetBytes: number): void {
  assert(entries.length === NODE_WORD_COUNT, 'a node has 1024 words')
  memory.set(new Uint8Array(entries.buffer, entries.byteOffset, NODE_SIZE_BYTES), offsetBytes)
}

/**
 * Copies the node at `offsetBytes` out of `memory`, which may be reused. Throws CorruptionError
 * `node-corrupt` when it cannot be one of `level`.
 */
export function decodeNode(memory: Uint8Array, offsetBytes: number, level: number): Uint32Array {
  const entries = new Uint32Array(NODE_WORD_COUNT)
  const bytes = memory.subarray(offsetBytes, offsetBytes + NODE_SIZE_BYTES)
  assert(bytes.length === NODE_SIZE_BYTES, 'a whole node lies in the memory')
  new Uint8Array(entries.buffer).set(bytes)
  verifyNode(entries, level)
  return entries
}
