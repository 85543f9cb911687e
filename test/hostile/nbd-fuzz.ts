/**
 * The NBD server among hostile clients, in the simulated world: many at a time, each drawn from
 * the seed and judged by {@link NbdOracle}, beside a witness who does ordinary work and whose data
 * and waiting times must not suffer. When all have gone, every byte of memory is back.
 */
import { assert, must } from '../../src/base/assert.ts'
import { Errno } from '../../src/base/errors.ts'
import { Prng } from '../../src/base/prng.ts'
import { MIB } from '../../src/base/units.ts'
import { NbdServer } from '../../src/export/nbd/server.ts'
import type { SocketAddress } from '../../src/io/io.ts'
import { SimIo } from '../../src/io/sim-io.ts'
import { MemoryTarget, directoryOf } from '../support/memory-target.ts'
import type { DiskFacts } from './nbd-facts.ts'
import { NbdOracle } from './nbd-oracle.ts'
import type { Session } from './nbd-oracle.ts'
import { drawScript } from './nbd-script.ts'
import { drawManner, playSession } from './nbd-session.ts'
import { Witness } from './nbd-witness.ts'

const ADDRESS: SocketAddress = { kind: 'unix', path: '/nbd.sock' }
const DISK_BYTES = 2 * MIB
const ARENA_BYTES = 32 * MIB
const STALL_TIMEOUT_MS = 4000
const HANDSHAKE_TIMEOUT_MS = 2000
const PATIENCE_MS = 3 * STALL_TIMEOUT_MS
const ROUNDS_PER_WORLD = 8
const CROWD_COUNT_MAX = 40
/** Of one request of the witness, in virtual time, where the disk itself takes 0.1 ms. */
export const WITNESS_LATENCY_MS_MAX = 100

/** Every place is different, so that data from the wrong one shows. */
const FIXED_CONTENT = Buffer.from(Uint32Array.from({ length: DISK_BYTES / 4 }, (_, i) => i).buffer)

export interface FuzzOptions {
  seed: number
  /** Messages at least: options and requests. */
  executions: number
  /** Sees every session that was judged and found right. */
  onSession?: (session: Session, disks: readonly DiskFacts[]) => void
  /** Called after each world with what was done so far; false ends the run. */
  onProgress?: (total: FuzzTotal) => boolean
}

export interface FuzzTotal {
  worlds: number
  sessions: number
  /** Messages that were sent, before they were damaged. */
  executions: number
  options: number
  requests: number
  replies: number
  receivedBytes: number
  witnessLatencyMsMax: number
  /** Why connections ended, and how often. */
  endings: Record<string, number>
}

/** Throws an Error that names the seed of the world in which something was wrong. */
export async function fuzzNbd(options: FuzzOptions): Promise<FuzzTotal> {
  const total: FuzzTotal = {
    worlds: 0,
    sessions: 0,
    executions: 0,
    options: 0,
    requests: 0,
    replies: 0,
    receivedBytes: 0,
    witnessLatencyMsMax: 0,
    endings: {},
  }
  const arenaMemory = Buffer.alloc(ARENA_BYTES)
  while (total.executions < options.executions) {
    const seed = options.seed + total.worlds
    try {
      await new FuzzWorld(seed, arenaMemory, total, options).run()
    } catch (error) {
      throw new Error(`seed ${seed}: ${(error as Error).message}`, { cause: error })
    }
    total.worlds += 1
    if (options.onProgress?.(total) === false) break
  }
  return total
}

class FuzzWorld {
  readonly #prng: Prng
  readonly #io: SimIo
  readonly #targets: MemoryTarget[]
  readonly #facts: DiskFacts[]
  readonly #total: FuzzTotal
  readonly #options: FuzzOptions

  constructor(seed: number, arenaMemory: Buffer, total: FuzzTotal, options: FuzzOptions) {
    this.#options = options
    this.#prng = new Prng(seed)
    this.#io = new SimIo({ seed, arenaMemory })
    this.#total = total
    const { arena } = this.#io
    const schedule = (complete: () => void): void => void this.#io.setTimer(0.1, complete)
    const common = { arena, sizeBytes: DISK_BYTES, schedule, isRecording: false }
    const snapshots = ['old', 'new']
    const disk = new MemoryTarget({ ...common, name: 'disk', snapshots })
    const fixed = new MemoryTarget({ ...common, name: 'fixed', readOnly: true })
    FIXED_CONTENT.copy(fixed.data)
    const faulty = new MemoryTarget({ ...common, name: 'faulty' })
    faulty.fault = () => (this.#prng.chance(0.05) ? -Errno.EIO : 0)
    this.#targets = [disk, fixed, faulty, new MemoryTarget({ ...common, name: 'witness' })]
    this.#facts = this.#targets.map(({ name, sizeBytes, readOnly, data }) => ({
      name,
      sizeBytes,
      isReadOnly: readOnly,
      content: readOnly ? data : null,
      mayFail: name === 'faulty',
    }))
  }

  async run(): Promise<void> {
    const io = this.#io
    const { endings } = this.#total
    const server = await io.runUntil(
      NbdServer.start(io, directoryOf(...this.#targets), {
        addresses: [ADDRESS],
        limits: { handshakeTimeoutMs: HANDSHAKE_TIMEOUT_MS, stallTimeoutMs: STALL_TIMEOUT_MS },
        onDisconnect: (_peer, _name, reason) => {
          const kind = reason.replace(/\d+/g, 'N')
          endings[kind] = (endings[kind] ?? 0) + 1
        },
      }),
    )
    assert(server !== undefined, 'the server starts')
    const idleBytes = io.arena.usedBytes
    const witness = new Witness(io.connect(ADDRESS), io, this.#prng.fork())
    await io.runUntil(witness.begin())
    for (let round = 0; round < ROUNDS_PER_WORLD; round += 1) await this.#round(server)
    await io.runUntil(witness.finish())
    this.#total.witnessLatencyMsMax = Math.max(
      this.#total.witnessLatencyMsMax,
      witness.latencyMsMax,
    )
    assert(witness.latencyMsMax < WITNESS_LATENCY_MS_MAX, `${witness.latencyMsMax} ms of waiting`)
    await io.runFor(10)
    assert(server.connections().length === 0, 'nobody is left')
    assert(io.arena.usedBytes === idleBytes, 'every byte of the arena is back')
    await io.runUntil(server.close(0))
  }

  async #round(server: NbdServer): Promise<void> {
    const prng = this.#prng
    const isCrowd = prng.chance(0.05)
    const count = isCrowd ? CROWD_COUNT_MAX : 1 + prng.below(10)
    const sessions = Array.from({ length: count }, (_, index) => this.#session(index, isCrowd))
    await this.#io.runUntil(Promise.all(sessions))
    // What those left behind who did not say goodbye.
    const endMs = this.#io.nowMs() + PATIENCE_MS
    while (server.connections().length > 1 && this.#io.nowMs() < endMs) await this.#io.runFor(10)
    assert(server.connections().length === 1, 'only the witness is left')
  }

  async #session(index: number, isCrowd: boolean): Promise<void> {
    const io = this.#io
    const prng = this.#prng.fork()
    const script = drawScript(prng, { sizeBytes: DISK_BYTES, requestCountMax: 200 })
    const manner = drawManner(prng)
    const wait = (delayMs: number): Promise<void> => {
      return new Promise((resolve) => io.setTimer(delayMs, resolve))
    }
    await wait(prng.nextFloat() * 2)
    const end = io.connect(ADDRESS)
    const session = await playSession(end, script, manner, prng, wait, PATIENCE_MS)
    const total = this.#total
    total.sessions += 1
    total.executions += script.messageCount
    total.receivedBytes += session.received.length
    // Some of a crowd are turned away before a word was said.
    if (isCrowd && session.received.length === 0) return
    const oracle = new NbdOracle(this.#facts, session)
    try {
      const counts = oracle.judge()
      total.options += counts.options
      total.requests += counts.requests
      total.replies += counts.replies
      this.#options.onSession?.(session, this.#facts)
    } catch (error) {
      const { message } = must(error as Error | null, 'a reason')
      throw new Error(`client ${index}, ${manner}: ${message}`, { cause: error })
    }
  }
}
