/** Opening the pool of a folder, and saying what to do where there is none. */
import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { OperatingError } from '../base/errors.ts'
import { SUPERBLOCK_FILE } from '../format/superblock.ts'
import { Pool } from '../pool/pool.ts'
import type { OpenPoolOptions } from '../pool/pool.ts'
import type { Host } from './host.ts'

/** Rejects `not-found`, `busy`, or as `Pool.open` does. */
export async function openPool(host: Host, path: string, options: OpenPoolOptions): Promise<Pool> {
  await verifyPoolFolder(path)
  const { io, checksum, codecs } = host
  return Pool.open(io, checksum, path, { ...options, codecs })
}

/** Looks before anything is opened: a lock file is not left in a folder that is no pool. */
export async function verifyPoolFolder(path: string): Promise<void> {
  try {
    await stat(join(path, SUPERBLOCK_FILE))
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code !== 'ENOENT' && code !== 'ENOTDIR') {
      throw new OperatingError('io', `cannot look at the pool at ${path}`, {
        hint: 'Run the command as the user that owns the pool.',
        cause: error,
      })
    }
    throw new OperatingError('not-found', `there is no pool at ${path}`, {
      hint: `Make one with \`varve init ${path}\`, or name another with --pool or VARVE_POOL.`,
      details: { path },
    })
  }
}
