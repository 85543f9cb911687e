/**
 * Makes inputs out of inputs: small changes, one on top of the other, at places that are likely to
 * mean something. All randomness is the generator's.
 */
import type { Prng } from '../../src/base/prng.ts'

const NUMBERS: readonly number[] = [
  0,
  1,
  2,
  3,
  4,
  7,
  8,
  15,
  16,
  31,
  32,
  63,
  64,
  100,
  127,
  128,
  255,
  256,
  511,
  512,
  513,
  1023,
  1024,
  4088,
  4095,
  4096,
  4097,
  8192,
  16350,
  16351,
  16383,
  16384,
  32767,
  32768,
  65535,
  65536,
  65537,
  2 ** 20,
  2 ** 24,
  2 ** 26,
  2 ** 31 - 1,
  2 ** 31,
  2 ** 32 - 4096,
  2 ** 32 - 2,
  2 ** 32 - 1,
]
const CHANGE_COUNT_MAX_LOG2 = 4
/** Most structures begin with what decides about the rest. */
const HEAD_BYTES = 128

export class Mutator {
  readonly #prng: Prng
  readonly #sizeBytesMax: number
  /** Byte strings that mean something to who reads the input. */
  readonly #words: readonly Uint8Array[]
  readonly #numbers: readonly number[]

  constructor(prng: Prng, sizeBytesMax: number, literals: Iterable<number | string>) {
    this.#prng = prng
    this.#sizeBytesMax = sizeBytesMax
    const words: Uint8Array[] = []
    const numbers = [...NUMBERS]
    for (const literal of literals) {
      if (typeof literal === 'string') words.push(Buffer.from(literal))
      else if (Number.isSafeInteger(literal) && literal >= 0) numbers.push(literal, literal + 1)
    }
    this.#words = words
    this.#numbers = numbers
  }

  /** `other` lends its bytes to some of the changes. */
  mutate(input: Uint8Array, other: Uint8Array): Uint8Array {
    const changeCount = 1 << this.#prng.below(CHANGE_COUNT_MAX_LOG2)
    let bytes: Uint8Array = input.slice()
    for (let i = 0; i < changeCount; i += 1) bytes = this.#change(bytes, other)
    return bytes.length > this.#sizeBytesMax ? bytes.slice(0, this.#sizeBytesMax) : bytes
  }

  #change(bytes: Uint8Array, other: Uint8Array): Uint8Array {
    const prng = this.#prng
    if (bytes.length === 0) return this.#insert(bytes, 0, this.#word())
    const at = this.#place(bytes)
    switch (prng.weighted([4, 3, 6, 3, 2, 2, 2, 2, 2])) {
      case 0:
        bytes[at] ^= 1 << prng.below(8)
        return bytes
      case 1:
        bytes[at] = prng.nextU32() >>> 24
        return bytes
      case 2:
        this.#setNumber(bytes, at, prng.pick(this.#numbers))
        return bytes
      case 3:
        this.#addNumber(bytes, at)
        return bytes
      case 4:
        return this.#overwrite(bytes, at, this.#word())
      case 5:
        return this.#insert(bytes, at, prng.chance(0.5) ? this.#word() : this.#piece(bytes))
      case 6:
        return this.#remove(bytes, at)
      case 7:
        return this.#overwrite(bytes, at, this.#piece(prng.chance(0.5) ? bytes : other))
      default:
        return this.#splice(bytes, other)
    }
  }

  /** Anywhere, near the beginning, or at the next byte that is not zero. */
  #place(bytes: Uint8Array): number {
    const prng = this.#prng
    const kind = prng.below(4)
    if (kind === 0) return prng.below(Math.min(bytes.length, HEAD_BYTES))
    const start = prng.below(bytes.length)
    if (kind === 1) return start
    let at = start
    while (at < bytes.length && bytes[at] === 0) at += 1
    if (at === bytes.length) at = start
    return kind === 2 ? at : at & ~3
  }

  #setNumber(bytes: Uint8Array, at: number, value: number): void {
    const sizeBytes = 1 << this.#prng.below(4)
    const isBigEndian = this.#prng.chance(0.3)
    let rest = this.#prng.chance(0.05) ? 2 ** 53 - 1 - value : value
    for (let i = 0; i < sizeBytes; i += 1) {
      const place = at + (isBigEndian ? sizeBytes - 1 - i : i)
      if (place < bytes.length) bytes[place] = rest % 256
      rest = Math.floor(rest / 256)
    }
  }

  #addNumber(bytes: Uint8Array, at: number): void {
    const step = this.#prng.between(1, 16) * (this.#prng.chance(0.5) ? 1 : -1)
    if (this.#prng.chance(0.5) || at + 4 > bytes.length) {
      bytes[at] += step
      return
    }
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
    const isLittleEndian = this.#prng.chance(0.7)
    view.setUint32(at, view.getUint32(at, isLittleEndian) + step, isLittleEndian)
  }

  #word(): Uint8Array {
    if (this.#words.length > 0 && this.#prng.chance(0.8)) return this.#prng.pick(this.#words)
    const digits = Buffer.from(String(this.#prng.pick(this.#numbers)))
    if (this.#prng.chance(0.5)) return digits
    const bytes = new Uint8Array(this.#prng.between(1, 16))
    if (this.#prng.chance(0.5)) this.#prng.fill(bytes)
    return bytes
  }

  #piece(bytes: Uint8Array): Uint8Array {
    if (bytes.length === 0) return bytes
    const start = this.#prng.below(bytes.length)
    return bytes.slice(start, start + this.#length(bytes.length - start))
  }

  /** Short ones are more likely. */
  #length(lengthMax: number): number {
    return this.#prng.between(1, Math.max(1, lengthMax >> this.#prng.below(10)))
  }

  #overwrite(bytes: Uint8Array, at: number, piece: Uint8Array): Uint8Array {
    bytes.set(piece.subarray(0, bytes.length - at), at)
    return bytes
  }

  #insert(bytes: Uint8Array, at: number, piece: Uint8Array): Uint8Array {
    const result = new Uint8Array(bytes.length + piece.length)
    result.set(bytes.subarray(0, at))
    result.set(piece, at)
    result.set(bytes.subarray(at), at + piece.length)
    return result
  }

  #remove(bytes: Uint8Array, at: number): Uint8Array {
    if (this.#prng.chance(0.3)) return bytes.slice(0, at)
    const end = at + this.#length(bytes.length - at)
    return this.#insert(bytes.slice(0, at), at, bytes.subarray(end))
  }

  /** The beginning of one and the end of the other. */
  #splice(bytes: Uint8Array, other: Uint8Array): Uint8Array {
    if (other.length === 0) return bytes
    const cut = this.#prng.below(Math.min(bytes.length, other.length))
    return this.#insert(bytes.slice(0, cut), cut, other.subarray(cut))
  }
}
