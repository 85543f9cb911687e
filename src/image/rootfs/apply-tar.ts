/** The entries of a tar archive into a tree: a whole filesystem, or one layer of an OCI image. */
import type { ContentStore } from './content-store.ts'
import { TARGET_BYTES_MAX, badSource } from './limits.ts'
import type { Budget } from './limits.ts'
import { shownPath, splitPath } from './raw-path.ts'
import type { TarEntry, TarReader } from './tar-reader.ts'
import type { Attributes, LeafNode, RootfsTree } from './tree.ts'

const WHITEOUT_PREFIX = '.wh.'
const OPAQUE_NAME = '.wh..wh..opq'
/** What other union filesystems keep for themselves. */
const RESERVED_PREFIX = '.wh..wh.'
/** The kernel's 2³²-1 means nobody. */
const OWNER_MAX = 0xfffffffe
/** The end of ext4's time, in 2446. */
const SECONDS_MAX = 15032385535

export interface TarTarget {
  tree: RootfsTree
  store: ContentStore
  budget: Budget
}

/** `layer` counts from 1; only in a layer of an OCI image are whiteouts more than names. */
export async function applyTar(
  tar: TarReader,
  target: TarTarget,
  layer: number,
  hasWhiteouts: boolean,
): Promise<void> {
  for (let entry = await tar.next(); entry !== null; entry = await tar.next()) {
    const path = splitPath(entry.name)
    if (hasWhiteouts && applyWhiteout(target.tree, path, layer)) continue
    await applyEntry(tar, target, path, entry, layer)
  }
}

/** Whether it was one. */
function applyWhiteout(tree: RootfsTree, path: string[], layer: number): boolean {
  const name = path[path.length - 1] ?? ''
  if (!name.startsWith(WHITEOUT_PREFIX)) return false
  const folder = path.slice(0, -1)
  if (name === OPAQUE_NAME) {
    tree.makeOpaque(folder, layer)
  } else if (!name.startsWith(RESERVED_PREFIX)) {
    const hidden = name.slice(WHITEOUT_PREFIX.length)
    if (hidden === '' || hidden === '.' || hidden === '..') {
      throw badSource(`a whiteout names nothing: ${shownPath(path.join('/'))}`)
    }
    tree.whiteout([...folder, hidden], layer)
  }
  return true
}

async function applyEntry(
  tar: TarReader,
  { tree, store, budget }: TarTarget,
  path: string[],
  entry: TarEntry,
  layer: number,
): Promise<void> {
  if (entry.kind === 'hardlink') {
    tree.link(path, splitPath(entry.linkName), layer)
    return
  }
  const attributes = attributesOf(entry)
  for (const [name, value] of attributes.xattrs) budget.takeMetadata(name.length + value.length)
  if (entry.kind === 'directory') {
    tree.putDirectory(path, attributes, layer)
    return
  }
  let node: LeafNode
  if (entry.kind === 'file') {
    const { sizeBytes } = entry
    const empty = { contentNumber: null, dataBytes: 0 }
    const stored = sizeBytes === 0 ? empty : await store.add(tar.body(), sizeBytes)
    node = { kind: 'file', attributes, sizeBytes, linkCount: 0, ...stored }
  } else if (entry.kind === 'symlink') {
    budget.takeMetadata(entry.linkName.length)
    node = { kind: 'symlink', attributes, target: targetOf(entry), linkCount: 0 }
  } else {
    const { kind, major, minor } = entry
    node = { kind, attributes, major, minor, linkCount: 0 }
  }
  tree.put(path, node, layer)
}

function targetOf({ name, linkName }: TarEntry): string {
  if (linkName !== '' && linkName.length <= TARGET_BYTES_MAX && !linkName.includes('\0')) {
    return linkName
  }
  throw badSource(`a symbolic link has a target that cannot be: ${shownPath(name)}`)
}

function attributesOf(entry: TarEntry): Attributes {
  const { name, mode, userId, groupId, mtimeSeconds, xattrs } = entry
  for (const owner of [userId, groupId]) {
    if (owner < 0 || owner > OWNER_MAX) {
      throw badSource(`an entry has an owner that cannot be: ${shownPath(name)}`)
    }
  }
  const clamped = Math.min(Math.max(mtimeSeconds, 0), SECONDS_MAX)
  return { mode, userId, groupId, mtimeSeconds: clamped, xattrs }
}

/** The content that a file of the tree has; null for one without any. */
export function contentPath(store: ContentStore, tree: RootfsTree, name: string): string | null {
  const node = tree.tryFind(splitPath(name))
  if (node?.kind !== 'file' || node.contentNumber === null) return null
  return store.pathOf(node.contentNumber)
}
