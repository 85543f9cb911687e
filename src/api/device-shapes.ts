/** Block devices and mounts on the host, as they travel; `shapes.ts` says how. */

export type AttachVia = 'auto' | 'loop' | 'nbd'

export interface AttachRequest {
  /** Any disk; a snapshot is read-only whatever is asked. */
  name: string
  readOnly: boolean
  /** `auto`: loop where FUSE works, else the kernel's nbd where that is there. */
  via: AttachVia
  sectorSizeBytes: 512 | 4096
}

export interface MountRequest {
  name: string
  /** Absolute; must be there. */
  directory: string
  /** Null: what is sensible. */
  partition: number | null
  readOnly: boolean
  /** For mount(8), after our own. */
  options: string[]
  via: AttachVia
}

export interface MkfsRequest {
  name: string
  type: 'ext4' | 'xfs' | 'btrfs'
  label: string | null
  /** Over what is there. */
  force: boolean
}

export interface MkfsReport {
  name: string
  type: 'ext4' | 'xfs' | 'btrfs'
  sizeBytes: number
}

export interface MountInfo {
  /** Of the disk; null when it was removed. */
  name: string | null
  directory: string
  device: string
  /** Null: the whole disk. */
  partition: number | null
  type: string
  readOnly: boolean
}

export interface DeviceInfo {
  /** Of the disk; null when it was removed. */
  name: string | null
  device: string
  kind: 'loop' | 'nbd'
  /** Null: the whole disk. */
  partition: number | null
  sizeBytes: number
  sectorSizeBytes: number
  readOnly: boolean
  /** Whether the page cache is left out between the device and the pool. */
  directIo: boolean
  /** Asked for by `attach`; else it goes with its last mount. */
  isKept: boolean
  /** Detached, and gone when its last user is. */
  isDraining: boolean
  /** Where. */
  mounts: string[]
}
