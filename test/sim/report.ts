/** What a run counts, and what is told of many. */

export interface SimReport {
  seedCount: number
  stepCount: number
  operationCount: number
  crashCount: number
  /** Worlds that ended while a pool was being opened again. */
  recoveryCrashCount: number
  turnCount: number
  failureCount: number
  noSpaceCount: number
  clientDeathCount: number
  /** Requests of dead clients that were never answered. */
  unansweredCount: number
  /** Reads that gave an error where something was damaged. */
  refusedReadCount: number
  /** Pools that refused to open because of damage. */
  refusedOpenCount: number
  /** Seeds that ended because damage to the last records looked like a torn tail. */
  lostTailCount: number
  /** Pools that went on without what was damaged: it stays lost whatever becomes of the disk. */
  fencedCount: number
  /** Scrubs that came to their end, and what they found. */
  scrubCount: number
  scrubFoundCount: number
  scrubHealedCount: number
  writtenBytes: number
  settledBytes: number
  healedPageCount: number
  virtualMs: number
  idleMs: number
  /** Faults that struck, by kind. */
  faults: Record<string, number>
}

export function newReport(): SimReport {
  return {
    seedCount: 0,
    stepCount: 0,
    operationCount: 0,
    crashCount: 0,
    recoveryCrashCount: 0,
    turnCount: 0,
    failureCount: 0,
    noSpaceCount: 0,
    clientDeathCount: 0,
    unansweredCount: 0,
    refusedReadCount: 0,
    refusedOpenCount: 0,
    lostTailCount: 0,
    fencedCount: 0,
    scrubCount: 0,
    scrubFoundCount: 0,
    scrubHealedCount: 0,
    writtenBytes: 0,
    settledBytes: 0,
    healedPageCount: 0,
    virtualMs: 0,
    idleMs: 0,
    faults: {},
  }
}

/** Adds numbers, and numbers in records, of the same names. */
export function addCounts(total: object, part: object): void {
  const sums = total as Record<string, unknown>
  for (const [name, value] of Object.entries(part) as [string, unknown][]) {
    if (typeof value === 'number') sums[name] = Number(sums[name] ?? 0) + value
    else if (typeof value === 'object' && value !== null) {
      sums[name] ??= {}
      addCounts(sums[name] as object, value)
    }
  }
}

const MIB = 2 ** 20

/** What the runs took: by the clock, and of processors, however busy those were otherwise. */
export interface SimCost {
  realMs: number
  cpuMs: number
  jobCount: number
}

/** Lines for a person. */
export function summarize(report: SimReport, { realMs, cpuMs, jobCount }: SimCost): string[] {
  const { virtualMs, idleMs, faults } = report
  const busyMs = virtualMs - idleMs
  const ratio = (ms: number): string => `${Math.round(ms / cpuMs)}`
  const kinds = Object.entries(faults).sort(([left], [right]) => (left < right ? -1 : 1))
  return [
    `${report.seedCount} seeds, ${report.stepCount} steps, ${report.operationCount} operations`,
    `crashes      ${report.crashCount}, while recovering ${report.recoveryCrashCount}`,
    `failures     ${report.failureCount}, disk full ${report.noSpaceCount}`,
    `clients      ${report.clientDeathCount} died, ${report.unansweredCount} requests unanswered`,
    `damage met   ${report.refusedReadCount} reads and ${report.refusedOpenCount} opens refused, ` +
      `${report.healedPageCount} pages put back, ${report.lostTailCount} tails taken for torn`,
    `scrubs       ${report.scrubCount} found ${report.scrubFoundCount}, healed ` +
      `${report.scrubHealedCount}; ${report.fencedCount} pools went on with something lost`,
    `written      ${Math.round(report.writtenBytes / MIB)} MiB, settled ` +
      `${Math.round(report.settledBytes / MIB)} MiB`,
    `faults       ${kinds.map(([kind, count]) => `${kind} ${count}`).join(', ')}`,
    `time         ${Math.round(virtualMs / 1000)} s virtual ` +
      `(${Math.round(idleMs / 1000)} s idle), ` +
      `${Math.round(realMs / 1000)} s real on ${jobCount} processes, ` +
      `${Math.round(cpuMs / 1000)} s of processors`,
    `a processor  ${ratio(virtualMs)} times real time, ${ratio(busyMs)} without the idle`,
  ]
}
