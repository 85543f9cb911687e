/** How results are written: a table, JSON, JSON Lines, bare names. Nothing but data on stdout. */
import { Option } from 'commander'
import type { Command } from 'commander'
import { OperatingError } from '../base/errors.ts'
import type { Column } from './columns.ts'
import type { Cli } from './context.ts'
import { writeOut } from './context.ts'

/** Raised when a key changes its meaning or goes; new keys may come at any time. */
export const API_VERSION = 1

export interface OutputOptions {
  /** `csv`: of lists only. */
  output: 'table' | 'csv' | 'json' | 'jsonl'
  /** `-H`: no header, tabs. */
  script?: boolean
  /** `-p`: exact numbers. */
  exact?: boolean
  /** `-q`: names only. */
  quiet?: boolean
  columns?: string[]
  sort?: string
}

function outputOption(formats: readonly string[] = ['table', 'json', 'jsonl']): Option {
  return new Option('-o, --output <format>', 'how to write the result')
    .choices(formats)
    .default('table')
}

function addExactOption(command: Command): Command {
  return command.option('-p, --exact', 'exact numbers')
}

/** For commands whose result is one thing. */
export function addRecordOptions(command: Command): Command {
  return addExactOption(command.addOption(outputOption()))
}

/** For commands that change something and say little. */
export function addResultOptions(command: Command): Command {
  return command.addOption(outputOption())
}

/** For commands whose result is a list. */
export function addListOptions<T>(command: Command, columns: readonly Column<T>[]): Command {
  const keys = columns.map((column) => column.key).join(', ')
  const formats = ['table', 'csv', 'json', 'jsonl']
  return addExactOption(command.addOption(outputOption(formats)))
    .option('-H, --script', 'no header, tabs between columns')
    .option('-q, --quiet', 'names only')
    .option('--columns <keys>', `which columns, separated by commas: ${keys}`, (text) =>
      text.split(','),
    )
    .option('--sort <key>', 'by which column; -KEY is descending')
}

export interface Listing<T> {
  /** Of the list in JSON. */
  key: string
  rows: readonly T[]
  columns: readonly Column<T>[]
  nameOf: (row: T) => string
  /** What JSON shows, when it is not the rows themselves. */
  json?: readonly object[]
  /** What JSON has besides the list. */
  besides?: object
}

export async function writeList<T extends object>(
  cli: Cli,
  options: OutputOptions,
  listing: Listing<T>,
): Promise<void> {
  const columns = chosenColumns(listing.columns, options.columns)
  const rows = sorted(listing.rows, listing.columns, options.sort)
  if (options.quiet === true) {
    await writeOut(cli.stdout, rows.map((row) => `${listing.nameOf(row)}\n`).join(''))
    return
  }
  const json = listing.json ?? rows
  if (options.output === 'json') return writeJson(cli, { [listing.key]: json, ...listing.besides })
  if (options.output === 'jsonl') return writeJsonLines(cli, json)
  if (options.output === 'csv') return writeOut(cli.stdout, csvText(rows, columns, options))
  await writeOut(cli.stdout, tableText(rows, columns, options))
}

function chosenColumns<T>(
  columns: readonly Column<T>[],
  keys: readonly string[] | undefined,
): readonly Column<T>[] {
  if (keys === undefined) return columns.filter((column) => column.usual)
  return keys.map((key) => mustFindColumn(columns, key))
}

function mustFindColumn<T>(columns: readonly Column<T>[], key: string): Column<T> {
  const found = columns.find((column) => column.key === key.toLowerCase())
  if (found !== undefined) return found
  throw new OperatingError('usage', `there is no column ${key}`, {
    hint: `Columns: ${columns.map((column) => column.key).join(', ')}.`,
  })
}

function sorted<T>(
  rows: readonly T[],
  columns: readonly Column<T>[],
  key: string | undefined,
): readonly T[] {
  if (key === undefined) return rows
  const descending = key.startsWith('-')
  const column = mustFindColumn(columns, descending ? key.slice(1) : key)
  const ascending = rows.toSorted((a, b) => compare(column.order(a), column.order(b)))
  return descending ? ascending.toReversed() : ascending
}

function compare(a: string | number, b: string | number): number {
  if (a === b) return 0
  return a < b ? -1 : 1
}

export function tableText<T>(
  rows: readonly T[],
  columns: readonly Column<T>[],
  options: { script?: boolean; exact?: boolean },
): string {
  const cells = rows.map((row) =>
    columns.map((column) => (options.exact === true ? column.exact(row) : column.text(row))),
  )
  if (options.script === true) return cells.map((line) => `${line.join('\t')}\n`).join('')
  const lines = [columns.map((column) => column.title), ...cells]
  const widths = columns.map((_, index) => Math.max(...lines.map((line) => line[index].length)))
  return lines
    .map((line) => {
      const padded = line.map((cell, index) => {
        const width = widths[index]
        return columns[index].alignRight ? cell.padStart(width) : cell.padEnd(width)
      })
      return `${padded.join('  ').trimEnd()}\n`
    })
    .join('')
}

/** RFC 4180, with exact numbers. */
function csvText<T>(
  rows: readonly T[],
  columns: readonly Column<T>[],
  options: { script?: boolean },
): string {
  const cells = rows.map((row) => columns.map((column) => column.exact(row)))
  const lines = options.script === true ? cells : [columns.map((column) => column.key), ...cells]
  return lines.map((line) => `${line.map(csvCell).join(',')}\r\n`).join('')
}

function csvCell(text: string): string {
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text
}

/** One thing: its fields one a line for people, its own keys in JSON. */
export async function writeRecord(
  cli: Cli,
  options: OutputOptions,
  key: string,
  record: object,
  fields: readonly (readonly [label: string, text: string])[],
  besides: object = {},
): Promise<void> {
  if (options.output === 'json') return writeJson(cli, { [key]: record, ...besides })
  if (options.output === 'jsonl') return writeJsonLines(cli, [{ ...record, ...besides }])
  const width = Math.max(...fields.map(([label]) => label.length))
  const lines = fields.map(([label, text]) => `${label.padEnd(width)}  ${text}\n`)
  await writeOut(cli.stdout, lines.join(''))
}

/** What a change did: JSON when that was asked for, else `sentence`, or nothing when it is null. */
export async function writeResult(
  cli: Cli,
  options: OutputOptions,
  key: string,
  result: object,
  sentence: string | null,
): Promise<void> {
  if (options.output === 'json') return writeJson(cli, { [key]: result })
  if (options.output === 'jsonl') {
    return writeJsonLines(cli, Array.isArray(result) ? (result as object[]) : [result])
  }
  if (sentence !== null) await writeOut(cli.stdout, `${sentence}\n`)
}

export function writeJson(cli: Cli, value: object): Promise<void> {
  const text = JSON.stringify({ apiVersion: API_VERSION, ...value }, null, 2)
  return writeOut(cli.stdout, `${text}\n`)
}

export async function writeJsonLines(cli: Cli, values: readonly object[]): Promise<void> {
  const lines = values.map((value) => `${JSON.stringify({ apiVersion: API_VERSION, ...value })}\n`)
  await writeOut(cli.stdout, lines.join(''))
}
