/**
 * Every error a user can meet. Three families: an assertion is our bug (`assert.ts`), a
 * {@link CorruptionError} is the data's, an {@link OperatingError} is the world's.
 * Codes are stable: scripts match on them.
 */

export type OperatingCode =
  | 'usage' // the request makes no sense as written
  | 'not-found' // no such pool, volume, snapshot or file
  | 'exists' // the name is taken
  | 'busy' // held, exported, locked or has dependents; `details` lists who
  | 'no-space' // the pool or its disk is full
  | 'read-only' // a write to a snapshot or to a pool opened read-only
  | 'out-of-range' // past the end of a volume, or over a limit
  | 'pool-failed' // an earlier write or sync failed; reopen the pool
  | 'io' // the operating system refused; `errno` says how
  | 'unsupported' // a foreign format version or a missing host feature
  | 'unreachable' // the daemon does not answer
  | 'canceled' // the caller gave up

export type CorruptionCode =
  | 'superblock-corrupt'
  | 'segment-corrupt'
  | 'record-corrupt'
  | 'node-corrupt'
  | 'catalogue-corrupt'
  | 'block-corrupt'
  | 'log-gap' // a record known to have been durable is not there
  | 'image-corrupt' // an image to import is cut off or contradicts itself

export interface ErrorFields {
  /** What to do about it, one sentence, shown under the message. */
  hint?: string
  /** Names behind the fact: who holds, which block. Stable keys. */
  details?: Record<string, unknown>
  cause?: unknown
}

/** Base of what a user may be shown; catch this, not `Error`. */
export abstract class VarveError extends Error {
  abstract readonly code: OperatingCode | CorruptionCode
  readonly hint: string | undefined
  readonly details: Record<string, unknown>

  constructor(message: string, fields: ErrorFields = {}) {
    super(message, fields.cause === undefined ? undefined : { cause: fields.cause })
    this.hint = fields.hint
    this.details = fields.details ?? {}
  }
}

/** The world said no: a full disk, a missing name, a busy volume. */
export class OperatingError extends VarveError {
  override readonly name = 'OperatingError'
  readonly code: OperatingCode
  /** Positive Linux errno where a system call failed. */
  readonly errno: number | undefined

  constructor(code: OperatingCode, message: string, fields: ErrorFields & { errno?: number } = {}) {
    super(message, fields)
    this.code = code
    this.errno = fields.errno
  }
}

/** Bytes on disk are not what was written there. */
export class CorruptionError extends VarveError {
  override readonly name = 'CorruptionError'
  readonly code: CorruptionCode

  constructor(code: CorruptionCode, message: string, fields: ErrorFields = {}) {
    super(message, fields)
    this.code = code
  }
}

/** Linux errno values that cross our interfaces, positive. Results carry them negated. */
export const Errno = {
  EPERM: 1,
  ENOENT: 2,
  EINTR: 4,
  EIO: 5,
  ENXIO: 6,
  EBADF: 9,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EBUSY: 16,
  EEXIST: 17,
  EXDEV: 18,
  ENODEV: 19,
  ENOTDIR: 20,
  EISDIR: 21,
  EINVAL: 22,
  ENFILE: 23,
  EFBIG: 27,
  ENOSPC: 28,
  EROFS: 30,
  EPIPE: 32,
  ERANGE: 34,
  ENAMETOOLONG: 36,
  ENOSYS: 38,
  ENODATA: 61,
  EOVERFLOW: 75,
  EOPNOTSUPP: 95,
  ECONNRESET: 104,
  ESHUTDOWN: 108,
  ECANCELED: 125,
} as const
