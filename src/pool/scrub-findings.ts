import type { ScrubTotals } from '../format/scrub-state.ts'
import type { FaultKind, SegmentFault } from '../segment/segment-scrub.ts'
import type { ScrubCode, ScrubFinding } from './types.ts'

/** Keeps a disk that is dying from filling memory with complaints. */
const FINDING_COUNT_MAX = 1000
export const AFFECTED_COUNT_MAX = 16

const CODES: Record<FaultKind, ScrubCode> = {
  file: 'segment-unreadable',
  header: 'segment-header-corrupt',
  footer: 'segment-footer-corrupt',
  table: 'segment-table-corrupt',
  record: 'record-corrupt',
  block: 'block-corrupt',
  frame: 'frame-corrupt',
  padding: 'padding-corrupt',
}

const FACTS: Record<FaultKind, string> = {
  file: 'its file cannot be opened',
  header: 'the header is damaged',
  footer: 'the footer, which says where its checksums are, is damaged',
  table: 'the checksums of these slots are damaged',
  record: 'the header of a record is damaged',
  block: 'bytes do not match their checksum',
  frame: 'the frame cannot be read or decoded',
  padding: 'bytes that mean nothing are not zero',
}

/** What a run has found, and what it says of itself in the file. */
export class ScrubFindings {
  readonly list: ScrubFinding[] = []
  readonly totals: ScrubTotals
  suppressedCount = 0

  constructor(totals: ScrubTotals) {
    this.totals = { ...totals }
  }

  /** Returns the finding, kept or not, so that what it hits can be filled in. */
  add(
    code: ScrubCode,
    where: string,
    message: string,
    outcome: ScrubFinding['outcome'],
  ): ScrubFinding {
    const finding: ScrubFinding = { code, message, where, outcome, affected: [] }
    this.totals.foundCount += 1
    if (outcome === 'healed') this.totals.healedCount += 1
    if (outcome === 'lost') this.totals.lostCount += 1
    if (this.list.length < FINDING_COUNT_MAX) this.list.push(finding)
    else this.suppressedCount += 1
    return finding
  }

  addFault(segment: number, fault: SegmentFault, outcome: ScrubFinding['outcome']): ScrubFinding {
    const { kind, slot, count } = fault
    const isWhole = kind === 'file' || kind === 'header' || kind === 'footer'
    const slots = count === 1 ? `slot ${slot}` : `slots ${slot} to ${slot + count - 1}`
    const where = isWhole ? `segment ${segment}` : `segment ${segment} ${slots}`
    return this.add(CODES[kind], where, FACTS[kind], outcome)
  }
}

/** Adds a range to what a finding hits, joined to the last one where they meet. */
export function addAffected(
  finding: ScrubFinding,
  disk: string,
  offsetBytes: number,
  lengthBytes: number,
): void {
  const last = finding.affected.at(-1)
  if (last?.disk === disk && last.offsetBytes + last.lengthBytes === offsetBytes) {
    last.lengthBytes += lengthBytes
  } else if (finding.affected.length < AFFECTED_COUNT_MAX) {
    finding.affected.push({ disk, offsetBytes, lengthBytes })
  }
}
