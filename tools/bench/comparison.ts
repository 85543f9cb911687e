/** Tables of ours beside others: rates and ratios, the modes behind the best, what each took. */
import type { Workload } from './fio.ts'
import type { BenchTable, RatioPlot } from './report.ts'
import { bestOf, rateOf, unitOf, type Measured, type Run, type Subject } from './rounds.ts'
import { median, pairRatios, withSpread } from './statistics.ts'

export interface Comparison {
  /** The first is ours. */
  subjects: readonly Subject[]
  /** Names of those that are shown without a ratio. */
  withoutRatio: ReadonlySet<string>
  measured: Measured
}

/** In the order of their first members. */
export function familiesOf(subjects: readonly Subject[]): string[] {
  return [...new Set(subjects.map(({ family }) => family))]
}

/** Of each round, ours ÷ the best of the family; null when one of both did not take part. */
export function ratiosTo(
  family: string,
  workload: Workload,
  { subjects, measured }: Comparison,
): number[] | null {
  const byName = measured.get(workload)
  const ours = byName?.get(subjects[0].name)
  const best = byName && bestOf(family, subjects, workload, byName)
  if (!ours || !best) return null
  const rates = (runs: readonly Run[]): number[] => runs.map((run) => rateOf(workload, run))
  return pairRatios(rates(ours), rates(best.runs))
}

/** Ours, then of each family its best mode, named where there are several, and the ratio. */
export function ratioTable(title: string, comparison: Comparison): BenchTable {
  const { subjects, withoutRatio, measured } = comparison
  const families = familiesOf(subjects)
  const hasRatio = (family: string): boolean =>
    family !== subjects[0].family && !withoutRatio.has(family)
  const header = [
    '',
    ...families.flatMap((family) => (hasRatio(family) ? [family, '÷'] : [family])),
  ]
  const rows = [...measured].map(([workload, byName]) => [
    `${workload.name}, ${unitOf(workload)}`,
    ...families.flatMap((family) => {
      const best = bestOf(family, subjects, workload, byName)
      const shown = best === null ? '–' : shownBest(workload, best.subject, best.runs)
      if (!hasRatio(family)) return [shown]
      const ratios = ratiosTo(family, workload, comparison)
      return [shown, ratios === null ? '–' : median(ratios).toFixed(2)]
    }),
  ])
  return { title, header, rows }
}

function shownBest(workload: Workload, subject: Subject, runs: readonly Run[]): string {
  const rate = withSpread(runs.map((run) => rateOf(workload, run)))
  return subject.name === subject.family
    ? rate
    : `${rate} (${subject.name.slice(subject.family.length + 1)})`
}

/** The same ratios as a picture. */
export function ratioPlot(title: string, comparison: Comparison): RatioPlot {
  const { subjects, withoutRatio, measured } = comparison
  const seriesNames = familiesOf(subjects).filter(
    (family) => family !== subjects[0].family && !withoutRatio.has(family),
  )
  const groups = [...measured.keys()].map((workload) => ({
    name: workload.name,
    values: seriesNames.map((family) => {
      const ratios = ratiosTo(family, workload, comparison)
      return ratios === null ? null : median(ratios)
    }),
  }))
  return { kind: 'ratios', id: 'ratios', title, seriesNames, groups }
}

/** One column for each subject; `cell` is asked for its runs. */
export function subjectTable(
  title: string,
  { subjects, measured }: Comparison,
  label: (workload: Workload) => string,
  cell: (workload: Workload, runs: readonly Run[]) => string,
): BenchTable {
  const rows = [...measured].map(([workload, byName]) => [
    label(workload),
    ...subjects.map(({ name }) => {
      const runs = byName.get(name)
      return runs === undefined ? '–' : cell(workload, runs)
    }),
  ])
  return { title, header: ['', ...subjects.map(({ name }) => name)], rows }
}

/** Microseconds of the server's CPU time for one operation, and how many CPUs it kept busy. */
export function cpuTable(title: string, comparison: Comparison): BenchTable {
  return subjectTable(
    title,
    comparison,
    ({ name }) => name,
    (_workload, runs) => {
      const us = runs.flatMap(({ cpuUsPerOperation }) => cpuUsPerOperation ?? [])
      const cpus = runs.flatMap(({ cpuCount }) => cpuCount ?? [])
      return us.length === 0 ? '–' : `${median(us).toFixed(1)} (${median(cpus).toFixed(2)})`
    },
  )
}

/**
 * What of the reads came from the disk instead of memory, as a part of all that was read, with the
 * name of the subject and workload where that was most, of the subjects that use the page cache.
 */
export function coldestRead(
  measured: Measured,
  isCached: (name: string) => boolean,
): { part: number; where: string } | null {
  let coldest: { part: number; where: string } | null = null
  for (const [workload, byName] of measured) {
    if (!workload.pattern.endsWith('read')) continue
    for (const [name, runs] of byName) {
      if (!isCached(name)) continue
      for (const { device, movedBytes } of runs) {
        const part = device === null ? 0 : device.readBytes / movedBytes
        if (coldest === null || part > coldest.part) {
          coldest = { part, where: `${workload.name} of ${name}` }
        }
      }
    }
  }
  return coldest
}
