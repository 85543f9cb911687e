/** A well-behaved client beside hostile ones: writes, reads back, measures how long it waits. */
import { assert } from '../../src/base/assert.ts'
import type { Prng } from '../../src/base/prng.ts'
import { option, request, u32 } from '../unit/export/nbd-codec.ts'
import type { ClientEnd } from './nbd-session.ts'

const DISK_BYTES = 2 * 1024 * 1024
const LENGTH_BYTES_MAX = 70_000
/** Greeting, and an export described without zeroes. */
const HANDSHAKE_BYTES = 18 + 10
const REPLY_BYTES = 16
const PAUSE_MS_MAX = 200

/** Virtual or real time. */
export interface WitnessClock {
  nowMs(): number
  setTimer(delayMs: number, callback: () => void): unknown
}

export class Witness {
  latencyMsMax = 0
  requestCount = 0
  readonly #end: ClientEnd
  readonly #clock: WitnessClock
  readonly #prng: Prng
  readonly #content = Buffer.alloc(DISK_BYTES)
  #unread: Buffer = Buffer.alloc(0)
  #isEnding = false
  #working: Promise<void> = Promise.resolve()

  constructor(end: ClientEnd, clock: WitnessClock, prng: Prng) {
    this.#end = end
    this.#clock = clock
    this.#prng = prng
  }

  /** Resolves when it has a disk; then works until {@link finish}. */
  async begin(exportName = 'witness'): Promise<void> {
    this.#end.send(Buffer.concat([u32(3), option(1, Buffer.from(exportName))]))
    await this.#take(HANDSHAKE_BYTES)
    this.#working = this.#work()
    // It is looked at in `finish`.
    this.#working.catch(() => undefined)
  }

  /** Rejects when it was given wrong data or was hung up on. */
  async finish(): Promise<void> {
    this.#isEnding = true
    await this.#working
    this.#end.send(request({ type: 2, cookie: 0n }))
    this.#end.close()
  }

  async #work(): Promise<void> {
    while (!this.#isEnding) {
      const prng = this.#prng
      const length = 1 + prng.below(prng.chance(0.2) ? LENGTH_BYTES_MAX : 4096)
      const offset = prng.below(DISK_BYTES - length)
      const data = this.#content.subarray(offset, offset + length)
      data.fill(prng.below(256))
      await this.#ask(request({ type: 1, cookie: 1n, offset, payload: data }), 0)
      const from = prng.below(DISK_BYTES - length)
      const got = await this.#ask(request({ type: 0, cookie: 2n, offset: from, length }), length)
      const isRight = got.equals(this.#content.subarray(from, from + length))
      assert(isRight, 'the witness reads what it wrote')
      // Now and then it asks without a pause.
      const pauseMs = prng.nextFloat() ** 3 * PAUSE_MS_MAX
      await new Promise<void>((resolve) => this.#clock.setTimer(pauseMs, resolve))
    }
  }

  async #ask(bytes: Buffer, dataBytes: number): Promise<Buffer> {
    const startMs = this.#clock.nowMs()
    this.#end.send(bytes)
    const reply = await this.#take(REPLY_BYTES + dataBytes)
    this.latencyMsMax = Math.max(this.latencyMsMax, this.#clock.nowMs() - startMs)
    this.requestCount += 1
    const isRight = reply.readUInt32BE(0) === 0x67446698 && reply.readUInt32BE(4) === 0
    assert(isRight && reply.readBigUInt64BE(8) === bytes.readBigUInt64BE(8), 'a reply to a request')
    return reply.subarray(REPLY_BYTES)
  }

  async #take(lengthBytes: number): Promise<Buffer> {
    while (this.#unread.length < lengthBytes) {
      const part = await this.#end.receive()
      assert(part.length > 0, 'nobody hangs up on a client that does no wrong')
      this.#unread = Buffer.concat([this.#unread, part])
    }
    const taken = this.#unread.subarray(0, lengthBytes)
    this.#unread = this.#unread.subarray(lengthBytes)
    return taken
  }
}
