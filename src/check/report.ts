/** What a check finds, in the shapes the command line and the API show. */

/** Stable codes: scripts match on them. */
export type FindingCode =
  // The root of everything.
  | 'superblock-corrupt' // neither page is a superblock
  | 'superblock-nonsense' // a sound page with fields that cannot be
  | 'superblock-torn' // one page is unreadable, the other one counts
  | 'superblock-not-clean' // says "closed cleanly", yet there are records to replay
  | 'features-unknown' // written by a version that knows more
  | 'pool-not-locked' // the check ran without holding the pool's lock
  // Segments.
  | 'segment-missing' // something needs a segment that has no file
  | 'segment-header-corrupt'
  | 'segment-unsealed' // lies below the checkpoint and has no sound footer
  | 'segment-table-corrupt' // a page of the checksum table is not what the footer says
  | 'segment-settled-early' // rewritten although the log has still to be replayed from it
  | 'directory-corrupt' // a page of a settled segment's directory is not what the footer says
  | 'directory-nonsense' // a sound page, or footer, that says what cannot be
  | 'settling-leftover' // what a crash while settling left; the next opening removes it
  | 'recycled-leftover' // a file that was kept for a segment to come; the next opening removes it
  | 'segment-misnamed' // header and file name disagree
  | 'segment-leaked' // a file that nothing will ever refer to
  | 'name-unknown' // a file in segments/ that is not a segment
  | 'unused-corrupt' // damage where nothing refers to
  | 'fingerprints-corrupt' // the index of what is stored; made anew when it is needed
  | 'scrub-state-corrupt' // where a scrub had come to; it begins at the beginning
  | 'read-failed' // the operating system could not read it
  // The log.
  | 'record-corrupt' // a record below the checkpoint is damaged
  | 'record-nonsense' // a sound record that says what cannot be
  | 'record-unknown-disk'
  | 'record-past-end' // outside the disk it writes to
  | 'record-removed-disk' // written to a disk that is gone: harmless
  | 'log-gap' // a record known to have been durable is not there
  // The catalogue.
  | 'catalogue-corrupt' // a part is unreadable or not a part
  | 'catalogue-chain' // the parts do not lead back to a full
  | 'operation-corrupt'
  | 'operation-unknown-disk'
  | 'disk-id' // not unique, not below the next id, or not its volume's own
  | 'disk-name' // not unique
  | 'snapshot-orphan' // its volume is gone
  // Maps and blocks.
  | 'node-corrupt'
  | 'node-level' // one node at two levels
  | 'entry-past-end' // a map entry outside its disk
  | 'address-missing-segment'
  | 'address-past-used' // past what was ever written in its segment
  | 'address-unsealed-bulk' // into an import that never finished
  | 'address-no-block' // at a record header, or where no block was written
  | 'alias-unequal' // says that an equal block lies where another one does
  | 'frame-corrupt' // blocks encoded together that cannot be decoded
  | 'block-corrupt'

/** A part of a disk that a finding hits. */
export interface AffectedRange {
  /** `volume` or `volume@snapshot`. */
  disk: string
  offsetBytes: number
  lengthBytes: number
}

export interface Finding {
  code: FindingCode
  message: string
  /** A place in the pool: `superblock`, `segment 3 slot 17`, `disk "a"`. */
  where: string
  /** The parts of disks that are hit, where that is known; a bounded number of them. */
  affected: AffectedRange[]
}

export interface CheckedDisk {
  id: number
  /** `volume` or `volume@snapshot`. */
  name: string
  kind: 'volume' | 'snapshot'
  sizeBytes: number
}

/** Where the log ends, as far as it could be followed. */
export interface CheckedPosition {
  segment: number
  slot: number
  /** Of the next record, which is not there. */
  sequence: number
}

export interface CheckReport {
  /** Data is lost or the pool breaks its own rules. */
  errors: Finding[]
  /** Space that nothing will use or give back by itself. */
  leaks: Finding[]
  /** Worth knowing, nothing to repair. */
  warnings: Finding[]
  /** Findings beyond {@link FINDING_COUNT_MAX} of a kind: counted, not kept. */
  suppressedCount: number
  /** Hexadecimal, or null when no superblock could be read. */
  poolId: string | null
  clean: boolean
  disks: CheckedDisk[]
  segmentCount: number
  /** Blocks reachable from any disk, map nodes, the catalogue and what aliases lead to included. */
  liveBlockCount: number
  /** Bytes of live blocks read and found to match their checksums. */
  verifiedBytes: number
  /**
   * What the files of segments without a live block take; the next reclaim frees them. Zero when
   * there are errors: what is lost may have referred to them.
   */
  reclaimableBytes: number
  replayedRecordCount: number
  position: CheckedPosition | null
}

/** Keeps a hostile pool from filling memory with complaints. */
export const FINDING_COUNT_MAX = 1000
export const AFFECTED_COUNT_MAX = 16

/** Collects findings of one severity. */
export class FindingList {
  readonly findings: Finding[] = []
  suppressedCount = 0

  /** Kept or not. */
  get count(): number {
    return this.findings.length + this.suppressedCount
  }

  /** Returns the finding, kept or not, so that what it hits can be filled in later. */
  add(code: FindingCode, where: string, message: string): Finding {
    const finding: Finding = { code, message, where, affected: [] }
    if (this.findings.length < FINDING_COUNT_MAX) this.findings.push(finding)
    else this.suppressedCount += 1
    return finding
  }
}

/** The three severities, handed to every part of the check. */
export interface Findings {
  readonly errors: FindingList
  readonly leaks: FindingList
  readonly warnings: FindingList
}

export function placeOf(segment: number, slot: number, count = 1): string {
  return count === 1
    ? `segment ${segment} slot ${slot}`
    : `segment ${segment} slots ${slot} to ${slot + count - 1}`
}
