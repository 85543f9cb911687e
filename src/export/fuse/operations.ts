/**
 * The filesystem as its transports call it: the kernel's own protocol over /dev/fuse, and
 * libfuse through fuse-native. Both speak to one implementation, and one conformance suite runs
 * on both.
 *
 * A node is named by its number, which is also its inode number; there is nothing to look up
 * first and nothing to forget. Everything that is a promise rejects with an OperatingError, whose
 * errno `errors.ts` tells. Data goes through arena memory and completes as an ExportTarget's
 * operations do: exactly once, never inside the call that started it, with 0 or -errno.
 */
import type { TargetCompletion } from '../target.ts'

/** See `nodes.ts` for what the numbers mean. */
export type NodeNumber = number

export const ROOT_NODE: NodeNumber = 1

/** How whoever has a file open is named among a disk's users; the transport adds what it knows. */
export const CLIENT_PREFIX = 'fuse'
/** Extended attributes of disks begin so. */
export const ATTRIBUTE_PREFIX = 'user.varve.'

export interface Attributes {
  node: NodeNumber
  isDirectory: boolean
  /** Permission bits. */
  mode: number
  userId: number
  groupId: number
  linkCount: number
  sizeBytes: number
  /** What `du` counts. */
  allocatedBytes: number
  createdMs: number
  modifiedMs: number
}

export interface DirectoryEntry {
  name: string
  node: NodeNumber
  isDirectory: boolean
}

/** What is to be changed; what is left out stays. */
export interface AttributeChanges {
  sizeBytes?: number
  modifiedMs?: number
  /** Only what they are already is accepted. */
  mode?: number
  userId?: number
  groupId?: number
}

export interface FilesystemSpace {
  totalBytes: number
  freeBytes: number
  nodeCount: number
}

/** An open disk, by number. */
export type HandleNumber = number

/** Modes of `allocate`, as fallocate(2) has them. */
export const FALLOC_KEEP_SIZE = 0x01
export const FALLOC_PUNCH_HOLE = 0x02
export const FALLOC_ZERO_RANGE = 0x10

/** For `seek`, as lseek(2) has them. */
export const SEEK_DATA = 3
export const SEEK_HOLE = 4

export interface FileOperations {
  /** Rejects ENOENT, ENOTDIR. */
  lookup(parent: NodeNumber, name: string): Promise<Attributes>
  attributes(node: NodeNumber): Promise<Attributes>
  change(node: NodeNumber, changes: AttributeChanges): Promise<Attributes>
  /** Without "." and "..". */
  list(node: NodeNumber): Promise<DirectoryEntry[]>

  /** A new empty volume. Rejects EPERM anywhere but in `volumes`. */
  create(parent: NodeNumber, name: string): Promise<Attributes>
  unlink(parent: NodeNumber, name: string): Promise<void>
  /** In `snapshots/VOLUME`: takes a snapshot of the volume. EPERM elsewhere. */
  makeDirectory(parent: NodeNumber, name: string): Promise<Attributes>
  /** In `snapshots/VOLUME`: removes the snapshot. */
  removeDirectory(parent: NodeNumber, name: string): Promise<void>
  /** Never replaces anything: EEXIST. */
  rename(parent: NodeNumber, name: string, newParent: NodeNumber, newName: string): Promise<void>

  /** Rejects ENODATA. */
  attribute(node: NodeNumber, name: string): Promise<string>
  attributeNames(node: NodeNumber): Promise<string[]>
  space(): Promise<FilesystemSpace>

  /**
   * Throws an OperatingError: EISDIR, EROFS for a snapshot to be written. `client`: see
   * CLIENT_PREFIX.
   */
  open(node: NodeNumber, isWritable: boolean, client: string): HandleNumber
  /** Nothing of it may be in flight. */
  close(handle: HandleNumber): void

  /**
   * How much of a read there is: `lengthBytes` cut at the end of the disk. The read itself must
   * not pass it.
   */
  readableBytes(handle: HandleNumber, offsetBytes: number, lengthBytes: number): number
  /** At most ARENA_PIECE_BYTES_MAX, as a target's. */
  read(
    handle: HandleNumber,
    offsetBytes: number,
    lengthBytes: number,
    arenaOffset: number,
    completion: TargetCompletion,
    tag: number,
  ): void
  /** Grows the volume where it passes its end. At most ARENA_PIECE_BYTES_MAX. */
  write(
    handle: HandleNumber,
    offsetBytes: number,
    lengthBytes: number,
    arenaOffset: number,
    completion: TargetCompletion,
    tag: number,
  ): void
  /** Everything completed before is durable when it completes. */
  flush(handle: HandleNumber, completion: TargetCompletion, tag: number): void

  /** fallocate(2); rejects EOPNOTSUPP for modes it has not. */
  allocate(
    handle: HandleNumber,
    mode: number,
    offsetBytes: number,
    lengthBytes: number,
  ): Promise<void>
  /** lseek(2) with SEEK_DATA or SEEK_HOLE; rejects ENXIO. */
  seek(handle: HandleNumber, offsetBytes: number, whence: number): Promise<number>
  /**
   * copy_file_range(2) without moving data; resolves to the bytes copied, which may be fewer than
   * asked. Rejects EOPNOTSUPP when nothing of it can be done so: the caller copies.
   */
  copyRange(
    from: HandleNumber,
    fromBytes: number,
    to: HandleNumber,
    toBytes: number,
    lengthBytes: number,
  ): Promise<number>
}
