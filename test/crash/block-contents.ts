/** Blocks that say what they are: eight stamped sectors that belong together. */
import type { ExportTarget } from '../../src/export/target.ts'
import { targetResult } from '../../src/export/target.ts'
import { allocateArena, ARENA_PIECE_BYTES_MAX } from '../../src/io/arena.ts'
import type { Io } from '../../src/io/io.ts'
import type { Pool } from '../../src/pool/pool.ts'
import { SECTORS_PER_BLOCK, SECTOR_BYTES, readStamp, writeStamp } from '../sim/stamps.ts'
import type { Found } from './ledger.ts'

export const BLOCK_BYTES = 4096
/** Contents below this are shared by many blocks, so that there is something to deduplicate. */
export const COMMON_CONTENT_COUNT = 16
/** What no content explains. */
const CONTENT_BAD = 0xffffffff

export function writeContent(memory: Uint8Array, offsetBytes: number, content: number): void {
  for (let sector = 0; sector < SECTORS_PER_BLOCK; sector += 1) {
    const stamp = content === 0 ? 0 : content * SECTORS_PER_BLOCK + sector
    writeStamp(memory, offsetBytes + sector * SECTOR_BYTES, stamp)
  }
}

export function readContent(memory: Uint8Array, offsetBytes: number): number {
  const first = readStamp(memory, offsetBytes)
  const content = Math.floor(first / SECTORS_PER_BLOCK)
  for (let sector = 0; sector < SECTORS_PER_BLOCK; sector += 1) {
    const stamp = readStamp(memory, offsetBytes + sector * SECTOR_BYTES)
    if (stamp !== (content === 0 ? 0 : content * SECTORS_PER_BLOCK + sector)) return CONTENT_BAD
  }
  return content
}

/** Throws when a read is refused. */
export async function readDisk(io: Io, target: ExportTarget): Promise<Uint32Array> {
  const contents = new Uint32Array(target.sizeBytes / BLOCK_BYTES)
  const at = await allocateArena(io.arena, ARENA_PIECE_BYTES_MAX)
  const { memory } = io.arena
  for (let from = 0; from < target.sizeBytes; from += ARENA_PIECE_BYTES_MAX) {
    const lengthBytes = Math.min(ARENA_PIECE_BYTES_MAX, target.sizeBytes - from)
    // What the target leaves untouched must not pass for an answer.
    memory.fill(0xee, at, at + lengthBytes)
    const result = await targetResult((done) => target.read(from, lengthBytes, at, done, 0))
    if (result !== 0) throw new Error(`${target.name}: a read at ${from} gave ${result}`)
    for (let done = 0; done < lengthBytes; done += BLOCK_BYTES) {
      contents[(from + done) / BLOCK_BYTES] = readContent(memory, at + done)
    }
  }
  io.arena.free(at, ARENA_PIECE_BYTES_MAX)
  return contents
}

/** Everything a pool holds, read as a guest reads. */
export async function readFound(io: Io, pool: Pool): Promise<Found> {
  const found = new Map<string, Uint32Array>()
  for (const { name } of pool.list()) {
    const target = pool.openTarget(name, 'reader')
    if (target === null) throw new Error(`${name} is listed and cannot be opened`)
    found.set(name, await readDisk(io, target))
    target.close()
  }
  return found
}
