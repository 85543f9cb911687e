/**
 * The disks of a pool as a filesystem works with them: named by their id, of any size, growing
 * with every write. What it changes is told apart from the command line's operations on the same
 * disks only by being in the log, not yet durable, when it resolves: resizing and copying are part
 * of writing. Creating, removing, renaming and snapshots are durable as ever.
 *
 * Calls that take an id throw or reject `not-found` when the disk is gone.
 */
import { OperatingError } from '../base/errors.ts'
import { BLOCK_SIZE_BYTES } from '../base/units.ts'
import type { ExportTarget } from '../export/target.ts'
import { wholeMs } from './catalogue.ts'
import type { CopyRequest } from './copy-range.ts'
import { copyRange } from './copy-range.ts'
import type { PoolCore } from './core.ts'
import { verifyHealthy } from './core.ts'
import type { Disk } from './disk.ts'
import type { DiskReads } from './disk-read.ts'
import { DiskTarget } from './disk-target.ts'
import { readOnly, resizeFile, verifyOpenable } from './resize.ts'
import {
  createOfAnySize,
  mustFindById,
  removable,
  removeDisks,
  renameById,
  snapshotById,
} from './volumes.ts'
import type { SpaceUsage } from './usage.ts'
import type { WriteQueue } from './write-queue.ts'

export interface FileEntry {
  id: number
  /** Of a snapshot, the part after "@". */
  name: string
  /** Null for a volume. */
  volumeId: number | null
  sizeBytes: number
  createdMs: number
  modifiedMs: number
}

/** How old a look at the disk under the pool may be for those who ask what is free. */
const SPACE_AGE_MS = 200

export class PoolFiles {
  readonly #core: PoolCore
  readonly #reads: DiskReads
  readonly #writes: WriteQueue
  readonly #usage: SpaceUsage
  readonly #onRemoved: () => void

  /** `onRemoved`: told when there may be something to free. */
  constructor(
    core: PoolCore,
    reads: DiskReads,
    writes: WriteQueue,
    usage: SpaceUsage,
    onRemoved: () => void,
  ) {
    this.#onRemoved = onRemoved
    this.#core = core
    this.#reads = reads
    this.#writes = writes
    this.#usage = usage
  }

  /** By name. */
  volumes(): FileEntry[] {
    return this.#core.catalogue.volumes().map(entryOf)
  }

  /** Oldest first; null when there is no such volume. */
  snapshots(volumeId: number): FileEntry[] | null {
    const volume = this.#core.catalogue.tryDisk(volumeId)
    return volume === null || volume.isSnapshot ? null : [...volume.snapshots.values()].map(entryOf)
  }

  tryVolume(name: string): FileEntry | null {
    return tryEntryOf(this.#core.catalogue.tryVolume(name))
  }

  trySnapshot(volumeId: number, name: string): FileEntry | null {
    return tryEntryOf(this.#core.catalogue.tryDisk(volumeId)?.snapshots.get(name))
  }

  tryDisk(id: number): FileEntry | null {
    return tryEntryOf(this.#core.catalogue.tryDisk(id))
  }

  /** Throws `not-found`. */
  mustDisk(id: number): FileEntry {
    return entryOf(this.#must(id))
  }

  /** `volume` or `volume@snapshot`. */
  nameOf(id: number): string {
    return this.#core.catalogue.nameOf(this.#must(id))
  }

  /** The disk it was cloned from, while that is there. */
  origin(id: number): FileEntry | null {
    const { originId } = this.#must(id)
    return originId === null ? null : this.tryDisk(originId)
  }

  /** Who has it open. */
  clients(id: number): string[] {
    return [...this.#must(id).users.values()]
  }

  /** Bytes with a block of their own; of a disk being written to, of before or after. */
  async mappedBytes(id: number): Promise<number> {
    const { root } = this.#must(id)
    const cohort = this.#core.cohorts.enter()
    try {
      return (await this.#core.tables.mappedBlockCount(root)) * BLOCK_SIZE_BYTES
    } finally {
      cohort.leave()
    }
  }

  /** Stored bytes that no other disk reaches. Costs a walk over all maps. */
  async exclusiveBytes(id: number): Promise<number> {
    return this.#usage.exclusiveBytes([this.#must(id)])
  }

  async space(): Promise<{ totalBytes: number; freeBytes: number }> {
    const { space } = this.#core
    await space.refreshAfter(SPACE_AGE_MS)
    return { totalBytes: space.totalBytes, freeBytes: space.guestBytes }
  }

  /** The disk until `close`; throws `busy` while somebody else is shrinking it. */
  open(id: number, client: string): ExportTarget {
    const disk = this.#must(id)
    verifyOpenable(disk, client)
    return new DiskTarget(this.#core, disk, this.#reads, this.#writes, client)
  }

  /** A volume of no bytes. */
  async create(name: string): Promise<FileEntry> {
    return this.mustDisk(await createOfAnySize(this.#core, { name, sizeBytes: 0 }))
  }

  /** See `resizeFile`. */
  resize(id: number, sizeBytes: number, ownClient: (client: string) => boolean): Promise<void> {
    return resizeFile(this.#core, this.#writes, id, sizeBytes, ownClient)
  }

  /** Durable with the next checkpoint. Throws `read-only`, `usage` for what is no time. */
  setModified(id: number, modifiedMs: number): void {
    const disk = this.#must(id)
    if (disk.isSnapshot) throw readOnly(this.#core, disk)
    if (!Number.isFinite(modifiedMs)) throw new OperatingError('usage', 'this is no time')
    verifyHealthy(this.#core)
    disk.modifiedMs = wholeMs(modifiedMs)
    disk.changed = true
  }

  /** A volume without snapshots, or a snapshot; rejects `busy` under the command line's guards. */
  async remove(id: number): Promise<void> {
    await removeDisks(this.#core, () => removable(this.#core, [this.#must(id)], false))
    this.#onRemoved()
  }

  /** Rejects `exists`, `usage`, and `busy` while anybody has it open. */
  rename(id: number, name: string): Promise<void> {
    return renameById(this.#core, id, name)
  }

  async snapshot(volumeId: number, name: string): Promise<FileEntry> {
    return this.mustDisk(await snapshotById(this.#core, volumeId, name))
  }

  /** See `copyRange`. */
  copyRange(request: CopyRequest): Promise<void> {
    return copyRange(this.#core, this.#writes, request)
  }

  #must(id: number): Disk {
    return mustFindById(this.#core, id)
  }
}

function tryEntryOf(disk: Disk | null | undefined): FileEntry | null {
  return disk === null || disk === undefined ? null : entryOf(disk)
}

function entryOf(disk: Disk): FileEntry {
  const { id, name, sizeBytes, createdMs, modifiedMs } = disk
  const volumeId = disk.isSnapshot ? disk.volumeId : null
  return { id, name, volumeId, sizeBytes, createdMs, modifiedMs }
}
