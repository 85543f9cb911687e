/**
 * Loaded into a server by `NODE_OPTIONS=--import=…`: notes every pause of the garbage collector,
 * of each thread, and writes them when the process ends. Nothing of Varve knows of it.
 */
import { writeFileSync } from 'node:fs'
import { PerformanceObserver, type PerformanceEntry } from 'node:perf_hooks'
import { threadId } from 'node:worker_threads'

const path = process.env['VARVE_BENCH_GC_FILE']
if (path !== undefined) {
  const pauses: { kind: number; ms: number }[] = []
  const note = (entry: PerformanceEntry): void => {
    const { detail, duration } = entry as PerformanceEntry & { detail: { kind: number } }
    pauses.push({ kind: detail.kind, ms: duration })
  }
  const observer = new PerformanceObserver((list) => list.getEntries().forEach(note))
  observer.observe({ entryTypes: ['gc'] })
  process.once('exit', () => {
    // What has not been handed over yet.
    observer.takeRecords().forEach(note)
    const record = { uptimeMs: performance.now(), pauses }
    writeFileSync(`${path}.${threadId}`, JSON.stringify(record))
  })
}
