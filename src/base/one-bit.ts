import type { Checksum } from './checksum.ts'

/** Hashes between two pauses: a few milliseconds. */
const STEP_BIT_COUNT = 2048

const found = new Uint32Array(2)

/**
 * Turns the one bit over with which the bytes have the hash `expected` (two words), and says
 * whether there is one. It is tried, bit by bit. That damage of another kind looks like one bit has
 * a chance of one in 2^49 for a block, which has 2^15 bits to try and a hash of 64.
 */
export async function mendOneBit(
  checksum: Checksum,
  memory: Uint8Array,
  offsetBytes: number,
  lengthBytes: number,
  expected: readonly [number, number],
  pace: () => Promise<void>,
): Promise<boolean> {
  for (let bit = 0; bit < 8 * lengthBytes; bit += 1) {
    if (bit % STEP_BIT_COUNT === 0) await pace()
    const at = offsetBytes + (bit >> 3)
    memory[at] ^= 1 << (bit & 7)
    checksum.hashBytes(memory, offsetBytes, lengthBytes, found, 0)
    if (found[0] === expected[0] && found[1] === expected[1]) return true
    memory[at] ^= 1 << (bit & 7)
  }
  return false
}
