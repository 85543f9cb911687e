/** Every bound of the server, with where its number comes from. */
import { KIB, MIB } from '../../base/units.ts'

/** proto.md, "Size constraints": what every client may count on without asking. */
export const PAYLOAD_BYTES_MAX: number = 32 * MIB
/** A refused payload up to here is read and thrown away; a longer one costs the connection. */
export const DRAIN_BYTES_MAX: number = 2 * PAYLOAD_BYTES_MAX
/** proto.md, "Conventions": no string is longer. */
export const STRING_BYTES_MAX = 4096
/** Room for an export name and sixteen queries of the longest kind, less than a page of all. */
export const OPTION_BYTES_MAX: number = 128 * KIB
/** A longer option is skipped up to here and answered; beyond, the client is cut off. */
export const OPTION_SKIP_BYTES_MAX: number = 1 * MIB
/** Real clients send under ten; without a bound a client could haggle forever. */
export const OPTION_COUNT_MAX = 128
/** Each selected context costs a walk of the map on every BLOCK_STATUS. */
export const CONTEXT_COUNT_MAX = 16
/** So that a context's id and extents fill exactly 32 KiB: 4 + 8 * 4095 bytes. */
export const EXTENT_COUNT_MAX = 4095
export const EXTENT_CHUNK_BYTES: number = 32 * KIB

/** Sixty-three 4 KiB writes: a full queue of a guest is received in one call. */
export const INPUT_CHUNK_BYTES: number = 256 * KIB
/**
 * Payloads up to here are written from where they were received; longer ones get memory of their
 * own. Also what must be free behind the received bytes before the next receive.
 */
export const INLINE_PAYLOAD_BYTES_MAX: number = 64 * KIB
/** After a long write the next receive is this short, so that little of its payload is copied. */
export const LONG_WRITE_RECEIVE_BYTES: number = 8 * KIB

/** A piece that belongs to one connection alone, so that it moves however greedy the others are. */
export const RESERVE_PIECE_BYTES: number = 64 * KIB
/** Eight times the default queue depth of a guest's virtio disk (QEMU keeps 16 a connection). */
export const REQUEST_COUNT_MAX = 256
/** Requests, and room for the pieces of long ones. */
export const OPERATION_COUNT_MAX: number = 2 * REQUEST_COUNT_MAX
/** Of shared memory, for one connection: sixteen pieces of the largest size. */
export const CONNECTION_BYTES_MAX: number = 16 * MIB

/** Replies in one send. A header and a piece each stay well under the kernel's 1024 vectors. */
export const BATCH_REPLY_COUNT_MAX = 256
/** The longest header written into a batch (a data chunk has 28 bytes), rounded up. */
export const REPLY_HEADER_BYTES_MAX = 32
export const BATCH_HEADERS_BYTES: number = BATCH_REPLY_COUNT_MAX * REPLY_HEADER_BYTES_MAX
/** What a connection holds from its first byte to its last. */
export const CONNECTION_RESERVE_BYTES: number =
  INPUT_CHUNK_BYTES + BATCH_HEADERS_BYTES + RESERVE_PIECE_BYTES
/** A batch ends once it has this much: its memory comes back only when all of it was sent. */
export const BATCH_BYTES_MAX: number = 2 * MIB
/** NBD_CMD_CACHE reads this much of its range; the rest is accepted and left alone. */
export const CACHE_BYTES_MAX: number = 32 * MIB

export interface NbdLimits {
  /**
   * Clients at a time, over all addresses; further ones are disconnected at once. Their reserves
   * also have to fit a quarter of the arena: 49 clients for each 64 MiB.
   */
  connectionsMax: number
  /** Clients at a time from one address of a network, so that one host cannot keep others out. */
  connectionsPerAddressMax: number
  /** From accepting a client to its first request. */
  handshakeTimeoutMs: number
  /**
   * A client that takes longer for a batch of replies, or for sending a piece of a payload, is cut
   * off: at their largest, that is some 50 KiB a second.
   */
  stallTimeoutMs: number
}

export const DEFAULT_LIMITS: NbdLimits = {
  connectionsMax: 128,
  connectionsPerAddressMax: 64,
  handshakeTimeoutMs: 10_000,
  stallTimeoutMs: 60_000,
}
