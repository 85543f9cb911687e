/** Finding zeros, which an image does not need to hold. */
import { BLOCK_SIZE_BYTES } from '../base/units.ts'

/** Long enough to write a megabyte of zeros at once; never written to. */
export const ZEROS: Buffer = Buffer.alloc(1048576)

/** Whether every byte from `startBytes` up to `endBytes` is zero. At most a megabyte. */
export function isZero(bytes: Uint8Array, startBytes: number, endBytes: number): boolean {
  return ZEROS.compare(bytes, startBytes, endBytes, 0, endBytes - startBytes) === 0
}

export interface Run {
  startBytes: number
  endBytes: number
  zero: boolean
}

/** Cuts `bytes` into runs of whole blocks that are zero and that are not; the last may be short. */
export function* runsOf(bytes: Uint8Array): Generator<Run> {
  let startBytes = 0
  let zero = false
  for (let at = 0; at < bytes.length; at += BLOCK_SIZE_BYTES) {
    const isZeroHere = isZero(bytes, at, Math.min(at + BLOCK_SIZE_BYTES, bytes.length))
    if (at > startBytes && isZeroHere !== zero) {
      yield { startBytes, endBytes: at, zero }
      startBytes = at
    }
    zero = isZeroHere
  }
  if (bytes.length > 0) yield { startBytes, endBytes: bytes.length, zero }
}
