/**
 * The same hostile clients as in `nbd-fuzz.ts` on real sockets, unix and TCP, and some that agree
 * on TLS and then say anything but that. Slower, and what happens when is the kernel's.
 */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import type { NetConnectOpts } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { assert, must } from '../../src/base/assert.ts'
import { Prng } from '../../src/base/prng.ts'
import { MIB } from '../../src/base/units.ts'
import { NbdServer } from '../../src/export/nbd/server.ts'
import type { Io } from '../../src/io/io.ts'
import { openIo } from '../../src/io/open-io.ts'
import { MemoryTarget, directoryOf } from '../support/memory-target.ts'
import { option, u32 } from '../unit/export/nbd-codec.ts'
import type { DiskFacts } from './nbd-facts.ts'
import { NetEnd } from './net-end.ts'
import { NbdOracle } from './nbd-oracle.ts'
import { drawScript } from './nbd-script.ts'
import { drawManner, playSession } from './nbd-session.ts'
import { Witness } from './nbd-witness.ts'

const DISK_BYTES = 2 * MIB
const ARENA_BYTES = 64 * MIB
/** Of the server: long, or a busy machine would be taken for a slow client. */
const TIMEOUT_MS = 20_000
/** Clients do not try the server's patience here; those of the simulation do. */
const PATIENCE_MS = 200
const CLIENTS_AT_A_TIME = 16
const LATENCY_MS_MAX = 5000
const TLS_HELLO = Buffer.from('16030100c8010000c40303', 'hex')

export interface SocketFuzzOptions {
  seed: number
  executions: number
  onProgress?: (total: SocketFuzzTotal) => boolean
}

export interface SocketFuzzTotal {
  sessions: number
  executions: number
  replies: number
  /** Sessions that agreed on TLS. */
  secured: number
  witnessLatencyMsMax: number
}

export async function fuzzNbdSockets(options: SocketFuzzOptions): Promise<SocketFuzzTotal> {
  const folder = mkdtempSync(join(tmpdir(), 'varve-'))
  const io = await openIo({ arenaBytes: ARENA_BYTES })
  const world = new SocketWorld(io, folder, options.seed)
  try {
    return await world.run(options)
  } finally {
    rmSync(folder, { recursive: true })
  }
}

class SocketWorld {
  readonly #io: Io
  readonly #folder: string
  readonly #prng: Prng
  readonly #targets: MemoryTarget[]
  readonly #facts: DiskFacts[]
  readonly #total: SocketFuzzTotal = {
    sessions: 0,
    executions: 0,
    replies: 0,
    secured: 0,
    witnessLatencyMsMax: 0,
  }

  constructor(io: Io, folder: string, seed: number) {
    this.#io = io
    this.#folder = folder
    this.#prng = new Prng(seed)
    this.#targets = ['disk', 'fixed', 'faulty', 'witness'].map((name) => {
      const isFixed = name === 'fixed'
      const common = { arena: io.arena, sizeBytes: DISK_BYTES, isRecording: false }
      return new MemoryTarget({ ...common, name, readOnly: isFixed })
    })
    this.#facts = this.#targets.map(({ name, sizeBytes, readOnly, data }) => {
      return {
        name,
        sizeBytes,
        isReadOnly: readOnly,
        content: readOnly ? data : null,
        mayFail: false,
      }
    })
  }

  async run({ executions, onProgress }: SocketFuzzOptions): Promise<SocketFuzzTotal> {
    const path = join(this.#folder, 'nbd.sock')
    const limits = { handshakeTimeoutMs: TIMEOUT_MS, stallTimeoutMs: TIMEOUT_MS }
    const directory = directoryOf(...this.#targets)
    const clear = await NbdServer.start(this.#io, directory, {
      addresses: [
        { kind: 'unix', path },
        { kind: 'tcp', host: '127.0.0.1', port: 0 },
      ],
      limits,
    })
    const secure = await NbdServer.start(this.#io, directory, {
      addresses: [{ kind: 'unix', path: `${path}s` }],
      tls: { ...certificate(this.#folder), required: false },
      limits,
    })
    const idleBytes = this.#io.arena.usedBytes
    const tcp = must(clear.addresses[1], 'the TCP address')
    assert(tcp.kind === 'tcp', 'the second address is the TCP one')
    const places: NetConnectOpts[] = [{ path }, { host: tcp.host, port: tcp.port }]
    const clock = { nowMs: () => performance.now(), setTimer: setTimeoutOf }
    const witness = new Witness(await NetEnd.connect({ path }), clock, this.#prng.fork())
    await witness.begin()
    const total = this.#total
    while (total.executions < executions) {
      const clients = Array.from({ length: CLIENTS_AT_A_TIME }, (_, index) => {
        const prng = this.#prng.fork()
        if (index === 0) return this.#garbleTls({ path: `${path}s` }, prng)
        return this.#session(must(places[index % 2], 'a place'), prng)
      })
      await Promise.all(clients)
      if (onProgress?.(total) === false) break
    }
    await witness.finish()
    total.witnessLatencyMsMax = witness.latencyMsMax
    assert(witness.latencyMsMax < LATENCY_MS_MAX, `${witness.latencyMsMax} ms of waiting`)
    for (const server of [clear, secure]) await isEmpty(server)
    assert(this.#io.arena.usedBytes === idleBytes, 'every byte of the arena is back')
    for (const server of [clear, secure]) await server.close(0)
    await this.#io.shutdown()
    return total
  }

  async #session(place: NetConnectOpts, prng: Prng): Promise<void> {
    const script = drawScript(prng, { sizeBytes: DISK_BYTES, requestCountMax: 200 })
    const manner = drawManner(prng)
    const end = await NetEnd.connect(place)
    const session = await playSession(end, script, manner, prng, sleepOf, PATIENCE_MS)
    this.#total.sessions += 1
    this.#total.executions += script.messageCount
    // Whoever hangs up on bytes that nobody read takes what was on its way with it.
    const isComplete = session.isComplete && !end.isReset
    this.#total.replies += new NbdOracle(this.#facts, { ...session, isComplete }).judge().replies
  }

  async #garbleTls(place: NetConnectOpts, prng: Prng): Promise<void> {
    const end = await NetEnd.connect(place)
    end.send(Buffer.concat([u32(3), option(5)]))
    const said: Uint8Array[] = []
    for (let bytes = 0; bytes < 18 + 20;) {
      const part = await end.receive()
      if (part.length === 0) return
      said.push(part)
      bytes += part.length
    }
    const isAgreed = Buffer.concat(said).readUInt32BE(18 + 12) === 1
    assert(isAgreed, 'TLS is offered')
    this.#total.secured += 1
    this.#total.executions += 1
    const noise = Buffer.alloc(prng.pick([0, 1, 5, 300, 70_000]))
    prng.fill(noise)
    end.send(prng.chance(0.5) ? Buffer.concat([TLS_HELLO, noise]) : noise)
    if (prng.chance(0.7)) end.end()
    else if (prng.chance(0.5)) end.close()
    if (prng.chance(0.5)) await sleep(prng.below(20))
    end.close()
  }
}

function sleepOf(delayMs: number): Promise<void> {
  return sleep(delayMs)
}

function setTimeoutOf(delayMs: number, callback: () => void): unknown {
  return setTimeout(callback, delayMs)
}

async function isEmpty(server: NbdServer): Promise<void> {
  for (let waitedMs = 0; server.connections().length > 0; waitedMs += 20) {
    assert(waitedMs < 30_000, 'whoever has gone is gone in the end')
    await sleep(20)
  }
}

function certificate(folder: string): { cert: Buffer; key: Buffer } {
  const [cert, key] = [join(folder, 'cert.pem'), join(folder, 'key.pem')]
  const kind = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1']
  const rest = ['-nodes', '-days', '2', '-subj', '/CN=localhost', '-keyout', key, '-out', cert]
  execFileSync('openssl', [...kind, ...rest], { stdio: 'ignore' })
  return { cert: readFileSync(cert), key: readFileSync(key) }
}
