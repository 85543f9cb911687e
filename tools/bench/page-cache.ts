/**
 * What the machine charges for page cache. On a virtual machine whose host takes free memory back,
 * every page that the cache grows by is a fault of the host's, while one written over is not: an
 * image written in place pays once, a log at each write. Whoever reads the figures must know.
 */
import { closeSync, openSync, writeSync } from 'node:fs'
import { unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { run } from '../command.ts'
import { GIB, MIB } from '../../src/base/units.ts'

const PROBE_BYTES: number = GIB
const QUICK_PROBE_BYTES: number = 64 * MIB

export interface PageCacheRates {
  /** Bytes a second into pages that were not there before. */
  newBytesPerSecond: number
  /** The same bytes once more, into the same pages. */
  againBytesPerSecond: number
}

/** Writes 1 GiB twice from one process, without any server; 64 MiB when it is `isQuick`. */
export async function measurePageCache(folder: string, isQuick: boolean): Promise<PageCacheRates> {
  const path = join(folder, 'page-cache')
  const descriptor = openSync(path, 'wx')
  try {
    const probeBytes = isQuick ? QUICK_PROBE_BYTES : PROBE_BYTES
    const newBytesPerSecond = writeWhole(descriptor, probeBytes)
    await run('sync', ['-f', folder])
    return { newBytesPerSecond, againBytesPerSecond: writeWhole(descriptor, probeBytes) }
  } finally {
    closeSync(descriptor)
    await unlink(path)
  }
}

function writeWhole(descriptor: number, probeBytes: number): number {
  const piece = Buffer.alloc(MIB, 1)
  const startMs = performance.now()
  for (let offset = 0; offset < probeBytes; offset += piece.length) {
    writeSync(descriptor, piece, 0, piece.length, offset)
  }
  return (probeBytes / (performance.now() - startMs)) * 1000
}

/** One line for the report. */
export function describePageCache(rates: PageCacheRates): string {
  const shown = (bytesPerSecond: number): string => `${(bytesPerSecond / 1e6).toFixed(0)} MB/s`
  return (
    `Page cache of this machine: ${shown(rates.newBytesPerSecond)} where it grows, ` +
    `${shown(rates.againBytesPerSecond)} where it is written over; a log always grows it.`
  )
}
