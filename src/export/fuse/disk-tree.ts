/**
 * What the filesystem shows, and what can be done through it: all that it knows of a pool. Disks
 * are named by their id, which a pool gives to one disk, ever; so an inode number made of it stays
 * with the disk through renames and restarts, and never means another.
 *
 * Calls that take an id reject (or throw) `not-found` when the disk is gone; the guards are the
 * command line's: `busy` with who is using or holding it, `exists`, `usage` for a bad name.
 */
import type { ExportTarget } from '../target.ts'

export interface DiskEntry {
  readonly id: number
  /** A volume's name, or the part of a snapshot's after "@". */
  readonly name: string
  /** Null for a volume. */
  readonly volumeId: number | null
  readonly sizeBytes: number
  readonly createdMs: number
  /** When its bytes last changed. */
  readonly modifiedMs: number
}

export interface TreeSpace {
  totalBytes: number
  freeBytes: number
}

export interface DiskTree {
  /** By name. */
  volumes(): readonly DiskEntry[]
  /** Oldest first; null when there is no such volume. */
  snapshots(volumeId: number): readonly DiskEntry[] | null
  tryVolume(name: string): DiskEntry | null
  trySnapshot(volumeId: number, name: string): DiskEntry | null
  tryDisk(id: number): DiskEntry | null

  /** Bytes that have a block of their own. */
  mappedBytes(id: number): Promise<number>
  /** The keys of `user.varve.*` attributes that the disk has, without the prefix. */
  factNames(id: number): readonly string[]
  /** What such an attribute says; null when the disk has none by that name. Some cost a walk. */
  fact(id: number, name: string): Promise<string | null>
  space(): Promise<TreeSpace>

  /** `client`: shown to whoever asks who is using the disk. */
  open(id: number, client: string): ExportTarget
  /** A volume of no bytes. */
  create(name: string): Promise<DiskEntry>
  /**
   * Any size from 0 to 256 TiB. Shrinking loses what lies behind, and is refused as `busy` while
   * anyone uses the disk but through this filesystem. In the log when it resolves, not yet
   * durable: a flush makes it so.
   */
  resize(id: number, sizeBytes: number): Promise<void>
  /** Times as `touch` and `cp -p` set them. */
  setModified(id: number, modifiedMs: number): Promise<void>
  /** A volume, refused while it has snapshots; or a snapshot. */
  remove(id: number): Promise<void>
  /** To a name that is free. */
  rename(id: number, name: string): Promise<void>
  snapshot(volumeId: number, name: string): Promise<DiskEntry>
  /**
   * Makes a range of a volume what a range of a disk is, by reference: no data is read or
   * written. Both offsets and the length are whole blocks of 4 KiB, the length up to 1 GiB; both
   * ranges lie within their disks. Rejects `unsupported` where it cannot be done.
   */
  copyRange(
    fromId: number,
    fromBytes: number,
    toId: number,
    toBytes: number,
    lengthBytes: number,
  ): Promise<void>
}
