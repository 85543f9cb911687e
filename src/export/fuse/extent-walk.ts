/** Looking along a disk for data and holes, however long it is. */
import { Errno } from '../../base/errors.ts'
import { BLOCK_SIZE_BYTES, GIB, MIB, blocksOf } from '../../base/units.ts'
import type { ExportTarget, ExtentList } from '../target.ts'
import { EXTENT_HOLE } from '../target.ts'
import { completed } from './completed.ts'
import { refusal } from './errors.ts'
import { SEEK_DATA } from './operations.ts'

/** A walk looks at this much at first, so that one that finds data soon costs little. */
const STEP_BYTES_MIN: number = 16 * MIB
/**
 * And at this much behind long holes: 256 TiB of nothing in 65,536 calls, and no call that counts
 * more than a million blocks.
 */
const STEP_BYTES_MAX: number = 4 * GIB
const EXTENT_COUNT = 64

/** Of an extent; false ends the walk. */
type Visit = (startBytes: number, endBytes: number, flags: number) => boolean

/** Visits the extents of the range, as far as the disk reaches, in order and without gaps. */
async function walkExtents(
  target: ExportTarget,
  startBytes: number,
  endBytes: number,
  extentCount: number,
  visit: Visit,
): Promise<void> {
  const list: ExtentList = {
    lengths: new Float64Array(extentCount),
    flags: new Uint32Array(extentCount),
    count: 0,
  }
  let atBytes = startBytes
  let stepBytes = STEP_BYTES_MIN
  for (;;) {
    // The size may change meanwhile.
    const limitBytes = Math.min(endBytes, target.sizeBytes)
    if (atBytes >= limitBytes) return
    const lengthBytes = Math.min(stepBytes, limitBytes - atBytes)
    await completed((completion, tag) => {
      target.extents(atBytes, lengthBytes, { kind: 'allocation' }, list, completion, tag)
    })
    let isAllHole = true
    for (let i = 0; i < list.count && atBytes < limitBytes; i += 1) {
      const extentEnd = Math.min(atBytes + list.lengths[i], limitBytes)
      if (!visit(atBytes, extentEnd, list.flags[i])) return
      if ((list.flags[i] & EXTENT_HOLE) === 0) isAllHole = false
      atBytes = extentEnd
    }
    stepBytes = isAllHole ? Math.min(2 * stepBytes, STEP_BYTES_MAX) : STEP_BYTES_MIN
  }
}

/** lseek(2) with SEEK_DATA or SEEK_HOLE from an offset within the disk. Rejects ENXIO. */
export async function seekFrom(
  target: ExportTarget,
  offsetBytes: number,
  whence: number,
): Promise<number> {
  const wantsData = whence === SEEK_DATA
  let foundBytes = -1
  const visit: Visit = (startBytes, _endBytes, flags) => {
    const isData = (flags & EXTENT_HOLE) === 0
    if (isData === wantsData) foundBytes = startBytes
    return foundBytes < 0
  }
  // Looking for data, nobody asks how far the first of it reaches.
  const extentCount = wantsData ? 1 : EXTENT_COUNT
  await walkExtents(target, offsetBytes, Infinity, extentCount, visit)
  if (foundBytes >= 0) return foundBytes
  if (wantsData || offsetBytes >= target.sizeBytes) {
    throw refusal(Errno.ENXIO, 'there is nothing behind this offset')
  }
  return target.sizeBytes
}

/** Whether more than `limitBytes` of blocks would be new if all of the range were written. */
export async function needsMoreThan(
  target: ExportTarget,
  startBytes: number,
  endBytes: number,
  limitBytes: number,
): Promise<boolean> {
  const firstBytes = startBytes - (startBytes % BLOCK_SIZE_BYTES)
  if (newBytes(firstBytes, endBytes) <= limitBytes) return false
  const diskEnd = newBytes(0, target.sizeBytes)
  const insideEnd = Math.max(firstBytes, Math.min(endBytes, diskEnd))
  let neededBytes = newBytes(insideEnd, endBytes)
  await walkExtents(target, firstBytes, insideEnd, EXTENT_COUNT, (from, to, flags) => {
    // Explicit zeros have no block either.
    if (flags !== 0) neededBytes += newBytes(from, to)
    return neededBytes <= limitBytes
  })
  return neededBytes > limitBytes
}

/** What the blocks of a range take that begins with one. */
function newBytes(startBytes: number, endBytes: number): number {
  return blocksOf(endBytes - startBytes) * BLOCK_SIZE_BYTES
}
