/**
 * An {@link IoSocket} over a Node stream: plain `net.Socket`s of node-io, and TLS on every Io.
 * Bytes are copied once on the way in; on the way out the stream reads the arena itself.
 */
import type { Socket } from 'node:net'
import { assert } from '../base/assert.ts'
import { Errno } from '../base/errors.ts'
import type { Arena } from './arena.ts'
import type { IoCompletion, IoSocket, IoVector } from './io.ts'
import type { NodeTurn } from './node-turn.ts'
import { errnoOf } from './os-errors.ts'
import type { PeerIdentity } from './peer-identity.ts'

interface Receiving {
  arenaOffset: number
  lengthBytes: number
  completion: IoCompletion
  tag: number
}

interface Sending {
  totalBytes: number
  completion: IoCompletion
  tag: number
}

/** `unix`, or `address:port` of the other end. */
export function peerOf(socket: Socket): string {
  if (socket.remoteAddress === undefined) return 'unix'
  const { remoteAddress: address, remotePort: port } = socket
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`
}

export class StreamSocket implements IoSocket {
  readonly peer: string
  readonly identity: PeerIdentity
  readonly arena: Arena
  readonly #turn: NodeTurn
  readonly #stream: Socket
  #receiving: Receiving | null = null
  #sending: Sending | null = null
  /** Bytes the stream gave us that no receive has taken yet. */
  #surplus: Buffer | null = null
  #isEnded = false
  #isClosed = false
  /** The stream has closed, by us or not. */
  #isGone = false
  /** Negative errno of the stream's failure; 0 while there is none. */
  #failure = 0

  constructor(stream: Socket, peer: string, identity: PeerIdentity, arena: Arena, turn: NodeTurn) {
    this.#stream = stream
    this.peer = peer
    this.identity = identity
    this.arena = arena
    this.#turn = turn
    stream.on('readable', this.#onReadable)
    stream.on('end', this.#onEnd)
    stream.on('error', this.#onError)
    stream.on('close', this.#onStreamClose)
  }

  receive(arenaOffset: number, lengthBytes: number, completion: IoCompletion, tag: number): void {
    assert(this.#receiving === null, 'one receive is in flight at a time')
    assert(lengthBytes > 0, 'a receive has room for a byte')
    assert(arenaOffset + lengthBytes <= this.arena.sizeBytes, 'a receive fits the arena')
    this.#receiving = { arenaOffset, lengthBytes, completion, tag }
    this.#pump()
  }

  send(vector: IoVector, completion: IoCompletion, tag: number): void {
    assert(this.#sending === null, 'one send is in flight at a time')
    const { pairs, count } = vector
    let totalBytes = 0
    for (let index = 0; index < count; index++) totalBytes += pairs[2 * index + 1]
    if (this.#isClosed || this.#isGone || this.#failure !== 0 || totalBytes === 0) {
      this.#turn.post(completion, tag, this.#refusal())
      return
    }
    this.#sending = { totalBytes, completion, tag }
    const stream = this.#stream
    stream.cork()
    for (let index = 0; index < count; index++) {
      const offset = pairs[2 * index]
      const end = offset + pairs[2 * index + 1]
      assert(end <= this.arena.sizeBytes, 'a sent piece lies in the arena')
      const isLast = index === count - 1
      const bytes = this.arena.memory.subarray(offset, end)
      if (isLast) stream.write(bytes, this.#onWritten)
      else stream.write(bytes)
    }
    stream.uncork()
  }

  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#finishReceive(-Errno.ECANCELED)
    // A send in flight reads arena memory until the stream has let go of it: it completes on close.
    if (this.#sending === null) this.#stream.destroySoon()
    else this.#stream.destroy()
  }

  /** Gives the stream away, unread bytes put back; this socket is done with. */
  detachStream(): Socket {
    assert(this.#receiving === null && this.#sending === null, 'nothing is in flight')
    assert(!this.#isClosed, 'the socket is open')
    this.#isClosed = true
    const stream = this.#stream
    stream.off('readable', this.#onReadable)
    stream.off('end', this.#onEnd)
    stream.off('error', this.#onError)
    stream.off('close', this.#onStreamClose)
    if (this.#surplus !== null) stream.unshift(this.#surplus)
    return stream
  }

  readonly #onReadable = (): void => {
    if (this.#receiving !== null && this.#surplus === null) this.#pump()
  }

  readonly #onEnd = (): void => {
    this.#isEnded = true
    this.#pump()
  }

  readonly #onError = (error: Error): void => {
    this.#failure = -errnoOf(error)
    this.#pump()
  }

  readonly #onStreamClose = (): void => {
    if (this.#failure === 0 && !this.#isEnded) this.#failure = -Errno.ECONNRESET
    this.#pump()
    this.#isGone = true
    this.#finishSend(this.#refusal())
  }

  /** Why nothing can be sent any more; 0 while it can. */
  #refusal(): number {
    if (this.#isClosed) return -Errno.ECANCELED
    if (this.#failure !== 0) return this.#failure
    return this.#isGone ? -Errno.EPIPE : 0
  }

  /** Node calls this without an error also for writes that `destroy` dropped. */
  readonly #onWritten = (error?: Error | null): void => {
    const isWritten = (error === undefined || error === null) && !this.#stream.destroyed
    if (isWritten) this.#finishSend(this.#sending?.totalBytes ?? 0)
    // Else memory may be read until the stream has closed, which follows and completes the send.
    else if (error && 'errno' in error && this.#failure === 0) this.#failure = -errnoOf(error)
  }

  /** Answers the receive in flight if it can be: with bytes first, then the end, then a failure. */
  #pump(): void {
    const receiving = this.#receiving
    if (receiving === null) return
    if (this.#isClosed) {
      this.#finishReceive(-Errno.ECANCELED)
      return
    }
    const chunk = this.#surplus ?? (this.#stream.read() as Buffer | null)
    if (chunk !== null) {
      const lengthBytes = Math.min(chunk.length, receiving.lengthBytes)
      chunk.copy(this.arena.memory, receiving.arenaOffset, 0, lengthBytes)
      this.#surplus = lengthBytes === chunk.length ? null : chunk.subarray(lengthBytes)
      this.#finishReceive(lengthBytes)
    } else if (this.#isEnded) {
      this.#finishReceive(0)
    } else if (this.#failure !== 0) {
      this.#finishReceive(this.#failure)
    }
  }

  #finishReceive(result: number): void {
    const receiving = this.#receiving
    if (receiving === null) return
    this.#receiving = null
    this.#turn.post(receiving.completion, receiving.tag, result)
  }

  #finishSend(result: number): void {
    const sending = this.#sending
    if (sending === null) return
    this.#sending = null
    this.#turn.post(sending.completion, sending.tag, result)
  }
}
