/**
 * A busy NBD server on a real socket: clients with 32 requests in flight, some of which are wrong,
 * who leave now and then, politely or not, and come back.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import type { Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { assert } from '../../src/base/assert.ts'
import { Prng } from '../../src/base/prng.ts'
import { MIB } from '../../src/base/units.ts'
import { NbdServer } from '../../src/export/nbd/server.ts'
import type { Io } from '../../src/io/io.ts'
import { openIo } from '../../src/io/open-io.ts'
import { MemoryTarget, directoryOf } from '../support/memory-target.ts'
import { option, request, u32 } from '../unit/export/nbd-codec.ts'

const DISK_BYTES = 4 * MIB
const ARENA_BYTES = 32 * MIB
const DEPTH = 32
const BATCHES_PER_CLIENT = 40
/** Different batches; drawing each anew would be most of the work. */
const BATCH_COUNT = 64
const HANDSHAKE = Buffer.concat([u32(3), option(1, Buffer.from('disk'))])
const HANDSHAKE_REPLY_BYTES = 28
const REPLY_BYTES = 16

interface Batch {
  bytes: Buffer
  replyBytes: number
}

export class NbdLoad {
  readonly target: MemoryTarget
  readonly io: Io
  readonly #server: NbdServer
  readonly #folder: string
  readonly #path: string
  readonly #batches: Batch[]

  private constructor(io: Io, server: NbdServer, target: MemoryTarget, folder: string) {
    this.io = io
    this.target = target
    this.#server = server
    this.#folder = folder
    this.#path = join(folder, 'nbd.sock')
    const prng = new Prng(1)
    this.#batches = Array.from({ length: BATCH_COUNT }, () => drawBatch(prng))
  }

  static async open(): Promise<NbdLoad> {
    const folder = mkdtempSync(join(tmpdir(), 'varve-'))
    const io = await openIo({ arenaBytes: ARENA_BYTES })
    const target = new MemoryTarget({ arena: io.arena, sizeBytes: DISK_BYTES, isRecording: false })
    const server = await NbdServer.start(io, directoryOf(target), {
      addresses: [{ kind: 'unix', path: join(folder, 'nbd.sock') }],
    })
    return new NbdLoad(io, server, target, folder)
  }

  async close(): Promise<void> {
    await this.#server.close(0)
    await this.io.shutdown()
    rmSync(this.#folder, { recursive: true })
  }

  /** At least so many requests; when it resolves nobody is connected. */
  async run(requestCount: number): Promise<void> {
    const perClient = DEPTH * BATCHES_PER_CLIENT
    for (let done = 0; done < requestCount; done += perClient) {
      await this.#client((done / perClient) % 2 === 0)
    }
    for (let waitedMs = 0; this.#server.connections().length > 0; waitedMs += 5) {
      assert(waitedMs < 20_000, 'clients that left are gone in the end')
      await sleep(5)
    }
  }

  /** A polite one says goodbye; the other leaves with its last batch unanswered. */
  async #client(isPolite: boolean): Promise<void> {
    const socket = connect(this.#path)
    const receiver = new Receiver(socket)
    socket.write(HANDSHAKE)
    await receiver.take(HANDSHAKE_REPLY_BYTES)
    for (let index = 0; index < BATCHES_PER_CLIENT; index += 1) {
      const { bytes, replyBytes } = this.#batches[index % BATCH_COUNT]
      socket.write(bytes)
      if (!isPolite && index === BATCHES_PER_CLIENT - 1) break
      await receiver.take(replyBytes)
    }
    if (isPolite) socket.end(request({ type: 2, cookie: 0n }))
    else socket.destroy()
  }
}

class Receiver {
  #bytes = 0
  #wantedBytes = 0
  #resolve: () => void = () => undefined
  #reject: (error: Error) => void = () => undefined

  constructor(socket: Socket) {
    socket.on('data', (part: Buffer) => {
      this.#bytes += part.length
      this.#serve()
    })
    socket.on('error', () => undefined)
    socket.on('close', () => this.#reject(new Error('the server hung up')))
  }

  async take(lengthBytes: number): Promise<void> {
    this.#wantedBytes += lengthBytes
    await new Promise<void>((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
      this.#serve()
    })
    assert(this.#bytes === this.#wantedBytes, 'the server says no more than it should')
  }

  #serve(): void {
    if (this.#bytes >= this.#wantedBytes) this.#resolve()
  }
}

function drawBatch(prng: Prng): Batch {
  const parts: Buffer[] = []
  let replyBytes = 0
  for (let index = 0; index < DEPTH; index += 1) {
    const cookie = BigInt(index)
    const length = 1 + prng.below(4096)
    const offset = prng.below(DISK_BYTES - length)
    const kind = prng.weighted([12, 10, 1, 2, 2, 1, 1, 1])
    replyBytes += REPLY_BYTES + (kind === 0 ? length : 0)
    if (kind === 0) parts.push(request({ type: 0, cookie, offset, length }))
    else if (kind === 1) {
      parts.push(request({ type: 1, cookie, offset, payload: Buffer.alloc(length, index) }))
    } else if (kind === 2) parts.push(request({ type: 3, cookie }))
    else if (kind === 3) parts.push(request({ type: 4, cookie, offset, length }))
    else if (kind === 4) parts.push(request({ type: 6, cookie, offset, length }))
    // An unknown command, a read past the end, a write past the end.
    else if (kind === 5) parts.push(request({ type: 77, cookie, offset, length }))
    else if (kind === 6) parts.push(request({ type: 0, cookie, offset: DISK_BYTES, length }))
    else {
      const payload = Buffer.alloc(length)
      parts.push(request({ type: 1, cookie, offset: DISK_BYTES, payload }))
    }
  }
  return { bytes: Buffer.concat(parts), replyBytes }
}
