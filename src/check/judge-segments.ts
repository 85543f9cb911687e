/**
 * What is wrong with segments as such. Two things look alike that are not: a segment that lost
 * its header or footer, and one that a crash cut short while it was made. Whether anything refers
 * to it tells them apart.
 */
import { DATA_SLOT_FIRST, SegmentKind } from '../format/segment.ts'
import type { Superblock } from '../format/superblock.ts'
import { FEATURE_SETTLED } from '../format/features.ts'
import type { Damage } from './damage.ts'
import type { Findings } from './report.ts'
import type { SegmentSurvey, SurveyedSegment } from './segment-survey.ts'
import type { SlotSet } from './slot-set.ts'

/** Reports headers and footers that must be there and are not. */
export function judgeSegments(
  superblock: Superblock,
  survey: SegmentSurvey,
  live: SlotSet,
  damage: Damage,
  findings: Findings,
): void {
  const { position } = superblock
  const settled = survey.segments.find(({ footer }) => footer?.settled !== undefined)
  if (settled !== undefined && (superblock.refuseFeatures & FEATURE_SETTLED) === 0) {
    const fact = `segment ${settled.id} is settled, which its features do not announce`
    findings.errors.add('superblock-nonsense', 'superblock', fact)
  }
  for (const segment of survey.segments) {
    const { id, kind, footer } = segment
    const where = `segment ${id}`
    const isUsed = live.hasSegment(id) || damage.touches(id)
    const holdsLog = id === position.segment && position.slot > DATA_SLOT_FIRST
    if (!segment.hasHeader) {
      if (isUsed || holdsLog || footer !== null) {
        findings.errors.add('segment-header-corrupt', where, 'its header is damaged')
      } else if (!segment.isHeaderBlank && id > position.segment) {
        const fact = 'its header is torn, as by a crash while it was created'
        findings.warnings.add('segment-header-corrupt', where, fact)
      }
    }
    if (footer === null && kind === SegmentKind.log && isUsed && id < position.segment) {
      const fact = 'it lies below the checkpoint but has no sound footer'
      findings.errors.add('segment-unsealed', where, fact)
    }
  }
}

/**
 * Reports files that nothing refers to and nobody will remove, and returns what those take that
 * the pool itself removes: a reclaim removes sealed ones, the next opening those that did not
 * exist at the checkpoint and unfinished imports that it lists.
 */
export function judgeUnused(
  superblock: Superblock,
  survey: SegmentSurvey,
  live: SlotSet,
  findings: Findings,
): number {
  let removableBytes = 0
  for (const segment of survey.segments) {
    if (live.hasSegment(segment.id)) continue
    if (isLeaked(superblock, segment)) {
      const fact = 'a crash left it unfinished; nothing refers to it and nothing will remove it'
      findings.leaks.add('segment-leaked', `segment ${segment.id}`, fact)
    } else if (segment.footer !== null || segment.kind === SegmentKind.bulk) {
      removableBytes += segment.allocatedBytes
    }
  }
  return removableBytes
}

/** The next opening removes it unless the log refers to it: a crash may have torn any of it. */
export function isUnfinished(superblock: Superblock, { id, importId }: SurveyedSegment): boolean {
  const { nextSegmentId, unfinishedIds } = superblock
  return id >= nextSegmentId || unfinishedIds.includes(id) || unfinishedIds.includes(importId)
}

function isLeaked(superblock: Superblock, segment: SurveyedSegment): boolean {
  const { id, kind, footer } = segment
  const { position } = superblock
  if (footer !== null || isUnfinished(superblock, segment)) return false
  // Log segments from the position on are the log's, whether they hold a record yet or not.
  return kind === SegmentKind.bulk || id < position.segment
}
