/** What a path is, to an import or an export, and how large. */
import { readFile } from 'node:fs/promises'
import type { FileHandle } from 'node:fs/promises'
import type { Stats } from 'node:fs'
import { OperatingError } from '../base/errors.ts'

/** A volume is a whole number of these; an image that is not is padded with zeros. */
export const SECTOR_SIZE_BYTES = 512

export type ImageFileKind = 'file' | 'block-device' | 'stream' | 'other'

/** FIFOs, sockets and character devices have no size and no offsets: they are streams. */
export function imageFileKind(stats: Stats): ImageFileKind {
  if (stats.isFile()) return 'file'
  if (stats.isBlockDevice()) return 'block-device'
  return stats.isFIFO() || stats.isCharacterDevice() || stats.isSocket() ? 'stream' : 'other'
}

/** Size of an open regular file or block device; `usage` for anything else. */
export async function imageSize(file: FileHandle, path: string): Promise<number> {
  const stats = await file.stat()
  const kind = imageFileKind(stats)
  if (kind === 'file') return stats.size
  if (kind === 'block-device') return blockDeviceSize(stats.rdev, path)
  throw new OperatingError('usage', `${path} is neither a file nor a block device`, {
    hint: 'Pipe it through `-`.',
  })
}

async function blockDeviceSize(device: number, path: string): Promise<number> {
  // The glibc encoding of a device number, whose high bits of the minor no machine here uses.
  const major = Math.floor(device / 256) & 0xfff
  const minor = (device & 0xff) | ((Math.floor(device / 4096) & 0xfff00) >>> 0)
  try {
    return Number(await readFile(`/sys/dev/block/${major}:${minor}/size`, 'ascii')) * 512
  } catch (error) {
    throw new OperatingError('io', `the size of ${path} cannot be told`, {
      hint: 'Is /sys mounted?',
      cause: error,
    })
  }
}

/** The size a volume gets from an image of `imageBytes`. */
export function volumeSizeOf(imageBytes: number): number {
  return Math.ceil(imageBytes / SECTOR_SIZE_BYTES) * SECTOR_SIZE_BYTES
}
