/**
 * A comparison is only worth printing when both did the same work. Checked before measuring: a
 * flush is offered and really brings data to the disk, and every block read is real data.
 */
import { spawn } from 'node:child_process'
import { BLOCK_SIZE_BYTES, MIB } from '../../src/base/units.ts'
import { commandLine, run } from '../command.ts'
import { deviceCounters } from './device-counters.ts'
import { fio, type FioTarget } from './fio.ts'

const FLUSHED_BYTES = 64 * MIB

export interface EqualWork {
  /** Bytes that reached the block device by one flush of 64 MiB; null: no device, or no flush. */
  flushedBytes: number | null
  blockCount: number
}

/**
 * Rejects with the reason why this server's figures must not stand beside another's. What keeps
 * nothing (`isVolatile`) is not asked for a flush: it is only shown.
 */
export async function verifyEqualWork(
  uri: string,
  folder: string,
  sizes: { diskBytes: number; filledBytes: number },
  isVolatile: boolean,
): Promise<EqualWork> {
  const described = JSON.parse((await run('nbdinfo', ['--json', uri])).stdout) as {
    exports: { 'export-size': number; can_flush: boolean; is_read_only: boolean }[]
  }
  const [disk] = described.exports
  if (disk['export-size'] !== sizes.diskBytes) {
    throw new Error(`${uri} has ${disk['export-size']} bytes, not ${sizes.diskBytes}`)
  }
  if (!(disk.can_flush || isVolatile) || disk.is_read_only) {
    throw new Error(`${uri} takes no writes or flushes`)
  }
  const flushedBytes = isVolatile ? null : await verifyFlush(uri, folder)
  const blockCount = sizes.filledBytes / BLOCK_SIZE_BYTES
  await verifyContent('nbdcopy', [uri, '-'], blockCount)
  return { flushedBytes, blockCount }
}

/** The same for a file, all of which is filled, past the page cache. */
export async function verifyEqualFile(
  path: string,
  folder: string,
  sizeBytes: number,
): Promise<EqualWork> {
  const flushedBytes = await verifyFlush({ path }, folder)
  const blockCount = sizeBytes / BLOCK_SIZE_BYTES
  await verifyContent('dd', [`if=${path}`, 'bs=1M', 'iflag=direct'], blockCount)
  return { flushedBytes, blockCount }
}

/** Writes 64 MiB and flushes: the device below `folder` must have been sent as much meanwhile. */
async function verifyFlush(target: FioTarget, folder: string): Promise<number | null> {
  // What was written earlier must not count.
  await run('sync', ['-f', folder])
  const before = deviceCounters(folder)?.writtenBytes
  const write = { name: 'flush', pattern: 'write', blockSizes: '1m', queueDepth: 8 } as const
  await fio(target, write, { sizeBytes: FLUSHED_BYTES, flushAtEnd: true, seed: 5 })
  const after = deviceCounters(folder)?.writtenBytes
  if (before === undefined || after === undefined) return null
  // Other programs' writes can only add to it.
  if (after - before < FLUSHED_BYTES) {
    const name = typeof target === 'string' ? target : target.path
    throw new Error(`${name} answered a flush, but only ${after - before} bytes reached the disk`)
  }
  return after - before
}

/**
 * Reads the filled part by what a command prints, which also warms the page cache; rejects at the
 * first zero block.
 */
function verifyContent(
  command: string,
  args: readonly string[],
  blockCount: number,
): Promise<void> {
  const source = commandLine(command, args)
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'ignore'] })
    const zeros = Buffer.alloc(BLOCK_SIZE_BYTES)
    let pending: Buffer = Buffer.alloc(0)
    let checkedCount = 0
    child.stdout.on('data', (chunk: Buffer) => {
      // Beyond lies what the first writes are for.
      if (checkedCount === blockCount) return
      const bytes = pending.length === 0 ? chunk : Buffer.concat([pending, chunk])
      let offset = 0
      for (; offset + BLOCK_SIZE_BYTES <= bytes.length; offset += BLOCK_SIZE_BYTES) {
        if (checkedCount === blockCount) break
        if (bytes.compare(zeros, 0, BLOCK_SIZE_BYTES, offset, offset + BLOCK_SIZE_BYTES) === 0) {
          child.kill()
          reject(new Error(`block ${checkedCount} is zero, nothing would be read: ${source}`))
          return
        }
        checkedCount += 1
      }
      pending = bytes.subarray(offset)
      if (checkedCount === blockCount) child.kill()
    })
    child.once('error', reject)
    child.once('close', (code) => {
      if (checkedCount === blockCount) resolve()
      else reject(new Error(`${code} after ${checkedCount} blocks: ${source}`))
    })
  })
}
