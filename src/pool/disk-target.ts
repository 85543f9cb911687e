import { Errno } from '../base/errors.ts'
import { BLOCK_SIZE_BYTES, MIB } from '../base/units.ts'
import type { ExportTarget, ExtentContext, ExtentList, TargetCompletion } from '../export/target.ts'
import { WRITE_FUA, ZERO_NO_HOLE } from '../export/target.ts'
import { EntryKind } from '../format/record.ts'
import { ARENA_PIECE_BYTES_MAX } from '../io/arena.ts'
import type { DurableWaiter } from '../segment/sync-group.ts'
import type { PoolCore } from './core.ts'
import type { Disk } from './disk.ts'
import type { DiskReads } from './disk-read.ts'
import { allocationExtents, changedExtents } from './extents.ts'
import type { WriteQueue } from './write-queue.ts'

/** A flush on its way; one object for each, flushes being dear anyway. */
class Flush implements DurableWaiter {
  readonly #completion: TargetCompletion

  constructor(completion: TargetCompletion) {
    this.#completion = completion
  }

  durable(tag: number, result: number): void {
    this.#completion.targetComplete(tag, result < 0 ? -Errno.EIO : 0)
  }
}

/** A volume or snapshot as its clients see it. See `ExportTarget` for the contract. */
export class DiskTarget implements ExportTarget {
  readonly name: string
  readonly blockSizes: { minimum: number; preferred: number; maximum: number } = {
    minimum: 1,
    preferred: BLOCK_SIZE_BYTES,
    maximum: 32 * MIB,
  }
  readonly #core: PoolCore
  readonly #disk: Disk
  readonly #reads: DiskReads
  readonly #writes: WriteQueue

  /** `client` says who uses it, to whoever wants the disk gone. */
  constructor(core: PoolCore, disk: Disk, reads: DiskReads, writes: WriteQueue, client: string) {
    this.name = core.catalogue.nameOf(disk)
    this.#core = core
    this.#disk = disk
    this.#reads = reads
    this.#writes = writes
    disk.users.set(this, client)
  }

  get readOnly(): boolean {
    return this.#disk.isSnapshot
  }

  get sizeBytes(): number {
    return this.#disk.sizeBytes
  }

  read(
    offsetBytes: number,
    lengthBytes: number,
    arenaOffset: number,
    completion: TargetCompletion,
    tag: number,
  ): void {
    this.#core.guests.operationCount += 1
    const isShort = lengthBytes <= ARENA_PIECE_BYTES_MAX
    if (isShort && this.#holds(offsetBytes, lengthBytes)) {
      this.#reads.read(this.#disk, offsetBytes, lengthBytes, arenaOffset, completion, tag)
    } else {
      refuse(completion, tag, -Errno.EINVAL)
    }
  }

  write(
    offsetBytes: number,
    lengthBytes: number,
    arenaOffset: number,
    flags: number,
    completion: TargetCompletion,
    tag: number,
  ): void {
    if (lengthBytes > ARENA_PIECE_BYTES_MAX) refuse(completion, tag, -Errno.EINVAL)
    else this.#change(EntryKind.data, offsetBytes, lengthBytes, arenaOffset, flags, completion, tag)
  }

  flush(completion: TargetCompletion, tag: number): void {
    const { syncs, nextSequence } = this.#core.log
    if (this.#core.log.failure !== 0) refuse(completion, tag, -Errno.EIO)
    else syncs.wait(nextSequence, new Flush(completion), tag)
  }

  trim(
    offsetBytes: number,
    lengthBytes: number,
    flags: number,
    completion: TargetCompletion,
    tag: number,
  ): void {
    this.#change(EntryKind.trim, offsetBytes, lengthBytes, 0, flags, completion, tag)
  }

  zero(
    offsetBytes: number,
    lengthBytes: number,
    flags: number,
    completion: TargetCompletion,
    tag: number,
  ): void {
    const kind = (flags & ZERO_NO_HOLE) === 0 ? EntryKind.trim : EntryKind.zero
    this.#change(kind, offsetBytes, lengthBytes, 0, flags, completion, tag)
  }

  extents(
    offsetBytes: number,
    lengthBytes: number,
    context: ExtentContext,
    out: ExtentList,
    completion: TargetCompletion,
    tag: number,
  ): void {
    if (lengthBytes === 0 || !this.#holds(offsetBytes, lengthBytes)) {
      refuse(completion, tag, -Errno.EINVAL)
      return
    }
    const cohort = this.#core.cohorts.enter()
    this.#describe(offsetBytes, lengthBytes, context, out).then(
      (result) => {
        cohort.leave()
        completion.targetComplete(tag, result)
      },
      () => {
        cohort.leave()
        completion.targetComplete(tag, -Errno.EIO)
      },
    )
  }

  snapshots(): readonly string[] {
    const volume = this.#core.catalogue.tryDisk(this.#disk.volumeId)
    return volume === null ? [] : [...volume.snapshots.keys()]
  }

  close(): void {
    this.#disk.users.delete(this)
  }

  async #describe(
    offsetBytes: number,
    lengthBytes: number,
    context: ExtentContext,
    out: ExtentList,
  ): Promise<number> {
    if (context.kind === 'allocation') {
      await allocationExtents(this.#core, this.#disk, offsetBytes, lengthBytes, out)
      return 0
    }
    const volume = this.#core.catalogue.tryDisk(this.#disk.volumeId)
    const snapshot = volume?.snapshots.get(context.snapshot)
    // Removed since the client asked for the context.
    if (snapshot === undefined) return -Errno.ENOENT
    await changedExtents(this.#core, this.#disk, snapshot, offsetBytes, lengthBytes, out)
    return 0
  }

  #change(
    kind: EntryKind,
    offsetBytes: number,
    lengthBytes: number,
    arenaOffset: number,
    flags: number,
    completion: TargetCompletion,
    tag: number,
  ): void {
    this.#core.guests.operationCount += 1
    if (this.#disk.isSnapshot) refuse(completion, tag, -Errno.EROFS)
    else if (!this.#holds(offsetBytes, lengthBytes)) refuse(completion, tag, -Errno.EINVAL)
    else if (lengthBytes === 0) refuse(completion, tag, 0)
    else {
      const isDurable = (flags & WRITE_FUA) !== 0
      const disk = this.#disk
      this.#writes.submit(
        disk,
        kind,
        offsetBytes,
        lengthBytes,
        arenaOffset,
        isDurable,
        completion,
        tag,
      )
    }
  }

  #holds(offsetBytes: number, lengthBytes: number): boolean {
    return offsetBytes >= 0 && lengthBytes >= 0 && offsetBytes + lengthBytes <= this.sizeBytes
  }
}

/** Completes later, as every operation does. */
function refuse(completion: TargetCompletion, tag: number, result: number): void {
  void Promise.resolve().then(() => completion.targetComplete(tag, result))
}
