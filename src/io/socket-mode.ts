/** Modes of unix sockets, in force without a moment in which somebody else could connect. */
import { constants } from 'node:fs'
import { chmod, open } from 'node:fs/promises'
import { OperatingError } from '../base/errors.ts'
import { withOsErrors } from './os-errors.ts'

/** From fcntl.h: Node does not have it. */
const O_PATH = 0o10000000
const OTHERS_MASK = 0o077

/**
 * Calls `bind`, which makes a socket before it returns, with a mask that keeps everybody else out.
 * The mask is the whole process's: files and folders of ours lack these bits in any case.
 */
export function bindForOwner(bind: () => unknown): void {
  const mask = process.umask(OTHERS_MASK)
  try {
    bind()
  } finally {
    process.umask(mask)
  }
}

/** Of the socket itself, not of what a link in its place leads to: that rejects `unsupported`. */
export function setSocketMode(path: string, mode: number): Promise<void> {
  return withOsErrors('set the mode of', path, async () => {
    const handle = await open(path, O_PATH | constants.O_NOFOLLOW)
    try {
      const stat = await handle.stat()
      if (!stat.isSocket() || stat.uid !== process.geteuid?.()) throw replaced(path)
      await chmod(`/proc/self/fd/${handle.fd}`, mode)
    } finally {
      await handle.close()
    }
  })
}

function replaced(path: string): OperatingError {
  return new OperatingError('unsupported', `${path} is not the socket that was made there`, {
    hint: 'Others may write to its folder: choose one where only you may.',
    details: { path },
  })
}
