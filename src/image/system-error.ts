/** What node says when the system refuses, in our words. */
import { OperatingError } from '../base/errors.ts'
import type { OperatingCode } from '../base/errors.ts'

const CODES: Record<string, OperatingCode> = {
  ENOENT: 'not-found',
  EEXIST: 'exists',
  ENOSPC: 'no-space',
  EDQUOT: 'no-space',
  EROFS: 'read-only',
  EBUSY: 'busy',
  EFBIG: 'no-space',
}

/** An OperatingError for anything a call of node:fs or a stream threw; `what` says what for. */
export function systemError(what: string, error: unknown): Error {
  if (!(error instanceof Error) || !('code' in error) || typeof error.code !== 'string') {
    return error instanceof Error ? error : new Error(String(error))
  }
  if (error instanceof OperatingError) return error
  const errno = 'errno' in error && typeof error.errno === 'number' ? -error.errno : undefined
  // `ENOENT: no such file or directory, open '…'`: `what` has named the file already.
  const [reason] = error.message.split(', ')
  return new OperatingError(CODES[error.code] ?? 'io', `${what}: ${reason}`, {
    cause: error,
    ...(errno === undefined ? {} : { errno }),
  })
}
