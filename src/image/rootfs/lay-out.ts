/**
 * A tree in memory as files of the host, for `mke2fs -d`. Everything belongs to us and is private:
 * owners, modes, attributes and devices are written into the finished filesystem instead, so that
 * no stranger's setuid file or device ever exists on the host, and nothing here needs root.
 *
 * Every inode gets a serial number for its time. By it, it is found again in the filesystem.
 */
import {
  closeSync,
  linkSync,
  lutimesSync,
  mkdirSync,
  openSync,
  renameSync,
  symlinkSync,
} from 'node:fs'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { OperatingError } from '../../base/errors.ts'
import { systemError } from '../system-error.ts'
import type { ContentStore } from './content-store.ts'
import { rawBytes } from './raw-path.ts'
import type { DirectoryNode, FileNode, RootfsTree, SpecialNode, SymlinkNode } from './tree.ts'

/** What is left to be made in the finished filesystem. */
export interface SpecialFile {
  /** Null: the root. */
  folderSerial: number | null
  name: string
  node: SpecialNode
}

export interface LaidOutTree {
  /** The inode with the serial number n is at n - 1. */
  nodes: (DirectoryNode | FileNode | SymlinkNode)[]
  specials: SpecialFile[]
}

const TURN_COUNT = 1000

/** Moves the contents out of `store` into a new folder `path`. */
export async function layOut(
  tree: RootfsTree,
  store: ContentStore,
  path: string,
  signal: AbortSignal,
): Promise<LaidOutTree> {
  const layout = new Layout(store)
  mkdirSync(path, { mode: 0o700 })
  await layout.fill(tree.root, Buffer.from(path).toString('latin1'), null, signal)
  return layout
}

class Layout implements LaidOutTree {
  readonly nodes: (DirectoryNode | FileNode | SymlinkNode)[] = []
  readonly specials: SpecialFile[] = []
  readonly #store: ContentStore
  /** Where a file of several names was put first. */
  readonly #firstPaths = new Map<FileNode, string>()
  #count = 0

  constructor(store: ContentStore) {
    this.#store = store
  }

  async fill(
    folder: DirectoryNode,
    path: string,
    folderSerial: number | null,
    signal: AbortSignal,
  ): Promise<void> {
    for (const name of [...folder.entries.keys()].sort()) {
      this.#count += 1
      if (this.#count % TURN_COUNT === 0) await nextTurn()
      if (signal.aborted) throw new OperatingError('canceled', 'canceled')
      const node = folder.entries.get(name)?.node
      const below = `${path}/${name}`
      if (node === undefined) continue
      if (node.kind === 'directory') {
        make(() => mkdirSync(rawBytes(below), { mode: 0o700 }))
        const serial = this.nodes.push(node)
        await this.fill(node, below, serial, signal)
        stamp(below, serial)
      } else if (node.kind === 'file') {
        this.#placeFile(node, below)
      } else if (node.kind === 'symlink') {
        // Of several names each becomes a link of its own, which nobody can tell apart.
        make(() => symlinkSync(rawBytes(node.target), rawBytes(below)))
        stamp(below, this.nodes.push(node))
      } else {
        this.specials.push({ folderSerial, name, node })
      }
    }
  }

  #placeFile(node: FileNode, path: string): void {
    const first = this.#firstPaths.get(node)
    if (first !== undefined) {
      make(() => linkSync(rawBytes(first), rawBytes(path)))
      return
    }
    const { contentNumber } = node
    if (contentNumber === null) {
      make(() => closeSync(openSync(rawBytes(path), 'wx', 0o600)))
    } else {
      make(() => renameSync(this.#store.pathOf(contentNumber), rawBytes(path)))
    }
    if (node.linkCount > 1) this.#firstPaths.set(node, path)
    stamp(path, this.nodes.push(node))
  }
}

function stamp(path: string, serial: number): void {
  make(() => lutimesSync(rawBytes(path), serial, serial))
}

function make<T>(call: () => T): T {
  try {
    return call()
  } catch (error) {
    throw systemError('cannot lay out the tree', error)
  }
}
