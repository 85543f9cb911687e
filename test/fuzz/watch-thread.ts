/**
 * Beside a job: sees that no execution takes for ever, and keeps the input of one that does. The
 * job itself cannot: it is in it.
 */
import { mkdirSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { parentPort, workerData } from 'node:worker_threads'
import { INPUT_OFFSET_BYTES } from './watch.ts'
import type { WatchData } from './watch.ts'

const { shared, path, limitMs } = workerData as WatchData
const words = new Int32Array(shared, 0, 4)
/** Without anything to do for the processor it may take so much longer: others are busy. */
const IDLE_FACTOR = 20
const POLL_MS = 500
let target = ''
let count = -1
let startMs = 0
let startMicros = 0

parentPort?.on('message', (name: string) => (target = name))

setInterval(() => {
  const current = Atomics.load(words, 0)
  const { user, system } = process.cpuUsage()
  if (current !== count) {
    count = current
    startMs = performance.now()
    startMicros = user + system
    return
  }
  const usedMs = (user + system - startMicros) / 1000
  if (usedMs < limitMs && performance.now() - startMs < limitMs * IDLE_FACTOR) return
  const lengthBytes = Atomics.load(words, 1)
  mkdirSync(path, { recursive: true })
  const file = join(path, `${target}-endless`)
  writeFileSync(file, new Uint8Array(shared, INPUT_OFFSET_BYTES, lengthBytes).slice())
  writeSync(2, `execution ${count} takes longer than ${limitMs} ms: ${file}\n`)
  process.kill(process.pid, 'SIGKILL')
}, POLL_MS)
