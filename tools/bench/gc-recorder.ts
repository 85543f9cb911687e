/**
 * Loaded into a server by `NODE_OPTIONS=--import=…`: notes every pause of the garbage collector,
 * of each thread, and writes them when the process ends. Nothing of Varve knows of it.
 */
import { writeFileSync } from 'node:fs'
import { PerformanceObserver } from 'node:perf_hooks'
import { threadId } from 'node:worker_threads'

const path = process.env['VARVE_BENCH_GC_FILE']
if (path !== undefined) {
  const pausesMs: number[] = []
  const observer = new PerformanceObserver((list) => {
    for (const { duration } of list.getEntries()) pausesMs.push(duration)
  })
  observer.observe({ entryTypes: ['gc'] })
  process.once('exit', () => {
    // What has not been handed over yet.
    for (const { duration } of observer.takeRecords()) pausesMs.push(duration)
    const record = { uptimeMs: performance.now(), pausesMs }
    writeFileSync(`${path}.${threadId}`, JSON.stringify(record))
  })
}
