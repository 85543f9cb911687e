/**
 * Who may hold how much of the arena. Each connection owns a *reserve* from its first byte to its
 * last: an input chunk, room for reply headers and one small piece. What it takes beyond comes
 * from a share that all connections of a server draw on, bounded for each and in total (the rest
 * of the arena is the pool's, without which no request would ever complete).
 *
 * The share is never used up by a few: a connection may hold at most as much as would still be
 * free (dynamic thresholds: Choudhury and Hahne, 1998). However many are greedy, each has an equal
 * part, and whoever comes next finds as much.
 *
 * Nobody waits for memory of another: a connection that finds the share empty goes on, slower, in
 * its own piece, which only its own requests hold and which they give back by themselves. So
 * clients that stop reading or writing slow others down at worst, and there is no cycle to wait in.
 */
import { assert } from '../../base/assert.ts'
import type { Arena } from '../../io/arena.ts'
import { ARENA_PIECE_BYTES_MAX, ARENA_PIECE_BYTES_MIN } from '../../io/arena.ts'
import {
  BATCH_HEADERS_BYTES,
  CONNECTION_BYTES_MAX,
  INPUT_CHUNK_BYTES,
  RESERVE_PIECE_BYTES,
} from './limits.ts'

/** What every connection of a server may take together beyond the reserves. */
export class MemoryShare {
  readonly arena: Arena
  readonly #limitBytes: number
  #usedBytes = 0

  constructor(arena: Arena, limitBytes: number) {
    this.arena = arena
    this.#limitBytes = limitBytes
  }

  get usedBytes(): number {
    return this.#usedBytes
  }

  get freeBytes(): number {
    return this.#limitBytes - this.#usedBytes
  }

  /** Arena offset of `bytes` (a size the arena hands out), or -1. */
  tryTake(bytes: number): number {
    if (this.#usedBytes + bytes > this.#limitBytes) return -1
    const offset = this.arena.allocate(bytes)
    if (offset >= 0) this.#usedBytes += bytes
    return offset
  }

  giveBack(offset: number, bytes: number): void {
    this.arena.free(offset, bytes)
    this.#usedBytes -= bytes
    assert(this.#usedBytes >= 0, 'no more is given back to the share than was taken')
  }
}

/** Memory of one operation; empty while `arenaOffset` is -1. */
export class Piece {
  arenaOffset = -1
  capacityBytes = 0
  isReserve = false
}

export class ConnectionMemory {
  readonly arena: Arena
  readonly inputOffset: number
  readonly headersOffset: number
  readonly #share: MemoryShare
  readonly #reserveOffset: number
  #isReserveTaken = false
  /** Taken from the share. */
  #sharedBytes = 0

  private constructor(share: MemoryShare, offsets: readonly [number, number, number]) {
    this.#share = share
    this.arena = share.arena
    this.inputOffset = offsets[0]
    this.headersOffset = offsets[1]
    this.#reserveOffset = offsets[2]
  }

  /** Takes the reserve of a connection, all of it or (null) none. */
  static tryOpen(share: MemoryShare): ConnectionMemory | null {
    const { arena } = share
    const input = arena.allocate(INPUT_CHUNK_BYTES)
    const headers = arena.allocate(BATCH_HEADERS_BYTES)
    const reserve = arena.allocate(RESERVE_PIECE_BYTES)
    if (input >= 0 && headers >= 0 && reserve >= 0) {
      return new ConnectionMemory(share, [input, headers, reserve])
    }
    if (input >= 0) arena.free(input, INPUT_CHUNK_BYTES)
    if (headers >= 0) arena.free(headers, BATCH_HEADERS_BYTES)
    if (reserve >= 0) arena.free(reserve, RESERVE_PIECE_BYTES)
    return null
  }

  /** True when everything but the reserve has been given back. */
  get isIdle(): boolean {
    return this.#sharedBytes === 0 && !this.#isReserveTaken
  }

  /** Fills `piece` with memory for `wantedBytes` or, when little is left, for fewer. */
  tryTake(piece: Piece, wantedBytes: number): boolean {
    assert(piece.arenaOffset === -1, 'a piece is taken once')
    const bytes = pieceSizeOf(wantedBytes)
    const offset = this.tryTakeShared(bytes)
    if (offset >= 0) {
      piece.arenaOffset = offset
      piece.capacityBytes = bytes
      return true
    }
    if (this.#isReserveTaken) return false
    this.#isReserveTaken = true
    piece.arenaOffset = this.#reserveOffset
    piece.capacityBytes = RESERVE_PIECE_BYTES
    piece.isReserve = true
    return true
  }

  giveBack(piece: Piece): void {
    if (piece.arenaOffset === -1) return
    if (piece.isReserve) this.#isReserveTaken = false
    else this.giveBackShared(piece.arenaOffset, piece.capacityBytes)
    piece.arenaOffset = -1
    piece.capacityBytes = 0
    piece.isReserve = false
  }

  /** `bytes`: a power of two that the arena hands out. Arena offset, or -1. */
  tryTakeShared(bytes: number): number {
    const limitBytes = Math.min(CONNECTION_BYTES_MAX, this.#share.freeBytes)
    if (this.#sharedBytes + bytes > limitBytes) return -1
    const offset = this.#share.tryTake(bytes)
    if (offset >= 0) this.#sharedBytes += bytes
    return offset
  }

  giveBackShared(offset: number, bytes: number): void {
    this.#share.giveBack(offset, bytes)
    this.#sharedBytes -= bytes
  }

  /** The connection is gone and nothing of it is in flight. */
  close(): void {
    assert(this.isIdle, 'a closed connection holds no memory')
    this.arena.free(this.inputOffset, INPUT_CHUNK_BYTES)
    this.arena.free(this.headersOffset, BATCH_HEADERS_BYTES)
    this.arena.free(this.#reserveOffset, RESERVE_PIECE_BYTES)
  }
}

/** The power of two the arena would round up to, at most its largest piece. */
function pieceSizeOf(wantedBytes: number): number {
  if (wantedBytes <= ARENA_PIECE_BYTES_MIN) return ARENA_PIECE_BYTES_MIN
  if (wantedBytes >= ARENA_PIECE_BYTES_MAX) return ARENA_PIECE_BYTES_MAX
  return 1 << (32 - Math.clz32(wantedBytes - 1))
}
