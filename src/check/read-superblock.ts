/** Judges the two superblock pages and picks the one that counts. */
import type { Checksum } from '../base/checksum.ts'
import { isZero, toHex } from '../base/bytes.ts'
import { OperatingError } from '../base/errors.ts'
import { unwritableFeatures, verifyReadable } from '../format/features.ts'
import { FORMAT_VERSION, PAGE_SIZE_BYTES } from '../format/page.ts'
import { DATA_SLOT_END, DATA_SLOT_FIRST } from '../format/segment.ts'
import type { Superblock } from '../format/superblock.ts'
import {
  SUPERBLOCK_COUNT_MAX,
  SUPERBLOCK_FILE,
  SUPERBLOCK_ID_MAX,
  decodeSuperblock,
} from '../format/superblock.ts'
import type { PoolReader } from './pool-reader.ts'
import type { Findings } from './report.ts'

const WHERE = 'superblock'

interface SuperblockPage {
  index: number
  isBlank: boolean
  superblock: Superblock | null
}

/**
 * The newest valid superblock, or null after a finding. Throws OperatingError `unsupported` when
 * a newer version of the format wrote the pool, `not-found` when there is no pool.
 */
export async function readSuperblock(
  reader: PoolReader,
  checksum: Checksum,
  findings: Findings,
): Promise<Superblock | null> {
  const pages = [
    await readPage(reader, checksum, 0, findings),
    await readPage(reader, checksum, 1, findings),
  ]
  let newest: Superblock | null = null
  for (const { superblock } of pages) {
    if (superblock === null) continue
    if (newest === null || superblock.generation > newest.generation) newest = superblock
  }
  if (newest === null) {
    findings.errors.add('superblock-corrupt', WHERE, 'neither page is a sound superblock')
    return null
  }
  for (const page of pages) judgePage(page, newest, findings)
  judgeFields(newest, findings)
  return newest
}

async function readPage(
  reader: PoolReader,
  checksum: Checksum,
  index: number,
  findings: Findings,
): Promise<SuperblockPage> {
  const offsetBytes = index * PAGE_SIZE_BYTES
  const result = await reader.readFile(SUPERBLOCK_FILE, offsetBytes, PAGE_SIZE_BYTES)
  if (result < 0) {
    findings.errors.add('read-failed', WHERE, `page ${index} cannot be read (errno ${-result})`)
    return { index, isBlank: false, superblock: null }
  }
  const start = reader.offsetBytes
  const page = reader.memory.subarray(start, start + PAGE_SIZE_BYTES)
  const verdict = decodeSuperblock(page, checksum)
  if (verdict.kind === 'foreign-version') {
    throw new OperatingError(
      'unsupported',
      `the pool has format version ${verdict.formatVersion}, this program reads ${FORMAT_VERSION}`,
      { hint: 'check it with the version of Varve that wrote it' },
    )
  }
  const isBlank = isZero(page, 0, PAGE_SIZE_BYTES)
  return { index, isBlank, superblock: verdict.kind === 'valid' ? verdict.superblock : null }
}

function judgePage(page: SuperblockPage, newest: Superblock, findings: Findings): void {
  const { index, superblock } = page
  if (superblock === null) {
    // The first generation leaves the other page as it was made: all zeros.
    if (page.isBlank && newest.generation === 1) return
    const fact = `page ${index} is unreadable; generation ${newest.generation} of the other counts`
    findings.warnings.add('superblock-torn', WHERE, fact)
    return
  }
  if (superblock.generation % 2 !== index) {
    const fact = `generation ${superblock.generation} lies on page ${index}`
    findings.errors.add('superblock-nonsense', WHERE, fact)
  }
  if (toHex(superblock.poolId) !== toHex(newest.poolId)) {
    findings.errors.add('superblock-nonsense', WHERE, `page ${index} is of another pool`)
  }
}

function judgeFields(superblock: Superblock, findings: Findings): void {
  const { position, catalogue, nextSegmentId, unfinishedIds } = superblock
  const nonsense = (fact: string): void => {
    findings.errors.add('superblock-nonsense', WHERE, fact)
  }
  verifyReadable(superblock)
  const unwritable = unwritableFeatures(superblock)
  if (unwritable !== null) {
    const fact = `the features of ${unwritable} are unknown; what they add is unchecked`
    findings.warnings.add('features-unknown', WHERE, fact)
  }
  judgeCounts(superblock, nonsense)
  // Segment zero: the pool has been created and never opened, so there is no log yet.
  if (position.segment < 1 && (position.slot !== DATA_SLOT_FIRST || position.sequence !== 1)) {
    nonsense('the log begins in segment zero')
  }
  if (position.slot < DATA_SLOT_FIRST || position.slot > DATA_SLOT_END) {
    nonsense(`the log begins at slot ${position.slot}`)
  }
  // The segment of the next record may be the very one still to be created.
  if (position.segment > nextSegmentId) {
    nonsense(`the log begins in segment ${position.segment}, the next one is ${nextSegmentId}`)
  }
  if (catalogue.blockCount > 0 && catalogue.segment >= nextSegmentId) {
    nonsense(`the catalogue is in segment ${catalogue.segment}, the next one is ${nextSegmentId}`)
  }
  // What the checkpoint refers to was written before the log went on.
  const isBehind = catalogue.slot + catalogue.blockCount > position.slot
  if (catalogue.blockCount > 0 && catalogue.segment === position.segment && isBehind) {
    nonsense(`the catalogue is at slot ${catalogue.slot}, the log begins at slot ${position.slot}`)
  }
  for (const id of unfinishedIds) {
    if (id < 1 || id >= nextSegmentId) nonsense(`nothing unfinished can have the id ${id}`)
  }
}

function judgeCounts(superblock: Superblock, nonsense: (fact: string) => void): void {
  const { generation, position, nextSegmentId, nextDiskId } = superblock
  if (generation < 1) nonsense('the generation is zero')
  if (position.sequence < 1) nonsense('the log begins at record zero')
  if (generation > SUPERBLOCK_COUNT_MAX) nonsense(`generation ${generation} has no next`)
  if (position.sequence > SUPERBLOCK_COUNT_MAX) {
    nonsense(`the log begins at record ${position.sequence}, which has no next`)
  }
  if (nextSegmentId > SUPERBLOCK_ID_MAX) nonsense(`the next segment would be ${nextSegmentId}`)
  if (nextDiskId > SUPERBLOCK_ID_MAX) nonsense(`the next disk would be ${nextDiskId}`)
}
