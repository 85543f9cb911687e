/** A real server and more clients than it has places or descriptors for. */
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import type { Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import type { Test } from 'tap'
import { NbdClient } from '../support/nbd-client.ts'
import { mustTool } from '../support/probe.ts'
import { ServedPool, mustVarve } from '../support/varve-process.ts'

const CROWD_COUNT = 10_000
/** Connecting is refused for a moment while the kernel's queue of the socket is full. */
const CONNECTS_AT_A_TIME = 200
const MIB = 1 << 20
const BLOCK_BYTES = 4096

async function serve(t: Test): Promise<ServedPool> {
  const folder = mkdtempSync(join(tmpdir(), 'varve-'))
  const pool = join(folder, 'pool')
  await mustVarve(pool, 'init')
  await mustVarve(pool, 'create', 'disk', '64M')
  const served = await ServedPool.start(pool)
  t.teardown(async () => {
    await served.stop()
    rmSync(folder, { recursive: true })
  })
  return served
}

function descriptorsOf(pid: number): number {
  return readdirSync(`/proc/${pid}/fd`).length
}

function residentBytesOf(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8')
  return 1024 * Number(/VmRSS:\s+(\d+)/.exec(status)?.[1])
}

/** Seconds of processor time it has used. */
function processorSecondsOf(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1].split(' ')
  return (Number(fields[11]) + Number(fields[12])) / 100
}

/** Sockets that connected, whatever became of them then. */
class Crowd {
  readonly sockets: Socket[] = []
  closedCount = 0

  async join(path: string, count: number): Promise<void> {
    while (this.sockets.length < count) {
      const length = Math.min(CONNECTS_AT_A_TIME, count - this.sockets.length)
      const batch = Array.from({ length }, () => this.#connect(path))
      if ((await Promise.all(batch)).includes(false)) await sleep(5)
    }
  }

  leave(): void {
    for (const socket of this.sockets) socket.destroy()
  }

  #connect(path: string): Promise<boolean> {
    return new Promise((resolve) => {
      const socket = connect(path)
      socket.on('error', () => resolve(false))
      socket.once('connect', () => {
        this.sockets.push(socket)
        socket.resume()
        socket.on('close', () => (this.closedCount += 1))
        resolve(true)
      })
    })
  }
}

/** Writes and reads back until stopped; milliseconds of each pair. */
class Worker {
  readonly latenciesMs: number[] = []
  #isEnding = false
  #done: Promise<void>

  constructor(client: NbdClient) {
    this.#done = this.#work(client)
    this.#done.catch(() => undefined)
  }

  async stop(): Promise<void> {
    this.#isEnding = true
    await this.#done
  }

  percentileMs(percent: number): number {
    const sorted = [...this.latenciesMs].sort((a, b) => a - b)
    return sorted[Math.floor((sorted.length * percent) / 100)] ?? 0
  }

  async #work(client: NbdClient): Promise<void> {
    for (let round = 0; !this.#isEnding; round += 1) {
      const startMs = performance.now()
      const offset = (round % 1000) * BLOCK_BYTES
      await client.write(offset, Buffer.alloc(BLOCK_BYTES, round))
      const data = await client.read(offset, BLOCK_BYTES)
      if (data[17] !== (round & 0xff)) throw new Error('other data than was written')
      this.latenciesMs.push(performance.now() - startMs)
      await sleep(1)
    }
  }
}

/** The limit of descriptors that leaves so many numbers free. */
function limitForMore(pid: number, count: number): number {
  const used = new Set(readdirSync(`/proc/${pid}/fd`).map(Number))
  let limit = 0
  for (let freeCount = 0; freeCount < count; limit += 1) if (!used.has(limit)) freeCount += 1
  return limit
}

async function until(condition: () => boolean, timeoutMs: number): Promise<boolean> {
  const endMs = performance.now() + timeoutMs
  while (!condition() && performance.now() < endMs) await sleep(20)
  return condition()
}

t.test('ten thousand who connect and say nothing', { timeout: 110_000 }, async (t) => {
  const served = await serve(t)
  const { pid, socketPath } = served
  const client = await NbdClient.connect(socketPath, 'disk')
  const alone = new Worker(client)
  await sleep(500)
  await alone.stop()
  const before = { descriptors: descriptorsOf(pid), residentBytes: residentBytesOf(pid) }
  const worker = new Worker(client)
  const crowd = new Crowd()
  await crowd.join(socketPath, CROWD_COUNT)
  await until(() => crowd.closedCount >= CROWD_COUNT - 127, 20_000)
  const most = { descriptors: descriptorsOf(pid), residentBytes: residentBytesOf(pid) }
  await worker.stop()
  t.ok(crowd.closedCount >= CROWD_COUNT - 127, `${crowd.closedCount} were turned away`)
  t.ok(most.descriptors <= before.descriptors + 128, `${most.descriptors} descriptors`)
  const grownMiB = Math.round((most.residentBytes - before.residentBytes) / MIB)
  t.ok(grownMiB < 150, `${grownMiB} MiB more`)
  const p99Ms = worker.percentileMs(99)
  const aloneMs = alone.percentileMs(99)
  t.ok(p99Ms < 1000, `p99 ${p99Ms.toFixed(1)} ms, alone ${aloneMs.toFixed(1)} ms`)
  t.comment(`p99 ${p99Ms.toFixed(1)} ms among the crowd, ${aloneMs.toFixed(1)} ms alone`)
  t.comment(`${grownMiB} MiB and ${most.descriptors - before.descriptors} descriptors more`)
  crowd.leave()
  const isBack = await until(() => descriptorsOf(pid) <= before.descriptors, 20_000)
  t.ok(isBack, `${descriptorsOf(pid)} descriptors, ${before.descriptors} before`)
  const leftMiB = Math.round((residentBytesOf(pid) - before.residentBytes) / MIB)
  t.comment(`${leftMiB} MiB more when they have gone`)
  t.ok(leftMiB < 150, `${leftMiB} MiB more when they have gone`)
  const next = await NbdClient.connect(socketPath, 'disk')
  t.equal((await next.read(0, BLOCK_BYTES)).length, BLOCK_BYTES, 'a new client finds a place')
  for (const one of [client, next]) one.close()
})

t.test('a server without descriptors serves on, and accepts again later', async (t) => {
  const served = await serve(t)
  const { pid, socketPath } = served
  const client = await NbdClient.connect(socketPath, 'disk')
  const before = descriptorsOf(pid)
  const limit = limitForMore(pid, 10)
  await mustTool('prlimit', '--pid', String(pid), `--nofile=${limit}:${limit}`)
  const crowd = new Crowd()
  await crowd.join(socketPath, 60)
  const worker = new Worker(client)
  const startSeconds = processorSecondsOf(pid)
  await sleep(2000)
  await worker.stop()
  const usedSeconds = processorSecondsOf(pid) - startSeconds
  t.ok(worker.latenciesMs.length > 10, `${worker.latenciesMs.length} pairs of requests`)
  t.ok(usedSeconds < 1.5, `it does not spin: ${usedSeconds} s of 2`)
  t.ok(descriptorsOf(pid) >= before + 10, 'all of them are in use')
  crowd.leave()
  t.ok(await until(() => descriptorsOf(pid) <= before, 20_000), 'and come back')
  await sleep(500)
  const next = await NbdClient.connect(socketPath, 'disk')
  t.equal((await next.read(0, BLOCK_BYTES)).length, BLOCK_BYTES)
  for (const one of [client, next]) one.close()
})
