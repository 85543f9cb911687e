/** What there is under a node's number, who may do what with it, and what stat(2) says of it. */
import { must } from '../../base/assert.ts'
import { Errno } from '../../base/errors.ts'
import type { DiskEntry, DiskTree } from './disk-tree.ts'
import { refusal } from './errors.ts'
import type { NodeKind } from './nodes.ts'
import {
  SNAPSHOTS_NODE,
  SNAPSHOT_FILE_NAME,
  VOLUMES_NODE,
  diskNode,
  meaningOf,
  snapshotNode,
  snapshotsNode,
} from './nodes.ts'
import type { Attributes, DirectoryEntry, NodeNumber } from './operations.ts'

export const VOLUMES_NAME = 'volumes'
export const SNAPSHOTS_NAME = 'snapshots'

export interface Owner {
  userId: number
  groupId: number
}

export interface Appearance {
  owner: Owner
  /** Others may look and read, too. */
  allowOther: boolean
  /** When the filesystem began: the time of the folders that belong to no disk. */
  startedMs: number
}

/** A node that is there. */
export type Found =
  | { kind: 'root' | 'volumes' | 'snapshots'; disk: null }
  /** A folder of snapshots with its volume, a snapshot's folder, or a disk's bytes. */
  | { kind: Exclude<NodeKind, 'root' | 'volumes' | 'snapshots'>; disk: DiskEntry }

const DISK_MISSING = 'there is no such disk any more'

/** Throws ENOENT. */
export function mustFind(tree: DiskTree, node: NodeNumber): Found {
  const meaning = meaningOf(node)
  if (meaning === null) throw refusal(Errno.ENOENT, `there is no node ${node}`)
  const { kind, diskId } = meaning
  if (kind === 'root' || kind === 'volumes' || kind === 'snapshots') return { kind, disk: null }
  const disk = tree.tryDisk(diskId)
  if (disk === null) throw refusal(Errno.ENOENT, DISK_MISSING)
  const isRight = kind === 'disk' || (kind === 'snapshot') === (disk.volumeId !== null)
  if (!isRight) throw refusal(Errno.ENOENT, `there is no node ${node}`)
  return { kind, disk }
}

/** Throws ENOENT and ENOTDIR. */
export function mustFindFolder(tree: DiskTree, node: NodeNumber): Found {
  const found = mustFind(tree, node)
  if (found.kind === 'disk') throw refusal(Errno.ENOTDIR, 'a disk is not a folder')
  return found
}

/** The node of that name in a folder, or null. */
export function tryChild(tree: DiskTree, folder: Found, name: string): NodeNumber | null {
  switch (folder.kind) {
    case 'root':
      if (name === VOLUMES_NAME) return VOLUMES_NODE
      return name === SNAPSHOTS_NAME ? SNAPSHOTS_NODE : null
    case 'volumes':
    case 'snapshots': {
      const volume = tree.tryVolume(name)
      if (volume === null) return null
      return folder.kind === 'volumes' ? diskNode(volume.id) : snapshotsNode(volume.id)
    }
    case 'snapshots-of': {
      const snapshot = tree.trySnapshot(folder.disk.id, name)
      return snapshot === null ? null : snapshotNode(snapshot.id)
    }
    case 'snapshot':
      return name === SNAPSHOT_FILE_NAME ? diskNode(folder.disk.id) : null
    case 'disk':
      return null
  }
}

/** What is in a folder now. */
export function childrenOf(tree: DiskTree, folder: Found): DirectoryEntry[] {
  switch (folder.kind) {
    case 'root':
      return [
        { name: VOLUMES_NAME, node: VOLUMES_NODE, isDirectory: true },
        { name: SNAPSHOTS_NAME, node: SNAPSHOTS_NODE, isDirectory: true },
      ]
    case 'volumes':
      return tree.volumes().map(({ id, name }) => entry(name, diskNode(id), false))
    case 'snapshots':
      return tree.volumes().map(({ id, name }) => entry(name, snapshotsNode(id), true))
    case 'snapshots-of': {
      const snapshots = tree.snapshots(folder.disk.id) ?? []
      return snapshots.map(({ id, name }) => entry(name, snapshotNode(id), true))
    }
    case 'snapshot':
      return [entry(SNAPSHOT_FILE_NAME, diskNode(folder.disk.id), false)]
    case 'disk':
      return []
  }
}

function entry(name: string, node: NodeNumber, isDirectory: boolean): DirectoryEntry {
  return { name, node, isDirectory }
}

/** Permission bits: only the owner writes, and nobody does in a snapshot. */
export function modeOf({ kind, disk }: Found, allowOther: boolean): number {
  const isSnapshot = disk !== null && disk.volumeId !== null
  if (kind === 'disk') {
    if (isSnapshot) return allowOther ? 0o444 : 0o400
    return allowOther ? 0o644 : 0o600
  }
  if (isSnapshot) return allowOther ? 0o555 : 0o500
  return allowOther ? 0o755 : 0o700
}

/** Rejects ENOENT. */
export async function attributesOf(
  tree: DiskTree,
  node: NodeNumber,
  appearance: Appearance,
): Promise<Attributes> {
  const { kind, disk } = mustFind(tree, node)
  if (kind !== 'disk') return folderAttributes(tree, node, appearance)
  const allocatedBytes = await tree.mappedBytes(disk.id)
  // As it is now that its blocks have been counted.
  const found = mustFind(tree, node)
  const { sizeBytes, createdMs, modifiedMs } = must(found.disk, 'the disk of a file')
  const mode = modeOf(found, appearance.allowOther)
  return {
    node,
    isDirectory: false,
    mode,
    ...appearance.owner,
    linkCount: 1,
    sizeBytes,
    allocatedBytes,
    createdMs,
    modifiedMs,
  }
}

function folderAttributes(tree: DiskTree, node: NodeNumber, appearance: Appearance): Attributes {
  const found = mustFind(tree, node)
  const createdMs = found.disk?.createdMs ?? appearance.startedMs
  let modifiedMs = createdMs
  for (const { createdMs: appearedMs } of disksIn(tree, found)) {
    modifiedMs = Math.max(modifiedMs, appearedMs)
  }
  const folderCount = childrenOf(tree, found).filter(({ isDirectory }) => isDirectory).length
  return {
    node,
    isDirectory: true,
    mode: modeOf(found, appearance.allowOther),
    ...appearance.owner,
    linkCount: 2 + folderCount,
    sizeBytes: 0,
    allocatedBytes: 0,
    createdMs,
    modifiedMs,
  }
}

/** Disks that have an entry of their own in the folder. */
function disksIn(tree: DiskTree, { kind, disk }: Found): readonly DiskEntry[] {
  if (kind === 'volumes' || kind === 'snapshots') return tree.volumes()
  return kind === 'snapshots-of' ? (tree.snapshots(disk.id) ?? []) : []
}
