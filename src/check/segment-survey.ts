/** What segments there are, and which addresses can lie in them. */
import { isZero } from '../base/bytes.ts'
import type { Checksum } from '../base/checksum.ts'
import { PAGE_SIZE_BYTES } from '../format/page.ts'
import type { SegmentFooter, SegmentHeader } from '../format/segment.ts'
import {
  DATA_SLOT_END,
  DATA_SLOT_FIRST,
  DIRECTORY_OFFSET_BYTES,
  FOOTER_SLOT,
  SEGMENT_FOLDER,
  RECYCLED_SUFFIX,
  SETTLING_SUFFIX,
  SegmentKind,
  segmentFileName,
  tryDecodeSegmentFooter,
  tryDecodeSegmentHeader,
  tryParseSegmentFileName,
} from '../format/segment.ts'
import type { Superblock } from '../format/superblock.ts'
import type { PoolReader } from './pool-reader.ts'
import type { RecordDecoder } from './record-decoder.ts'
import { walkHeaders } from './record-decoder.ts'
import type { FindingCode, Findings } from './report.ts'

export interface SurveyedSegment {
  readonly id: number
  /** Null when neither header nor footer says. */
  readonly kind: SegmentKind | null
  /** 0 for a log segment, and while the header does not say. */
  readonly importId: number
  /** Its header page is sound. */
  readonly hasHeader: boolean
  /** Its header page is all zeros. */
  readonly isHeaderBlank: boolean
  /** Null while it is not sealed. */
  readonly footer: SegmentFooter | null
  /** First slot that nothing was written to. */
  readonly usedSlotCount: number
  readonly sizeBytes: number
  readonly allocatedBytes: number
}

export interface AddressFault {
  code: FindingCode
  fact: string
}

export class SegmentSurvey {
  /** Ascending by id. */
  readonly segments: readonly SurveyedSegment[]
  readonly #byId: ReadonlyMap<number, SurveyedSegment>
  /** First slots behind the records that were replayed. */
  readonly #replayed = new Map<number, number>()

  constructor(segments: readonly SurveyedSegment[]) {
    this.segments = segments
    this.#byId = new Map(segments.map((segment) => [segment.id, segment]))
  }

  get(id: number): SurveyedSegment | null {
    return this.#byId.get(id) ?? null
  }

  /** Slots that can hold blocks from this one on. */
  countFrom(id: number, slot: number): number {
    return Math.max(0, this.#endOf(id) - slot)
  }

  /**
   * Records up to `endSlot` are whole. Where a crash cut the file within a record whose rest is
   * zeros, and an opening that crashed, too, sealed the segment before it, the seal has made the
   * file longer, and so that record whole: the next opening takes it.
   */
  noteReplayed(id: number, endSlot: number): void {
    this.#replayed.set(id, endSlot)
  }

  /** Its records go on behind what its seal covers. */
  isSealedShort(id: number): boolean {
    const { footer } = this.get(id) ?? { footer: null }
    return footer !== null && (this.#replayed.get(id) ?? 0) > footer.usedSlotCount
  }

  #endOf(id: number): number {
    return Math.max(this.get(id)?.usedSlotCount ?? 0, this.#replayed.get(id) ?? 0)
  }

  /** Why `count` slots from this address cannot hold blocks, or null. */
  findAddressFault(id: number, slot: number, count: number): AddressFault | null {
    const segment = this.get(id)
    if (segment === null) {
      return { code: 'address-missing-segment', fact: `segment ${id} has no file` }
    }
    if (hasLostDirectory(segment)) {
      const fact = `segment ${id} was settled, and says no more where its blocks are`
      return { code: 'segment-unsealed', fact }
    }
    if (segment.kind === SegmentKind.bulk && segment.footer === null) {
      return { code: 'address-unsealed-bulk', fact: `segment ${id} was never finished` }
    }
    const endSlot = this.#endOf(id)
    if (slot < DATA_SLOT_FIRST || slot + count > endSlot) {
      const fact = `segment ${id} holds slots ${DATA_SLOT_FIRST} to ${endSlot - 1}`
      return { code: 'address-past-used', fact }
    }
    return null
  }
}

/** Only a settled segment is longer than its slots; without its footer nothing in it is found. */
function hasLostDirectory({ footer, sizeBytes }: SurveyedSegment): boolean {
  return footer === null && sizeBytes > DIRECTORY_OFFSET_BYTES
}

interface SurveyContext {
  reader: PoolReader
  checksum: Checksum
  decoder: RecordDecoder
  superblock: Superblock
  findings: Findings
}

/** Reads header and footer of every file in `segments/`. */
export async function surveySegments(
  reader: PoolReader,
  decoder: RecordDecoder,
  superblock: Superblock,
  findings: Findings,
): Promise<SegmentSurvey> {
  const context = { reader, checksum: decoder.checksum, decoder, superblock, findings }
  const segments: SurveyedSegment[] = []
  for (const name of await reader.io.list(`${reader.path}/${SEGMENT_FOLDER}`)) {
    const id = tryParseSegmentFileName(name)
    const where = `${SEGMENT_FOLDER}/${name}`
    if (name.endsWith(SETTLING_SUFFIX)) {
      const fact = 'a crash interrupted settling; the next opening removes the file'
      findings.warnings.add('settling-leftover', where, fact)
    } else if (name.endsWith(RECYCLED_SUFFIX)) {
      const fact = 'it was kept for a segment to come; the next opening removes the file'
      findings.warnings.add('recycled-leftover', where, fact)
    } else if (id === null) {
      findings.leaks.add('name-unknown', where, 'the file is not a segment; nothing will use it')
    } else {
      segments.push(await surveySegment(context, id))
    }
  }
  segments.sort((a, b) => a.id - b.id)
  return new SegmentSurvey(segments)
}

async function surveySegment(context: SurveyContext, id: number): Promise<SurveyedSegment> {
  const { reader, checksum, superblock, findings } = context
  const { poolId } = superblock
  const where = `segment ${id}`
  let headerKind: SegmentKind | null = null
  let importId = 0
  let isHeaderBlank = false
  let result = await reader.readSlots(id, 0, 1)
  if (result < 0) {
    findings.errors.add('read-failed', where, `the header cannot be read (errno ${-result})`)
  } else {
    const header = tryDecodeSegmentHeader(reader.memory, reader.offsetBytes, poolId, checksum)
    headerKind = header?.kind ?? null
    importId = header?.importId ?? 0
    const start = reader.offsetBytes
    isHeaderBlank = isZero(reader.memory, start, start + PAGE_SIZE_BYTES)
    if (header !== null) judgeHeader(header, id, findings)
  }
  let footer: SegmentFooter | null = null
  result = await reader.readSlots(id, FOOTER_SLOT, 1)
  if (result < 0) {
    findings.errors.add('read-failed', where, `the footer cannot be read (errno ${-result})`)
  } else {
    footer = tryDecodeSegmentFooter(reader.memory, reader.offsetBytes, poolId, id, checksum)
  }
  const kind = headerKind ?? footer?.kind ?? null
  if (footer !== null && footer.kind !== kind) {
    findings.errors.add('segment-header-corrupt', where, 'header and footer name different kinds')
  }
  const stat = await reader.stat(`${SEGMENT_FOLDER}/${segmentFileName(id)}`)
  const isLog = kind !== SegmentKind.bulk && stat.sizeBytes <= DIRECTORY_OFFSET_BYTES
  const foundSlotCount =
    footer === null && isLog ? await findUsedSlots(context, id) : DATA_SLOT_FIRST
  const usedSlotCount = footer?.usedSlotCount ?? foundSlotCount
  const hasHeader = headerKind !== null
  return { id, kind, importId, hasHeader, isHeaderBlank, footer, usedSlotCount, ...stat }
}

function judgeHeader({ segment, kind, importId }: SegmentHeader, id: number, to: Findings): void {
  const where = `segment ${id}`
  if (segment !== id) {
    to.errors.add('segment-misnamed', where, `${segmentFileName(id)} holds segment ${segment}`)
    return
  }
  // An import's id is that of its first segment.
  const isPossible = kind === SegmentKind.log ? importId === 0 : importId >= 1 && importId <= id
  if (isPossible) return
  to.errors.add('segment-header-corrupt', where, `it cannot belong to import ${importId}`)
}

/** An open log segment ends where its headers end. */
async function findUsedSlots(context: SurveyContext, id: number): Promise<number> {
  const { reader, decoder, superblock, findings } = context
  const mustReachSlot = mustReach(id, superblock)
  return walkHeaders(reader, decoder, id, mustReachSlot, {
    header: () => undefined,
    gap: (slot) => {
      const fact = 'the header of a record below the checkpoint is damaged'
      findings.errors.add('record-corrupt', `segment ${id} slot ${slot}`, fact)
    },
  })
}

/** Up to where the checkpoint says that an open segment holds records. */
export function mustReach(id: number, superblock: Superblock): number {
  const { position } = superblock
  return id === position.segment ? Math.min(position.slot, DATA_SLOT_END) : DATA_SLOT_FIRST
}
