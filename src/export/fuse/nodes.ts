/**
 * What there is in the filesystem, and the numbers of its nodes. A number says by itself what it
 * names, so no table of nodes is kept and none can leak or go stale:
 *
 *     /                            1
 *     /volumes                     2
 *     /volumes/NAME                16 + 4 * disk id        the volume's bytes
 *     /snapshots                   3
 *     /snapshots/NAME              16 + 4 * disk id + 1    of the volume
 *     /snapshots/NAME/SNAP         16 + 4 * disk id + 2    of the snapshot
 *     /snapshots/NAME/SNAP/disk    16 + 4 * disk id        the snapshot's bytes
 */
import { assert } from '../../base/assert.ts'
import type { NodeNumber } from './operations.ts'
import { ROOT_NODE } from './operations.ts'

export const VOLUMES_NODE: NodeNumber = 2
export const SNAPSHOTS_NODE: NodeNumber = 3

const DISK_NODE_FIRST = 16
const NODES_PER_DISK = 4
const KINDS = ['disk', 'snapshots-of', 'snapshot'] as const

/** In a snapshot's folder, its bytes. */
export const SNAPSHOT_FILE_NAME = 'disk'

export type NodeKind = 'root' | 'volumes' | 'snapshots' | (typeof KINDS)[number]

export interface NodeMeaning {
  kind: NodeKind
  /** 0 for the three that belong to no disk. */
  diskId: number
}

export function diskNode(diskId: number): NodeNumber {
  return DISK_NODE_FIRST + NODES_PER_DISK * diskId
}

/** The folder of a volume's snapshots. */
export function snapshotsNode(volumeId: number): NodeNumber {
  return diskNode(volumeId) + 1
}

/** The folder of one snapshot. */
export function snapshotNode(snapshotId: number): NodeNumber {
  return diskNode(snapshotId) + 2
}

/** Null for a number that is no node's. */
export function meaningOf(node: NodeNumber): NodeMeaning | null {
  if (node === ROOT_NODE) return { kind: 'root', diskId: 0 }
  if (node === VOLUMES_NODE) return { kind: 'volumes', diskId: 0 }
  if (node === SNAPSHOTS_NODE) return { kind: 'snapshots', diskId: 0 }
  const index = node - DISK_NODE_FIRST
  if (!Number.isSafeInteger(index) || index < NODES_PER_DISK) return null
  const kind = KINDS.at(index % NODES_PER_DISK)
  return kind === undefined ? null : { kind, diskId: Math.floor(index / NODES_PER_DISK) }
}

assert(ROOT_NODE < DISK_NODE_FIRST && SNAPSHOTS_NODE < DISK_NODE_FIRST, 'the fixed nodes are low')
