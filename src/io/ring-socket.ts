/**
 * A connected socket on the ring. The descriptor is blocking: the ring polls for it. It is closed
 * once nothing of it is in flight, because a closed number may be given to another file at once.
 */
import { Socket } from 'node:net'
import { assert } from '../base/assert.ts'
import { Errno } from '../base/errors.ts'
import type { Binding } from '../native/binding.ts'
import type { Arena } from './arena.ts'
import type { IoCompletion, IoSocket, IoVector } from './io.ts'
import type { PeerIdentity } from './peer-identity.ts'
import type { Ring } from './ring.ts'
import { PIECES_PER_CALL_MAX } from './ring.ts'

const EINTR = 4
const PIECES_START = 16

const TAG_RECEIVE = 1
const TAG_SEND = 2

export class RingSocket implements IoSocket, IoCompletion {
  readonly peer: string
  readonly identity: PeerIdentity
  readonly arena: Arena
  readonly #binding: Binding
  readonly #ring: Ring
  #fd: number
  #isClosed = false

  #receiver: IoCompletion | null = null
  #receiverTag = 0
  #receiveOffset = 0
  #receiveLength = 0

  #sender: IoCompletion | null = null
  #senderTag = 0
  /** What is still to be sent: pieces from `#piece` on, the first one shortened as it goes. */
  #pairs = new Uint32Array(2 * PIECES_START)
  #piece = 0
  #pieceCount = 0
  #sentBytes = 0

  constructor(fd: number, peer: string, identity: PeerIdentity, ring: Ring, binding: Binding) {
    this.#fd = fd
    this.peer = peer
    this.identity = identity
    this.arena = ring.arena
    this.#ring = ring
    this.#binding = binding
  }

  receive(arenaOffset: number, lengthBytes: number, completion: IoCompletion, tag: number): void {
    assert(lengthBytes > 0, 'a receive has room for a byte')
    if (this.#isClosed) {
      this.#ring.post(completion, tag, -Errno.ECANCELED)
      return
    }
    assert(this.#receiver === null, 'one receive is in flight at a time')
    this.#receiver = completion
    this.#receiverTag = tag
    this.#receiveOffset = arenaOffset
    this.#receiveLength = lengthBytes
    this.#ring.receive(this.#fd, arenaOffset, lengthBytes, this, TAG_RECEIVE)
  }

  send(vector: IoVector, completion: IoCompletion, tag: number): void {
    if (this.#isClosed) {
      this.#ring.post(completion, tag, -Errno.ECANCELED)
      return
    }
    assert(this.#sender === null, 'one send is in flight at a time')
    this.#takePieces(vector)
    if (this.#pieceCount === 0) {
      this.#ring.post(completion, tag, 0)
      return
    }
    this.#sender = completion
    this.#senderTag = tag
    this.#sentBytes = 0
    this.#sendRest()
  }

  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    // Wakes what waits in the kernel, also at the other end. Fails only where the peer is gone.
    this.#binding.socketShutdown(this.#fd)
    this.#closeIfIdle()
  }

  /** Gives the connection to Node; this socket is done with. */
  detachStream(): Socket {
    assert(!this.#isClosed, 'the socket is open')
    assert(this.#receiver === null && this.#sender === null, 'nothing is in flight')
    this.#isClosed = true
    const fd = this.#fd
    this.#fd = -1
    return new Socket({ fd, readable: true, writable: true, allowHalfOpen: true })
  }

  ioComplete(tag: number, result: number): void {
    if (tag === TAG_RECEIVE) this.#received(result)
    else if (tag === TAG_SEND) this.#sent(result)
  }

  #takePieces(vector: IoVector): void {
    if (this.#pairs.length < 2 * vector.count) this.#pairs = new Uint32Array(2 * vector.count)
    let count = 0
    for (let index = 0; index < vector.count; index++) {
      const lengthBytes = vector.pairs[2 * index + 1]
      if (lengthBytes === 0) continue
      this.#pairs[2 * count] = vector.pairs[2 * index]
      this.#pairs[2 * count + 1] = lengthBytes
      count += 1
    }
    this.#piece = 0
    this.#pieceCount = count
  }

  #sendRest(): void {
    const count = Math.min(this.#pieceCount - this.#piece, PIECES_PER_CALL_MAX)
    this.#ring.send(this.#fd, this.#pairs, this.#piece, count, this, TAG_SEND)
  }

  #received(result: number): void {
    if (result === -EINTR && !this.#isClosed) {
      this.#ring.receive(this.#fd, this.#receiveOffset, this.#receiveLength, this, TAG_RECEIVE)
      return
    }
    const receiver = this.#receiver
    assert(receiver !== null, 'a receive was in flight')
    this.#receiver = null
    this.#closeIfIdle()
    // Our own shutdown makes a receive see the end.
    const answer = this.#isClosed && result <= 0 ? -Errno.ECANCELED : result
    receiver.ioComplete(this.#receiverTag, answer)
  }

  #sent(result: number): void {
    if (result > 0) this.#dropSent(result)
    const isWhole = this.#piece === this.#pieceCount
    if (!isWhole && !this.#isClosed && (result > 0 || result === -EINTR)) {
      this.#sendRest()
      return
    }
    const sender = this.#sender
    assert(sender !== null, 'a send was in flight')
    this.#sender = null
    this.#closeIfIdle()
    const failure = this.#isClosed ? -Errno.ECANCELED : result === 0 ? -Errno.EPIPE : result
    sender.ioComplete(this.#senderTag, isWhole ? this.#sentBytes : failure)
  }

  #dropSent(byteCount: number): void {
    this.#sentBytes += byteCount
    let left = byteCount
    while (left > 0) {
      const at = 2 * this.#piece
      const lengthBytes = this.#pairs[at + 1]
      if (left < lengthBytes) {
        this.#pairs[at] += left
        this.#pairs[at + 1] -= left
        return
      }
      left -= lengthBytes
      this.#piece += 1
    }
  }

  #closeIfIdle(): void {
    if (!this.#isClosed || this.#fd === -1) return
    if (this.#receiver !== null || this.#sender !== null) return
    const fd = this.#fd
    this.#fd = -1
    this.#binding.closeFd(fd)
  }
}
