import type { ScrubStatus, ScrubTotals } from '../api/shapes.ts'
import { formatSize } from '../base/units.ts'
import { formatTime } from './columns.ts'

/** What was found, in a few words. */
export function findingsText({ foundCount, healedCount, lostCount }: ScrubTotals): string {
  if (foundCount === 0) return 'nothing damaged'
  const unusedCount = foundCount - healedCount - lostCount
  return `${foundCount} damaged: ${healedCount} healed, ${lostCount} lost, ${unusedCount} unused`
}

/** How verifying everything stands, for one line. */
export function scrubText({ last, running, phase, done, total, everyDays }: ScrubStatus): string {
  const parts: string[] = []
  if (last === null) parts.push('never')
  else {
    const read = `${formatSize(last.readBytes)} read`
    parts.push(`${formatTime(last.endedMs)} (${read}, ${findingsText(last)})`)
  }
  if (phase !== null) parts.push(`running: ${phase} ${done} of ${total}`)
  else if (running !== null) parts.push('a run was stopped on its way')
  if (everyDays !== null) parts.push(`every ${everyDays} days`)
  return parts.join('; ')
}
