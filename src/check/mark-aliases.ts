/**
 * Makes live what live aliases point to. An alias points downwards, so one pass from the last
 * segment to the first, and in each from its last slot to its first, sees every alias after all
 * that lead to it. Dead aliases may point to what is gone: a reclaim has followed only live ones.
 */
import { PLACE_ALIAS, aliasSlot, placeKind } from '../format/directory.ts'
import { DATA_SLOT_END, DATA_SLOT_FIRST } from '../format/segment.ts'
import type { Damage } from './damage.ts'
import type { Finding, Findings } from './report.ts'
import { placeOf } from './report.ts'
import type { SegmentSurvey } from './segment-survey.ts'
import type { SegmentTables } from './segment-tables.ts'
import type { SlotSet } from './slot-set.ts'

/** Aliases that point where no block can lie are damage; whether one does is seen later. */
export async function markAliases(
  survey: SegmentSurvey,
  tables: SegmentTables,
  live: SlotSet,
  damage: Damage,
  findings: Findings,
): Promise<void> {
  /** By what is wrong, and where: many aliases may lead into one lost segment. */
  const shared = new Map<string, Finding>()
  for (const { id, footer } of survey.segments.toReversed()) {
    if (footer?.settled === undefined || !live.hasSegment(id)) continue
    const table = await tables.load(id)
    if (table === null || table.places === null) continue
    for (let slot = DATA_SLOT_END - 1; slot >= DATA_SLOT_FIRST; slot -= 1) {
      if (!live.has(id, slot) || table.findingOf(slot) !== null) continue
      const word1 = table.places[2 * slot + 1]
      if (placeKind(word1) !== PLACE_ALIAS) continue
      const segment = table.places[2 * slot]
      const target = aliasSlot(word1)
      const fault = survey.findAddressFault(segment, target, 1)
      if (fault === null) {
        live.add(segment, target, 1)
        continue
      }
      const key = `${fault.code} ${segment}`
      const fact = `slot ${slot} of segment ${id} points to it, but ${fault.fact}`
      const where = placeOf(segment, target)
      const finding = shared.get(key) ?? findings.errors.add(fault.code, where, fact)
      shared.set(key, finding)
      damage.add(id, slot, 1, finding)
    }
  }
}
