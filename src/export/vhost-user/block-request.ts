/**
 * A request of a block driver (VIRTIO 1.2, section 5.2.6): a header of 16 bytes that the device
 * reads (u32 type, u32 -, u64 sector), data, and one byte of status that it writes last. How the
 * driver cuts this into descriptors says nothing.
 *
 * The header and the ranges of a DISCARD are copied out of guest memory before they are judged.
 */
import { must } from '../../base/assert.ts'
import { tryUint53 } from '../../base/bytes.ts'
import { Chain } from './chain.ts'
import { SECTOR_BYTES } from './config.ts'
import { RANGE_COUNT_MAX, RANGE_SECTORS_MAX } from './limits.ts'

export const HEADER_BYTES = 16
export const RANGE_BYTES = 16
export const ID_BYTES = 20

export const BlockType = {
  IN: 0,
  OUT: 1,
  FLUSH: 4,
  GET_ID: 8,
  DISCARD: 11,
  WRITE_ZEROES: 13,
} as const

export const BlockStatus = { OK: 0, IOERR: 1, UNSUPP: 2 } as const

const RANGE_FLAG_UNMAP = 1

/** What a request is judged by. */
export interface DiskFacts {
  readonly sizeBytes: number
  readonly readOnly: boolean
}

/** Reused through a {@link BlockRequestPool}. */
export class BlockRequest {
  readonly chain: Chain = new Chain()
  queue = 0
  type = 0
  /** Of IN and OUT. */
  offsetBytes = 0
  /** Bytes of data, in whichever direction they go. */
  dataBytes = 0
  /** Of the data or, by count, of the ranges: handed to the disk. */
  issued = 0
  /** Operations of the disk that are not finished. */
  pendingCount = 0
  status: number = BlockStatus.OK
  next: BlockRequest | null = null

  /** The disk is done with all of it. */
  get isComplete(): boolean {
    return this.pendingCount === 0 && this.issued >= this.dataBytes
  }

  /** What the used ring tells: with the status, what was written for the driver. */
  get writtenBytes(): number {
    const isFilled = this.type === BlockType.IN || this.type === BlockType.GET_ID
    return isFilled && this.status === BlockStatus.OK ? this.dataBytes + 1 : 1
  }

  fail(status: number): void {
    if (this.status === BlockStatus.OK) this.status = status
    this.issued = this.dataBytes
  }
}

/**
 * Takes the header, copied to `view`, and says what becomes of the request: `work` is left to do,
 * or it is `done`, with its status. `isRequest` said that it is one.
 */
export function beginRequest(
  request: BlockRequest,
  view: DataView,
  disk: DiskFacts,
): 'work' | 'done' {
  const { chain } = request
  request.type = view.getUint32(0, true)
  request.issued = 0
  request.pendingCount = 0
  request.status = BlockStatus.OK
  const readableBytes = chain.readableBytes - HEADER_BYTES
  const fillableBytes = chain.writableBytes - 1
  request.dataBytes = request.type === BlockType.IN ? fillableBytes : readableBytes
  const status = judge(request, view, disk, fillableBytes)
  if (status !== BlockStatus.OK) request.fail(status)
  return status === BlockStatus.OK && request.dataBytes > 0 ? 'work' : 'done'
}

/** Whether the descriptors can hold a request: a whole header, and the status. */
export function isRequest(chain: Chain): boolean {
  return chain.readableBytes >= HEADER_BYTES && chain.writableBytes >= 1
}

function judge(
  request: BlockRequest,
  view: DataView,
  disk: DiskFacts,
  fillableBytes: number,
): number {
  switch (request.type) {
    case BlockType.IN:
    case BlockType.OUT:
      if (request.type === BlockType.OUT && disk.readOnly) return BlockStatus.IOERR
      return judgeTransfer(request, view, disk)
    case BlockType.FLUSH:
      // One thing to do, as others have bytes.
      request.dataBytes = 1
      return BlockStatus.OK
    case BlockType.GET_ID:
      request.dataBytes = Math.min(fillableBytes, ID_BYTES)
      return BlockStatus.OK
    case BlockType.DISCARD:
    case BlockType.WRITE_ZEROES: {
      const count = request.dataBytes / RANGE_BYTES
      const isWhole = Number.isInteger(count) && count <= RANGE_COUNT_MAX
      return isWhole && !disk.readOnly ? BlockStatus.OK : BlockStatus.IOERR
    }
    default:
      request.dataBytes = 0
      return BlockStatus.UNSUPP
  }
}

function judgeTransfer(request: BlockRequest, view: DataView, disk: DiskFacts): number {
  const sector = tryUint53(view, 8)
  if (sector === null || request.dataBytes % SECTOR_BYTES !== 0) return BlockStatus.IOERR
  // Sectors, not bytes: no sum or product is formed that could pass what a number holds exactly.
  const capacity = Math.floor(disk.sizeBytes / SECTOR_BYTES)
  if (sector > capacity || request.dataBytes / SECTOR_BYTES > capacity - sector) {
    return BlockStatus.IOERR
  }
  request.offsetBytes = sector * SECTOR_BYTES
  return BlockStatus.OK
}

/** One range of a DISCARD or WRITE_ZEROES. */
export interface BlockRange {
  offsetBytes: number
  lengthBytes: number
  mayUnmap: boolean
}

/** Fills `range` from its 16 bytes; a status other than OK says why it cannot be. */
export function decodeRange(
  type: number,
  view: DataView,
  disk: DiskFacts,
  range: BlockRange,
): number {
  const sector = tryUint53(view, 0)
  const count = view.getUint32(8, true)
  const flags = view.getUint32(12, true)
  const allowed = type === BlockType.WRITE_ZEROES ? RANGE_FLAG_UNMAP : 0
  if ((flags & ~allowed) !== 0) return BlockStatus.UNSUPP
  const capacity = Math.floor(disk.sizeBytes / SECTOR_BYTES)
  if (sector === null || sector > capacity || count > capacity - sector) return BlockStatus.IOERR
  if (count > RANGE_SECTORS_MAX) return BlockStatus.IOERR
  range.offsetBytes = sector * SECTOR_BYTES
  range.lengthBytes = count * SECTOR_BYTES
  range.mayUnmap = flags === RANGE_FLAG_UNMAP
  return BlockStatus.OK
}

export class BlockRequestPool {
  #free: BlockRequest | null = null
  #usedCount = 0

  constructor(count: number) {
    for (let index = 0; index < count; index += 1) {
      const request = new BlockRequest()
      request.next = this.#free
      this.#free = request
    }
  }

  get usedCount(): number {
    return this.#usedCount
  }

  /** The next free one, not yet taken: its chain may be filled. Null: there is none. */
  peek(): BlockRequest | null {
    return this.#free
  }

  take(): BlockRequest {
    const request = must(this.#free, 'a free request')
    this.#free = request.next
    request.next = null
    this.#usedCount += 1
    return request
  }

  release(request: BlockRequest): void {
    request.next = this.#free
    this.#free = request
    this.#usedCount -= 1
  }
}
