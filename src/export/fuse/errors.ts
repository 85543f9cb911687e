/** The one translation of our errors into those of system calls. */
import type { OperatingCode } from '../../base/errors.ts'
import { CorruptionError, Errno, OperatingError } from '../../base/errors.ts'

const ERRNO_OF: Readonly<Record<OperatingCode, number>> = {
  usage: Errno.EINVAL,
  'not-found': Errno.ENOENT,
  exists: Errno.EEXIST,
  busy: Errno.EBUSY,
  'no-space': Errno.ENOSPC,
  'read-only': Errno.EROFS,
  'out-of-range': Errno.EFBIG,
  'pool-failed': Errno.EIO,
  io: Errno.EIO,
  unsupported: Errno.EOPNOTSUPP,
  unreachable: Errno.EIO,
  canceled: Errno.EINTR,
}

/** Positive. An error that is none of the world's or the data's is our bug, and is thrown on. */
export function errnoOf(error: unknown): number {
  if (error instanceof OperatingError) return error.errno ?? ERRNO_OF[error.code]
  if (error instanceof CorruptionError) return Errno.EIO
  throw error
}

/** A refusal that only this protocol knows. */
export function refusal(errno: number, fact: string): OperatingError {
  return new OperatingError('unsupported', fact, { errno })
}
