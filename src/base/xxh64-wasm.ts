/**
 * {@link Checksum} by xxhash-wasm: for hosts without the addon, and an implementation independent
 * of it for `check`. Slower than the addon: bytes are copied into WebAssembly memory and a result
 * passes through a BigInt.
 */
import xxhash from 'xxhash-wasm'
import { assert } from './assert.ts'
import type { Checksum } from './checksum.ts'
import { BLOCK_SIZE_BYTES } from './units.ts'

type HashRaw = (bytes: Uint8Array) => bigint

class WasmChecksum implements Checksum {
  readonly #hash: HashRaw

  constructor(hash: HashRaw) {
    this.#hash = hash
  }

  hashBlocks(
    memory: Uint8Array,
    offsetBytes: number,
    blockCount: number,
    out: Uint32Array,
    outIndex: number,
  ): void {
    for (let index = 0; index < blockCount; index++) {
      const offset = offsetBytes + index * BLOCK_SIZE_BYTES
      this.hashBytes(memory, offset, BLOCK_SIZE_BYTES, out, outIndex + 2 * index)
    }
  }

  verifyBlocks(
    memory: Uint8Array,
    offsetBytes: number,
    blockCount: number,
    expected: Uint32Array,
    expectedIndex: number,
  ): number {
    const words = new Uint32Array(2)
    assert(expectedIndex + 2 * blockCount <= expected.length, 'a hash is expected of each block')
    for (let index = 0; index < blockCount; index++) {
      const offset = offsetBytes + index * BLOCK_SIZE_BYTES
      this.hashBytes(memory, offset, BLOCK_SIZE_BYTES, words, 0)
      const at = expectedIndex + 2 * index
      if (words[0] !== expected[at] || words[1] !== expected[at + 1]) return index
    }
    return -1
  }

  hashPieces(
    memory: Uint8Array,
    pairs: Uint32Array,
    firstPiece: number,
    pieceCount: number,
    out: Uint32Array,
    outIndex: number,
  ): void {
    let index = outIndex
    for (let piece = firstPiece; piece < firstPiece + pieceCount; piece++) {
      const blockCount = pairs[2 * piece + 1] / BLOCK_SIZE_BYTES
      this.hashBlocks(memory, pairs[2 * piece], blockCount, out, index)
      index += 2 * blockCount
    }
  }

  verifyPieces(
    memory: Uint8Array,
    pairs: Uint32Array,
    firstPiece: number,
    pieceCount: number,
    expected: Uint32Array,
    expectedIndex: number,
  ): number {
    let done = 0
    for (let piece = firstPiece; piece < firstPiece + pieceCount; piece++) {
      const blockCount = pairs[2 * piece + 1] / BLOCK_SIZE_BYTES
      const index = expectedIndex + 2 * done
      const bad = this.verifyBlocks(memory, pairs[2 * piece], blockCount, expected, index)
      if (bad !== -1) return done + bad
      done += blockCount
    }
    return -1
  }

  hashBytes(
    memory: Uint8Array,
    offsetBytes: number,
    lengthBytes: number,
    out: Uint32Array,
    outIndex: number,
  ): void {
    assert(offsetBytes + lengthBytes <= memory.length, 'hashed bytes lie in the memory')
    assert(outIndex + 2 <= out.length, 'there is room for the hash')
    const hash = this.#hash(memory.subarray(offsetBytes, offsetBytes + lengthBytes))
    out[outIndex] = Number(hash & 0xffff_ffffn)
    out[outIndex + 1] = Number(hash >> 32n)
  }
}

/** Compiles the WebAssembly module; a few milliseconds. */
export async function openWasmChecksum(): Promise<Checksum> {
  const api = await xxhash()
  return new WasmChecksum((bytes) => api.h64Raw(bytes))
}
