/**
 * The transmission core (proto.md, "Transmission"): requests in, operations of a target, replies
 * out. It knows no socket. Whoever drives it
 *
 * - receives into the memory that {@link Transmission.tryReceive} names and reports the bytes;
 * - gathers what is ready, sends it, and reports the end of that send;
 * - is told through its owner when either may have become possible again.
 *
 * Requests are begun in the order they came and answered in the order they complete. One at a time
 * can be half begun: a payload arriving, a read waiting for memory, a description in progress;
 * until it is begun nothing behind it is looked at, which is all the backpressure there is.
 */
import { assert, must } from '../../base/assert.ts'
import type { IoVector } from '../../io/io.ts'
import type { ExportTarget, ExtentList, TargetCompletion } from '../target.ts'
import { WRITE_FUA, ZERO_NO_HOLE } from '../target.ts'
import { Command, CommandFlag, NbdError, REQUEST_BYTES } from './constants.ts'
import { nbdErrorOf } from './errors.ts'
import { encodeExtents } from './extents.ts'
import type { Agreement } from './haggle.ts'
import type { Input } from './input.ts'
import {
  CACHE_BYTES_MAX,
  DRAIN_BYTES_MAX,
  EXTENT_CHUNK_BYTES,
  EXTENT_COUNT_MAX,
  INLINE_PAYLOAD_BYTES_MAX,
  OPERATION_COUNT_MAX,
  REQUEST_COUNT_MAX,
} from './limits.ts'
import type { ConnectionMemory } from './memory.ts'
import type { Operation } from './operation.ts'
import { OperationPool } from './operation.ts'
import { Replies, isContiguous } from './replies.ts'
import type { Request, RequestRules } from './request.ts'
import { RequestPool, decodeRequest, judgeRequest } from './request.ts'

/** Told that input may be wanted, output may be ready, or everything may be done. */
export interface TransmissionOwner {
  transmissionChanged(): void
}

/** What is left to do for the request that is half begun. */
type Phase = 'skip' | 'payload' | 'read' | 'describe'

export class Transmission implements TargetCompletion {
  readonly #memory: ConnectionMemory
  readonly #input: Input
  readonly #target: ExportTarget
  readonly #agreement: Agreement
  readonly #rules: RequestRules
  readonly #owner: TransmissionOwner
  readonly #view: DataView
  readonly #requests: RequestPool = new RequestPool(REQUEST_COUNT_MAX)
  readonly #operations: OperationPool = new OperationPool(OPERATION_COUNT_MAX)
  readonly #replies: Replies
  readonly #extents: ExtentList | null
  readonly #extent: ExtentList = makeExtentList(1)

  /** Of the target. */
  #inFlightCount = 0
  #current: Request | null = null
  #phase: Phase = 'skip'
  #skipBytes = 0
  /** Where the payload of the current request is being received, and how much of it was. */
  #payload: Operation | null = null
  #payloadBytes = 0
  /** Pieces that have come whole. */
  #pieceCount = 0
  #contextIndex = 0
  #isDescribing = false
  /** Something to begin is at hand and lacks a request, an operation or memory. */
  #isBlocked = false
  #isLongExpected = false
  #isInputClosed = false
  #isAbandoned = false
  #failure: string | null = null

  /** Where the next receive goes; valid after `tryReceive` returned true. */
  receiveOffset = 0
  receiveBytes = 0
  #isReceivingPayload = false

  constructor(
    memory: ConnectionMemory,
    input: Input,
    agreement: Agreement,
    owner: TransmissionOwner,
  ) {
    const { buffer, byteOffset, byteLength } = memory.arena.memory
    const { target, isStructured, contexts } = agreement
    this.#memory = memory
    this.#input = input
    this.#target = target
    this.#agreement = agreement
    this.#rules = { isStructured, contextCount: contexts.length }
    this.#owner = owner
    this.#view = new DataView(buffer, byteOffset, byteLength)
    this.#replies = new Replies(memory, this.#requests, isStructured)
    this.#extents = contexts.length === 0 ? null : makeExtentList(EXTENT_COUNT_MAX)
  }

  /** Why the connection must be cut off, or null. */
  get failure(): string | null {
    return this.#failure
  }

  /** The client has said all it will say. */
  get isInputClosed(): boolean {
    return this.#isInputClosed
  }

  /** Every request has been answered and every answer sent. */
  get isDrained(): boolean {
    return this.#requests.usedCount === 0 && this.#replies.isEmpty && this.#inFlightCount === 0
  }

  /** The target has nothing of ours any more. */
  get isQuiet(): boolean {
    return this.#inFlightCount === 0
  }

  /** A client keeps memory of others from use while it does not send what it announced. */
  get isAwaitingPayload(): boolean {
    return this.#payload !== null && !this.#isInputClosed
  }

  /** Counts pieces of payloads; stands still while a client sends too little of one. */
  get pieceCount(): number {
    return this.#pieceCount
  }

  /** Says where to receive next, or that nothing may be received now. */
  tryReceive(): boolean {
    if (this.#isInputClosed || this.#failure !== null || this.#isBlocked) return false
    const payload = this.#payload
    this.#isReceivingPayload = payload !== null
    if (payload !== null) {
      this.receiveOffset = payload.piece.arenaOffset + this.#payloadBytes
      this.receiveBytes = payload.lengthBytes - this.#payloadBytes
      return true
    }
    if (this.#current !== null && this.#phase !== 'skip') return false
    this.receiveBytes = this.#input.tryMakeRoom(this.#isLongExpected)
    this.receiveOffset = this.#input.receiveOffset
    return this.receiveBytes > 0
  }

  /** `bytes` arrived where `tryReceive` said. */
  received(bytes: number): void {
    if (this.#isReceivingPayload) this.#payloadBytes += bytes
    else this.#input.received(bytes)
    this.resume()
  }

  /** Begins what can be begun: after a receive, and whenever something was given back. */
  resume(): void {
    this.#isBlocked = false
    while (this.#failure === null && !this.#isAbandoned && this.#step()) {
      // Each step begins a request or a part of one.
    }
  }

  /** No request is begun any more; those begun are carried out and answered. */
  closeInput(): void {
    if (this.#isInputClosed) return
    this.#isInputClosed = true
    const request = this.#current
    if (request === null || (this.#phase !== 'skip' && this.#phase !== 'payload')) return
    // The piece it was arriving in stays: a receive may be in flight into it.
    this.#current = null
    request.error ||= NbdError.ESHUTDOWN
    request.issuedBytes = request.lengthBytes
    if (request.pendingCount === 0) this.#replies.pushResult(request)
  }

  /** Fills `vector` with replies to send now; 0 when there are none. */
  gather(vector: IoVector): number {
    return this.#failure === null && !this.#isAbandoned ? this.#replies.gather(vector) : 0
  }

  /** What was gathered last has been sent, or never will be. */
  sent(): void {
    this.#releaseAll(this.#replies.endBatch())
    const stream = this.#replies.sentStream
    if (stream !== null) this.#continueStream(stream)
  }

  /**
   * The client is gone: nothing is being received or sent. Gives back all but what the target has.
   */
  abandon(): void {
    this.#isInputClosed = true
    this.#isAbandoned = true
    if (this.#payload !== null) this.#release(this.#payload)
    this.#payload = null
    this.#current = null
    this.#releaseAll(this.#replies.drop())
  }

  targetComplete(tag: number, result: number): void {
    const operation = this.#operations.at(tag)
    const request = must(operation.request, 'the request of an operation')
    this.#inFlightCount -= 1
    if (this.#isAbandoned) this.#release(operation)
    else this.#complete(operation, request, result)
    this.#owner.transmissionChanged()
  }

  #complete(operation: Operation, request: Request, result: number): void {
    switch (request.type) {
      case Command.READ:
        if (isContiguous(request, this.#rules.isStructured)) {
          this.#completeContiguous(operation, request, result)
        } else {
          this.#completeRead(operation, request, result)
        }
        return
      case Command.WRITE:
        this.#release(operation)
        request.pendingCount -= 1
        request.error ||= nbdErrorOf(result)
        this.#finishWrite(request)
        return
      case Command.CACHE:
        this.#completeCache(operation, request, result)
        return
      case Command.BLOCK_STATUS:
        this.#completeDescription(operation, request, result)
        return
      default:
        this.#release(operation)
        request.error = nbdErrorOf(result)
        this.#replies.pushResult(request)
    }
  }

  #step(): boolean {
    const request = this.#current
    if (request === null) return !this.#isInputClosed && this.#next()
    switch (this.#phase) {
      case 'skip':
        return this.#skip(request)
      case 'payload':
        return this.#receivePayload(request)
      case 'read':
        return this.#read(request)
      case 'describe':
        return this.#describe(request)
    }
  }

  /** Begins the next request, if all of it that must be at hand is. */
  #next(): boolean {
    if (this.#input.availableBytes < REQUEST_BYTES) return false
    const request = this.#requests.peek()
    if (request === null || this.#operations.isEmpty) return this.#block()
    if (!decodeRequest(this.#view, this.#input.position, request)) {
      return this.#fail('not a request: wrong magic')
    }
    if (request.type === Command.DISC) {
      this.closeInput()
      return false
    }
    const error = judgeRequest(request, this.#target, this.#rules)
    if (request.type === Command.WRITE) {
      return error === 0 ? this.#nextWrite(request) : this.#nextRefusedWrite(request, error)
    }
    this.#begin(request)
    this.#isLongExpected = false
    if (error === 0) return this.#start(request)
    request.error = error
    this.#replies.pushResult(request)
    return true
  }

  #begin(request: Request): void {
    this.#requests.take(request)
    this.#input.consume(REQUEST_BYTES)
  }

  #nextWrite(request: Request): boolean {
    const { lengthBytes } = request
    this.#isLongExpected = lengthBytes > INLINE_PAYLOAD_BYTES_MAX
    if (this.#isLongExpected) {
      this.#begin(request)
      this.#current = request
      this.#phase = 'payload'
      return true
    }
    if (this.#input.availableBytes < REQUEST_BYTES + lengthBytes) return false
    this.#begin(request)
    const operation = this.#take(request)
    const arenaOffset = this.#input.position
    operation.chunk = this.#input.pin()
    operation.offsetBytes = request.offsetBytes
    operation.lengthBytes = lengthBytes
    this.#input.consume(lengthBytes)
    request.issuedBytes = lengthBytes
    this.#write(request, operation, arenaOffset)
    return true
  }

  #nextRefusedWrite(request: Request, error: number): boolean {
    if (request.lengthBytes > DRAIN_BYTES_MAX) {
      return this.#fail(`a write of ${request.lengthBytes} bytes`)
    }
    this.#begin(request)
    request.error = error
    this.#current = request
    this.#phase = 'skip'
    this.#skipBytes = request.lengthBytes
    return true
  }

  /** Begins a request without payload that was judged to be right. */
  #start(request: Request): boolean {
    const { offsetBytes, lengthBytes, type } = request
    if (type === Command.READ || type === Command.CACHE) {
      this.#current = request
      this.#phase = 'read'
      return this.#read(request)
    }
    if (type === Command.BLOCK_STATUS) {
      this.#current = request
      this.#phase = 'describe'
      this.#contextIndex = 0
      return this.#describe(request)
    }
    const { tag } = this.#take(request)
    const fua = request.has(CommandFlag.FUA) ? WRITE_FUA : 0
    const noHole = request.has(CommandFlag.NO_HOLE) ? ZERO_NO_HOLE : 0
    this.#inFlightCount += 1
    // The target's zero is always fast, so FAST_ZERO asks for nothing more.
    if (type === Command.FLUSH) this.#target.flush(this, tag)
    else if (type === Command.TRIM) this.#target.trim(offsetBytes, lengthBytes, fua, this, tag)
    else this.#target.zero(offsetBytes, lengthBytes, fua | noHole, this, tag)
    return true
  }

  #skip(request: Request): boolean {
    const bytes = Math.min(this.#input.availableBytes, this.#skipBytes)
    this.#input.consume(bytes)
    this.#skipBytes -= bytes
    if (this.#skipBytes > 0) return false
    this.#current = null
    this.#replies.pushResult(request)
    return true
  }

  /** Receives one piece of a long payload and writes it, while the next one is received. */
  #receivePayload(request: Request): boolean {
    const operation = this.#payload ?? this.#tryTakePiece(request)
    if (operation === null) return this.#block()
    if (this.#payload === null) {
      this.#payload = operation
      this.#payloadBytes = 0
    }
    this.#movePayload(operation)
    if (this.#payloadBytes < operation.lengthBytes) return false
    this.#payload = null
    this.#pieceCount += 1
    request.issuedBytes += operation.lengthBytes
    if (request.issuedBytes === request.lengthBytes) this.#current = null
    if (request.error === 0) {
      this.#write(request, operation, operation.piece.arenaOffset)
    } else {
      // Part of it failed: what follows is taken and thrown away.
      this.#release(operation)
      this.#finishWrite(request)
    }
    return true
  }

  /** What came in with the header is in the input and must be brought over. */
  #movePayload(operation: Operation): void {
    const to = operation.piece.arenaOffset + this.#payloadBytes
    const from = this.#input.position
    const missingBytes = operation.lengthBytes - this.#payloadBytes
    const bytes = Math.min(this.#input.availableBytes, missingBytes)
    if (bytes === 0) return
    this.#memory.arena.memory.copyWithin(to, from, from + bytes)
    this.#input.consume(bytes)
    this.#payloadBytes += bytes
  }

  #write(request: Request, operation: Operation, arenaOffset: number): void {
    const flags = request.has(CommandFlag.FUA) ? WRITE_FUA : 0
    const { offsetBytes, lengthBytes, tag } = operation
    request.pendingCount += 1
    this.#inFlightCount += 1
    this.#target.write(offsetBytes, lengthBytes, arenaOffset, flags, this, tag)
  }

  #finishWrite(request: Request): void {
    const isComplete = request.pendingCount === 0 && request.issuedBytes === request.lengthBytes
    if (isComplete) this.#replies.pushResult(request)
  }

  /** Begins reading: all pieces where each is a chunk of its own, else the first. */
  #read(request: Request): boolean {
    const isSerial =
      request.type === Command.CACHE || isContiguous(request, this.#rules.isStructured)
    do {
      const operation = this.#tryTakePiece(request)
      if (operation === null) return this.#block()
      request.issuedBytes += operation.lengthBytes
      request.pendingCount += 1
      this.#readPiece(operation)
    } while (!isSerial && request.issuedBytes < request.lengthBytes)
    this.#current = null
    return true
  }

  #readPiece(operation: Operation): void {
    const { offsetBytes, lengthBytes, piece, tag } = operation
    this.#inFlightCount += 1
    this.#target.read(offsetBytes, lengthBytes, piece.arenaOffset, this, tag)
  }

  /** Reads the next part of the request into the piece that is there. */
  #readNext(operation: Operation, request: Request): void {
    const remainingBytes = request.lengthBytes - request.issuedBytes
    operation.offsetBytes = request.offsetBytes + request.issuedBytes
    operation.lengthBytes = Math.min(remainingBytes, operation.piece.capacityBytes)
    request.issuedBytes += operation.lengthBytes
    this.#readPiece(operation)
  }

  #completeRead(operation: Operation, request: Request, result: number): void {
    if (result >= 0) {
      this.#replies.pushChunk(operation)
      return
    }
    this.#release(operation)
    request.error ||= nbdErrorOf(result)
    request.pendingCount -= 1
    // Nothing more of it is worth reading.
    request.issuedBytes = request.lengthBytes
    if (this.#current === request) this.#current = null
    if (request.pendingCount === 0) this.#replies.pushResult(request)
  }

  #completeContiguous(operation: Operation, request: Request, result: number): void {
    const isFirst = operation.offsetBytes === request.offsetBytes
    if (result < 0 && isFirst) {
      this.#release(operation)
      request.error = nbdErrorOf(result)
      this.#replies.pushResult(request)
      return
    }
    if (result < 0) {
      request.error ||= nbdErrorOf(result)
      // The announced length must be sent, and an error chunk after it says that it was not data.
      const { arenaOffset } = operation.piece
      this.#memory.arena.memory.fill(0, arenaOffset, arenaOffset + operation.lengthBytes)
      if (!this.#rules.isStructured) this.#fail('a read failed after its reply had begun')
    }
    this.#replies.pushChunk(operation)
  }

  #continueStream(operation: Operation): void {
    const request = must(operation.request, 'the request of a stream')
    const isOver = request.issuedBytes === request.lengthBytes
    if (!isOver && this.#failure === null && !this.#isAbandoned) {
      this.#readNext(operation, request)
      return
    }
    this.#replies.endStream()
    this.#release(operation)
    if (this.#rules.isStructured) this.#replies.pushResult(request)
    else this.#requests.release(request)
  }

  /** Reading is the caching: what the pool decodes and the kernel reads stays in their caches. */
  #completeCache(operation: Operation, request: Request, result: number): void {
    request.error = nbdErrorOf(result)
    const endBytes = Math.min(request.lengthBytes, CACHE_BYTES_MAX)
    if (request.error === 0 && request.issuedBytes < endBytes && this.#failure === null) {
      this.#readNext(operation, request)
      return
    }
    this.#release(operation)
    this.#replies.pushResult(request)
  }

  /** Asks for the extents of the current context; the next one follows its completion. */
  #describe(request: Request): boolean {
    if (this.#isDescribing) return false
    const isOne = request.has(CommandFlag.REQ_ONE)
    const operation = this.#operations.tryTake(request)
    if (operation === null) return this.#block()
    if (!this.#memory.tryTake(operation.piece, isOne ? 1 : EXTENT_CHUNK_BYTES)) {
      this.#operations.release(operation)
      return this.#block()
    }
    this.#isDescribing = true
    this.#inFlightCount += 1
    const { context } = must(this.#agreement.contexts[this.#contextIndex], 'the context in turn')
    const list = isOne ? this.#extent : must(this.#extents, 'the extent list')
    const { offsetBytes, lengthBytes } = request
    this.#target.extents(offsetBytes, lengthBytes, context, list, this, operation.tag)
    return false
  }

  #completeDescription(operation: Operation, request: Request, result: number): void {
    this.#isDescribing = false
    if (result < 0) {
      this.#release(operation)
      this.#current = null
      request.error = nbdErrorOf(result)
      this.#replies.pushResult(request)
      return
    }
    const { contexts } = this.#agreement
    const { id } = must(contexts[this.#contextIndex], 'the context in turn')
    const isOne = request.has(CommandFlag.REQ_ONE)
    const list = isOne ? this.#extent : must(this.#extents, 'the extent list')
    const at = operation.piece.arenaOffset
    operation.lengthBytes = encodeExtents(this.#view, at, id, list, request.lengthBytes, isOne)
    this.#contextIndex += 1
    operation.isFinal = this.#contextIndex === contexts.length
    if (operation.isFinal) this.#current = null
    this.#replies.pushChunk(operation)
  }

  /** `#next` saw that there is one. */
  #take(request: Request): Operation {
    return must(this.#operations.tryTake(request), 'a free operation')
  }

  /** An operation with memory for the next part of `request`. */
  #tryTakePiece(request: Request): Operation | null {
    const operation = this.#operations.tryTake(request)
    if (operation === null) return null
    const remainingBytes = request.lengthBytes - request.issuedBytes
    if (!this.#memory.tryTake(operation.piece, remainingBytes)) {
      this.#operations.release(operation)
      return null
    }
    operation.offsetBytes = request.offsetBytes + request.issuedBytes
    operation.lengthBytes = Math.min(remainingBytes, operation.piece.capacityBytes)
    return operation
  }

  #release(operation: Operation): void {
    if (operation.chunk !== null) this.#input.unpin(operation.chunk)
    operation.chunk = null
    this.#memory.giveBack(operation.piece)
    this.#operations.release(operation)
  }

  #releaseAll(head: Operation | null): void {
    let operation = head
    while (operation !== null) {
      const next = operation.next
      this.#release(operation)
      operation = next
    }
  }

  #block(): false {
    this.#isBlocked = true
    return false
  }

  #fail(reason: string): false {
    assert(reason !== '', 'a failure says why')
    this.#failure ??= reason
    return false
  }
}

function makeExtentList(count: number): ExtentList {
  return { lengths: new Float64Array(count), flags: new Uint32Array(count), count: 0 }
}
