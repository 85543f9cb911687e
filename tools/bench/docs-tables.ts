/** The tables and pictures of docs/benchmarking.md, made of the records of what was measured. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { GIB } from '../../src/base/units.ts'
import { projectRoot } from '../project.ts'
import { plotSvg } from './plot-svg.ts'
import { tryReadRecord, type BenchRecord } from './record.ts'
import { asMarkdown } from './report.ts'

/** Where the records and pictures are that the document shows, below docs/. */
const FOLDER_NAME = 'benchmarks'
const END = '<!-- end -->'

export const documentPath: string = join(projectRoot, 'docs/benchmarking.md')
export const recordFolder: string = join(projectRoot, 'docs', FOLDER_NAME)

/** Names of the benchmarks that have a place in the document. */
export function documentedBenchmarks(document: string): string[] {
  return [...document.matchAll(/^<!-- bench (\w+) -->$/gm)].map((match) => match[1])
}

/** The document with what is between the marks of each record replaced. */
export function withTables(document: string, records: readonly BenchRecord[]): string {
  let result = document
  for (const record of records) {
    const begin = `<!-- bench ${record.benchmark} -->`
    const from = result.indexOf(begin)
    const to = result.indexOf(END, from)
    if (from < 0 || to < 0) throw new Error(`no place between "${begin}" and "${END}"`)
    result = `${result.slice(0, from)}${begin}\n\n${sectionOf(record)}\n\n${result.slice(to)}`
  }
  return result
}

function sectionOf(record: BenchRecord): string {
  const pictures = record.plots.map(
    (plot) => `![${plot.title}](${FOLDER_NAME}/${pictureName(record, plot.id)})`,
  )
  return [stampOf(record), asMarkdown(record), ...pictures].join('\n\n')
}

function stampOf(record: BenchRecord): string {
  const { startedAt, commit, rounds, seconds, host, loadAtStart, isComplete } = record
  const memory = `${(host.memoryBytes / GIB).toFixed(0)} GiB`
  const machine = `${host.cpuCount} CPUs (${host.cpu}), ${memory}, Linux ${host.kernel}`
  return (
    `*${startedAt} UTC, commit ${commit}, ${rounds} rounds of ${seconds} s; ${machine}, ` +
    `Node ${host.node}; load ${loadAtStart.toFixed(1)} when it began` +
    `${isComplete ? '' : '; interrupted'}.*`
  )
}

function pictureName(record: BenchRecord, id: string): string {
  return `${record.benchmark}-${id}.svg`
}

/** Rewrites the document, and the pictures, from the records in a folder; names what it found. */
export function writeDocument(folder: string): string[] {
  const document = readFileSync(documentPath, 'utf8')
  const records = documentedBenchmarks(document)
    .flatMap((benchmark) => tryReadRecord(folder, benchmark) ?? [])
    .filter(({ isQuick }) => !isQuick)
  if (records.length === 0) throw new Error(`${folder} has no record that is not of a quick run`)
  const text = withTables(document, records)
  for (const record of records) {
    for (const plot of record.plots) {
      writeFileSync(join(recordFolder, pictureName(record, plot.id)), plotSvg(plot))
    }
  }
  writeFileSync(documentPath, text)
  return records.map(({ benchmark }) => benchmark)
}

/** Pictures that the document shows and that are not there. */
export function missingPictures(document: string): string[] {
  const names = [...document.matchAll(/\]\(benchmarks\/([^)]+)\)/g)].map((match) => match[1])
  return names.filter((name) => !existsSync(join(recordFolder, name)))
}
