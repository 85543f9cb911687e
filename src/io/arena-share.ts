/**
 * Who may hold how much of the arena. Each member (a connection) owns a *reserve piece* from its
 * first byte to its last. What it takes beyond comes from a share that all members of a server draw
 * on, bounded for each and in total (the rest of the arena is the pool's, without which no request
 * would ever complete).
 *
 * The share is never used up by a few: a member may hold at most as much as would still be free
 * (dynamic thresholds: Choudhury and Hahne, 1998). However many are greedy, each has an equal part,
 * and whoever comes next finds as much.
 *
 * Nobody waits for memory of another: a member that finds the share empty goes on, slower, in its
 * own piece, which only its own requests hold and which they give back by themselves. So clients
 * that stop reading or writing slow others down at worst, and there is no cycle to wait in.
 */
import { assert } from '../base/assert.ts'
import type { Arena } from './arena.ts'
import { ARENA_PIECE_BYTES_MAX, ARENA_PIECE_BYTES_MIN } from './arena.ts'

/** What all members may take together beyond the reserves. */
export class ArenaShare {
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
    if (bytes > this.freeBytes) return -1
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
export class SharePiece {
  arenaOffset = -1
  capacityBytes = 0
  isReserve = false
}

export interface MemberLimits {
  /** Most that one member takes from the share. */
  shareBytesMax: number
  /** Of the piece it owns. */
  reserveBytes: number
}

export class ShareMember {
  readonly arena: Arena
  readonly #share: ArenaShare
  readonly #limits: MemberLimits
  readonly #reserveOffset: number
  #isReserveTaken = false
  /** Taken from the share. */
  #sharedBytes = 0

  /** `reserveOffset`: its own piece, which whoever made the member has allocated, and frees. */
  constructor(share: ArenaShare, limits: MemberLimits, reserveOffset: number) {
    this.#share = share
    this.arena = share.arena
    this.#limits = limits
    this.#reserveOffset = reserveOffset
  }

  /** True when everything but the reserve has been given back. */
  get isIdle(): boolean {
    return this.#sharedBytes === 0 && !this.#isReserveTaken
  }

  /** Fills `piece` with memory for `wantedBytes` or, when little is left, for fewer. */
  tryTake(piece: SharePiece, wantedBytes: number): boolean {
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
    piece.capacityBytes = this.#limits.reserveBytes
    piece.isReserve = true
    return true
  }

  giveBack(piece: SharePiece): void {
    if (piece.arenaOffset === -1) return
    if (piece.isReserve) this.#isReserveTaken = false
    else this.giveBackShared(piece.arenaOffset, piece.capacityBytes)
    piece.arenaOffset = -1
    piece.capacityBytes = 0
    piece.isReserve = false
  }

  /** `bytes`: a power of two that the arena hands out. Arena offset, or -1. */
  tryTakeShared(bytes: number): number {
    const limitBytes = Math.min(this.#limits.shareBytesMax, this.#share.freeBytes)
    if (this.#sharedBytes + bytes > limitBytes) return -1
    const offset = this.#share.tryTake(bytes)
    if (offset >= 0) this.#sharedBytes += bytes
    return offset
  }

  giveBackShared(offset: number, bytes: number): void {
    this.#share.giveBack(offset, bytes)
    this.#sharedBytes -= bytes
  }

  /** Gives up the reserve, which it returns the offset of; nothing of it may be in use. */
  protected takeReserve(): number {
    assert(this.isIdle, 'a closed connection holds no memory')
    return this.#reserveOffset
  }
}

/** The power of two the arena would round up to, at most its largest piece. */
function pieceSizeOf(wantedBytes: number): number {
  if (wantedBytes <= ARENA_PIECE_BYTES_MIN) return ARENA_PIECE_BYTES_MIN
  if (wantedBytes >= ARENA_PIECE_BYTES_MAX) return ARENA_PIECE_BYTES_MAX
  return 1 << (32 - Math.clz32(wantedBytes - 1))
}
