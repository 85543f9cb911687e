/** The one translation from Linux errno to the error values of NBD (proto.md, "Error values"). */
import { Errno } from '../../base/errors.ts'
import { NbdError } from './constants.ts'

const TRANSLATION = new Map<number, number>([
  [Errno.EPERM, NbdError.EPERM],
  [Errno.EACCES, NbdError.EPERM],
  [Errno.EROFS, NbdError.EPERM],
  [Errno.ENOMEM, NbdError.ENOMEM],
  [Errno.EINVAL, NbdError.EINVAL],
  [Errno.ENOENT, NbdError.EINVAL],
  // Both may be sent only in answer to particular flags, so never for what a disk says.
  [Errno.EOVERFLOW, NbdError.EINVAL],
  [Errno.EOPNOTSUPP, NbdError.EINVAL],
  [Errno.ENOSPC, NbdError.ENOSPC],
  [Errno.EFBIG, NbdError.ENOSPC],
  [Errno.ESHUTDOWN, NbdError.ESHUTDOWN],
])

/** `result`: 0 or a negative errno, as a target gives it. */
export function nbdErrorOf(result: number): number {
  if (result >= 0) return 0
  return TRANSLATION.get(-result) ?? NbdError.EIO
}
