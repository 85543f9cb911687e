/**
 * The lock that keeps a pool to one process. Two kernel locks, both gone with their holder however
 * it dies, so there is never a stale one to judge:
 *
 * - with the addon, an exclusive lock of the open file: seen by every process that can open it;
 * - always, a listening socket in the abstract namespace named after the file's device and inode:
 *   seen by every process of the same network namespace, and to be had from plain Node.
 *
 * The file holds the holder's description for whoever is refused. It is emptied on release and
 * never removed: removing it would let two processes lock two files of one name.
 */
import { constants } from 'node:fs'
import type { FileHandle } from 'node:fs/promises'
import { open } from 'node:fs/promises'
import { createServer } from 'node:net'
import type { Server } from 'node:net'
import { Errno, OperatingError } from '../base/errors.ts'
import type { Binding } from '../native/binding.ts'
import type { IoLock } from './io.ts'
import { EADDRINUSE, errnoOf, osError, withOsErrors } from './os-errors.ts'

const HOLDER_BYTES_MAX = 4096
const LOCK_FLAGS = constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW

async function holderOf(file: FileHandle): Promise<string> {
  const buffer = Buffer.alloc(HOLDER_BYTES_MAX)
  const { bytesRead } = await file.read(buffer, 0, HOLDER_BYTES_MAX, 0)
  return buffer.toString('utf8', 0, bytesRead).trim()
}

async function busyError(path: string, file: FileHandle): Promise<OperatingError> {
  const holder = await holderOf(file)
  return new OperatingError('busy', `${path} is locked by ${holder || 'another process'}`, {
    errno: Errno.EBUSY,
    hint: 'Stop the process that holds it, or reach the pool through that process.',
    details: { holder, path },
  })
}

/** Resolves with the claim, or null when the name is taken. */
function claimName(name: string): Promise<Server | null> {
  return new Promise((resolve, reject) => {
    const server = createServer((socket) => socket.destroy())
    server.once('error', (error) => {
      if (errnoOf(error) === EADDRINUSE) resolve(null)
      else reject(error)
    })
    server.listen({ path: name, exclusive: true }, () => {
      server.unref()
      resolve(server)
    })
  })
}

/** On a full disk the lock is held without saying by whom: space is freed through the pool. */
async function describeHolder(file: FileHandle, holder: string): Promise<void> {
  await file.truncate(0)
  try {
    await file.write(`${holder}\n`, 0)
  } catch (error) {
    if (errnoOf(error) !== -Errno.ENOSPC && errnoOf(error) !== Errno.ENOSPC) throw error
  }
}

async function take(
  path: string,
  holder: string,
  file: FileHandle,
  binding: Binding | null,
): Promise<Server> {
  if (binding !== null) {
    const result = binding.lockFile(file.fd)
    if (result === -Errno.EAGAIN || result === -Errno.EACCES) throw await busyError(path, file)
    if (result < 0) throw osError('lock', path, -result)
  }
  const { dev, ino } = await file.stat({ bigint: true })
  const claim = await claimName(`\0varve-lock/${dev}:${ino}`)
  if (claim === null) throw await busyError(path, file)
  try {
    await describeHolder(file, holder)
  } catch (error) {
    claim.close()
    throw error
  }
  return claim
}

/** It is emptied and written to: a link planted in its place must not do that to another file. */
async function verifyPlain(file: FileHandle, path: string): Promise<void> {
  const stat = await file.stat()
  if (stat.isFile() && stat.nlink === 1) return
  throw new OperatingError('unsupported', `${path} is not a plain file of its own`, {
    hint: 'Somebody else has put it there: look at who may write to its folder.',
    details: { path },
  })
}

/** See `Io.lock`. */
export function lockFile(path: string, holder: string, binding: Binding | null): Promise<IoLock> {
  return withOsErrors('lock', path, async () => {
    const file = await open(path, LOCK_FLAGS, 0o600)
    let claim: Server
    try {
      await verifyPlain(file, path)
      claim = await take(path, holder, file, binding)
    } catch (error) {
      await file.close()
      throw error
    }
    let released: Promise<void> | null = null
    return {
      release: () => (released ??= withOsErrors('unlock', path, () => release(file, claim))),
    }
  })
}

async function release(file: FileHandle, claim: Server): Promise<void> {
  await file.truncate(0)
  await new Promise<void>((resolve) => claim.close(() => resolve()))
  await file.close()
}
