/** What the host's devices need of the pool: disks by name, and as files. */

export interface FoundDisk {
  /** Given to one disk, ever. */
  id: number
  readOnly: boolean
  sizeBytes: number
}

export interface DiskFiles {
  /** `VOLUME` or `VOLUME@SNAPSHOT`; null when there is none. */
  find(name: string): FoundDisk | null
  /** The name of now; null when the disk is gone. */
  nameOf(id: number): string | null
  /**
   * The path of the disk's bytes as a file, for other processes alone: this one serves it. Mounts
   * the filesystem of the disks when it is not yet. Rejects `not-found`, and `unsupported` where
   * FUSE is not to be had.
   */
  pathOf(name: string): Promise<string>
}
