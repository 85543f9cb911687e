/**
 * Memory of the requests in flight. A slot is one request from its arrival to its reply:
 *
 *     header   0    80   head and arguments of the request; all of it for a read or a write
 *            128   384   head and body of the reply, when it is short
 *     body     0  1 MiB  what of the request is longer than 80 bytes: the data of a write, which so
 *                        begins at the start of a page; the data of a read or listing to reply
 *
 * Slots are handed out last in, first out, so that an idle mount keeps few of them warm.
 */
import { assert } from '../../base/assert.ts'
import type { Arena } from '../../io/arena.ts'
import { ARENA_PIECE_BYTES_MAX } from '../../io/arena.ts'
import { IN_BYTES, OUT_BYTES, RANGE_IN } from './abi.ts'

/** Head and arguments of a read or a write, and where the body of a request begins. */
export const REQUEST_HEADER_BYTES: number = IN_BYTES + RANGE_IN.endOffset
const REPLY_OFFSET = 128
const STRIDE_BYTES = 512
export const REPLY_BODY_BYTES_MAX: number = STRIDE_BYTES - REPLY_OFFSET - OUT_BYTES
/** The largest read and write; the kernel is told so at INIT. */
export const BODY_BYTES: number = ARENA_PIECE_BYTES_MAX
/** Twice the queue depth of a busy guest; 64 MiB of arena, touched as it is used. */
export const SLOT_COUNT = 64

export class Slots {
  readonly view: DataView
  readonly memory: Buffer
  readonly #arena: Arena
  readonly #headers: number
  readonly #bodies: number[] = []
  readonly #free: Int32Array = new Int32Array(SLOT_COUNT)
  #freeCount = 0

  private constructor(arena: Arena, headers: number, bodies: number[]) {
    this.#arena = arena
    this.#headers = headers
    this.#bodies = bodies
    this.memory = arena.memory
    this.view = new DataView(arena.memory.buffer, arena.memory.byteOffset, arena.memory.byteLength)
    for (let slot = SLOT_COUNT - 1; slot >= 0; slot--) this.giveBack(slot)
  }

  /** Null when the arena has not that much left. */
  static tryOpen(arena: Arena): Slots | null {
    const headers = arena.allocate(SLOT_COUNT * STRIDE_BYTES)
    const bodies: number[] = []
    while (headers >= 0 && bodies.length < SLOT_COUNT) {
      const body = arena.allocate(BODY_BYTES)
      if (body < 0) break
      bodies.push(body)
    }
    if (bodies.length === SLOT_COUNT) return new Slots(arena, headers, bodies)
    for (const body of bodies) arena.free(body, BODY_BYTES)
    if (headers >= 0) arena.free(headers, SLOT_COUNT * STRIDE_BYTES)
    return null
  }

  get isIdle(): boolean {
    return this.#freeCount === SLOT_COUNT
  }

  /** -1 when all are in use. */
  take(): number {
    if (this.#freeCount === 0) return -1
    this.#freeCount -= 1
    return this.#free[this.#freeCount]
  }

  giveBack(slot: number): void {
    assert(this.#freeCount < SLOT_COUNT, 'a slot is given back once')
    this.#free[this.#freeCount] = slot
    this.#freeCount += 1
  }

  /** Arena offset of the request's head. */
  requestOffset(slot: number): number {
    return this.#headers + slot * STRIDE_BYTES
  }

  /** Arena offset of the reply's head. */
  replyOffset(slot: number): number {
    return this.#headers + slot * STRIDE_BYTES + REPLY_OFFSET
  }

  bodyOffset(slot: number): number {
    return this.#bodies[slot]
  }

  /** Fills `pairs` with where a request goes, two pieces of the arena: offset and length each. */
  describe(slot: number, pairs: Uint32Array): void {
    pairs[0] = this.requestOffset(slot)
    pairs[1] = REQUEST_HEADER_BYTES
    pairs[2] = this.bodyOffset(slot)
    pairs[3] = BODY_BYTES
  }

  close(): void {
    assert(this.isIdle, 'no request is in flight')
    for (const body of this.#bodies) this.#arena.free(body, BODY_BYTES)
    this.#arena.free(this.#headers, SLOT_COUNT * STRIDE_BYTES)
  }
}
