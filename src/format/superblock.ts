/**
 * The superblock: the root of everything. Two pages in the file `superblock`, written in turn
 * (generation modulo 2), so a torn write leaves the one before. The highest valid generation wins.
 *
 *      0   8  magic "VARVESB1"
 *      8   4  format version
 *     12   4  flags: bit 0 = closed cleanly (nothing to replay)
 *     16  16  pool id, random at creation
 *     32   8  generation, from 1
 *     40   4  features that refuse opening when unknown \
 *     44   4  features that allow reading only            > see `features.ts`
 *     48   4  features that may be ignored               /
 *     52   4  zero
 *     56   8  created, milliseconds since 1970
 *     64   8  capacity in bytes, 0 = the disk's
 *     72   8  sequence of the first record to replay
 *     80   4  segment \ where that record lies
 *     84   4  slot    /
 *     88   8  header checksum of the record before it
 *     96   4  next segment id: no segment from here on existed at the checkpoint
 *    100   4  next disk id
 *    104   4  catalogue: segment \
 *    108   4  catalogue: slot     > the newest part of the catalogue chain
 *    112   4  catalogue: blocks  /
 *    116   4  number of unfinished ids
 *    120   …  unfinished ids, u32 each, at most SUPERBLOCK_UNFINISHED_COUNT_MAX: imports being
 *            filled, by their import id, and segments about to be removed. What has such an id is
 *            to be removed at the next open, unless a replayed `create` takes the import over
 *   4088   8  checksum
 */
import type { Checksum } from '../base/checksum.ts'
import { setUint53, tryUint53 } from '../base/bytes.ts'
import { layout } from '../base/layout.ts'
import { assert } from '../base/assert.ts'
import {
  FORMAT_VERSION,
  PAGE_CHECKSUM_OFFSET,
  PAGE_SIZE_BYTES,
  copyBytes,
  hasMagic,
  isPageSound,
  pageView,
  readBytes,
  sealPage,
  writeMagic,
} from './page.ts'

export const SUPERBLOCK_FILE = 'superblock'
export const SUPERBLOCK_MAGIC = 'VARVESB1'
const FLAG_CLEAN = 1

const FIELD = layout({
  magic: 8,
  formatVersion: 4,
  flags: 4,
  poolId: 16,
  generation: 8,
  refuseFeatures: 4,
  readOnlyFeatures: 4,
  ignoreFeatures: 4,
  reserved: 4,
  createdMs: 8,
  capacityBytes: 8,
  sequence: 8,
  segment: 4,
  slot: 4,
  previousChecksum: 8,
  nextSegmentId: 4,
  nextDiskId: 4,
  catalogueSegment: 4,
  catalogueSlot: 4,
  catalogueBlockCount: 4,
  unfinishedCount: 4,
})
assert(FIELD.endOffset === 120, 'the superblock is as drawn')

/** More imports at once than anybody starts. */
export const SUPERBLOCK_UNFINISHED_COUNT_MAX: number = (PAGE_CHECKSUM_OFFSET - FIELD.endOffset) / 4

/**
 * Sequence and generation stay below this, which is more than any pool comes to: counting on from
 * there stays far from what the fields hold.
 */
export const SUPERBLOCK_COUNT_MAX: number = 2 ** 52
/** The next segment id and the next disk id go no further. */
export const SUPERBLOCK_ID_MAX: number = 2 ** 31

/** Where the log continues: the next record's place, number and predecessor. */
export interface LogPosition {
  segment: number
  slot: number
  sequence: number
  /** Two words. */
  previousChecksum: Uint32Array
}

export interface Superblock {
  poolId: Uint8Array
  generation: number
  refuseFeatures: number
  readOnlyFeatures: number
  ignoreFeatures: number
  clean: boolean
  createdMs: number
  capacityBytes: number
  position: LogPosition
  nextSegmentId: number
  nextDiskId: number
  /** Zeros when the catalogue is empty. */
  catalogue: { segment: number; slot: number; blockCount: number }
  unfinishedIds: number[]
}

export type SuperblockVerdict =
  | { kind: 'valid'; superblock: Superblock }
  | { kind: 'foreign-version'; formatVersion: number }
  | { kind: 'invalid' }

export function encodeSuperblock(
  superblock: Superblock,
  page: Uint8Array,
  checksum: Checksum,
): void {
  assert(page.length === PAGE_SIZE_BYTES, 'a superblock is one page')
  assert(superblock.unfinishedIds.length <= SUPERBLOCK_UNFINISHED_COUNT_MAX, 'unfinished ids fit')
  page.fill(0)
  const view = pageView(page, 0)
  writeMagic(view, SUPERBLOCK_MAGIC)
  view.setUint32(FIELD.formatVersion, FORMAT_VERSION, true)
  view.setUint32(FIELD.flags, superblock.clean ? FLAG_CLEAN : 0, true)
  copyBytes(superblock.poolId, view, FIELD.poolId)
  setUint53(view, FIELD.generation, superblock.generation)
  view.setUint32(FIELD.refuseFeatures, superblock.refuseFeatures, true)
  view.setUint32(FIELD.readOnlyFeatures, superblock.readOnlyFeatures, true)
  view.setUint32(FIELD.ignoreFeatures, superblock.ignoreFeatures, true)
  setUint53(view, FIELD.createdMs, superblock.createdMs)
  setUint53(view, FIELD.capacityBytes, superblock.capacityBytes)
  setUint53(view, FIELD.sequence, superblock.position.sequence)
  view.setUint32(FIELD.segment, superblock.position.segment, true)
  view.setUint32(FIELD.slot, superblock.position.slot, true)
  view.setUint32(FIELD.previousChecksum, superblock.position.previousChecksum[0], true)
  view.setUint32(FIELD.previousChecksum + 4, superblock.position.previousChecksum[1], true)
  view.setUint32(FIELD.nextSegmentId, superblock.nextSegmentId, true)
  view.setUint32(FIELD.nextDiskId, superblock.nextDiskId, true)
  view.setUint32(FIELD.catalogueSegment, superblock.catalogue.segment, true)
  view.setUint32(FIELD.catalogueSlot, superblock.catalogue.slot, true)
  view.setUint32(FIELD.catalogueBlockCount, superblock.catalogue.blockCount, true)
  view.setUint32(FIELD.unfinishedCount, superblock.unfinishedIds.length, true)
  superblock.unfinishedIds.forEach((id, i) => view.setUint32(FIELD.endOffset + 4 * i, id, true))
  sealPage(page, 0, checksum)
}

export function decodeSuperblock(page: Uint8Array, checksum: Checksum): SuperblockVerdict {
  if (page.length !== PAGE_SIZE_BYTES) return { kind: 'invalid' }
  const view = pageView(page, 0)
  if (!hasMagic(view, SUPERBLOCK_MAGIC) || !isPageSound(page, 0, checksum)) {
    return { kind: 'invalid' }
  }
  const formatVersion = view.getUint32(FIELD.formatVersion, true)
  if (formatVersion !== FORMAT_VERSION) return { kind: 'foreign-version', formatVersion }
  const generation = tryUint53(view, FIELD.generation)
  const createdMs = tryUint53(view, FIELD.createdMs)
  const capacityBytes = tryUint53(view, FIELD.capacityBytes)
  const sequence = tryUint53(view, FIELD.sequence)
  const unfinishedCount = view.getUint32(FIELD.unfinishedCount, true)
  if (generation === null || createdMs === null || capacityBytes === null || sequence === null) {
    return { kind: 'invalid' }
  }
  if (unfinishedCount > SUPERBLOCK_UNFINISHED_COUNT_MAX) return { kind: 'invalid' }
  const unfinishedIds: number[] = []
  for (let i = 0; i < unfinishedCount; i += 1) {
    unfinishedIds.push(view.getUint32(FIELD.endOffset + 4 * i, true))
  }
  return {
    kind: 'valid',
    superblock: {
      poolId: readBytes(view, FIELD.poolId, 16),
      generation,
      refuseFeatures: view.getUint32(FIELD.refuseFeatures, true),
      readOnlyFeatures: view.getUint32(FIELD.readOnlyFeatures, true),
      ignoreFeatures: view.getUint32(FIELD.ignoreFeatures, true),
      clean: (view.getUint32(FIELD.flags, true) & FLAG_CLEAN) !== 0,
      createdMs,
      capacityBytes,
      position: {
        segment: view.getUint32(FIELD.segment, true),
        slot: view.getUint32(FIELD.slot, true),
        sequence,
        previousChecksum: Uint32Array.of(
          view.getUint32(FIELD.previousChecksum, true),
          view.getUint32(FIELD.previousChecksum + 4, true),
        ),
      },
      nextSegmentId: view.getUint32(FIELD.nextSegmentId, true),
      nextDiskId: view.getUint32(FIELD.nextDiskId, true),
      catalogue: {
        segment: view.getUint32(FIELD.catalogueSegment, true),
        slot: view.getUint32(FIELD.catalogueSlot, true),
        blockCount: view.getUint32(FIELD.catalogueBlockCount, true),
      },
      unfinishedIds,
    },
  }
}
