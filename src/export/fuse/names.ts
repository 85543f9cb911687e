/** Which names there can be here at all. What a volume may be called, the pool says. */
import { Errno } from '../../base/errors.ts'
import { refusal } from './errors.ts'

/** NAME_MAX of Linux, in bytes of UTF-8. */
export const NAME_BYTES_MAX = 255

/** Throws ENAMETOOLONG: nothing can be called so, and nothing is. */
export function verifyNameLength(name: string): void {
  if (Buffer.byteLength(name) <= NAME_BYTES_MAX) return
  throw refusal(Errno.ENAMETOOLONG, `a name has at most ${NAME_BYTES_MAX} bytes`)
}

/** Throws ENAMETOOLONG or EINVAL for what nothing new is called. */
export function verifyNewName(name: string): void {
  verifyNameLength(name)
  const isPath = name === '' || name === '.' || name === '..' || name.includes('/')
  if (!isPath && !name.includes('\0') && !name.includes('\n')) return
  throw refusal(Errno.EINVAL, `${JSON.stringify(name)} cannot be a name`)
}
