/**
 * Making, removing and renaming what is in the folders, under the guards of the command line.
 * The folders themselves are fixed: only volumes and snapshots come and go.
 */
import { Errno, OperatingError } from '../../base/errors.ts'
import type { Found } from './attributes.ts'
import { mustFind, mustFindFolder, tryChild } from './attributes.ts'
import type { DiskTree } from './disk-tree.ts'
import { refusal } from './errors.ts'
import type { HandleTable } from './handles.ts'
import { verifyNameLength, verifyNewName } from './names.ts'
import { diskNode, snapshotNode } from './nodes.ts'
import type { NodeNumber } from './operations.ts'

/**
 * A close that is under way is done in far less. Meanwhile the kernel holds the folder's lock, and
 * nobody gets anywhere in it.
 */
const CLOSE_WAIT_MS = 25

/** Calls of `FileOperations` by the same names; each rejects as it says there. */
export class Entries {
  readonly #tree: DiskTree
  readonly #handles: HandleTable

  constructor(tree: DiskTree, handles: HandleTable) {
    this.#tree = tree
    this.#handles = handles
  }

  /** Throws ENOENT, ENOTDIR or ENAMETOOLONG. */
  lookup(parent: NodeNumber, name: string): NodeNumber {
    const folder = mustFindFolder(this.#tree, parent)
    verifyNameLength(name)
    const node = tryChild(this.#tree, folder, name)
    if (node === null) throw refusal(Errno.ENOENT, `there is no ${JSON.stringify(name)} here`)
    return node
  }

  async create(parent: NodeNumber, name: string): Promise<NodeNumber> {
    const folder = this.#verifyNew(parent, name)
    if (folder.kind !== 'volumes') throw refusal(Errno.EPERM, 'new files go into "volumes"')
    return diskNode((await this.#tree.create(name)).id)
  }

  async makeDirectory(parent: NodeNumber, name: string): Promise<NodeNumber> {
    const folder = this.#verifyNew(parent, name)
    if (folder.kind !== 'snapshots-of') {
      throw refusal(Errno.EPERM, 'a folder is made in "snapshots/VOLUME", and is a snapshot')
    }
    return snapshotNode((await this.#tree.snapshot(folder.disk.id, name)).id)
  }

  async unlink(parent: NodeNumber, name: string): Promise<void> {
    const { kind, disk } = mustFind(this.#tree, this.lookup(parent, name))
    if (kind !== 'disk') throw refusal(Errno.EISDIR, 'a folder is removed by rmdir')
    if (disk.volumeId !== null) throw refusal(Errno.EROFS, 'a snapshot cannot be changed')
    await this.#remove(disk.id)
  }

  async removeDirectory(parent: NodeNumber, name: string): Promise<void> {
    const { kind, disk } = mustFind(this.#tree, this.lookup(parent, name))
    if (kind === 'disk') throw refusal(Errno.ENOTDIR, 'a disk is not a folder')
    if (kind !== 'snapshot') throw refusal(Errno.EPERM, 'this folder is there for good')
    await this.#remove(disk.id)
  }

  async rename(
    parent: NodeNumber,
    name: string,
    newParent: NodeNumber,
    newName: string,
  ): Promise<void> {
    const node = this.lookup(parent, name)
    const folder = mustFindFolder(this.#tree, newParent)
    verifyNewName(newName)
    if (parent !== newParent) throw refusal(Errno.EXDEV, 'a disk stays in its folder')
    if (folder.kind !== 'volumes' && folder.kind !== 'snapshots-of') {
      throw refusal(Errno.EPERM, 'this name is fixed')
    }
    if (name === newName) return
    if (tryChild(this.#tree, folder, newName) !== null) throw taken(newName)
    const { disk } = mustFind(this.#tree, node)
    if (disk === null) return
    const snapshots = this.#tree.snapshots(disk.id) ?? []
    const users = [disk.id, ...snapshots.map(({ id }) => id)]
    await this.#onceClosed(users, () => this.#tree.rename(disk.id, newName))
  }

  /** The folder in which something of that name is to be made; throws EEXIST when it is there. */
  #verifyNew(parent: NodeNumber, name: string): Found {
    const folder = mustFindFolder(this.#tree, parent)
    verifyNewName(name)
    if (tryChild(this.#tree, folder, name) !== null) throw taken(name)
    return folder
  }

  #remove(diskId: number): Promise<void> {
    const remove = (): Promise<void> => this.#tree.remove(diskId)
    // Snapshots stay however long one waits.
    const hasSnapshots = (this.#tree.snapshots(diskId)?.length ?? 0) > 0
    return hasSnapshots ? remove() : this.#onceClosed([diskId], remove)
  }

  /**
   * Does what is refused as `busy` again once our own handles of these disks are closed. What
   * others hold is not waited for.
   */
  async #onceClosed(diskIds: readonly number[], action: () => Promise<void>): Promise<void> {
    const deadlineMs = performance.now() + CLOSE_WAIT_MS
    for (;;) {
      const isOurs = diskIds.some((diskId) => this.#handles.countOf(diskId) > 0)
      try {
        await action()
        return
      } catch (error) {
        const isBusy = error instanceof OperatingError && error.code === 'busy'
        const leftMs = deadlineMs - performance.now()
        if (!isBusy || !isOurs || leftMs <= 0) throw error
        if (!(await this.#handles.whenUnused(diskIds, leftMs))) throw error
      }
    }
  }
}

function taken(name: string): OperatingError {
  return new OperatingError('exists', `there is ${JSON.stringify(name)} already`)
}
