/** Shared memory that is nobody's but the test's. */
import { assert } from '../../src/base/assert.ts'
import type { SharedMapping } from '../../src/io/descriptors.ts'

export class PlainMapping implements SharedMapping {
  readonly bytes: Uint8Array
  readonly isBroken = false

  constructor(memory: ArrayBuffer) {
    this.bytes = new Uint8Array(memory)
  }

  get sizeBytes(): number {
    return this.bytes.length
  }

  read(offset: number, target: Uint8Array, targetOffset: number, lengthBytes: number): void {
    target.set(this.#part(offset, lengthBytes), targetOffset)
  }

  readPieces(pieces: Float64Array, count: number, target: Uint8Array): void {
    for (let at = 0; at < 3 * count; at += 3) {
      target.set(this.#part(pieces[at], pieces[at + 2]), pieces[at + 1])
    }
  }

  writePieces(pieces: Float64Array, count: number, source: Uint8Array): void {
    for (let at = 0; at < 3 * count; at += 3) {
      const [offset, sourceOffset, lengthBytes] = pieces.subarray(at, at + 3)
      this.#part(offset, lengthBytes).set(source.subarray(sourceOffset, sourceOffset + lengthBytes))
    }
  }

  view(offset: number, lengthBytes: number): DataView {
    const { buffer, byteOffset } = this.#part(offset, lengthBytes)
    return new DataView(buffer, byteOffset, lengthBytes)
  }

  close(): void {
    this.bytes.fill(0)
  }

  #part(offset: number, lengthBytes: number): Uint8Array {
    assert(offset >= 0 && offset + lengthBytes <= this.bytes.length, 'a copy stays in its memory')
    return this.bytes.subarray(offset, offset + lengthBytes)
  }
}
