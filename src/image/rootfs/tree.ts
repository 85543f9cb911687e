/**
 * A root filesystem in memory: everything but the contents of files, which lie elsewhere under
 * numbers. Layers are applied here, so no name of an archive is ever a path of the host before
 * the tree is whole: there is no symbolic link to be led astray by.
 *
 * Every name remembers the layer that made it. A whiteout takes away what lower layers made and
 * never what its own layer makes, in whichever order the two come.
 */
import { LINK_COUNT_MAX, badSource } from './limits.ts'
import type { Budget } from './limits.ts'
import { shownPath } from './raw-path.ts'

export interface Attributes {
  /** Permissions and setuid, setgid, sticky: twelve bits. */
  mode: number
  userId: number
  groupId: number
  mtimeSeconds: number
  /** By full name, `user.x`. */
  xattrs: ReadonlyMap<string, Buffer>
}

export interface DirectoryNode {
  kind: 'directory'
  attributes: Attributes
  entries: Map<string, Entry>
  folderCount: number
  /** The layer that has hidden everything below it here. */
  clearedByLayer: number
}

export interface FileNode {
  kind: 'file'
  attributes: Attributes
  /** Of the content store; null: no bytes but zeros. */
  contentNumber: number | null
  sizeBytes: number
  /** Of blocks that are not holes. */
  dataBytes: number
  linkCount: number
}

export interface SymlinkNode {
  kind: 'symlink'
  attributes: Attributes
  target: string
  linkCount: number
}

export interface SpecialNode {
  kind: 'character' | 'block' | 'fifo'
  attributes: Attributes
  major: number
  minor: number
  linkCount: number
}

export type LeafNode = FileNode | SymlinkNode | SpecialNode
export type TreeNode = DirectoryNode | LeafNode

export interface Entry {
  node: TreeNode
  layer: number
}

/** Of a folder that an archive implies and does not describe. */
function plainFolder(mtimeSeconds: number): Attributes {
  return { mode: 0o755, userId: 0, groupId: 0, mtimeSeconds, xattrs: new Map() }
}

function newDirectory(attributes: Attributes): DirectoryNode {
  return {
    kind: 'directory',
    attributes,
    entries: new Map(),
    folderCount: 0,
    clearedByLayer: 0,
  }
}

export class RootfsTree {
  readonly root: DirectoryNode = newDirectory(plainFolder(0))
  readonly #budget: Budget
  readonly #dropped: (file: FileNode) => void

  /** `dropped` is told of a file when its last name is gone. */
  constructor(budget: Budget, dropped: (file: FileNode) => void) {
    this.#budget = budget
    this.#dropped = dropped
  }

  /** Null: nothing has this path, or it leads through something that is no folder. */
  tryFind(path: readonly string[]): TreeNode | null {
    let node: TreeNode = this.root
    for (const name of path) {
      if (node.kind !== 'directory') return null
      const entry = node.entries.get(name)
      if (entry === undefined) return null
      node = entry.node
    }
    return node
  }

  /** A folder that is there keeps what is in it; anything else of the name is replaced. */
  putDirectory(path: readonly string[], attributes: Attributes, layer: number): void {
    if (path.length === 0) {
      this.root.attributes = attributes
      return
    }
    const parent = this.#parentOf(path, attributes.mtimeSeconds, layer)
    const name = path[path.length - 1]
    const entry = parent.entries.get(name)
    if (entry?.node.kind === 'directory') {
      entry.node.attributes = attributes
      entry.layer = layer
    } else {
      this.#add(parent, name, newDirectory(attributes), layer)
    }
  }

  /** A name for `node`, in place of whatever has the name. */
  put(path: readonly string[], node: LeafNode, layer: number): void {
    if (path.length === 0) throw badSource('the root of the tree is not a folder')
    const parent = this.#parentOf(path, node.attributes.mtimeSeconds, layer)
    this.#add(parent, path[path.length - 1], node, layer)
  }

  /** One more name for what has the path `target`. */
  link(path: readonly string[], target: readonly string[], layer: number): void {
    const node = this.tryFind(target)
    const shown = shownPath(path.join('/'))
    if (node === null) {
      throw badSource(`${shown} is a hard link to what is not in the tree`)
    }
    if (node.kind === 'directory') throw badSource(`${shown} is a hard link to a folder`)
    if (node.linkCount >= LINK_COUNT_MAX) {
      throw badSource(`${shown}: a file has more than ${LINK_COUNT_MAX} names`)
    }
    // What the new name replaces may hold the file itself, which must not go along.
    node.linkCount += 1
    this.put(path, node, layer)
    node.linkCount -= 1
  }

  /** Takes away what lower layers have made of `path`, and below it. */
  whiteout(path: readonly string[], layer: number): void {
    const parent = this.#tryParentOf(path, layer)
    const name = path[path.length - 1]
    const entry = parent?.entries.get(name)
    if (parent === null || entry === undefined) return
    if (this.#isHidden(entry, layer)) this.#drop(parent, name)
  }

  /** Takes away what lower layers have put into the folder `path`. */
  makeOpaque(path: readonly string[], layer: number): void {
    const node = path.length === 0 ? this.root : this.#tryParentOf([...path, ''], layer)
    if (node !== null) this.#clear(node, layer)
  }

  #parentOf(path: readonly string[], mtimeSeconds: number, layer: number): DirectoryNode {
    let folder = this.root
    for (let depth = 0; depth < path.length - 1; depth += 1) {
      const name = path[depth]
      const node = folder.entries.get(name)?.node
      if (node?.kind === 'directory') {
        folder = node
      } else if (node === undefined) {
        const made = newDirectory(plainFolder(mtimeSeconds))
        this.#add(folder, name, made, layer)
        folder = made
      } else {
        throw throughNoFolder(path, depth, node)
      }
    }
    return folder
  }

  /** Null: there is nothing left there that a whiteout could hide. */
  #tryParentOf(path: readonly string[], layer: number): DirectoryNode | null {
    let folder = this.root
    for (let depth = 0; depth < path.length - 1; depth += 1) {
      const entry = folder.entries.get(path[depth])
      if (entry === undefined) return null
      const { node } = entry
      if (node.kind === 'directory') {
        folder = node
        continue
      }
      // A layer that puts a file in place of a folder may still name what was in the folder.
      if (node.kind !== 'symlink' || entry.layer === layer) return null
      throw throughNoFolder(path, depth, node)
    }
    return folder
  }

  #add(parent: DirectoryNode, name: string, node: TreeNode, layer: number): void {
    this.#budget.takeEntry()
    this.#budget.takeMetadata(name.length)
    if (parent.entries.has(name)) this.#drop(parent, name)
    if (node.kind === 'directory') {
      parent.folderCount += 1
      // A folder has two names of its own.
      if (parent.folderCount > LINK_COUNT_MAX - 2) {
        throw badSource(`a folder has more than ${LINK_COUNT_MAX - 2} folders in it`)
      }
    } else {
      node.linkCount += 1
    }
    parent.entries.set(name, { node, layer })
  }

  #drop(parent: DirectoryNode, name: string): void {
    const node = parent.entries.get(name)?.node
    if (node === undefined) return
    parent.entries.delete(name)
    if (node.kind === 'directory') {
      parent.folderCount -= 1
      for (const below of [...node.entries.keys()]) this.#drop(node, below)
      return
    }
    node.linkCount -= 1
    if (node.kind === 'file' && node.linkCount === 0) this.#dropped(node)
  }

  /** Whether nothing is left of it for `layer` once the layers below are hidden. */
  #isHidden(entry: Entry, layer: number): boolean {
    if (entry.node.kind === 'directory') this.#clear(entry.node, layer)
    if (entry.layer === layer) return false
    return entry.node.kind !== 'directory' || entry.node.entries.size === 0
  }

  /** Once a layer: what comes later is of this layer, and not to be hidden by it. */
  #clear(folder: DirectoryNode, layer: number): void {
    if (folder.clearedByLayer === layer) return
    folder.clearedByLayer = layer
    for (const [name, entry] of [...folder.entries]) {
      if (this.#isHidden(entry, layer)) this.#drop(folder, name)
    }
  }
}

function throughNoFolder(path: readonly string[], depth: number, node: TreeNode): Error {
  const shown = shownPath(path.join('/'))
  const through = shownPath(path.slice(0, depth + 1).join('/'))
  const what = node.kind === 'symlink' ? 'a symbolic link, which is not followed' : 'no folder'
  return badSource(`${shown} lies below ${through}, and that is ${what}`)
}
