/** What a command's exit says; stable, scripts match on it. */
import { OperatingError } from '../base/errors.ts'
import type { OperatingCode } from '../base/errors.ts'

export const EXIT_OK = 0
export const EXIT_FAILED = 1
export const EXIT_USAGE = 2
export const EXIT_INTERRUPTED = 130

const EXIT_CODES: Record<OperatingCode, number> = {
  usage: EXIT_USAGE,
  'not-found': 3,
  exists: EXIT_FAILED,
  busy: 4,
  'no-space': 6,
  'read-only': EXIT_FAILED,
  'out-of-range': EXIT_FAILED,
  'pool-failed': EXIT_FAILED,
  io: EXIT_FAILED,
  unsupported: EXIT_FAILED,
  unreachable: 5,
  canceled: EXIT_INTERRUPTED,
}

export const EXIT_CODE_HELP = `Exit codes:
  0  done                          4  busy, held or has dependents
  1  failed                        5  the daemon does not answer
  2  not understood as written     6  no space
  3  no such pool, disk or file    130  interrupted`

export function exitCodeOf(error: unknown): number {
  if (error instanceof OperatingError) return EXIT_CODES[error.code]
  return EXIT_FAILED
}
