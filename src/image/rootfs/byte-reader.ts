/** Exact reads from bytes that come in pieces of any size. */
import { badSource } from './limits.ts'

export class ByteReader {
  readonly #input: AsyncIterator<Uint8Array>
  #piece: Uint8Array = new Uint8Array(0)
  #at = 0

  constructor(input: AsyncIterable<Uint8Array>) {
    this.#input = input[Symbol.asyncIterator]()
  }

  /** Null at the end; the bytes stay valid. Refuses an end in the midst of them. */
  async tryRead(lengthBytes: number): Promise<Buffer | null> {
    if (this.#piece.length - this.#at < lengthBytes) return this.#gather(lengthBytes)
    const start = this.#at
    this.#at += lengthBytes
    return asBuffer(this.#piece.subarray(start, this.#at))
  }

  /** As `tryRead`, and refuses an end. */
  async mustRead(lengthBytes: number): Promise<Buffer> {
    const bytes = await this.tryRead(lengthBytes)
    if (bytes === null) throw cutShort()
    return bytes
  }

  async discard(lengthBytes: number): Promise<void> {
    let left = lengthBytes
    while (left > 0) {
      if (this.#at === this.#piece.length && !(await this.#nextPiece())) throw cutShort()
      const step = Math.min(left, this.#piece.length - this.#at)
      this.#at += step
      left -= step
    }
  }

  /** To the end: what checks the input behind this may only know then. */
  async drain(): Promise<void> {
    while (await this.#nextPiece());
    this.#at = this.#piece.length
  }

  async #gather(lengthBytes: number): Promise<Buffer | null> {
    const parts: Uint8Array[] = []
    let missing = lengthBytes
    while (missing > 0) {
      if (this.#at === this.#piece.length && !(await this.#nextPiece())) {
        if (missing === lengthBytes) return null
        throw cutShort()
      }
      const step = Math.min(missing, this.#piece.length - this.#at)
      parts.push(this.#piece.subarray(this.#at, this.#at + step))
      this.#at += step
      missing -= step
    }
    return Buffer.concat(parts, lengthBytes)
  }

  /** False at the end. */
  async #nextPiece(): Promise<boolean> {
    const next = await this.#input.next()
    if (next.done === true) return false
    this.#piece = next.value
    this.#at = 0
    return true
  }
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}

function cutShort(): Error {
  return badSource('the archive is cut short', 'Fetch or make it again.')
}
