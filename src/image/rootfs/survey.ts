/**
 * What has to be known of a tree before a filesystem is made for it: how much there is, and an
 * identity, from which everything is derived that would otherwise be random or the time of day.
 */
import { createHash } from 'node:crypto'
import type { Hash } from 'node:crypto'
import { BLOCK_SIZE_BYTES, blocksOf } from '../../base/units.ts'
import type { Attributes, DirectoryNode, TreeNode } from './tree.ts'

/** Of the root folder, which `mke2fs` makes by itself. */
export type RootAttributes = Omit<Attributes, 'xattrs'>

export interface Survey {
  /** Files, folders, links: all but the root. */
  inodeCount: number
  /** Blocks that hold something, by what can be told before. */
  blockCount: number
  /** As many, if no file had holes. */
  wholeBlockCount: number
  newestSeconds: number
  /** SHA-256 of all names, kinds, owners, modes, times and sizes. */
  identity: Buffer
  root: RootAttributes
}

/** Of a fast link: its target is in the inode. */
const SHORT_TARGET_BYTES_MAX = 59
/** What is in the inode; beyond, attributes take a block. */
const SHORT_ATTRIBUTES_BYTES_MAX = 64
/** What a folder's block has for entries, which never fill it to the last byte. */
const FOLDER_BLOCK_BYTES = 3600

export class Surveyor {
  readonly #hash: Hash = createHash('sha256')
  readonly #root: RootAttributes
  #inodeCount = 0
  #blockCount = 0
  #wholeBlockCount = 0
  #newestSeconds: number

  constructor(root: RootAttributes) {
    this.#root = root
    this.#newestSeconds = root.mtimeSeconds
    this.#hash.update(JSON.stringify(root))
  }

  /** One name, in an order that the tree alone decides; `facts` is everything else about it. */
  addName(path: string, kind: string, facts: readonly (string | number)[]): void {
    this.#hash.update(JSON.stringify([path, kind, ...facts]))
  }

  addInode(attributes: { mtimeSeconds: number }, attributesBytes: number): void {
    this.#inodeCount += 1
    this.#newestSeconds = Math.max(this.#newestSeconds, attributes.mtimeSeconds)
    if (attributesBytes > SHORT_ATTRIBUTES_BYTES_MAX) this.#addBlocks(1, 1)
  }

  addFile(dataBytes: number, sizeBytes: number): void {
    // A block of extents for every so many, where there are more than the inode holds.
    const blockCount = blocksOf(dataBytes)
    const wholeCount = Math.max(blockCount, blocksOf(sizeBytes))
    const isLarge = blockCount > 1024
    const extentBlockCount = isLarge ? 1 + Math.ceil(blockCount / 1024) : 0
    this.#addBlocks(blockCount + extentBlockCount, wholeCount + extentBlockCount)
  }

  addTarget(lengthBytes: number): void {
    if (lengthBytes > SHORT_TARGET_BYTES_MAX) this.#addBlocks(1, 1)
  }

  addFolder(nameLengths: Iterable<number>): void {
    let entryBytes = 24
    for (const lengthBytes of nameLengths) entryBytes += 8 + Math.ceil(lengthBytes / 4) * 4
    const blockCount = Math.ceil(entryBytes / FOLDER_BLOCK_BYTES)
    this.#addBlocks(blockCount, blockCount)
  }

  finish(): Survey {
    return {
      inodeCount: this.#inodeCount,
      blockCount: this.#blockCount,
      wholeBlockCount: this.#wholeBlockCount,
      newestSeconds: this.#newestSeconds,
      identity: this.#hash.digest(),
      root: this.#root,
    }
  }

  #addBlocks(count: number, wholeCount: number): void {
    this.#blockCount += count
    this.#wholeBlockCount += wholeCount
  }
}

/** Of a tree in memory. A file of several names counts once, and so do its bytes. */
export function surveyTree(root: DirectoryNode): Survey {
  const { mode, userId, groupId, mtimeSeconds } = root.attributes
  const surveyor = new Surveyor({ mode, userId, groupId, mtimeSeconds })
  const seen = new Map<TreeNode, number>()
  const visit = (folder: DirectoryNode, path: string): void => {
    const names = [...folder.entries.keys()].sort()
    surveyor.addFolder(names.map((name) => name.length))
    for (const name of names) {
      const node = folder.entries.get(name)?.node
      if (node === undefined) continue
      const below = `${path}/${name}`
      const serial = seen.get(node)
      surveyor.addName(below, node.kind, serial === undefined ? factsOf(node) : [serial])
      if (serial === undefined) {
        seen.set(node, seen.size)
        measure(surveyor, node)
      }
      if (node.kind === 'directory') visit(node, below)
    }
  }
  visit(root, '')
  return surveyor.finish()
}

function measure(surveyor: Surveyor, node: TreeNode): void {
  let attributesBytes = 0
  for (const [name, value] of node.attributes.xattrs) {
    attributesBytes += 16 + name.length + value.length
  }
  surveyor.addInode(node.attributes, attributesBytes)
  if (node.kind === 'file') surveyor.addFile(node.dataBytes, node.sizeBytes)
  if (node.kind === 'symlink') surveyor.addTarget(node.target.length)
}

function factsOf(node: TreeNode): (string | number)[] {
  const { mode, userId, groupId, mtimeSeconds, xattrs } = node.attributes
  const facts: (string | number)[] = [mode, userId, groupId, mtimeSeconds]
  for (const [name, value] of xattrs) facts.push(name, value.toString('base64'))
  if (node.kind === 'file') facts.push(node.sizeBytes)
  if (node.kind === 'symlink') facts.push(node.target)
  if ('major' in node) facts.push(node.major, node.minor)
  return facts
}

/** Bytes of a filesystem in which a tree has room, and some to spare. */
export function roomyBytes(survey: Survey, blockCount: number): number {
  const INODE_BYTES = 256
  const used = blockCount * BLOCK_SIZE_BYTES + survey.inodeCount * INODE_BYTES
  const MIB = 1048576
  return Math.ceil((used * 1.35) / MIB + 64) * MIB
}
