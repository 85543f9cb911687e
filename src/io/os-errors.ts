/** Refusals of the operating system as {@link OperatingError}s: one table, one sentence each. */
import { getSystemErrorName } from 'node:util'
import type { OperatingCode } from '../base/errors.ts'
import { Errno, OperatingError } from '../base/errors.ts'

export const EISDIR = 21
export const EDQUOT = 122
export const EADDRINUSE = 98

interface Refusal {
  code: OperatingCode
  hint?: string
}

const REFUSALS: ReadonlyMap<number, Refusal> = new Map([
  [Errno.ENOENT, { code: 'not-found' }],
  [Errno.EEXIST, { code: 'exists' }],
  [Errno.EBUSY, { code: 'busy' }],
  [EADDRINUSE, { code: 'busy', hint: 'Another process listens there; choose another address.' }],
  [Errno.ENOSPC, { code: 'no-space', hint: 'Free space on the disk that holds the pool.' }],
  [EDQUOT, { code: 'no-space', hint: 'Raise the disk quota of the user that runs varve.' }],
  [Errno.EROFS, { code: 'read-only', hint: 'Remount the filesystem writable.' }],
  [Errno.EOPNOTSUPP, { code: 'unsupported', hint: 'Use a filesystem like ext4, xfs or btrfs.' }],
  [Errno.ENOSYS, { code: 'unsupported', hint: 'Use a newer Linux kernel.' }],
  [Errno.EACCES, { code: 'io', hint: 'Run as a user that may access it, or change its mode.' }],
  [Errno.EPERM, { code: 'io', hint: 'Run as a user that may do this.' }],
])

function errnoName(errno: number): string {
  try {
    return getSystemErrorName(-errno)
  } catch {
    return `errno ${errno}`
  }
}

/** `action` and `subject` make the sentence: "cannot open /x: ENOENT". `errno` is positive. */
export function osError(action: string, subject: string, errno: number): OperatingError {
  const refusal = REFUSALS.get(errno) ?? { code: 'io' }
  return new OperatingError(refusal.code, `cannot ${action} ${subject}: ${errnoName(errno)}`, {
    errno,
    details: { path: subject },
    ...(refusal.hint === undefined ? {} : { hint: refusal.hint }),
  })
}

/** Positive errno of an error thrown by node:fs or node:net; EIO when it carries none. */
export function errnoOf(error: unknown): number {
  if (error instanceof Error && 'errno' in error && typeof error.errno === 'number') {
    return Math.abs(error.errno)
  }
  return Errno.EIO
}

/** Runs `work`; what node throws becomes an {@link OperatingError}. */
export async function withOsErrors<T>(
  action: string,
  subject: string,
  work: () => Promise<T>,
): Promise<T> {
  try {
    return await work()
  } catch (error) {
    if (error instanceof Error && 'errno' in error && !(error instanceof OperatingError)) {
      throw osError(action, subject, errnoOf(error))
    }
    throw error
  }
}
