/** What mounting and making a filesystem takes, by its type. */
import type { Tool } from './command.ts'

export const MKFS_TYPES = ['ext4', 'xfs', 'btrfs'] as const
export type MkfsType = (typeof MKFS_TYPES)[number]

/** What a Linux root may be on, and so what is chosen when partitions are many. */
export const ROOT_TYPES: readonly string[] = ['ext4', 'xfs', 'btrfs']

/** Reads nothing but the disk: a journal that was not replayed stays so. */
const NO_RECOVERY: Readonly<Record<string, readonly string[]>> = {
  ext3: ['noload'],
  ext4: ['noload'],
  xfs: ['norecovery'],
  btrfs: ['rescue=nologreplay'],
}

/**
 * A clone or snapshot of a mounted XFS has its UUID, and would be refused beside it; that no disk
 * is mounted through two devices is seen to where devices are made.
 */
const ALWAYS: Readonly<Record<string, readonly string[]>> = { xfs: ['nouuid'] }

/**
 * For `mount -o`. What is on a disk is its guest's: neither its set-user-id programs nor its
 * device nodes mean anything to this host, unless `extra`, which comes last and so wins, says so.
 */
export function mountOptions(type: string, readOnly: boolean, extra: readonly string[]): string {
  const mode = readOnly ? ['ro', ...(NO_RECOVERY[type] ?? [])] : ['rw']
  return [...mode, ...(ALWAYS[type] ?? []), 'nosuid', 'nodev', ...extra].join(',')
}

/** Blocks of the pool are 4 KiB; a filesystem whose writes are too is never read to be written. */
const BLOCK_SIZE = '4096'

/**
 * All three discard the device first, which gives back what was there before, and leave what
 * reads as zeros alone.
 */
export function mkfsCommand(
  type: MkfsType,
  device: string,
  label: string | null,
): { tool: Tool; args: string[] } {
  const named = label === null ? [] : ['-L', label]
  switch (type) {
    case 'ext4':
      // The kernel zeroes the inode tables later, by discards that cost no space here.
      return { tool: 'mkfs.ext4', args: ['-F', '-q', '-b', BLOCK_SIZE, ...named, device] }
    case 'xfs':
      // The log in whole blocks, whatever the sector size of the device.
      return { tool: 'mkfs.xfs', args: ['-f', '-q', '-s', `size=${BLOCK_SIZE}`, ...named, device] }
    case 'btrfs':
      return { tool: 'mkfs.btrfs', args: ['-f', '-q', ...named, device] }
  }
}
