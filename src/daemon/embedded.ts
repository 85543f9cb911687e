/**
 * What the command line does with a pool apart from `PoolService`: make, check, serve it. What
 * only one command needs is loaded by that command.
 */
import { mkdir, stat } from 'node:fs/promises'
import { resolve } from 'node:path'
import type { PoolInfo } from '../api/shapes.ts'
import type { CheckReport } from '../check/report.ts'
import { OperatingError } from '../base/errors.ts'
import { Pool } from '../pool/pool.ts'
import type { CreatePoolOptions } from '../pool/pool.ts'
import type { Finding, FixStep } from './host-report.ts'
import { openHost } from './host.ts'
import type { IoKind } from './host.ts'
import { verifyPoolFolder } from './open-pool.ts'
import { controlSocketPath, daemonListens } from './open-service.ts'
import type { Daemon, ServeOptions } from './serve.ts'

export { openService } from './open-service.ts'
export { poolAccessFindings } from './pool-access.ts'

/** Whether commands would reach the pool through a daemon. */
export function daemonRuns(poolPath: string): Promise<boolean> {
  return daemonListens(controlSocketPath(resolve(poolPath)))
}

/** Makes the folder too, for its owner alone. */
export async function initPool(
  poolPath: string,
  ioKind: IoKind,
  options: CreatePoolOptions,
): Promise<PoolInfo> {
  const path = resolve(poolPath)
  await makeFolder(path)
  const { io, checksum, codecs } = await openHost(ioKind)
  try {
    await Pool.create(io, checksum, path, options)
    const pool = await Pool.open(io, checksum, path, { codecs })
    try {
      return await pool.info()
    } finally {
      await pool.close()
    }
  } finally {
    await io.shutdown()
  }
}

async function makeFolder(path: string): Promise<void> {
  try {
    await mkdir(path, { recursive: true, mode: 0o700 })
  } catch (error) {
    throw new OperatingError('io', `cannot make the folder ${path}`, { cause: error })
  }
  // One that was there may be anybody's: who can change what is in it has the pool.
  const stats = await stat(path)
  const isOthers = stats.uid !== process.geteuid?.() && stats.uid !== 0
  if (!isOthers && (stats.mode & 0o022) === 0) return
  throw new OperatingError('usage', `others may change what is in ${path}`, {
    hint: `Name a folder that is not there yet, or first \`chmod go-w ${path}\` as its owner.`,
    details: { path },
  })
}

/** Looks at a pool that nobody has open; rejects `busy` when somebody does. */
export async function checkOffline(poolPath: string, ioKind: IoKind): Promise<CheckReport> {
  const path = resolve(poolPath)
  await verifyPoolFolder(path)
  if (await daemonListens(controlSocketPath(path))) {
    throw new OperatingError('busy', `a daemon has the pool at ${path} open`, {
      hint: 'Stop `varve serve` first: a check looks at a pool at rest.',
      details: { path },
    })
  }
  const { checkPool } = await import('../check/check.ts')
  const { openWasmChecksum } = await import('../base/xxh64-wasm.ts')
  const { io, codecs } = await openHost(ioKind)
  try {
    // Not the implementation that wrote the checksums: a bug of one would not be the other's.
    return await checkPool(io, await openWasmChecksum(), codecs, path)
  } finally {
    await io.shutdown()
  }
}

/** `level`: what of the log goes to standard error. */
export async function serve(options: ServeOptions, level: string): Promise<Daemon> {
  const [{ startDaemon }, { default: pino }] = await Promise.all([
    import('./serve.ts'),
    import('pino'),
  ])
  const log = pino({ level, base: { pid: process.pid } }, pino.destination(2))
  return startDaemon(options, log)
}

export async function inspectHost(poolPath: string | null): Promise<Finding[]> {
  const report = await import('./host-report.ts')
  return report.inspectHost(poolPath)
}

/** Takes away what dead servers left on the host; rejects `unsupported` unless root. */
export async function fixHost(): Promise<FixStep[]> {
  const report = await import('./host-report.ts')
  return report.fixHost()
}
