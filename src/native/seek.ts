/** Finding data and holes of a sparse file (`lseek(2)`, SEEK_DATA and SEEK_HOLE). */
import { Errno } from '../base/errors.ts'
import type { Binding } from './binding.ts'

const SEEK_DATA = 3
const SEEK_HOLE = 4
const ENXIO = 6

/** First byte at or after `offsetBytes` that is data, or the first past the end, or -errno. */
export function seekData(
  binding: Binding,
  fd: number,
  offsetBytes: number,
  fileSizeBytes: number,
): number {
  const found = binding.seek(fd, offsetBytes, SEEK_DATA)
  // ENXIO: nothing but a hole from here to the end.
  if (found === -ENXIO) return Math.max(offsetBytes, fileSizeBytes)
  return found
}

/** First byte at or after `offsetBytes` that is a hole (the file's end is one), or -errno. */
export function seekHole(binding: Binding, fd: number, offsetBytes: number): number {
  const found = binding.seek(fd, offsetBytes, SEEK_HOLE)
  return found === -ENXIO ? -Errno.EINVAL : found
}
