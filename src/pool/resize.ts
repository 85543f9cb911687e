/**
 * Changing the size of a volume: through the pool's operations, which keep to whole sectors and
 * away from clients, and as a file's, which has any size and grows with every write.
 *
 * A shrink takes its place in the line of writes, with a lock on everything from the block that
 * the new end lies in. So writes that came before are in the log, and cut off, and those that come
 * after find the new end: nothing is ever mapped behind it. The rest of the block of the new end is
 * zeroed first: what a volume has behind its end in its last block is always zeros, so that no
 * growth brings anything back. After a crash between the two records that rest may be zeros in a
 * volume that still has its old size, as in a file whose truncation was cut short.
 */
import { Errno, OperatingError } from '../base/errors.ts'
import { BLOCK_SIZE_BYTES, VOLUME_SIZE_BYTES_MAX } from '../base/units.ts'
import type { CatalogueOperation } from '../format/catalogue.ts'
import { EntryKind } from '../format/record.ts'
import type { PoolCore } from './core.ts'
import { verifyHealthy } from './core.ts'
import type { Disk } from './disk.ts'
import { journal, journalSoon, settle } from './journal.ts'
import { mustParseVolumeName } from './names.ts'
import { SIZE_BLOCK } from './range-lock.ts'
import type { RangeLock } from './range-lock.ts'
import { poolFull } from './space.ts'
import { gone, mustFindById, mustFindDisk, verifySize, verifyUnused } from './volumes.ts'
import type { WriteQueue } from './write-queue.ts'

/** How a shrink names itself among a disk's users. */
const SHRINKING = 'a shrink'

/** Throws `busy` for a client that may not come while the disk is being shrunk. */
export function verifyOpenable(disk: Disk, client: string): void {
  for (const admits of disk.shrinks.values()) {
    if (admits(client)) continue
    throw new OperatingError('busy', `"${disk.name}" is being shrunk; try again`)
  }
}

/** Durable when it resolves. */
export async function resizeVolume(
  core: PoolCore,
  writes: WriteQueue,
  name: string,
  sizeBytes: number,
  allowShrink: boolean,
): Promise<void> {
  mustParseVolumeName(name)
  verifySize(sizeBytes)
  const disk = mustFindDisk(core, name)
  if (sizeBytes < disk.sizeBytes) {
    const verify = (): void => verifyShrink(core, disk, sizeBytes, allowShrink)
    await shrink(core, writes, disk, sizeBytes, verify, () => false)
    await settle(core)
    return
  }
  await journal(core, () => {
    const found = mustFindDisk(core, name)
    if (sizeBytes < found.sizeBytes) {
      throw new OperatingError('busy', `"${name}" has grown meanwhile; try again`)
    }
    return { op: 'resize', id: found.id, sizeBytes }
  })
}

/**
 * Resizes as a filesystem does: to any size, beside clients that `ownClient` says are its own. In
 * the log when it resolves, and applied: the next flush of any disk makes it durable, for a flush
 * waits for all records that were written before it, whatever they hold. A growth that another has
 * overtaken does nothing, so as not to cut off what was written behind it. Rejects `busy`,
 * `not-found`, `usage`, `out-of-range`, `read-only`, `no-space`.
 */
export async function resizeFile(
  core: PoolCore,
  writes: WriteQueue,
  id: number,
  sizeBytes: number,
  ownClient: (client: string) => boolean,
): Promise<void> {
  verifyFileSize(sizeBytes)
  const disk = mustFindById(core, id)
  if (disk.isSnapshot) throw readOnly(core, disk)
  verifyHealthy(core)
  if (sizeBytes >= disk.sizeBytes) {
    await grow(writes, disk, sizeBytes)
    return
  }
  const verify = (): void => verifyOwn(core, disk, ownClient)
  await shrink(core, writes, disk, sizeBytes, verify, ownClient)
}

/** One entry in the next record: growing costs a turn, and no page of its own. */
function grow(writes: WriteQueue, disk: Disk, sizeBytes: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const completion = {
      targetComplete: (_tag: number, result: number): void => {
        if (result === 0) resolve()
        else if (result === -Errno.ENOSPC) reject(poolFull())
        else if (result === -Errno.ENOENT) reject(gone(disk.id))
        else reject(new OperatingError('io', `cannot grow "${disk.name}"`, { errno: -result }))
      },
    }
    writes.grow(disk, sizeBytes, completion, 0)
  })
}

/** Throws `usage` or `out-of-range`. */
function verifyFileSize(sizeBytes: number): void {
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes < 0) {
    throw new OperatingError('usage', `a volume cannot have ${sizeBytes} bytes`)
  }
  if (sizeBytes <= VOLUME_SIZE_BYTES_MAX) return
  throw new OperatingError('out-of-range', `a volume cannot have ${sizeBytes} bytes`, {
    hint: `the most is ${VOLUME_SIZE_BYTES_MAX} (256 TiB)`,
  })
}

export function readOnly(core: PoolCore, disk: Disk): OperatingError {
  return new OperatingError('read-only', `"${core.catalogue.nameOf(disk)}" is a snapshot`, {
    hint: 'clone it and change the clone',
  })
}

async function shrink(
  core: PoolCore,
  writes: WriteQueue,
  disk: Disk,
  sizeBytes: number,
  verify: () => void,
  admits: (client: string) => boolean,
): Promise<void> {
  verify()
  // Nobody may remove or restore it meanwhile, nor open it but who is admitted.
  const shrinking = {}
  disk.users.set(shrinking, SHRINKING)
  disk.shrinks.set(shrinking, admits)
  try {
    const firstBlock = Math.floor(sizeBytes / BLOCK_SIZE_BYTES)
    const lock = await writes.lock([{ disk, firstBlock, endBlock: SIZE_BLOCK + 1 }])
    try {
      // Once bytes are zeroed the resize takes from the reserve rather than be refused: else a
      // truncation that failed would have destroyed them (I9).
      const isZeroed = sizeBytes < disk.sizeBytes && sizeBytes % BLOCK_SIZE_BYTES !== 0
      if (isZeroed) await zeroTail(writes, disk, sizeBytes, lock)
      const decide = (): CatalogueOperation => {
        verify()
        return { op: 'resize', id: disk.id, sizeBytes }
      }
      await journalSoon(core, decide, undefined, isZeroed)
    } finally {
      lock.release()
    }
  } finally {
    disk.users.delete(shrinking)
    disk.shrinks.delete(shrinking)
  }
}

/** Zeroes from `fromBytes` to the end of its block or of the disk. */
function zeroTail(
  writes: WriteQueue,
  disk: Disk,
  fromBytes: number,
  lock: RangeLock,
): Promise<void> {
  const within = fromBytes % BLOCK_SIZE_BYTES
  const lengthBytes = Math.min(BLOCK_SIZE_BYTES - within, disk.sizeBytes - fromBytes)
  return new Promise((resolve, reject) => {
    const completion = {
      targetComplete: (_tag: number, result: number): void => {
        if (result === 0) resolve()
        else reject(zeroFailed(disk, result))
      },
    }
    writes.submit(disk, EntryKind.trim, fromBytes, lengthBytes, 0, false, completion, 0, lock)
  })
}

function zeroFailed(disk: Disk, result: number): OperatingError {
  const code = result === -Errno.ENOSPC ? 'no-space' : 'io'
  return new OperatingError(code, `cannot zero the end of "${disk.name}"`, { errno: -result })
}

function verifyShrink(core: PoolCore, disk: Disk, sizeBytes: number, allowShrink: boolean): void {
  if (!allowShrink) {
    throw new OperatingError(
      'usage',
      `"${disk.name}" has ${disk.sizeBytes} bytes; shrinking it to ${sizeBytes} destroys data`,
      { hint: 'take a snapshot first, then repeat with --shrink' },
    )
  }
  const isShrink = (_client: string, user: object): boolean => disk.shrinks.has(user)
  verifyUnused(core, [disk], `shrink "${disk.name}"`, false, isShrink)
}

/** Every user is one of the filesystem's own, or another shrink through it. */
function verifyOwn(core: PoolCore, disk: Disk, ownClient: (client: string) => boolean): void {
  verifyUnused(core, [disk], `resize "${disk.name}"`, false, (client, user) => {
    return ownClient(client) || disk.shrinks.get(user) === ownClient
  })
}
