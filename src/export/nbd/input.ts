/**
 * Received bytes, in chunks of arena memory. A payload is written to the disk from where it was
 * received: the chunk is pinned until that write completes, and bytes behind it go on into the
 * same chunk or, when it is full, into another one. Only a message that would not fit into the
 * rest of its chunk is moved, once, to the front of the next.
 */
import { assert } from '../../base/assert.ts'
import { INLINE_PAYLOAD_BYTES_MAX, INPUT_CHUNK_BYTES, LONG_WRITE_RECEIVE_BYTES } from './limits.ts'
import { REQUEST_BYTES } from './constants.ts'
import type { ConnectionMemory } from './memory.ts'

/** Free room behind the received bytes that lets any message in a chunk be completed there. */
const ROOM_BYTES_MIN = REQUEST_BYTES + INLINE_PAYLOAD_BYTES_MAX

export class InputChunk {
  readonly arenaOffset: number
  /** Writes in flight from this chunk. */
  pinCount = 0

  constructor(arenaOffset: number) {
    this.arenaOffset = arenaOffset
  }
}

export class Input {
  readonly #memory: ConnectionMemory
  /** Part of the reserve, so there is always one. */
  readonly #first: InputChunk
  #chunk: InputChunk
  /** Within the chunk: end of what was consumed, end of what was received. */
  #consumed = 0
  #filled = 0

  constructor(memory: ConnectionMemory) {
    this.#memory = memory
    this.#first = new InputChunk(memory.inputOffset)
    this.#chunk = this.#first
  }

  /** Received and not yet consumed. */
  get availableBytes(): number {
    return this.#filled - this.#consumed
  }

  /** Arena offset of the first byte not yet consumed. */
  get position(): number {
    return this.#chunk.arenaOffset + this.#consumed
  }

  /** Arena offset where the next bytes are to be received; valid after `tryMakeRoom`. */
  get receiveOffset(): number {
    return this.#chunk.arenaOffset + this.#filled
  }

  /**
   * Makes room for the next receive, which must not have begun. Returns how many bytes it may
   * take, 0 while all memory is pinned by writes in flight. `isLongExpected`: the payload of the
   * next message is likely to be received elsewhere, so take little of it here.
   */
  tryMakeRoom(isLongExpected: boolean): number {
    if (this.availableBytes === 0 && this.#chunk.pinCount === 0) {
      this.#consumed = 0
      this.#filled = 0
    }
    if (INPUT_CHUNK_BYTES - this.#filled < ROOM_BYTES_MIN && !this.#tryRotate()) return 0
    const roomBytes = INPUT_CHUNK_BYTES - this.#filled
    return isLongExpected ? Math.min(roomBytes, LONG_WRITE_RECEIVE_BYTES) : roomBytes
  }

  received(bytes: number): void {
    this.#filled += bytes
    assert(this.#filled <= INPUT_CHUNK_BYTES, 'a receive stays in its chunk')
  }

  consume(bytes: number): void {
    this.#consumed += bytes
    assert(this.#consumed <= this.#filled, 'only received bytes are consumed')
  }

  /** Keeps what is consumed where it is until `unpin`. */
  pin(): InputChunk {
    this.#chunk.pinCount += 1
    return this.#chunk
  }

  unpin(chunk: InputChunk): void {
    chunk.pinCount -= 1
    assert(chunk.pinCount >= 0, 'a chunk is unpinned as often as it was pinned')
    if (chunk !== this.#chunk) this.#retire(chunk)
  }

  /** No more will be received. Chunks still pinned are given back when they are unpinned. */
  close(): void {
    const chunk = this.#chunk
    this.#chunk = this.#first
    this.#consumed = 0
    this.#filled = 0
    if (chunk !== this.#first) this.#retire(chunk)
  }

  /** Moves the unfinished message to the front of a chunk that nothing else uses. */
  #tryRotate(): boolean {
    const old = this.#chunk
    const next = this.#tryFreeChunk()
    if (next === null) return false
    const from = this.position
    const bytes = this.availableBytes
    this.#memory.arena.memory.copyWithin(next.arenaOffset, from, from + bytes)
    this.#chunk = next
    this.#consumed = 0
    this.#filled = bytes
    if (old !== next) this.#retire(old)
    return true
  }

  #tryFreeChunk(): InputChunk | null {
    if (this.#chunk.pinCount === 0) return this.#chunk
    if (this.#first.pinCount === 0) return this.#first
    const offset = this.#memory.tryTakeShared(INPUT_CHUNK_BYTES)
    return offset < 0 ? null : new InputChunk(offset)
  }

  #retire(chunk: InputChunk): void {
    if (chunk === this.#first || chunk.pinCount > 0) return
    this.#memory.giveBackShared(chunk.arenaOffset, INPUT_CHUNK_BYTES)
  }
}
