import t from 'tap'
import type { SocketAddress } from '../../src/io/io.ts'
import { SimIo } from '../../src/io/sim-io.ts'
import type { SimPeer } from '../../src/io/sim-socket.ts'
import type { Client, IoUnderTest } from './io-conformance.ts'
import { ioConformance } from './io-conformance.ts'

/** Turns the worlds as long as the suite runs: it waits in real time, not in theirs. */
class Crank {
  readonly #worlds: SimIo[] = []
  #isStopped = false

  add(world: SimIo): SimIo {
    this.#worlds.push(world)
    if (this.#worlds.length === 1) this.#turn()
    return world
  }

  stop(): void {
    this.#isStopped = true
  }

  #turn(): void {
    if (this.#isStopped) return
    for (const world of this.#worlds) world.step()
    setImmediate(() => this.#turn())
  }
}

/** Reads exact lengths from a peer that yields what has come. */
class SimClient implements Client {
  readonly #peer: SimPeer
  #rest: Buffer = Buffer.alloc(0)

  constructor(peer: SimPeer) {
    this.#peer = peer
  }

  write(bytes: Uint8Array): Promise<void> {
    this.#peer.send(bytes)
    return Promise.resolve()
  }

  async read(lengthBytes: number): Promise<Buffer> {
    while (this.#rest.length < lengthBytes) {
      const bytes = await this.#peer.receive()
      if (bytes.length === 0) break
      this.#rest = Buffer.concat([this.#rest, bytes])
    }
    const bytes = this.#rest.subarray(0, lengthBytes)
    this.#rest = this.#rest.subarray(lengthBytes)
    return bytes
  }

  end(): void {
    this.#peer.end()
  }

  destroy(): void {
    this.#peer.close()
  }
}

let seed = 0

async function makeIo(): Promise<IoUnderTest> {
  seed += 1
  const crank = new Crank()
  const io = crank.add(new SimIo({ seed, splitChance: 0 }))
  await io.createDirectory('/world')
  return {
    io,
    folder: '/world',
    another: () => Promise.resolve(crank.add(io.another())),
    connect: async (address: SocketAddress) => Promise.resolve(new SimClient(io.connect(address))),
    dispose: () => Promise.resolve(crank.stop()),
  }
}

await t.test('sim-io keeps the promises of Io', (t) => ioConformance(t, makeIo))
