/** A benchmark's report as it is kept: what was measured, where, when, and of which source. */
import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { cpus, loadavg, release, totalmem } from 'node:os'
import { join } from 'node:path'
import { projectRoot } from '../project.ts'
import type { Bar, BenchReport, BenchTable, Plot } from './report.ts'

export interface Host {
  cpu: string
  cpuCount: number
  memoryBytes: number
  kernel: string
  node: string
}

export interface BenchRecord {
  apiVersion: 1
  benchmark: string
  /** Without it the run was interrupted, and this is what it had by then. */
  isComplete: boolean
  /** A run only to see that everything works. */
  isQuick: boolean
  startedAt: string
  /** Of the source, with a plus sign when it was changed since. */
  commit: string
  rounds: number
  seconds: number
  host: Host
  /** Of the last minute, when it began: what others did to the machine. */
  loadAtStart: number
  tables: BenchTable[]
  bars: Bar[]
  plots: Plot[]
  notes: string[]
}

export interface RunFacts {
  benchmark: string
  rounds: number
  seconds: number
  isQuick: boolean
}

/**
 * Called once before anything is measured; the result makes records of reports. `folder` is where
 * the benchmark puts what it makes: in the record it is called `.`.
 */
export function beginRecord(
  facts: RunFacts,
  folder: string,
): (report: BenchReport, isComplete: boolean) => BenchRecord {
  const startedAt = new Date().toISOString().slice(0, 16).replace('T', ' ')
  const [loadAtStart] = loadavg()
  const commit = sourceCommit()
  const host = describeHost()
  return ({ tables, notes, bars = [], plots = [], json }, isComplete) => ({
    apiVersion: 1,
    ...facts,
    isComplete,
    startedAt,
    commit,
    host,
    loadAtStart,
    tables,
    bars,
    plots,
    notes,
    ...withoutFolder(json, folder),
  })
}

function withoutFolder(json: Record<string, unknown>, folder: string): Record<string, unknown> {
  return JSON.parse(JSON.stringify(json).replaceAll(folder, '.')) as Record<string, unknown>
}

/** Replaces what is there at once: an interruption leaves the one or the other. */
export function writeRecord(folder: string, record: BenchRecord): void {
  mkdirSync(folder, { recursive: true })
  const path = recordPath(folder, record.benchmark)
  writeFileSync(`${path}.partial`, `${asJson(record)}\n`)
  renameSync(`${path}.partial`, path)
}

/** Null when that benchmark has left nothing in the folder. */
export function tryReadRecord(folder: string, benchmark: string): BenchRecord | null {
  try {
    return JSON.parse(readFileSync(recordPath(folder, benchmark), 'utf8')) as BenchRecord
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw error
  }
}

function recordPath(folder: string, benchmark: string): string {
  return join(folder, `${benchmark}.json`)
}

/** Indented, with as many digits as a measurement has. */
export function asJson(record: BenchRecord): string {
  const short = (_key: string, value: unknown): unknown =>
    typeof value === 'number' && !Number.isInteger(value) ? Number(value.toPrecision(6)) : value
  return JSON.stringify(record, short, 1)
}

function sourceCommit(): string {
  const git = (...args: string[]): string =>
    spawnSync('git', args, { cwd: projectRoot, encoding: 'utf8' }).stdout.trim()
  const commit = git('rev-parse', '--short', 'HEAD')
  const isChanged = git('status', '--porcelain', '--', 'src', 'native') !== ''
  return commit === '' ? 'unknown' : `${commit}${isChanged ? '+' : ''}`
}

function describeHost(): Host {
  return {
    cpu: cpus()[0].model,
    cpuCount: cpus().length,
    memoryBytes: totalmem(),
    // Without what a distribution or a host calls its build.
    kernel: release().split('-')[0],
    node: process.version,
  }
}
