/**
 * Numbers of the NBD protocol (NetworkBlockDevice/nbd, doc/proto.md, "Values"), big-endian on the
 * wire. 64-bit magics are kept as two u32 words because no hot path makes a BigInt.
 */

export const MAGIC_NBD_HIGH = 0x4e42444d // "NBDMAGIC"
export const MAGIC_NBD_LOW = 0x41474943
export const MAGIC_OPTION_HIGH = 0x49484156 // "IHAVEOPT"
export const MAGIC_OPTION_LOW = 0x454f5054
export const MAGIC_OPTION_REPLY_HIGH = 0x0003e889
export const MAGIC_OPTION_REPLY_LOW = 0x045565a9
export const MAGIC_REQUEST = 0x25609513
export const MAGIC_SIMPLE_REPLY = 0x67446698
export const MAGIC_STRUCTURED_REPLY = 0x668e33ef

export const GREETING_BYTES = 18
export const CLIENT_FLAGS_BYTES = 4
export const OPTION_HEADER_BYTES = 16
export const OPTION_REPLY_HEADER_BYTES = 20
export const REQUEST_BYTES = 28
export const SIMPLE_REPLY_BYTES = 16
export const CHUNK_HEADER_BYTES = 20
/** What an old client is sent after NBD_OPT_EXPORT_NAME unless it asked for no zeroes. */
export const EXPORT_NAME_ZEROES_BYTES = 124

/** Handshake flags of the server; the client's flags have the same bits. */
export const FLAG_FIXED_NEWSTYLE = 1
export const FLAG_NO_ZEROES = 2

export const Option = {
  EXPORT_NAME: 1,
  ABORT: 2,
  LIST: 3,
  STARTTLS: 5,
  INFO: 6,
  GO: 7,
  STRUCTURED_REPLY: 8,
  LIST_META_CONTEXT: 9,
  SET_META_CONTEXT: 10,
} as const

export const Reply = {
  ACK: 1,
  SERVER: 2,
  INFO: 3,
  META_CONTEXT: 4,
  ERR_UNSUP: 0x80000001,
  ERR_POLICY: 0x80000002,
  ERR_INVALID: 0x80000003,
  ERR_TLS_REQD: 0x80000005,
  ERR_UNKNOWN: 0x80000006,
  ERR_TOO_BIG: 0x80000009,
} as const

export const Info = { EXPORT: 0, NAME: 1, DESCRIPTION: 2, BLOCK_SIZE: 3 } as const

/** What an export can do, sent when transmission begins. */
export const TransmissionFlag = {
  HAS_FLAGS: 1,
  READ_ONLY: 2,
  SEND_FLUSH: 4,
  SEND_FUA: 8,
  SEND_TRIM: 32,
  SEND_WRITE_ZEROES: 64,
  SEND_DF: 128,
  CAN_MULTI_CONN: 256,
  SEND_CACHE: 1024,
  SEND_FAST_ZERO: 2048,
} as const

export const CommandFlag = {
  FUA: 1,
  NO_HOLE: 2,
  DF: 4,
  REQ_ONE: 8,
  FAST_ZERO: 16,
} as const

export const ChunkType = {
  NONE: 0,
  OFFSET_DATA: 1,
  BLOCK_STATUS: 5,
  ERROR: 0x8001,
} as const
export const CHUNK_FLAG_DONE = 1

export const NbdError = {
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
} as const

export const Command = {
  READ: 0,
  WRITE: 1,
  DISC: 2,
  FLUSH: 3,
  TRIM: 4,
  CACHE: 5,
  WRITE_ZEROES: 6,
  BLOCK_STATUS: 7,
} as const

/** What holds for every request of a type; validation, tests and names read it from here. */
export interface CommandFact {
  readonly type: number
  readonly name: string
  /** Flags that are documented for it; FUA is valid for all. */
  readonly flags: number
  /** Refused with EPERM on a read-only export. */
  readonly isWrite: boolean
  /** Has a range that must lie on the disk and must not be empty. */
  readonly hasRange: boolean
  /** Error of a range that passes the end of the disk. */
  readonly pastEnd: number
  /** Its length is bounded by the maximum payload size. */
  readonly hasPayload: boolean
}

function fact(type: number, name: string, changes: Partial<CommandFact> = {}): CommandFact {
  return {
    type,
    name,
    flags: CommandFlag.FUA,
    isWrite: false,
    hasRange: true,
    pastEnd: NbdError.EINVAL,
    hasPayload: false,
    ...changes,
  }
}

const { FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO } = CommandFlag

/** Indexed by command type. */
export const COMMANDS: readonly CommandFact[] = [
  fact(Command.READ, 'READ', { flags: FUA | DF, hasPayload: true }),
  fact(Command.WRITE, 'WRITE', { isWrite: true, hasPayload: true, pastEnd: NbdError.ENOSPC }),
  fact(Command.DISC, 'DISC', { hasRange: false }),
  fact(Command.FLUSH, 'FLUSH', { hasRange: false }),
  fact(Command.TRIM, 'TRIM', { isWrite: true }),
  fact(Command.CACHE, 'CACHE'),
  fact(Command.WRITE_ZEROES, 'WRITE_ZEROES', {
    flags: FUA | NO_HOLE | FAST_ZERO,
    isWrite: true,
    pastEnd: NbdError.ENOSPC,
  }),
  fact(Command.BLOCK_STATUS, 'BLOCK_STATUS', { flags: FUA | REQ_ONE }),
]
