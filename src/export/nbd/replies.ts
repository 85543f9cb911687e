/**
 * Replies that are ready, and their encoding (proto.md, "Simple reply message", "Structured reply
 * chunk message"). Everything ready goes into one batch, sent in one call; headers are written
 * behind each other, so that a run of replies without data is one vector.
 *
 * A *result* is a reply without data, named by its request. A *chunk* is an operation whose piece
 * is sent. A *stream* is a reply too long for one piece that must not be interrupted (a simple
 * reply, or one that the client asked not to fragment): nothing else is sent until it is complete.
 */
import { assert, must } from '../../base/assert.ts'
import type { IoVector } from '../../io/io.ts'
import {
  CHUNK_FLAG_DONE,
  CHUNK_HEADER_BYTES,
  ChunkType,
  Command,
  CommandFlag,
  MAGIC_SIMPLE_REPLY,
  MAGIC_STRUCTURED_REPLY,
  SIMPLE_REPLY_BYTES,
} from './constants.ts'
import { BATCH_BYTES_MAX, BATCH_REPLY_COUNT_MAX } from './limits.ts'
import type { ConnectionMemory } from './memory.ts'
import type { Operation } from './operation.ts'
import type { Request, RequestPool } from './request.ts'

const TWO_32 = 2 ** 32
const DATA_CHUNK_HEADER_BYTES = CHUNK_HEADER_BYTES + 8
const ERROR_PAYLOAD_BYTES = 6

export class Replies {
  readonly #view: DataView
  readonly #headersOffset: number
  readonly #isStructured: boolean
  readonly #requests: RequestPool
  #resultHead: Request | null = null
  #resultTail: Request | null = null
  #chunkHead: Operation | null = null
  #chunkTail: Operation | null = null
  /** Chunks of the batch in flight. */
  #batchHead: Operation | null = null
  #batchTail: Operation | null = null
  #isSending = false
  #stream: Operation | null = null
  #isStreamReady = false
  /** While a batch is gathered. */
  #headerOffset = 0
  #totalBytes = 0

  constructor(memory: ConnectionMemory, requests: RequestPool, isStructured: boolean) {
    const { buffer, byteOffset, byteLength } = memory.arena.memory
    this.#view = new DataView(buffer, byteOffset, byteLength)
    this.#headersOffset = memory.headersOffset
    this.#requests = requests
    this.#isStructured = isStructured
  }

  /** Nothing is waiting, being sent or half sent. */
  get isEmpty(): boolean {
    const isQuiet = !this.#isSending && this.#stream === null
    return isQuiet && this.#resultHead === null && this.#chunkHead === null
  }

  /** Answers `request` with its error, or with success. */
  pushResult(request: Request): void {
    if (this.#resultTail === null) this.#resultHead = request
    else this.#resultTail.next = request
    this.#resultTail = request
  }

  /** Sends the piece of `operation` as (a part of) the reply to its request. */
  pushChunk(operation: Operation): void {
    if (operation === this.#stream) {
      this.#isStreamReady = true
      return
    }
    if (this.#chunkTail === null) this.#chunkHead = operation
    else this.#chunkTail.next = operation
    this.#chunkTail = operation
  }

  /** Fills `vector` with the next batch and returns its bytes, 0 when nothing is ready. */
  gather(vector: IoVector): number {
    assert(!this.#isSending, 'one batch is sent at a time')
    vector.count = 0
    this.#headerOffset = this.#headersOffset
    this.#totalBytes = 0
    if (this.#stream === null) this.#gatherReady(vector)
    else if (this.#isStreamReady) this.#gatherStream(vector, this.#stream)
    this.#isSending = this.#totalBytes > 0
    return this.#totalBytes
  }

  /** The batch in flight has ended: its chunks, linked by `next`, without the stream's. */
  endBatch(): Operation | null {
    const head = this.#batchHead
    this.#batchHead = null
    this.#batchTail = null
    this.#isSending = false
    return head
  }

  /** The operation of the stream whose last piece has just been sent, if any. */
  get sentStream(): Operation | null {
    return this.#isStreamReady ? null : this.#stream
  }

  endStream(): void {
    this.#stream = null
  }

  /** Everything that was ready, linked by `next`; forgets it. No batch is in flight. */
  drop(): Operation | null {
    let head = this.#chunkHead
    // A stream that is not ready is being read: the target's completion still names it.
    if (this.#stream !== null && this.#isStreamReady) {
      this.#stream.next = head
      head = this.#stream
    }
    this.#chunkHead = null
    this.#chunkTail = null
    this.#resultHead = null
    this.#resultTail = null
    this.#stream = null
    return head
  }

  #gatherReady(vector: IoVector): void {
    for (let count = 0; count < BATCH_REPLY_COUNT_MAX; count += 1) {
      const request = this.#resultHead
      const operation = this.#chunkHead
      if (request !== null) {
        this.#resultHead = request.next
        if (this.#resultHead === null) this.#resultTail = null
        this.#addResult(vector, request)
      } else if (operation !== null) {
        this.#chunkHead = operation.next
        if (this.#chunkHead === null) this.#chunkTail = null
        operation.next = null
        this.#addChunk(vector, operation)
      } else {
        return
      }
      if (this.#totalBytes >= BATCH_BYTES_MAX || this.#stream !== null) return
    }
  }

  #gatherStream(vector: IoVector, operation: Operation): void {
    this.#isStreamReady = false
    this.#add(vector, operation.piece.arenaOffset, operation.lengthBytes)
  }

  #addResult(vector: IoVector, request: Request): void {
    const at = this.#headerOffset
    const isRead = request.type === Command.READ
    if (!this.#isStructured || (request.error === 0 && !isRead)) {
      this.#simpleHeader(request)
    } else if (request.error === 0) {
      this.#chunkHeader(request, ChunkType.NONE, CHUNK_FLAG_DONE, 0)
    } else {
      this.#chunkHeader(request, ChunkType.ERROR, CHUNK_FLAG_DONE, ERROR_PAYLOAD_BYTES)
      this.#view.setUint32(this.#headerOffset, request.error)
      this.#view.setUint16(this.#headerOffset + 4, 0)
      this.#headerOffset += ERROR_PAYLOAD_BYTES
    }
    this.#add(vector, at, this.#headerOffset - at)
    this.#requests.release(request)
  }

  #addChunk(vector: IoVector, operation: Operation): void {
    const at = this.#headerOffset
    const request = must(operation.request, 'the request of a chunk')
    if (request.type === Command.BLOCK_STATUS) {
      const flags = operation.isFinal ? CHUNK_FLAG_DONE : 0
      this.#chunkHeader(request, ChunkType.BLOCK_STATUS, flags, operation.lengthBytes)
      if (operation.isFinal) this.#requests.release(request)
    } else if (!isContiguous(request, this.#isStructured)) {
      this.#dataHeader(request, operation)
    } else {
      this.#contiguousHeader(request, operation)
    }
    this.#add(vector, at, this.#headerOffset - at)
    this.#add(vector, operation.piece.arenaOffset, operation.lengthBytes)
    if (operation === this.#stream) return
    if (this.#batchTail === null) this.#batchHead = operation
    else this.#batchTail.next = operation
    this.#batchTail = operation
  }

  /** One of the chunks of a read, the last one sent of which says so. */
  #dataHeader(request: Request, operation: Operation): void {
    request.pendingCount -= 1
    const isLast = request.pendingCount === 0 && request.issuedBytes === request.lengthBytes
    const isDone = isLast && request.error === 0
    this.#offsetDataHeader(request, operation.offsetBytes, operation.lengthBytes, isDone)
    if (isDone) this.#requests.release(request)
    else if (isLast) this.pushResult(request)
  }

  /** The whole of a read, or the beginning of a stream. */
  #contiguousHeader(request: Request, operation: Operation): void {
    const isWhole = operation.lengthBytes === request.lengthBytes
    if (!isWhole) this.#stream = operation
    if (this.#isStructured) {
      // A stream can still meet an error, so another chunk says how it ended.
      this.#offsetDataHeader(request, request.offsetBytes, request.lengthBytes, isWhole)
    } else {
      this.#simpleHeader(request)
    }
    if (isWhole) this.#requests.release(request)
  }

  #simpleHeader(request: Request): void {
    const at = this.#headerOffset
    this.#view.setUint32(at, MAGIC_SIMPLE_REPLY)
    this.#view.setUint32(at + 4, request.error)
    this.#view.setUint32(at + 8, request.cookieHigh)
    this.#view.setUint32(at + 12, request.cookieLow)
    this.#headerOffset += SIMPLE_REPLY_BYTES
  }

  #chunkHeader(request: Request, type: number, flags: number, payloadBytes: number): void {
    const at = this.#headerOffset
    this.#view.setUint32(at, MAGIC_STRUCTURED_REPLY)
    this.#view.setUint16(at + 4, flags)
    this.#view.setUint16(at + 6, type)
    this.#view.setUint32(at + 8, request.cookieHigh)
    this.#view.setUint32(at + 12, request.cookieLow)
    this.#view.setUint32(at + 16, payloadBytes)
    this.#headerOffset += CHUNK_HEADER_BYTES
  }

  #offsetDataHeader(request: Request, offset: number, lengthBytes: number, isDone: boolean): void {
    const at = this.#headerOffset
    const flags = isDone ? CHUNK_FLAG_DONE : 0
    this.#chunkHeader(request, ChunkType.OFFSET_DATA, flags, lengthBytes + 8)
    this.#view.setUint32(at + CHUNK_HEADER_BYTES, Math.floor(offset / TWO_32))
    this.#view.setUint32(at + CHUNK_HEADER_BYTES + 4, offset % TWO_32)
    this.#headerOffset = at + DATA_CHUNK_HEADER_BYTES
  }

  #add(vector: IoVector, arenaOffset: number, lengthBytes: number): void {
    const { pairs, count } = vector
    this.#totalBytes += lengthBytes
    if (count > 0 && pairs[2 * count - 2] + pairs[2 * count - 1] === arenaOffset) {
      pairs[2 * count - 1] += lengthBytes
      return
    }
    pairs[2 * count] = arenaOffset
    pairs[2 * count + 1] = lengthBytes
    vector.count = count + 1
  }
}

/** Its data must follow one header: a simple reply, or one the client asked not to fragment. */
export function isContiguous(request: Request, isStructured: boolean): boolean {
  return !isStructured || request.has(CommandFlag.DF)
}
