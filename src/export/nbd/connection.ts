/**
 * One client: a socket that drives the handshake core and then the transmission core. At the end
 * of every turn in which something changed it sends all replies that are ready in one call and
 * receives again. Memory is given back only when the socket has let go of it, the disk is closed
 * only when the target has.
 */
import { assert, must } from '../../base/assert.ts'
import type { Io, IoCompletion, IoSocket, IoVector, TurnHook } from '../../io/io.ts'
import type { PeerIdentity } from '../../io/peer-identity.ts'
import type { ExportDirectory } from '../target.ts'
import type { Agreement, HandshakeHost, HandshakeOutcome } from './haggle.ts'
import { Handshake } from './handshake.ts'
import { Input } from './input.ts'
import type { NbdLimits } from './limits.ts'
import { BATCH_HEADERS_BYTES, BATCH_REPLY_COUNT_MAX } from './limits.ts'
import type { ConnectionMemory } from './memory.ts'
import type { TransmissionOwner } from './transmission.ts'
import { Transmission } from './transmission.ts'

const RECEIVE = 0
const SEND = 1
/** A header and a piece for each reply. */
const VECTOR_PAIRS_MAX = 2 * BATCH_REPLY_COUNT_MAX
/** A client is looked at this often within the stall timeout. */
export const STALL_TICKS = 4

const NOTHING: ExportDirectory = { list: () => [], open: () => null }

export interface ConnectionOptions {
  /** What this client gets to see; null: nothing. */
  readonly directoryOf: (peer: PeerIdentity) => ExportDirectory | null
  readonly limits: NbdLimits
  readonly tls: 'none' | 'offered' | 'required'
  /** Turns the connection into a TLS one; rejects when the client does not manage. */
  readonly upgrade: (socket: IoSocket) => Promise<IoSocket>
  /** Called once, when nothing of the connection is left. `reason`: why it ended. */
  readonly onClosed: (connection: Connection, reason: string) => void
}

export class Connection implements IoCompletion, TurnHook, TransmissionOwner {
  readonly peer: string
  readonly #io: Io
  readonly #memory: ConnectionMemory
  readonly #options: ConnectionOptions
  readonly #input: Input
  readonly #vector: IoVector = { pairs: new Uint32Array(2 * VECTOR_PAIRS_MAX), count: 0 }
  #socket: IoSocket
  #handshake: Handshake | null
  #agreement: Agreement | null = null
  #transmission: Transmission | null = null
  /** Of the handshake, not yet sent. */
  #output: Buffer = Buffer.alloc(0)
  #isReceiving = false
  #isSending = false
  #isUpgrading = false
  /** Why it is ending, or null. */
  #ending: string | null = null
  #isClosed = false
  readonly #cancelTimeout: () => void
  /** Sends that have ended. */
  #sentCount = 0
  /** What it owed at the last tick, and for how many ticks it has owed just that. */
  #owedSeen = -1
  #stallTicks = 0

  constructor(io: Io, socket: IoSocket, memory: ConnectionMemory, options: ConnectionOptions) {
    this.peer = socket.peer
    this.#io = io
    this.#socket = socket
    this.#memory = memory
    this.#options = options
    this.#input = new Input(memory)
    this.#handshake = new Handshake(this.#host(options.tls))
    this.#output = Handshake.greeting()
    const { handshakeTimeoutMs } = options.limits
    this.#cancelTimeout = io.setTimer(handshakeTimeoutMs, () => this.cut('handshake timeout'))
    io.atTurnEnd(this)
  }

  /** Name of the disk it uses, null before it has chosen one. */
  get exportName(): string | null {
    return this.#agreement?.target.name ?? null
  }

  ioComplete(tag: number, result: number): void {
    if (tag === RECEIVE) this.#received(result)
    else this.#sent(result)
    this.#io.atTurnEnd(this)
  }

  transmissionChanged(): void {
    this.#io.atTurnEnd(this)
  }

  turnEnd(): void {
    if (this.#isClosed) return
    if (this.#ending === null) {
      if (this.#transmission !== null) this.#transmit(this.#transmission)
      else this.#shakeHands()
    }
    if (this.#ending !== null) this.#finish()
  }

  /** Begins no more requests, answers those begun, then disconnects. */
  drain(): void {
    if (this.#transmission === null) this.cut('the server is shutting down')
    else this.#transmission.closeInput()
    this.#io.atTurnEnd(this)
  }

  /** Disconnects now; what the disk is doing still completes. */
  cut(reason: string): void {
    if (this.#ending !== null) return
    this.#ending = reason
    this.#cancelTimeout()
    this.#socket.close()
    this.#io.atTurnEnd(this)
  }

  /** Called {@link STALL_TICKS} times within the stall timeout. */
  stallTick(): void {
    const owed = this.#owed()
    this.#stallTicks = owed !== -1 && owed === this.#owedSeen ? this.#stallTicks + 1 : 0
    this.#owedSeen = owed
    if (this.#stallTicks > STALL_TICKS) this.cut('the client neither sends nor receives')
  }

  /**
   * Names what the client keeps us waiting for, -1 while it does not. A byte now and then changes
   * nothing: only a whole batch of replies or a whole piece of a payload gives memory back.
   */
  #owed(): number {
    if (this.#isSending) return 2 * this.#sentCount
    const transmission = this.#transmission
    return transmission?.isAwaitingPayload === true ? 2 * transmission.pieceCount + 1 : -1
  }

  #host(tls: HandshakeHost['tls']): HandshakeHost {
    const directory = this.#options.directoryOf(this.#socket.identity) ?? NOTHING
    return { directory, client: `nbd ${this.peer}`, tls }
  }

  #received(result: number): void {
    this.#isReceiving = false
    if (this.#ending !== null) return
    if (result < 0) this.cut('the connection broke')
    else if (result === 0) this.#ended()
    else if (this.#transmission !== null) this.#transmission.received(result)
    else this.#input.received(result)
  }

  /** The client says no more; what it asked before is still answered. */
  #ended(): void {
    if (this.#transmission === null) this.cut('the client left during the handshake')
    else this.#transmission.closeInput()
  }

  #sent(result: number): void {
    this.#isSending = false
    this.#sentCount += 1
    if (this.#ending === null && result < 0) this.cut('the connection broke')
    this.#transmission?.sent()
  }

  #transmit(transmission: Transmission): void {
    transmission.resume()
    if (!this.#isSending && transmission.gather(this.#vector) > 0) this.#send()
    if (transmission.failure !== null) {
      this.cut(transmission.failure)
    } else if (transmission.isInputClosed && transmission.isDrained) {
      this.cut('disconnected')
    } else if (!this.#isReceiving && transmission.tryReceive()) {
      this.#receive(transmission.receiveOffset, transmission.receiveBytes)
    }
  }

  /** Sends what there is to say, else looks at the next option, else receives. */
  #shakeHands(): void {
    if (this.#isSending || this.#isReceiving || this.#isUpgrading) return
    const handshake = must(this.#handshake, 'the handshake')
    if (this.#output.length > 0) {
      this.#sendOutput()
      return
    }
    if (handshake.outcome !== null) {
      this.#conclude(handshake.outcome)
      return
    }
    const { position, availableBytes } = this.#input
    if (availableBytes === 0) {
      const roomBytes = this.#input.tryMakeRoom(false)
      assert(roomBytes > 0, 'there is room before anything is written')
      this.#receive(this.#input.receiveOffset, roomBytes)
      return
    }
    const bytes = this.#memory.arena.memory.subarray(position, position + availableBytes)
    this.#input.consume(handshake.consume(bytes))
    this.#output = handshake.takeOutput()
    this.#adopt(handshake.outcome)
    this.#io.atTurnEnd(this)
  }

  /** From here on the connection owns the disk, whatever happens before its last words are sent. */
  #adopt(outcome: HandshakeOutcome | null): void {
    if (outcome?.kind === 'transmit') this.#agreement = outcome.agreement
  }

  #conclude(outcome: HandshakeOutcome): void {
    if (outcome.kind === 'close') {
      this.cut(outcome.reason)
    } else if (outcome.kind === 'start-tls') {
      this.#startTls()
    } else {
      this.#cancelTimeout()
      this.#handshake = null
      this.#transmission = new Transmission(this.#memory, this.#input, outcome.agreement, this)
      this.#io.atTurnEnd(this)
    }
  }

  #startTls(): void {
    if (this.#input.availableBytes > 0) {
      // Sent in the clear, it must not be taken for something that TLS protected.
      this.cut('bytes after NBD_OPT_STARTTLS and before TLS')
      return
    }
    this.#isUpgrading = true
    const { start } = must(this.#handshake, 'the handshake')
    this.#options.upgrade(this.#socket).then(
      (socket) => this.#secured(socket, start),
      () => this.#upgradeEnded('the TLS handshake failed'),
    )
  }

  #secured(socket: IoSocket, start: Handshake['start']): void {
    this.#socket = socket
    this.#handshake = new Handshake(this.#host('secured'), start)
    this.#upgradeEnded(null)
  }

  #upgradeEnded(failure: string | null): void {
    this.#isUpgrading = false
    if (failure !== null) this.cut(failure)
    // Cut off while it was being upgraded: the new socket has to be closed, too.
    if (this.#ending !== null) this.#socket.close()
    this.#io.atTurnEnd(this)
  }

  #sendOutput(): void {
    const bytes = this.#output.subarray(0, BATCH_HEADERS_BYTES)
    const { headersOffset } = this.#memory
    this.#memory.arena.memory.set(bytes, headersOffset)
    this.#output = this.#output.subarray(bytes.length)
    this.#vector.pairs[0] = headersOffset
    this.#vector.pairs[1] = bytes.length
    this.#vector.count = 1
    this.#send()
  }

  #send(): void {
    this.#isSending = true
    this.#socket.send(this.#vector, this, SEND)
  }

  #receive(arenaOffset: number, lengthBytes: number): void {
    this.#isReceiving = true
    this.#socket.receive(arenaOffset, lengthBytes, this, RECEIVE)
  }

  /** Lets go of everything as soon as neither socket nor disk uses it. */
  #finish(): void {
    if (this.#isReceiving || this.#isSending || this.#isUpgrading) return
    const transmission = this.#transmission
    transmission?.abandon()
    if (transmission !== null && !transmission.isQuiet) return
    this.#isClosed = true
    this.#input.close()
    this.#memory.close()
    this.#agreement?.target.close()
    this.#options.onClosed(this, must(this.#ending, 'the reason of the end'))
  }
}
