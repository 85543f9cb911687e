/** Pauses of a server's garbage collector: how it is told to note them, and what they amount to. */
import { readdirSync, readFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { quantile } from './statistics.ts'

/** The environment that makes a Node program write its pauses to `path`.THREAD at its end. */
export function recordGc(path: string): Record<string, string> {
  const module = pathToFileURL(join(import.meta.dirname, 'gc-recorder.js')).href
  return { NODE_OPTIONS: `--import=${module}`, VARVE_BENCH_GC_FILE: path }
}

export interface GcPauses {
  threadCount: number
  count: number
  /** Zero where there was none. */
  medianMs: number
  p99Ms: number
  maxMs: number
  /** All pauses ÷ the time the threads were there. */
  part: number
}

/** Of a program that has ended; rejects what wrote nothing. */
export function readGcPauses(path: string): GcPauses {
  const names = readdirSync(dirname(path)).filter((name) => name.startsWith(`${basename(path)}.`))
  if (names.length === 0) throw new Error(`no pauses were written to ${path}`)
  const threads = names.map((name) => {
    const text = readFileSync(join(dirname(path), name), 'utf8')
    return JSON.parse(text) as { uptimeMs: number; pausesMs: number[] }
  })
  const pausesMs = threads.flatMap((thread) => thread.pausesMs)
  const at = (part: number): number => (pausesMs.length === 0 ? 0 : quantile(pausesMs, part))
  const uptimeMs = threads.reduce((sum, thread) => sum + thread.uptimeMs, 0)
  return {
    threadCount: threads.length,
    count: pausesMs.length,
    medianMs: at(0.5),
    p99Ms: at(0.99),
    maxMs: at(1),
    part: pausesMs.reduce((sum, pauseMs) => sum + pauseMs, 0) / uptimeMs,
  }
}
