/** What both real implementations do around binding: resolve names, clear dead unix sockets. */
import { lookup } from 'node:dns/promises'
import { lstat, unlink } from 'node:fs/promises'
import { connect } from 'node:net'
import { withOsErrors } from './os-errors.ts'

/** The numeric address of `host`. */
export function resolveHost(host: string): Promise<string> {
  return withOsErrors('resolve', host, async () => (await lookup(host)).address)
}

function isListening(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect(path)
    probe.once('connect', () => {
      probe.destroy()
      resolve(true)
    })
    probe.once('error', (error) => {
      // Only a refusal proves that nobody listens; anything else leaves the file alone.
      resolve(!('code' in error) || error.code !== 'ECONNREFUSED')
    })
  })
}

/**
 * Removes the socket file that a killed process left at `path`. Leaves anything else alone, a link
 * to a socket too: binding then fails.
 */
export async function removeDeadSocket(path: string): Promise<void> {
  const isSocket = await lstat(path).then(
    (found) => found.isSocket(),
    () => false,
  )
  if (!isSocket || (await isListening(path))) return
  await withOsErrors('remove', path, () => unlink(path))
}
