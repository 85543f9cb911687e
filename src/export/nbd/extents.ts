/** The payload of an NBD_REPLY_TYPE_BLOCK_STATUS chunk (proto.md, "Structured reply types"). */
import { assert } from '../../base/assert.ts'
import type { ExtentList } from '../target.ts'

/** A descriptor's length has 32 bits; kept a multiple of 4096 so that what follows is aligned. */
const EXTENT_LENGTH_BYTES_MAX = 2 ** 32 - 4096

/**
 * Writes the context's id and the descriptors of `list` at `at`; returns the bytes written.
 * Neighbours with equal flags become one. All descriptors but the last lie within `lengthBytes`,
 * as the protocol wants it; with `isOne` the only one does.
 */
export function encodeExtents(
  view: DataView,
  at: number,
  contextId: number,
  list: ExtentList,
  lengthBytes: number,
  isOne: boolean,
): number {
  const limitBytes = isOne ? lengthBytes : EXTENT_LENGTH_BYTES_MAX
  let end = at + 4
  let coveredBytes = 0
  let i = 0
  view.setUint32(at, contextId)
  while (i < list.count && coveredBytes < lengthBytes && !(isOne && end > at + 4)) {
    const flags = list.flags[i]
    let extentBytes = 0
    for (; i < list.count && list.flags[i] === flags; i += 1) extentBytes += list.lengths[i]
    const clippedBytes = Math.min(extentBytes, limitBytes)
    if (clippedBytes === 0) continue
    view.setUint32(end, clippedBytes)
    view.setUint32(end + 4, flags)
    end += 8
    coveredBytes += extentBytes
    // What follows a clipped extent would be described at the wrong place.
    if (clippedBytes < extentBytes) break
  }
  assert(end > at + 4, 'a target describes at least one extent')
  return end - at
}
