/**
 * How a command comes to its pool: through the daemon that has it open, or by opening it itself.
 * A pool that another command has open for a moment is waited for.
 */
import { connect } from 'node:net'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { PoolService } from '../api/service.ts'
import { CONTROL_SOCKET_NAME } from '../api/service.ts'
import { programVersion } from '../api/version.ts'
import { OperatingError } from '../base/errors.ts'
import type { Pool } from '../pool/pool.ts'
import { openHost } from './host.ts'
import type { IoKind } from './host.ts'
import { LocalService } from './local-service.ts'
import { openPool } from './open-pool.ts'

/** Longer than an ordinary command has a pool open, shorter than a person's patience. */
const BUSY_WAIT_MS = 3000
const BUSY_POLL_MS = 50

export function controlSocketPath(poolPath: string): string {
  return join(poolPath, CONTROL_SOCKET_NAME)
}

/**
 * Rejects `not-found` when there is no pool, `busy` when another process has it open and serves
 * no socket, `unreachable` when we may not use its socket.
 */
export async function openService(poolPath: string, ioKind: IoKind): Promise<PoolService> {
  const path = resolve(poolPath)
  const deadlineMs = performance.now() + BUSY_WAIT_MS
  for (;;) {
    const socketPath = controlSocketPath(path)
    if (await daemonListens(socketPath)) return openRemote(socketPath)
    try {
      return await openEmbedded(path, ioKind)
    } catch (error) {
      const busy = error instanceof OperatingError && error.code === 'busy'
      if (!busy || performance.now() > deadlineMs) throw error
      await sleep(BUSY_POLL_MS)
    }
  }
}

/** The client and its schemas are only loaded when there is a daemon to speak to. */
async function openRemote(socketPath: string): Promise<PoolService> {
  const { HttpService } = await import('../api/http-service.ts')
  return new HttpService(socketPath)
}

/** What says that nobody listens; anything else, a full queue say, tells nothing. */
const NOBODY: ReadonlySet<string> = new Set([
  'ENOENT',
  'ENOTDIR',
  'ECONNREFUSED',
  'ENOTSOCK',
  'EINVAL',
  'ENAMETOOLONG',
])

/** False when there is no socket or its daemon is dead; rejects `unreachable` when in doubt. */
export function daemonListens(socketPath: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const socket = connect(socketPath)
    socket.on('connect', () => {
      socket.destroy()
      resolve(true)
    })
    socket.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EACCES' || error.code === 'EPERM') {
        reject(
          new OperatingError('unreachable', `the socket ${socketPath} may not be used`, {
            hint: 'Run the command as the user that runs `varve serve`.',
            cause: error,
          }),
        )
      } else if (NOBODY.has(error.code ?? '')) {
        resolve(false)
      } else {
        reject(
          new OperatingError('unreachable', `the socket ${socketPath}: ${error.message}`, {
            hint: 'Its server may be busy or stopped: look at it, and try again.',
            cause: error,
          }),
        )
      }
    })
  })
}

async function openEmbedded(path: string, ioKind: IoKind): Promise<PoolService> {
  const host = await openHost(ioKind)
  const { io, seeker } = host
  let pool: Pool
  try {
    pool = await openPool(host, path, { holder: `varve, process ${process.pid}` })
  } catch (error) {
    await io.shutdown()
    throw error
  }
  const startedMs = Date.now()
  return new LocalService({
    pool,
    io,
    seeker,
    status: () => ({
      mode: 'embedded',
      processId: process.pid,
      version: programVersion(),
      startedMs,
      exports: [],
      connections: [],
      mounts: [],
      fill: pool.fill,
    }),
    filesystems: null,
    sockets: null,
    devices: null,
    close: async () => {
      try {
        await pool.close()
      } finally {
        await io.shutdown()
      }
    },
  })
}
