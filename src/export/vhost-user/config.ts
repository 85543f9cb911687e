/**
 * The configuration space of a block device, `struct virtio_blk_config` (VIRTIO 1.2, section
 * 5.2.4), little-endian:
 *
 *     0   u64  capacity in sectors of 512 bytes
 *     8   u32  size_max, u32 seg_max
 *     16  u16  cylinders, u8 heads, u8 sectors
 *     20  u32  blk_size
 *     24  u8   physical_block_exp, u8 alignment_offset, u16 min_io_size, u32 opt_io_size
 *     32  u8   writeback, u8 -, u16 num_queues
 *     36  u32  max_discard_sectors, u32 max_discard_seg, u32 discard_sector_alignment
 *     48  u32  max_write_zeroes_sectors, u32 max_write_zeroes_seg
 *     56  u8   write_zeroes_may_unmap, 3 -
 *     60  secure erase and zoned devices: not ours
 */
import { setUint53 } from '../../base/bytes.ts'
import { BLOCK_SIZE_BYTES } from '../../base/units.ts'
import {
  CONFIG_BYTES_MAX,
  RANGE_COUNT_MAX,
  RANGE_SECTORS_MAX,
  SEGMENT_COUNT_MAX,
} from './limits.ts'

export const SECTOR_BYTES = 512
const SECTORS_PER_BLOCK: number = BLOCK_SIZE_BYTES / SECTOR_BYTES
/** 2 to this many sectors are a block. */
const PHYSICAL_BLOCK_EXPONENT = 3

/** The one field that a driver may write: whether writes may stay in caches until a flush. */
export const WRITEBACK_AT = 32

export interface DiskShape {
  readonly sizeBytes: number
  readonly queueCount: number
  readonly isWriteback: boolean
}

/** All of the space that can be asked for; what is not ours is zeros. */
export function encodeConfig(shape: DiskShape): Uint8Array {
  const bytes = new Uint8Array(CONFIG_BYTES_MAX)
  const view = new DataView(bytes.buffer)
  setUint53(view, 0, Math.floor(shape.sizeBytes / SECTOR_BYTES))
  view.setUint32(12, SEGMENT_COUNT_MAX, true)
  // Smaller writes are possible, and cost a read: so says the physical block.
  view.setUint32(20, SECTOR_BYTES, true)
  view.setUint8(24, PHYSICAL_BLOCK_EXPONENT)
  view.setUint16(26, SECTORS_PER_BLOCK, true)
  view.setUint8(WRITEBACK_AT, shape.isWriteback ? 1 : 0)
  view.setUint16(34, shape.queueCount, true)
  view.setUint32(36, RANGE_SECTORS_MAX, true)
  view.setUint32(40, RANGE_COUNT_MAX, true)
  view.setUint32(44, SECTORS_PER_BLOCK, true)
  view.setUint32(48, RANGE_SECTORS_MAX, true)
  view.setUint32(52, RANGE_COUNT_MAX, true)
  view.setUint8(56, 1)
  return bytes
}
