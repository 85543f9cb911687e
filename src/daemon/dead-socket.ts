/** Taking a socket's name from a daemon that died without removing it. */
import { lstat, unlink } from 'node:fs/promises'
import { OperatingError } from '../base/errors.ts'
import { daemonListens } from './open-service.ts'

/**
 * Removes `path` when it is a socket that nobody answers on. Rejects `busy` when somebody does and
 * `exists` when it is something else: a path from the command line may be anybody's.
 */
export async function removeDeadSocket(path: string): Promise<void> {
  let isSocket: boolean
  try {
    isSocket = (await lstat(path)).isSocket()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return
    throw new OperatingError('io', `cannot look at ${path}`, { cause: error })
  }
  if (!isSocket) {
    throw new OperatingError('exists', `${path} is there and is not a socket`, {
      hint: 'Choose another --socket.',
    })
  }
  if (await daemonListens(path)) {
    throw new OperatingError('busy', `another server answers on ${path}`, {
      hint: 'Stop it, or choose another --socket.',
    })
  }
  await unlink(path)
}
