/**
 * The handshake core: fixed newstyle negotiation (proto.md, "Handshake") without a socket. Bytes
 * go in cut anywhere; answers and finally an outcome come out. It answers one option at a time,
 * so that a client that sends many cannot make the server hold many answers.
 */
import {
  CLIENT_FLAGS_BYTES,
  FLAG_FIXED_NEWSTYLE,
  FLAG_NO_ZEROES,
  GREETING_BYTES,
  MAGIC_NBD_HIGH,
  MAGIC_NBD_LOW,
  MAGIC_OPTION_HIGH,
  MAGIC_OPTION_LOW,
  OPTION_HEADER_BYTES,
} from './constants.ts'
import type { HandshakeHost, HandshakeOutcome } from './haggle.ts'
import { Haggle } from './haggle.ts'
import { OPTION_BYTES_MAX, OPTION_COUNT_MAX, OPTION_SKIP_BYTES_MAX } from './limits.ts'

const SERVER_FLAGS = FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES
const NO_DATA = Buffer.alloc(0)

/** What a secured connection keeps of its beginning: all else is agreed on anew. */
export interface HandshakeStart {
  readonly wantsZeroes: boolean
}

export class Handshake {
  readonly #host: HandshakeHost
  #haggle: Haggle
  #wantsZeroes: boolean
  #phase: 'flags' | 'header' | 'data' | 'skip' = 'flags'
  /** The flags, header or data being collected. */
  #part: Buffer
  #partBytes = 0
  #skipBytes = 0
  #option = 0
  #optionCount = 0
  #answerCount = 0

  /** `start`: given after NBD_OPT_STARTTLS, where there is no greeting and there are no flags. */
  constructor(host: HandshakeHost, start: HandshakeStart | null = null) {
    this.#host = host
    this.#wantsZeroes = start?.wantsZeroes ?? true
    this.#haggle = new Haggle(host, start !== null, this.#wantsZeroes)
    this.#part = Buffer.alloc(start === null ? CLIENT_FLAGS_BYTES : OPTION_HEADER_BYTES)
    if (start !== null) this.#phase = 'header'
  }

  get outcome(): HandshakeOutcome | null {
    return this.#haggle.outcome
  }

  get start(): HandshakeStart {
    return { wantsZeroes: this.#wantsZeroes }
  }

  /** What the server says first. */
  static greeting(): Buffer {
    const greeting = Buffer.alloc(GREETING_BYTES)
    greeting.writeUInt32BE(MAGIC_NBD_HIGH, 0)
    greeting.writeUInt32BE(MAGIC_NBD_LOW, 4)
    greeting.writeUInt32BE(MAGIC_OPTION_HIGH, 8)
    greeting.writeUInt32BE(MAGIC_OPTION_LOW, 12)
    greeting.writeUInt16BE(SERVER_FLAGS, 16)
    return greeting
  }

  /**
   * Takes bytes up to the end of the next option, or all; returns how many. Call
   * {@link takeOutput} and look at {@link outcome} after each call; after an outcome, no more.
   */
  consume(bytes: Uint8Array): number {
    let offset = 0
    while (offset < bytes.length) {
      const before = this.#answerCount
      offset += this.#phase === 'skip' ? this.#skip(bytes, offset) : this.#collect(bytes, offset)
      if (this.#answerCount !== before || this.outcome !== null) break
    }
    return offset
  }

  takeOutput(): Buffer {
    return this.#haggle.takeOutput()
  }

  #collect(bytes: Uint8Array, offset: number): number {
    const count = Math.min(bytes.length - offset, this.#part.length - this.#partBytes)
    this.#part.set(bytes.subarray(offset, offset + count), this.#partBytes)
    this.#partBytes += count
    if (this.#partBytes === this.#part.length) {
      if (this.#phase === 'flags') this.#flags()
      else if (this.#phase === 'header') this.#header()
      else this.#answer(this.#part, false)
    }
    return count
  }

  #skip(bytes: Uint8Array, offset: number): number {
    const count = Math.min(bytes.length - offset, this.#skipBytes)
    this.#skipBytes -= count
    if (this.#skipBytes === 0) this.#answer(NO_DATA, true)
    return count
  }

  #flags(): void {
    const flags = this.#part.readUInt32BE(0)
    const isFixed = (flags & FLAG_FIXED_NEWSTYLE) !== 0
    this.#wantsZeroes = (flags & FLAG_NO_ZEROES) === 0
    this.#haggle = new Haggle(this.#host, isFixed, this.#wantsZeroes)
    if ((flags & ~SERVER_FLAGS) !== 0) this.#haggle.close('unknown client flags')
    this.#expectHeader()
  }

  #header(): void {
    const isOption =
      this.#part.readUInt32BE(0) === MAGIC_OPTION_HIGH &&
      this.#part.readUInt32BE(4) === MAGIC_OPTION_LOW
    this.#option = this.#part.readUInt32BE(8)
    const lengthBytes = this.#part.readUInt32BE(12)
    this.#optionCount += 1
    if (!isOption) {
      this.#haggle.close('not an option: wrong magic')
    } else if (this.#optionCount > OPTION_COUNT_MAX) {
      this.#haggle.close('too many options')
    } else if (lengthBytes > OPTION_SKIP_BYTES_MAX) {
      this.#haggle.close(`an option with ${lengthBytes} bytes of data`)
    } else if (lengthBytes === 0) {
      this.#answer(NO_DATA, false)
    } else if (lengthBytes > OPTION_BYTES_MAX || !Haggle.understands(this.#option)) {
      this.#phase = 'skip'
      this.#skipBytes = lengthBytes
    } else {
      this.#phase = 'data'
      this.#part = Buffer.alloc(lengthBytes)
      this.#partBytes = 0
    }
  }

  #answer(data: Buffer, isSkipped: boolean): void {
    this.#haggle.answer(this.#option, data, isSkipped)
    this.#answerCount += 1
    this.#expectHeader()
  }

  #expectHeader(): void {
    this.#phase = 'header'
    this.#part = Buffer.alloc(OPTION_HEADER_BYTES)
    this.#partBytes = 0
  }
}
