/**
 * Holds the shapes of the API to those of the pool and the host: this file does not compile when a
 * field is added, dropped or changed on one side only.
 */
import type * as api from '../api/shapes.ts'
import type * as host from '../host/types.ts'
import type * as pool from '../pool/types.ts'

type Same<A, B> =
  (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : [A, B]

type Flat<T> = { [K in keyof T]: T[K] }

type Held<K extends keyof Pairs> = Same<Flat<Pairs[K][0]>, Flat<Pairs[K][1]>>

interface Pairs {
  poolInfo: [api.PoolInfo, pool.PoolInfo]
  volumeInfo: [api.VolumeInfo, pool.VolumeInfo]
  snapshotInfo: [api.SnapshotInfo, pool.SnapshotInfo]
  createVolume: [api.CreateVolume, pool.CreateVolume]
  removeRequest: [api.RemoveRequest, pool.RemoveRequest]
  removeReport: [api.RemoveReport, pool.RemoveReport]
  reclaimReport: [api.ReclaimReport, pool.ReclaimReport]
  reclaimProgress: [api.ReclaimProgress, pool.ReclaimProgress]
  usageRow: [api.UsageRow, pool.UsageRow]
  poolUsage: [api.PoolUsage, pool.PoolUsage]
  usageReport: [api.UsageReport, pool.UsageReport]
  usageProgress: [api.UsageProgress, pool.UsageProgress]
  upkeepStatus: [api.UpkeepStatus, pool.UpkeepStatus]
  scrubRequest: [api.ScrubRequest, pool.ScrubRequest]
  scrubReport: [api.ScrubReport, pool.ScrubReport]
  scrubProgress: [api.ScrubProgress, pool.ScrubProgress]
  scrubStatus: [api.ScrubStatus, pool.ScrubStatus]
  diffExtent: [api.DiffExtent, pool.DiffExtent]
  attachRequest: [api.AttachRequest, host.AttachRequest]
  mountRequest: [api.MountRequest, host.MountRequest]
  mkfsRequest: [api.MkfsRequest, host.MkfsRequest]
  mkfsReport: [api.MkfsReport, host.MkfsReport]
  mountInfo: [api.MountInfo, host.MountInfo]
  deviceInfo: [api.DeviceInfo, host.DeviceInfo]
}

/** Every entry must be `true`; what differs is named by the compiler. */
export const CONTRACT: { readonly [K in keyof Pairs]: Held<K> } = {
  poolInfo: true,
  volumeInfo: true,
  snapshotInfo: true,
  createVolume: true,
  removeRequest: true,
  removeReport: true,
  reclaimReport: true,
  reclaimProgress: true,
  usageRow: true,
  poolUsage: true,
  usageReport: true,
  usageProgress: true,
  upkeepStatus: true,
  scrubRequest: true,
  scrubReport: true,
  scrubProgress: true,
  scrubStatus: true,
  diffExtent: true,
  attachRequest: true,
  mountRequest: true,
  mkfsRequest: true,
  mkfsReport: true,
  mountInfo: true,
  deviceInfo: true,
}
