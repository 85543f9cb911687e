/**
 * The pool as a filesystem: `FileOperations` over a `DiskTree`. It keeps no state of its own but
 * open handles and resizes under way; what there is, the tree says each time.
 *
 * Data goes straight to the disk's target, with the transport's own completion and tag: only a
 * write past the end makes a detour, through `growth.ts`.
 */
import { assert } from '../../base/assert.ts'
import { Errno } from '../../base/errors.ts'
import { VOLUME_SIZE_BYTES_MAX } from '../../base/units.ts'
import type { Arena } from '../../io/arena.ts'
import type { TargetCompletion } from '../target.ts'
import type { Appearance, Owner } from './attributes.ts'
import { attributesOf, childrenOf, modeOf, mustFind, mustFindFolder } from './attributes.ts'
import type { DiskTree } from './disk-tree.ts'
import { Entries } from './entries.ts'
import { errnoOf, refusal } from './errors.ts'
import { seekFrom } from './extent-walk.ts'
import { FileRanges, verifySize } from './file-ranges.ts'
import { Resizes } from './growth.ts'
import { HandleTable, writeErrno } from './handles.ts'
import type {
  AttributeChanges,
  Attributes,
  DirectoryEntry,
  FileOperations,
  FilesystemSpace,
  HandleNumber,
  NodeNumber,
} from './operations.ts'
import { ATTRIBUTE_PREFIX, SEEK_DATA, SEEK_HOLE } from './operations.ts'

export interface PoolFilesystemOptions {
  /** Others than the owner may look and read, too. */
  allowOther: boolean
  /** When it began, by the wall clock. */
  startedMs: number
  /** The memory that `read` and `write` are given offsets of. */
  arena: Arena
}

/** What `fuser` would show of a file. */
export interface OpenFile {
  diskId: number
  /** `volume` or `volume@snapshot`. */
  name: string
  isWritable: boolean
  client: string
}

const FIXED_NODE_COUNT = 3
const NODES_PER_DISK = 2

export class PoolFilesystem implements FileOperations {
  readonly #tree: DiskTree
  readonly #appearance: Appearance
  readonly #handles: HandleTable = new HandleTable()
  readonly #resizes: Resizes
  readonly #entries: Entries
  readonly #ranges: FileRanges

  constructor(tree: DiskTree, owner: Owner, options: PoolFilesystemOptions) {
    const { allowOther, startedMs, arena } = options
    this.#tree = tree
    this.#appearance = { owner, allowOther, startedMs }
    this.#resizes = new Resizes(tree)
    this.#entries = new Entries(tree, this.#handles)
    this.#ranges = new FileRanges(tree, this.#resizes, arena)
  }

  // What there is.

  async lookup(parent: NodeNumber, name: string): Promise<Attributes> {
    return this.attributes(this.#entries.lookup(parent, name))
  }

  attributes(node: NodeNumber): Promise<Attributes> {
    return attributesOf(this.#tree, node, this.#appearance)
  }

  async change(node: NodeNumber, changes: AttributeChanges): Promise<Attributes> {
    const { sizeBytes, modifiedMs } = changes
    const diskId = this.#verifyChanges(node, changes)
    if (sizeBytes !== undefined) await this.#resizes.set(diskId, sizeBytes)
    if (modifiedMs !== undefined) await this.#tree.setModified(diskId, modifiedMs)
    return this.attributes(node)
  }

  async list(node: NodeNumber): Promise<DirectoryEntry[]> {
    return childrenOf(this.#tree, mustFindFolder(this.#tree, node))
  }

  async attribute(node: NodeNumber, name: string): Promise<string> {
    const diskId = this.#factsOf(node)
    const isOurs = diskId !== null && name.startsWith(ATTRIBUTE_PREFIX)
    const value = isOurs ? await this.#tree.fact(diskId, name.slice(ATTRIBUTE_PREFIX.length)) : null
    if (value === null) throw refusal(Errno.ENODATA, 'there is no such attribute')
    return value
  }

  async attributeNames(node: NodeNumber): Promise<string[]> {
    const diskId = this.#factsOf(node)
    if (diskId === null) return []
    return this.#tree.factNames(diskId).map((name) => ATTRIBUTE_PREFIX + name)
  }

  async space(): Promise<FilesystemSpace> {
    const { totalBytes, freeBytes } = await this.#tree.space()
    let diskCount = 0
    for (const { id } of this.#tree.volumes()) {
      diskCount += 1 + (this.#tree.snapshots(id)?.length ?? 0)
    }
    return { totalBytes, freeBytes, nodeCount: FIXED_NODE_COUNT + NODES_PER_DISK * diskCount }
  }

  // What comes and goes.

  async create(parent: NodeNumber, name: string): Promise<Attributes> {
    return this.attributes(await this.#entries.create(parent, name))
  }

  unlink(parent: NodeNumber, name: string): Promise<void> {
    return this.#entries.unlink(parent, name)
  }

  async makeDirectory(parent: NodeNumber, name: string): Promise<Attributes> {
    return this.attributes(await this.#entries.makeDirectory(parent, name))
  }

  removeDirectory(parent: NodeNumber, name: string): Promise<void> {
    return this.#entries.removeDirectory(parent, name)
  }

  rename(parent: NodeNumber, name: string, newParent: NodeNumber, newName: string): Promise<void> {
    return this.#entries.rename(parent, name, newParent, newName)
  }

  // Open files.

  open(node: NodeNumber, isWritable: boolean, client: string): HandleNumber {
    const { kind, disk } = mustFind(this.#tree, node)
    if (kind !== 'disk') throw refusal(Errno.EISDIR, 'a folder cannot be opened as a file')
    if (isWritable && disk.volumeId !== null) {
      throw refusal(Errno.EROFS, 'a snapshot cannot be written')
    }
    this.#handles.verifyRoom()
    const target = this.#tree.open(disk.id, client)
    return this.#handles.add({ diskId: disk.id, target, isWritable, client })
  }

  close(handle: HandleNumber): void {
    this.#handles.close(handle)
  }

  /** How many handles of a disk are open. */
  busyHandles(diskId: number): number {
    return this.#handles.countOf(diskId)
  }

  openHandles(): OpenFile[] {
    return this.#handles.all().map(({ diskId, target, isWritable, client }) => ({
      diskId,
      name: target.name,
      isWritable,
      client,
    }))
  }

  readableBytes(handle: HandleNumber, offsetBytes: number, lengthBytes: number): number {
    const { sizeBytes } = this.#handles.get(handle).target
    return Math.max(0, Math.min(lengthBytes, sizeBytes - offsetBytes))
  }

  read(
    handle: HandleNumber,
    offsetBytes: number,
    lengthBytes: number,
    arenaOffset: number,
    completion: TargetCompletion,
    tag: number,
  ): void {
    const { target } = this.#handles.get(handle)
    target.read(offsetBytes, lengthBytes, arenaOffset, completion, tag)
  }

  write(
    handle: HandleNumber,
    offsetBytes: number,
    lengthBytes: number,
    arenaOffset: number,
    completion: TargetCompletion,
    tag: number,
  ): void {
    const open = this.#handles.get(handle)
    const { target } = open
    const endBytes = offsetBytes + lengthBytes
    const errno = writeErrno(open)
    if (errno !== 0) refuse(completion, tag, errno)
    else if (endBytes <= target.sizeBytes) {
      target.write(offsetBytes, lengthBytes, arenaOffset, 0, completion, tag)
    } else if (lengthBytes === 0) target.write(0, 0, arenaOffset, 0, completion, tag)
    else if (endBytes > VOLUME_SIZE_BYTES_MAX) refuse(completion, tag, Errno.EFBIG)
    else {
      this.#resizes.growThen(open.diskId, endBytes, (failure) => {
        if (failure !== null) completion.targetComplete(tag, -errnoOf(failure))
        else target.write(offsetBytes, lengthBytes, arenaOffset, 0, completion, tag)
      })
    }
  }

  flush(handle: HandleNumber, completion: TargetCompletion, tag: number): void {
    this.#handles.get(handle).target.flush(completion, tag)
  }

  async allocate(
    handle: HandleNumber,
    mode: number,
    offsetBytes: number,
    lengthBytes: number,
  ): Promise<void> {
    await this.#ranges.allocate(this.#handles.get(handle), mode, offsetBytes, lengthBytes)
  }

  async seek(handle: HandleNumber, offsetBytes: number, whence: number): Promise<number> {
    const { target } = this.#handles.get(handle)
    if (whence !== SEEK_DATA && whence !== SEEK_HOLE) {
      throw refusal(Errno.EINVAL, `lseek knows no ${whence}`)
    }
    const isInside = offsetBytes >= 0 && offsetBytes < target.sizeBytes
    if (!isInside) throw refusal(Errno.ENXIO, 'this offset is not in the file')
    return seekFrom(target, offsetBytes, whence)
  }

  async copyRange(
    from: HandleNumber,
    fromBytes: number,
    to: HandleNumber,
    toBytes: number,
    lengthBytes: number,
  ): Promise<number> {
    const source = this.#handles.get(from)
    const open = this.#handles.get(to)
    return this.#ranges.copy(source, fromBytes, open, toBytes, lengthBytes)
  }

  /** The disk that `changes` are of, if all of them can be made. */
  #verifyChanges(node: NodeNumber, changes: AttributeChanges): number {
    const { sizeBytes, modifiedMs, mode, userId, groupId } = changes
    const found = mustFind(this.#tree, node)
    const { owner, allowOther } = this.#appearance
    const isSame =
      (mode === undefined || (mode & 0o7777) === modeOf(found, allowOther)) &&
      (userId === undefined || userId === owner.userId) &&
      (groupId === undefined || groupId === owner.groupId)
    if (!isSame) throw refusal(Errno.EPERM, 'owner and mode are fixed')
    if (sizeBytes === undefined && modifiedMs === undefined) return found.disk?.id ?? 0
    if (found.kind !== 'disk') {
      if (sizeBytes !== undefined) throw refusal(Errno.EISDIR, 'a folder has no length')
      throw refusal(Errno.EPERM, 'the times of a folder are those of what is in it')
    }
    if (found.disk.volumeId !== null) throw refusal(Errno.EROFS, 'a snapshot cannot be changed')
    if (sizeBytes !== undefined) verifySize(sizeBytes)
    return found.disk.id
  }

  /** The disk whose facts a node's extended attributes are, or null. */
  #factsOf(node: NodeNumber): number | null {
    const { kind, disk } = mustFind(this.#tree, node)
    return kind === 'disk' || kind === 'snapshot' ? disk.id : null
  }
}

/** Completes later, as every operation does. */
function refuse(completion: TargetCompletion, tag: number, errno: number): void {
  assert(errno > 0, 'a refusal says why')
  queueMicrotask(() => completion.targetComplete(tag, -errno))
}
