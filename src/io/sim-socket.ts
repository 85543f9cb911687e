/**
 * Stream sockets in memory: two directions of bytes between a {@link SimSocket}, which an export
 * sees as `IoSocket`, and a {@link SimPeer}, which a test holds. Bytes keep their order; where the
 * stream is cut into receives, and when, is drawn from the seed.
 */
import type { Arena } from './arena.ts'
import { assert } from '../base/assert.ts'
import { Errno } from '../base/errors.ts'
import type { IoCompletion, IoSocket, IoVector } from './io.ts'
import { LOCAL_STRANGER } from './peer-identity.ts'
import type { PeerIdentity } from './peer-identity.ts'

/** A sender waits while more than this is on its way, as with a kernel's socket buffer. */
const WINDOW_BYTES = 256 * 1024

/** What a socket needs of its world. */
export interface SimSocketWorld {
  readonly arena: Arena
  /** A whole number from 0 to `limit - 1`, drawn from the seed. */
  readonly below: (limit: number) => number
  /** Chance that a receive gets only a part of what is there. */
  readonly splitChance: number
  /** Runs `action` after a random delay, in a turn of the loop. */
  later(action: () => void): void
}

/** Bytes on their way in one direction. */
class SimDirection {
  #chunks: Uint8Array[] = []
  #bufferedBytes = 0
  isEnded = false
  /** Called when there is something to read, an end included. */
  onReadable: (() => void) | null = null
  /** Called when there is room again, or nobody is left to read. */
  onRoom: (() => void) | null = null
  isAbandoned = false
  /** The writer is gone, and took with it what was on its way. */
  isReset = false

  get bufferedBytes(): number {
    return this.#bufferedBytes
  }

  get isReadable(): boolean {
    return this.#bufferedBytes > 0 || this.isEnded
  }

  get hasRoom(): boolean {
    return this.#bufferedBytes < WINDOW_BYTES || this.isAbandoned
  }

  push(bytes: Uint8Array): void {
    if (bytes.length === 0 || this.isAbandoned) return
    this.#chunks.push(bytes)
    this.#bufferedBytes += bytes.length
    this.onReadable?.()
  }

  end(): void {
    this.isEnded = true
    this.onReadable?.()
  }

  reset(): void {
    this.#chunks = []
    this.#bufferedBytes = 0
    this.isReset = true
    this.end()
  }

  /** The reader is gone: what comes is thrown away. */
  abandon(): void {
    this.isAbandoned = true
    this.#chunks = []
    this.#bufferedBytes = 0
    this.onRoom?.()
  }

  take(lengthBytes: number): Uint8Array {
    const joined = Buffer.concat(this.#chunks)
    const taken = joined.subarray(0, lengthBytes)
    const rest = joined.subarray(lengthBytes)
    this.#chunks = rest.length > 0 ? [rest] : []
    this.#bufferedBytes = rest.length
    if (this.hasRoom) this.onRoom?.()
    return taken
  }
}

interface Receiving {
  arenaOffset: number
  lengthBytes: number
  completion: IoCompletion
  tag: number
  isScheduled: boolean
}

interface Sending {
  lengthBytes: number
  /** Its bytes are on their way; it waits only for room behind them. */
  isPushed: boolean
  completion: IoCompletion
  tag: number
}

/** The engine's end. */
export class SimSocket implements IoSocket {
  readonly identity: PeerIdentity = LOCAL_STRANGER
  readonly peer: string
  readonly #world: SimSocketWorld
  readonly #inbound: SimDirection
  readonly #outbound: SimDirection
  #receiving: Receiving | null = null
  #sending: Sending | null = null
  #isClosed = false

  constructor(world: SimSocketWorld, peer: string, inbound: SimDirection, outbound: SimDirection) {
    this.#world = world
    this.peer = peer
    this.#inbound = inbound
    this.#outbound = outbound
    inbound.onReadable = () => this.#wakeReceive()
    outbound.onRoom = () => this.#wakeSend()
  }

  receive(arenaOffset: number, lengthBytes: number, completion: IoCompletion, tag: number): void {
    assert(this.#receiving === null, 'one receive is in flight at a time')
    assert(lengthBytes > 0, 'a receive has room for a byte')
    const receiving = { arenaOffset, lengthBytes, completion, tag, isScheduled: false }
    this.#receiving = receiving
    if (this.#isClosed) this.#cancelLater()
    else this.#wakeReceive()
  }

  send(vector: IoVector, completion: IoCompletion, tag: number): void {
    assert(this.#sending === null, 'one send is in flight at a time')
    const { arena } = this.#world
    const parts: Uint8Array[] = []
    for (let index = 0; index < vector.count; index += 1) {
      const offset = vector.pairs[2 * index]
      parts.push(arena.memory.subarray(offset, offset + vector.pairs[2 * index + 1]))
    }
    const bytes = Buffer.concat(parts)
    const sending = { lengthBytes: bytes.length, isPushed: false, completion, tag }
    this.#sending = sending
    this.#world.later(() => {
      if (this.#sending !== sending) return
      if (this.#isClosed) return this.#finishSend(-Errno.ECANCELED)
      if (this.#outbound.isAbandoned) return this.#finishSend(-Errno.EPIPE)
      this.#outbound.push(bytes)
      sending.isPushed = true
      if (this.#outbound.hasRoom) this.#finishSend(bytes.length)
    })
  }

  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#cancelLater()
    this.#world.later(() => {
      this.#inbound.abandon()
      this.#outbound.end()
    })
  }

  #cancelLater(): void {
    this.#world.later(() => {
      const receiving = this.#receiving
      this.#receiving = null
      receiving?.completion.ioComplete(receiving.tag, -Errno.ECANCELED)
      if (this.#sending !== null) this.#finishSend(-Errno.ECANCELED)
    })
  }

  #finishSend(result: number): void {
    const sending = this.#sending
    assert(sending !== null, 'a send that ends was in flight')
    this.#sending = null
    sending.completion.ioComplete(sending.tag, result)
  }

  #wakeSend(): void {
    const sending = this.#sending
    if (sending === null || !sending.isPushed) return
    this.#world.later(() => {
      if (this.#sending !== sending || this.#isClosed) return
      if (this.#outbound.isAbandoned) this.#finishSend(-Errno.EPIPE)
      else if (this.#outbound.hasRoom) this.#finishSend(sending.lengthBytes)
    })
  }

  #wakeReceive(): void {
    const receiving = this.#receiving
    if (receiving === null || receiving.isScheduled || !this.#inbound.isReadable) return
    receiving.isScheduled = true
    this.#world.later(() => {
      if (this.#receiving !== receiving || this.#isClosed) return
      this.#receiving = null
      receiving.completion.ioComplete(receiving.tag, this.#fill(receiving))
    })
  }

  #fill(receiving: Receiving): number {
    const { arena, below, splitChance } = this.#world
    if (this.#inbound.isReset) return -Errno.ECONNRESET
    let count = Math.min(receiving.lengthBytes, this.#inbound.bufferedBytes)
    if (count > 1 && below(1000) < splitChance * 1000) count = 1 + below(count)
    arena.memory.set(this.#inbound.take(count), receiving.arenaOffset)
    return count
  }
}

/** The test's end: plain bytes, no arena. */
export class SimPeer {
  readonly #inbound: SimDirection
  readonly #outbound: SimDirection

  constructor(inbound: SimDirection, outbound: SimDirection) {
    this.#inbound = inbound
    this.#outbound = outbound
  }

  send(bytes: Uint8Array): void {
    this.#outbound.push(Uint8Array.from(bytes))
  }

  /** Resolves with what has arrived, at least a byte; empty once the other end has closed. */
  receive(): Promise<Uint8Array> {
    if (this.#inbound.isReadable) return Promise.resolve(this.#takeAll())
    return new Promise((resolve) => {
      this.#inbound.onReadable = () => {
        this.#inbound.onReadable = null
        resolve(this.#takeAll())
      }
    })
  }

  /** Ends the sending direction; what comes can still be received. */
  end(): void {
    this.#outbound.end()
  }

  /** Dies: what it sent and nobody has received is lost, and what is sent to it as well. */
  reset(): void {
    this.#outbound.reset()
    this.#inbound.abandon()
  }

  /** Drops the connection. */
  close(): void {
    this.#outbound.end()
    this.#inbound.abandon()
  }

  #takeAll(): Uint8Array {
    return this.#inbound.take(this.#inbound.bufferedBytes)
  }
}

/** A connected pair of ends. */
export function simSocketPair(world: SimSocketWorld, peer: string): [SimSocket, SimPeer] {
  const toEngine = new SimDirection()
  const toPeer = new SimDirection()
  return [new SimSocket(world, peer, toEngine, toPeer), new SimPeer(toPeer, toEngine)]
}
