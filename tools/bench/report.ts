/** What every benchmark takes and gives. */
import { table } from '../table.ts'

export interface BenchOptions {
  rounds: number
  /** Of each measurement. */
  seconds: number
  /** Of the disk; each benchmark has its own default. */
  sizeBytes: number | undefined
  /** Of images, as `tools/corpus` makes it. */
  corpusPath: string | undefined
  /** One of them. */
  imagePath: string | undefined
  /** Which of those who are compared, by name or how it begins; all when not given. */
  only: readonly string[] | undefined
  /** A report in JSON of an earlier run, for those who are not measured again. */
  againstPath: string | undefined
  /** Small amounts, to see that everything runs: figures of such a run mean nothing. */
  isQuick: boolean
  /** Empty, on the disk to be measured, removed afterwards. */
  folder: string
  /** Tells a person what is going on. */
  say: (message: string) => void
  /** Takes what is known so far, again and again: what an interrupted run leaves. */
  keep: (report: BenchReport) => void
}

export interface BenchTable {
  /** Empty for the only one of its benchmark. */
  title: string
  /** The first column names the row. */
  header: string[]
  rows: string[][]
}

/** A demand on us, held against what was measured. */
export interface Bar {
  what: string
  /** At least this much, or at most. */
  demanded: { atLeast: number } | { atMost: number }
  measured: number
  /** Empty for a ratio. */
  unit: string
}

/** Lines over a common x axis, whose marks are the points' own. */
export interface LinePlot {
  kind: 'lines'
  /** Part of the file's name. */
  id: string
  title: string
  xLabel: string
  yLabel: string
  series: { name: string; points: [number, number][] }[]
}

/** A bar for each series in each group, with a line where it reaches 1. */
export interface RatioPlot {
  kind: 'ratios'
  id: string
  title: string
  seriesNames: string[]
  /** A value for each series; null: not measured. */
  groups: { name: string; values: (number | null)[] }[]
}

export type Plot = LinePlot | RatioPlot

export interface BenchReport {
  tables: BenchTable[]
  /** What a reader of the tables must know, a sentence or more each. */
  notes: string[]
  bars?: Bar[]
  plots?: Plot[]
  /** For machines, with every single measurement. */
  json: Record<string, unknown>
}

export function isMet({ demanded, measured }: Bar): boolean {
  return 'atLeast' in demanded ? measured >= demanded.atLeast : measured <= demanded.atMost
}

/** The tables and, where something is demanded, one more that says whether it is met. */
export function allTables(report: Pick<BenchReport, 'tables' | 'bars'>): BenchTable[] {
  const { tables, bars = [] } = report
  return bars.length === 0 ? tables : [...tables, barTable(bars)]
}

function barTable(bars: readonly Bar[]): BenchTable {
  const rows = bars.map((bar) => {
    const { demanded, measured, unit, what } = bar
    const shown = (value: number): string => `${shortNumber(value)}${unit === '' ? '' : ` ${unit}`}`
    const limit =
      'atLeast' in demanded ? `≥ ${shown(demanded.atLeast)}` : `≤ ${shown(demanded.atMost)}`
    return [what, limit, shown(measured), isMet(bar) ? 'yes' : 'no']
  })
  return { title: 'What is demanded', header: ['', 'demanded', 'measured', 'met'], rows }
}

/** Two digits behind the point where they say something. */
export function shortNumber(value: number): string {
  if (value === 0 || Math.abs(value) >= 100) return value.toFixed(0)
  return value.toFixed(Math.abs(value) >= 10 ? 1 : 2)
}

/** For a terminal. */
export function asText(report: Pick<BenchReport, 'tables' | 'bars' | 'notes'>): string {
  const tables = allTables(report).map(({ title, header, rows }) => {
    const text = table(header, rows)
    return title === '' ? text : `${title}\n${text}`
  })
  return [...tables, ...report.notes].join('\n\n')
}

/** For docs/benchmarking.md. */
export function asMarkdown(report: Pick<BenchReport, 'tables' | 'bars' | 'notes'>): string {
  const tables = allTables(report).map(({ title, header, rows }) => {
    const line = (cells: readonly string[]): string =>
      `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`
    const rule = `|${header.map((_, column) => (column === 0 ? '---' : '--:')).join('|')}|`
    const text = [line(header), rule, ...rows.map(line)].join('\n')
    return title === '' ? text : `**${title}**\n\n${text}`
  })
  return [...tables, ...report.notes].join('\n\n')
}
