/** Pauses of a server's garbage collector: how it is told to note them, and what they amount to. */
import { readdirSync, readFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { constants } from 'node:perf_hooks'
import { pathToFileURL } from 'node:url'
import { quantile } from './statistics.ts'

/** The environment that makes a Node program write its pauses to `path`.THREAD at its end. */
export function recordGc(path: string): Record<string, string> {
  const module = pathToFileURL(join(import.meta.dirname, 'gc-recorder.js')).href
  return { NODE_OPTIONS: `--import=${module}`, VARVE_BENCH_GC_FILE: path }
}

export interface Pauses {
  count: number
  /** Zero where there was none. */
  medianMs: number
  p99Ms: number
  maxMs: number
  /** All of them ÷ the time the threads were there. */
  part: number
}

export interface GcPauses {
  threadCount: number
  all: Pauses
  /** Of the young generation, and of everything; what is left are small steps. */
  minor: Pauses
  major: Pauses
}

interface ThreadRecord {
  uptimeMs: number
  pauses: { kind: number; ms: number }[]
}

/** Of a program that has ended; throws when it has written nothing. */
export function readGcPauses(path: string): GcPauses {
  const names = readdirSync(dirname(path)).filter((name) => name.startsWith(`${basename(path)}.`))
  if (names.length === 0) throw new Error(`no pauses were written to ${path}`)
  const threads = names.map(
    (name) => JSON.parse(readFileSync(join(dirname(path), name), 'utf8')) as ThreadRecord,
  )
  const uptimeMs = threads.reduce((sum, thread) => sum + thread.uptimeMs, 0)
  const all = threads.flatMap(({ pauses }) => pauses)
  const ofKind = (wanted: number): Pauses =>
    summaryOf(
      all.filter(({ kind }) => kind === wanted),
      uptimeMs,
    )
  return {
    threadCount: threads.length,
    all: summaryOf(all, uptimeMs),
    minor: ofKind(constants.NODE_PERFORMANCE_GC_MINOR),
    major: ofKind(constants.NODE_PERFORMANCE_GC_MAJOR),
  }
}

function summaryOf(pauses: readonly { ms: number }[], uptimeMs: number): Pauses {
  const durations = pauses.map(({ ms }) => ms)
  const at = (part: number): number => (durations.length === 0 ? 0 : quantile(durations, part))
  return {
    count: durations.length,
    medianMs: at(0.5),
    p99Ms: at(0.99),
    maxMs: at(1),
    part: durations.reduce((sum, ms) => sum + ms, 0) / uptimeMs,
  }
}
