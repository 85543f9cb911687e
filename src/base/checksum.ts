/**
 * XXH64 with seed 0, the one checksum of the format. A 64-bit value is two little-endian u32
 * words, low word first, so that no hot path makes a BigInt. The addon computes it at memory
 * speed; `xxh64-wasm.ts` is the independent implementation for hosts without the addon and for
 * `check`.
 */
export interface Checksum {
  /** Hashes `blockCount` consecutive 4 KiB blocks; writes two words a block at `out[outIndex…]`. */
  hashBlocks(
    memory: Uint8Array,
    offsetBytes: number,
    blockCount: number,
    out: Uint32Array,
    outIndex: number,
  ): void
  /** Index of the first block whose hash is not `expected[expectedIndex + 2 * i …]`, or -1. */
  verifyBlocks(
    memory: Uint8Array,
    offsetBytes: number,
    blockCount: number,
    expected: Uint32Array,
    expectedIndex: number,
  ): number
  /**
   * As `hashBlocks`, of the blocks of `pieceCount` pieces from `firstPiece` on, in their order:
   * (offset, length) at `pairs[2 * i]` and `pairs[2 * i + 1]`, lengths in whole blocks.
   */
  hashPieces(
    memory: Uint8Array,
    pairs: Uint32Array,
    firstPiece: number,
    pieceCount: number,
    out: Uint32Array,
    outIndex: number,
  ): void
  /** As `verifyBlocks`, of the blocks of pieces. */
  verifyPieces(
    memory: Uint8Array,
    pairs: Uint32Array,
    firstPiece: number,
    pieceCount: number,
    expected: Uint32Array,
    expectedIndex: number,
  ): number
  /** Hashes any run of bytes into two words. */
  hashBytes(
    memory: Uint8Array,
    offsetBytes: number,
    lengthBytes: number,
    out: Uint32Array,
    outIndex: number,
  ): void
}
