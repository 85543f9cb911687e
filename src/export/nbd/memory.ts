/** The arena memory of a connection: an input chunk, room for reply headers, and its share. */
import type { ArenaShare } from '../../io/arena-share.ts'
import { ShareMember } from '../../io/arena-share.ts'
import {
  BATCH_HEADERS_BYTES,
  CONNECTION_BYTES_MAX,
  INPUT_CHUNK_BYTES,
  RESERVE_PIECE_BYTES,
} from './limits.ts'

const LIMITS = { shareBytesMax: CONNECTION_BYTES_MAX, reserveBytes: RESERVE_PIECE_BYTES }

export class ConnectionMemory extends ShareMember {
  readonly inputOffset: number
  readonly headersOffset: number

  private constructor(share: ArenaShare, offsets: readonly [number, number, number]) {
    super(share, LIMITS, offsets[2])
    this.inputOffset = offsets[0]
    this.headersOffset = offsets[1]
  }

  /** Takes what a connection owns, all of it or (null) none. */
  static tryOpen(share: ArenaShare): ConnectionMemory | null {
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

  /** The connection is gone and nothing of it is in flight. */
  close(): void {
    this.arena.free(this.takeReserve(), RESERVE_PIECE_BYTES)
    this.arena.free(this.inputOffset, INPUT_CHUNK_BYTES)
    this.arena.free(this.headersOffset, BATCH_HEADERS_BYTES)
  }
}
