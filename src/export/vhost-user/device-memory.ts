/**
 * Who may hold how much of the arena, for the payload of requests on its way. Each connection owns
 * one small piece from beginning to end, so that it moves whatever others do; what it takes beyond
 * comes from a share of all connections, of which it may hold at most as much as would still be
 * free (as `nbd/memory.ts` has it, for the same reasons).
 */
import { assert } from '../../base/assert.ts'
import type { Arena } from '../../io/arena.ts'
import { ARENA_PIECE_BYTES_MAX, ARENA_PIECE_BYTES_MIN } from '../../io/arena.ts'
import { CONNECTION_BYTES_MAX, RESERVE_PIECE_BYTES } from './limits.ts'

export class MemoryShare {
  readonly arena: Arena
  readonly #limitBytes: number
  #usedBytes = 0

  constructor(arena: Arena, limitBytes: number) {
    this.arena = arena
    this.#limitBytes = limitBytes
  }

  get freeBytes(): number {
    return this.#limitBytes - this.#usedBytes
  }

  /** Arena offset of `bytes` (a size that the arena hands out), or -1. */
  tryTake(bytes: number): number {
    if (bytes > this.freeBytes) return -1
    const offset = this.arena.allocate(bytes)
    if (offset >= 0) this.#usedBytes += bytes
    return offset
  }

  giveBack(offset: number, bytes: number): void {
    this.arena.free(offset, bytes)
    this.#usedBytes -= bytes
    assert(this.#usedBytes >= 0, 'no more is given back than was taken')
  }
}

/** Memory of one operation; empty while `arenaOffset` is -1. */
export class Piece {
  arenaOffset = -1
  capacityBytes = 0
}

export class DeviceMemory {
  readonly arena: Arena
  readonly #share: MemoryShare
  readonly #reserveOffset: number
  #isReserveTaken = false
  #sharedBytes = 0

  private constructor(share: MemoryShare, reserveOffset: number) {
    this.arena = share.arena
    this.#share = share
    this.#reserveOffset = reserveOffset
  }

  /** Null: there is no memory for another connection. */
  static tryOpen(share: MemoryShare): DeviceMemory | null {
    const offset = share.tryTake(RESERVE_PIECE_BYTES)
    return offset < 0 ? null : new DeviceMemory(share, offset)
  }

  /** Fills `piece` with memory for `wantedBytes` or, when little is left, for fewer. */
  tryTake(piece: Piece, wantedBytes: number): boolean {
    assert(piece.arenaOffset === -1, 'a piece is taken once')
    const bytes = pieceSizeOf(wantedBytes)
    const limitBytes = Math.min(CONNECTION_BYTES_MAX, this.#share.freeBytes)
    const isAllowed = this.#sharedBytes + bytes <= limitBytes
    const offset = isAllowed ? this.#share.tryTake(bytes) : -1
    if (offset >= 0) {
      this.#sharedBytes += bytes
      piece.arenaOffset = offset
      piece.capacityBytes = bytes
      return true
    }
    if (this.#isReserveTaken) return false
    this.#isReserveTaken = true
    piece.arenaOffset = this.#reserveOffset
    piece.capacityBytes = RESERVE_PIECE_BYTES
    return true
  }

  giveBack(piece: Piece): void {
    if (piece.arenaOffset === -1) return
    if (piece.arenaOffset === this.#reserveOffset) {
      this.#isReserveTaken = false
    } else {
      this.#share.giveBack(piece.arenaOffset, piece.capacityBytes)
      this.#sharedBytes -= piece.capacityBytes
    }
    piece.arenaOffset = -1
    piece.capacityBytes = 0
  }

  /** Nothing of it is in use. */
  close(): void {
    assert(this.#sharedBytes === 0 && !this.#isReserveTaken, 'a closed connection holds no memory')
    this.#share.giveBack(this.#reserveOffset, RESERVE_PIECE_BYTES)
  }
}

/** The power of two that the arena would round up to, at most its largest piece. */
function pieceSizeOf(wantedBytes: number): number {
  if (wantedBytes <= ARENA_PIECE_BYTES_MIN) return ARENA_PIECE_BYTES_MIN
  if (wantedBytes >= ARENA_PIECE_BYTES_MAX) return ARENA_PIECE_BYTES_MAX
  return 1 << (32 - Math.clz32(wantedBytes - 1))
}
