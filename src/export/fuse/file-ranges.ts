/** fallocate(2) and copy_file_range(2): requests on open disks, checked as a whole first. */
import { Errno } from '../../base/errors.ts'
import { BLOCK_SIZE_BYTES, GIB, VOLUME_SIZE_BYTES_MAX } from '../../base/units.ts'
import type { Arena } from '../../io/arena.ts'
import { ZERO_NO_HOLE } from '../target.ts'
import { completed } from './completed.ts'
import type { DiskTree } from './disk-tree.ts'
import { refusal } from './errors.ts'
import { needsMoreThan } from './extent-walk.ts'
import type { Resizes } from './growth.ts'
import type { Handle } from './handles.ts'
import { writeErrno } from './handles.ts'
import { FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE } from './operations.ts'

/** Of one copy: as much as the tree takes, and a caller can be interrupted in between. */
export const COPY_BYTES_MAX: number = GIB

const ALLOCATE_MODES: readonly number[] = [
  0,
  FALLOC_KEEP_SIZE,
  FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE,
  FALLOC_ZERO_RANGE,
  FALLOC_ZERO_RANGE | FALLOC_KEEP_SIZE,
]

/** Throws EINVAL or EFBIG for what no file's length can be. */
export function verifySize(sizeBytes: number): void {
  if (!(sizeBytes >= 0)) throw refusal(Errno.EINVAL, `a file cannot have ${sizeBytes} bytes`)
  if (sizeBytes <= VOLUME_SIZE_BYTES_MAX) return
  throw refusal(Errno.EFBIG, `a file has at most ${VOLUME_SIZE_BYTES_MAX} bytes`)
}

export class FileRanges {
  readonly #tree: DiskTree
  readonly #resizes: Resizes
  readonly #arena: Arena

  constructor(tree: DiskTree, resizes: Resizes, arena: Arena) {
    this.#tree = tree
    this.#resizes = resizes
    this.#arena = arena
  }

  /** Rejects EINVAL, EOPNOTSUPP, EBADF, EROFS, EFBIG, ENOSPC. */
  async allocate(
    open: Handle,
    mode: number,
    offsetBytes: number,
    lengthBytes: number,
  ): Promise<void> {
    verifyAllocate(open, mode, offsetBytes, lengthBytes)
    const endBytes = offsetBytes + lengthBytes
    const kind = mode & ~FALLOC_KEEP_SIZE
    if (kind === 0) await this.#verifyFits(open, offsetBytes, endBytes)
    if ((mode & FALLOC_KEEP_SIZE) === 0) await this.#grow(open, endBytes)
    if (kind !== 0) await clearRange(open, kind, offsetBytes, lengthBytes)
  }

  /**
   * Whole blocks are shared. Less than one at the end of the source goes through memory, so that
   * a whole file of any length is copied; other parts of blocks are the caller's to copy. When it
   * fails the target may have grown. Rejects EINVAL, EBADF, EROFS, EFBIG, EOPNOTSUPP, and as the
   * tree and the targets do.
   */
  async copy(
    source: Handle,
    fromBytes: number,
    open: Handle,
    toBytes: number,
    lengthBytes: number,
  ): Promise<number> {
    const askedBytes = copyableBytes(source, fromBytes, open, toBytes, lengthBytes)
    if (askedBytes === 0) return 0
    const isAligned = fromBytes % BLOCK_SIZE_BYTES === 0 && toBytes % BLOCK_SIZE_BYTES === 0
    const bytes = Math.min(askedBytes, COPY_BYTES_MAX)
    const wholeBytes = bytes - (bytes % BLOCK_SIZE_BYTES)
    const isToEnd = fromBytes + bytes === source.target.sizeBytes
    const tailBytes = isToEnd ? bytes - wholeBytes : 0
    if (!isAligned || wholeBytes + tailBytes === 0) {
      throw refusal(Errno.EOPNOTSUPP, 'only whole blocks can be shared')
    }
    await this.#grow(open, toBytes + wholeBytes + tailBytes)
    if (wholeBytes > 0) {
      await this.#tree.copyRange(source.diskId, fromBytes, open.diskId, toBytes, wholeBytes)
    }
    if (tailBytes === 0) return wholeBytes
    const tailFrom = fromBytes + wholeBytes
    const isCopied = await this.#tryCopy(source, tailFrom, open, toBytes + wholeBytes, tailBytes)
    if (isCopied) return bytes
    if (wholeBytes === 0) throw refusal(Errno.EOPNOTSUPP, 'there is no memory to copy through')
    return wholeBytes
  }

  /** Moves less than a block through memory. False: there is no memory for it just now. */
  async #tryCopy(
    source: Handle,
    fromBytes: number,
    open: Handle,
    toBytes: number,
    lengthBytes: number,
  ): Promise<boolean> {
    const piece = this.#arena.allocate(lengthBytes)
    if (piece < 0) return false
    try {
      await completed((completion, tag) => {
        source.target.read(fromBytes, lengthBytes, piece, completion, tag)
      })
      await completed((completion, tag) => {
        open.target.write(toBytes, lengthBytes, piece, 0, completion, tag)
      })
      return true
    } finally {
      this.#arena.free(piece, lengthBytes)
    }
  }

  async #grow({ diskId, target }: Handle, sizeBytes: number): Promise<void> {
    if (sizeBytes <= target.sizeBytes) return
    verifySize(sizeBytes)
    await this.#resizes.grow(diskId, sizeBytes)
  }

  /** Disks are thin, so nothing is set aside; but what cannot fit now is not promised. */
  async #verifyFits({ target }: Handle, startBytes: number, endBytes: number): Promise<void> {
    verifySize(endBytes)
    const { freeBytes } = await this.#tree.space()
    if (!(await needsMoreThan(target, startBytes, endBytes, freeBytes))) return
    throw refusal(Errno.ENOSPC, 'the pool has no room for this range')
  }
}

/** In the order in which Linux looks at a fallocate. */
function verifyAllocate(
  open: Handle,
  mode: number,
  offsetBytes: number,
  lengthBytes: number,
): void {
  if (!(offsetBytes >= 0) || !(lengthBytes > 0)) {
    throw refusal(Errno.EINVAL, 'fallocate of no range')
  }
  if (!ALLOCATE_MODES.includes(mode)) {
    throw refusal(Errno.EOPNOTSUPP, `fallocate has no mode ${mode} here`)
  }
  verifyWritable(open)
  if (Number.isSafeInteger(offsetBytes + lengthBytes)) return
  throw refusal(Errno.EFBIG, 'fallocate beyond what a file can be')
}

function verifyWritable(open: Handle): void {
  const errno = writeErrno(open)
  if (errno !== 0) throw refusal(errno, 'this file is not open for writing')
}

/** Punches or zeroes what of the range lies within the disk. */
async function clearRange(
  { target }: Handle,
  kind: number,
  offsetBytes: number,
  lengthBytes: number,
): Promise<void> {
  const insideBytes = Math.min(lengthBytes, target.sizeBytes - offsetBytes)
  if (insideBytes <= 0) return
  await completed((completion, tag) => {
    if (kind === FALLOC_PUNCH_HOLE) target.trim(offsetBytes, insideBytes, 0, completion, tag)
    else target.zero(offsetBytes, insideBytes, ZERO_NO_HOLE, completion, tag)
  })
}

/** How much of a copy there is: cut at the ends of both. */
function copyableBytes(
  source: Handle,
  fromBytes: number,
  open: Handle,
  toBytes: number,
  lengthBytes: number,
): number {
  verifyWritable(open)
  const isRange = fromBytes >= 0 && toBytes >= 0 && lengthBytes >= 0
  if (!isRange) throw refusal(Errno.EINVAL, 'a copy of no range')
  const thereBytes = Math.min(lengthBytes, source.target.sizeBytes - fromBytes)
  if (thereBytes <= 0) return 0
  const isOverlap = source.diskId === open.diskId && Math.abs(fromBytes - toBytes) < thereBytes
  if (isOverlap) throw refusal(Errno.EINVAL, 'a range is not copied onto itself')
  const roomBytes = VOLUME_SIZE_BYTES_MAX - toBytes
  if (roomBytes <= 0) throw refusal(Errno.EFBIG, 'a copy beyond what a file can be')
  return Math.min(thereBytes, roomBytes)
}
