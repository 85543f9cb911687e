/** What no writer puts into a directory, although each of its places is possible. */
import type { Checksum } from '../base/checksum.ts'
import { BLOCK_SIZE_BYTES } from '../base/units.ts'
import {
  PLACE_ALIAS,
  PLACE_DEAD,
  PLACE_FRAME,
  PLACE_ZERO,
  frameCodec,
  frameIndex,
  frameOffset,
  frameStoredBytes,
  placeKind,
} from '../format/directory.ts'
import type { SegmentFooter, SettledLayout } from '../format/segment.ts'
import { DATA_SLOT_FIRST } from '../format/segment.ts'
import { SEGMENT_SLOT_COUNT } from '../base/units.ts'

interface Directory {
  /** Two words a slot, each. */
  checksums: Uint32Array
  places: Uint32Array
  /** A place that cannot be has been reported, and says nothing of frames. */
  isFaulty: (slot: number) => boolean
}

/** One fact a rule; `isWhole`: every place is known, so that they can be counted. */
export function findDirectoryFaults(
  directory: Directory,
  footer: SegmentFooter,
  settled: SettledLayout,
  isWhole: boolean,
  checksum: Checksum,
): string[] {
  const facts = new Set<string>()
  const counts = [0, 0, 0, 0]
  const frameSlots: number[] = []
  const zeroHash = new Uint32Array(2)
  checksum.hashBlocks(new Uint8Array(BLOCK_SIZE_BYTES), 0, 1, zeroHash, 0)
  const { checksums, places, isFaulty } = directory
  for (let slot = 0; slot < SEGMENT_SLOT_COUNT; slot += 1) {
    const kind = placeKind(places[2 * slot + 1])
    counts[kind] += 1
    const isBlank = checksums[2 * slot] === 0 && checksums[2 * slot + 1] === 0
    if (kind === PLACE_DEAD) {
      if (!isBlank) facts.add('a dead slot has a checksum')
      continue
    }
    if (slot < DATA_SLOT_FIRST || slot >= footer.usedSlotCount) {
      facts.add('a slot that was never written has a place')
    }
    const isZeroHash =
      checksums[2 * slot] === zeroHash[0] && checksums[2 * slot + 1] === zeroHash[1]
    if (kind === PLACE_ZERO && !isZeroHash) facts.add('zeros have the checksum of something else')
    if (kind === PLACE_FRAME && !isFaulty(slot)) frameSlots.push(slot)
  }
  const frameBytes = judgeFrames(places, frameSlots, facts)
  if (isWhole) {
    const found = [frameBytes, counts[PLACE_FRAME], counts[PLACE_ALIAS], counts[PLACE_ZERO]]
    const { frameSlotCount, aliasCount, zeroCount } = settled
    const said = [settled.frameBytes, frameSlotCount, aliasCount, zeroCount]
    const names = ['bytes of frames', 'slots in frames', 'aliases', 'zeros']
    for (const [i, name] of names.entries()) {
      if (found[i] !== said[i])
        facts.add(`the footer says ${said[i]} ${name}, there are ${found[i]}`)
    }
  }
  return [...facts]
}

/** Returns the bytes of all frames, each counted once. */
function judgeFrames(places: Uint32Array, slots: number[], facts: Set<string>): number {
  const word0 = (slot: number): number => places[2 * slot]
  const word1 = (slot: number): number => places[2 * slot + 1]
  slots.sort(
    (a, b) =>
      frameOffset(word0(a)) - frameOffset(word0(b)) || frameIndex(word0(a)) - frameIndex(word0(b)),
  )
  let endBytes = 0
  let sumBytes = 0
  for (const [i, slot] of slots.entries()) {
    const offset = frameOffset(word0(slot))
    const before = i === 0 ? null : slots[i - 1]
    if (before !== null && frameOffset(word0(before)) === offset) {
      const isSame =
        word1(before) === word1(slot) && frameCodec(word0(before)) === frameCodec(word0(slot))
      if (!isSame) facts.add('two slots differ about a frame')
      if (word0(before) === word0(slot)) facts.add('two slots share a block of a frame')
      endBytes = Math.max(endBytes, offset + frameStoredBytes(word1(slot)))
      continue
    }
    if (offset < endBytes) facts.add('two frames overlap')
    endBytes = Math.max(endBytes, offset + frameStoredBytes(word1(slot)))
    sumBytes += frameStoredBytes(word1(slot))
  }
  return sumBytes
}
