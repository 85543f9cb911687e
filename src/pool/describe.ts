import { BLOCK_SIZE_BYTES } from '../base/units.ts'
import type { PoolCore } from './core.ts'
import type { Disk } from './disk.ts'
import type { SnapshotInfo, VolumeInfo } from './types.ts'

/** Bytes with a block of their own in the disk's map, counted on a copy that stays as it is. */
export async function mappedBytes(core: PoolCore, disk: Disk): Promise<number> {
  const root = captureRoot(core, disk)
  const cohort = core.cohorts.enter()
  try {
    return (await core.tables.mappedBlockCount(root)) * BLOCK_SIZE_BYTES
  } finally {
    core.tables.releaseRoot(root)
    cohort.leave()
  }
}

export async function describeSnapshot(core: PoolCore, disk: Disk): Promise<SnapshotInfo> {
  const volume = core.catalogue.tryDisk(disk.volumeId)
  return {
    name: core.catalogue.nameOf(disk),
    volume: volume?.name ?? '',
    snapshot: disk.name,
    sizeBytes: disk.sizeBytes,
    createdMs: disk.createdMs,
    modifiedMs: disk.modifiedMs,
    holds: [...disk.holds],
    mappedBytes: await mappedBytes(core, disk),
  }
}

export async function describeVolume(core: PoolCore, disk: Disk): Promise<VolumeInfo> {
  const origin = disk.originId === null ? null : core.catalogue.tryDisk(disk.originId)
  const info: VolumeInfo = {
    name: disk.name,
    id: disk.id,
    sizeBytes: disk.sizeBytes,
    mappedBytes: 0,
    createdMs: disk.createdMs,
    modifiedMs: disk.modifiedMs,
    origin: origin === null ? null : core.catalogue.nameOf(origin),
    labels: disk.labels,
    holds: [...disk.holds],
    clients: [...disk.users.values()],
    snapshots: [],
  }
  const snapshots = [...disk.snapshots.values()]
  info.mappedBytes = await mappedBytes(core, disk)
  for (const snapshot of snapshots) {
    // Removed while the others were counted.
    if (core.catalogue.tryDisk(snapshot.id) === null) continue
    info.snapshots.push(await describeSnapshot(core, snapshot))
  }
  return info
}

/** A copy of the disk's map that no later write changes. */
export function captureRoot(core: PoolCore, disk: Disk): Disk['root'] {
  const root = core.tables.copyRoot(disk.root)
  disk.epoch = core.catalogue.newEpoch()
  return root
}
