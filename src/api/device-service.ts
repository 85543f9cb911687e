/** Disks as block devices and mounts of the host: only a daemon that is root can do it. */
import type {
  AttachRequest,
  DeviceInfo,
  MkfsReport,
  MkfsRequest,
  MountInfo,
  MountRequest,
} from './device-shapes.ts'

export interface DeviceService {
  /** Resolves to the device that is there when the disk is already attached the same way. */
  attach(request: AttachRequest): Promise<DeviceInfo>
  /** `target`: a disk or a device's path. Rejects `busy` with who uses it. */
  detach(target: string): Promise<DeviceInfo[]>
  devices(): Promise<DeviceInfo[]>
  mount(request: MountRequest): Promise<MountInfo>
  /** `target`: a mount point or a disk, of which all mounts are meant. */
  umount(target: string): Promise<MountInfo[]>
  /** Rejects `exists` when there is something on the volume, unless forced. */
  mkfs(request: MkfsRequest): Promise<MkfsReport>
}
