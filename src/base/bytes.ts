import { AssertionError } from './assert.ts'

/**
 * Little-endian numbers in pages. A 64-bit quantity of ours (a sequence, a size, a time) stays
 * below 2^53 and is a `number`; a checksum is two u32 words and never converted.
 */

const TWO_32 = 2 ** 32

/** Writes a whole number below 2^53 as u64. */
export function setUint53(view: DataView, offset: number, value: number): void {
  if (!Number.isSafeInteger(value) || value < 0) {
    throw new AssertionError(`not a whole number below 2^53: ${value}`)
  }
  view.setUint32(offset, value % TWO_32, true)
  view.setUint32(offset + 4, Math.floor(value / TWO_32), true)
}

export function setZeros(view: DataView, offset: number, lengthBytes: number): void {
  new Uint8Array(view.buffer, view.byteOffset + offset, lengthBytes).fill(0)
}

/** Reads a u64; null when it is 2^53 or more, which no value of ours is. */
export function tryUint53(view: DataView, offset: number): number | null {
  const high = view.getUint32(offset + 4, true)
  if (high >= 2 ** 21) return null
  return high * TWO_32 + view.getUint32(offset, true)
}

/** True when all of `bytes` from `start` to `end` are zero. */
export function isZero(bytes: Uint8Array, start: number, end: number): boolean {
  for (let i = start; i < end; i += 1) {
    if (bytes[i] !== 0) return false
  }
  return true
}

/** Lower-case hex of a pool id and the like. */
export function toHex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('hex')
}
