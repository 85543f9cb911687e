import { isZero } from '../base/bytes.ts'
import type { Checksum } from '../base/checksum.ts'
import { BLOCK_SIZE_BYTES } from '../base/units.ts'

/** Knows a block of zeros, at the price of comparing two words where it is none. */
export class ZeroBlocks {
  readonly #hash: Uint32Array = new Uint32Array(2)

  constructor(checksum: Checksum) {
    checksum.hashBlocks(new Uint8Array(BLOCK_SIZE_BYTES), 0, 1, this.#hash, 0)
  }

  /** The block's checksum, two words at `hashIndex`, says that it may be; the bytes decide. */
  isZero(memory: Uint8Array, offsetBytes: number, hashes: Uint32Array, hashIndex: number): boolean {
    if (hashes[hashIndex] !== this.#hash[0] || hashes[hashIndex + 1] !== this.#hash[1]) return false
    return isZero(memory, offsetBytes, offsetBytes + BLOCK_SIZE_BYTES)
  }
}
