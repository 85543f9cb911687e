/** The server's half of the transmission phase, held against the requests it answers. */
import type { Agreed } from './nbd-facts.ts'
import { expect } from './nbd-facts.ts'
import type { ParsedRequest } from './nbd-requests.ts'
import { DF, READ, REQ_ONE, STATUS } from './nbd-requests.ts'

const SIMPLE_MAGIC = 0x67446698
const CHUNK_MAGIC = 0x668e33ef
const NONE = 0
const DATA = 1
const BLOCK_STATUS = 5
const ERROR = 0x8001

/** A request whose chunks have begun to come. */
interface Answering {
  request: ParsedRequest
  coveredBytes: number
  dataChunks: { start: number; end: number }[]
  contextIds: Set<number>
  hasError: boolean
}

export class Chunks {
  readonly #agreed: Agreed
  readonly #open = new Map<bigint, ParsedRequest[]>()
  readonly #answering = new Map<bigint, Answering>()
  readonly #bytes: Buffer
  #at = 0
  #replyCount = 0

  constructor(agreed: Agreed, requests: readonly ParsedRequest[], bytes: Buffer) {
    this.#agreed = agreed
    this.#bytes = bytes
    for (const request of requests) {
      const same = this.#open.get(request.cookie)
      if (same === undefined) this.#open.set(request.cookie, [request])
      else same.push(request)
    }
  }

  /** No reply is cut off. */
  get isWhole(): boolean {
    return this.#at === this.#bytes.length
  }

  /** Reads all there is; returns the number of final replies. */
  judge(): number {
    while (this.#bytes.length - this.#at >= 16) {
      const isTaken =
        this.#bytes.readUInt32BE(this.#at) === SIMPLE_MAGIC ? this.#simple() : this.#chunk()
      if (!isTaken) break
    }
    return this.#replyCount
  }

  /** The request that a reply names; null when the client made it impossible to tell. */
  #named(cookie: bigint): ParsedRequest | null {
    const candidates = this.#open.get(cookie)
    expect(candidates !== undefined && candidates.length > 0, `a reply to nothing: ${cookie}`)
    return candidates.length === 1 ? candidates[0] : null
  }

  #finish(request: ParsedRequest): void {
    expect(!request.isAnswered, 'a second final reply')
    request.isAnswered = true
    this.#open.delete(request.cookie)
    this.#replyCount += 1
  }

  #verifyError(request: ParsedRequest, error: number): void {
    const { errors, type, offset, length } = request
    const isRight = errors.length === 0 ? error === 0 : errors.includes(error)
    const allowed = `of ${errors.join()}`
    expect(isRight, `type ${type} at ${offset}+${length} is answered ${error}, not one ${allowed}`)
  }

  #simple(): boolean {
    const cookie = this.#bytes.readBigUInt64BE(this.#at + 8)
    const error = this.#bytes.readUInt32BE(this.#at + 4)
    const request = this.#named(cookie)
    if (request === null) return this.#giveUp()
    const { isStructured } = this.#agreed
    expect(!isStructured || error === 0, 'an error in a simple reply, though chunks were agreed on')
    expect(!isStructured || request.type !== READ, 'a simple reply to a read')
    this.#verifyError(request, error)
    if (request.type === READ && error === 0) {
      const start = this.#at + 16
      const end = start + request.length
      if (end > this.#bytes.length) return false
      this.#verifyData(this.#bytes.subarray(start, end), Number(request.offset))
      this.#at = end
    } else {
      this.#at += 16
    }
    this.#finish(request)
    return true
  }

  #chunk(): boolean {
    const bytes = this.#bytes
    expect(bytes.readUInt32BE(this.#at) === CHUNK_MAGIC, 'no magic of a reply')
    expect(this.#agreed.isStructured, 'a chunk, though none were agreed on')
    if (bytes.length - this.#at < 20) return false
    const payloadBytes = bytes.readUInt32BE(this.#at + 16)
    const start = this.#at + 20
    if (bytes.length < start + payloadBytes) return false
    const flags = bytes.readUInt16BE(this.#at + 4)
    const type = bytes.readUInt16BE(this.#at + 6)
    const request = this.#named(bytes.readBigUInt64BE(this.#at + 8))
    if (request === null) return this.#giveUp()
    expect(flags <= 1, `chunk flags ${flags}`)
    const answering = this.#answeringOf(request)
    this.#payload(answering, type, bytes.subarray(start, start + payloadBytes))
    this.#at = start + payloadBytes
    if (flags === 1) this.#end(answering)
    return true
  }

  #answeringOf(request: ParsedRequest): Answering {
    const known = this.#answering.get(request.cookie)
    if (known !== undefined) return known
    const fresh = { coveredBytes: 0, dataChunks: [], contextIds: new Set<number>() }
    const answering = { request, hasError: false, ...fresh }
    this.#answering.set(request.cookie, answering)
    return answering
  }

  #payload(answering: Answering, type: number, payload: Buffer): void {
    const { request } = answering
    if (type === NONE) {
      expect(payload.length === 0, 'a NONE chunk with a payload')
    } else if (type === ERROR) {
      expect(payload.length >= 6, 'an error chunk of six bytes')
      expect(payload.length === 6 + payload.readUInt16BE(4), 'an error message of its length')
      const error = payload.readUInt32BE(0)
      expect(error !== 0, 'an error chunk says an error')
      this.#verifyError(request, error)
      answering.hasError = true
    } else if (type === DATA) {
      this.#data(answering, payload)
    } else {
      expect(type === BLOCK_STATUS, `a chunk of type ${type}`)
      this.#extents(answering, payload)
    }
  }

  #data(answering: Answering, payload: Buffer): void {
    const { request, dataChunks } = answering
    expect(request.type === READ && payload.length > 8, 'data for a read')
    const start = Number(payload.readBigUInt64BE(0))
    const data = payload.subarray(8)
    const end = start + data.length
    const isInside =
      start >= Number(request.offset) && end <= Number(request.offset) + request.length
    expect(isInside, 'data within what was asked')
    expect(
      dataChunks.every((other) => end <= other.start || start >= other.end),
      'no byte twice',
    )
    expect((request.flags & DF) === 0 || dataChunks.length === 0, 'one chunk, as was asked')
    dataChunks.push({ start, end })
    answering.coveredBytes += data.length
    this.#verifyData(data, start)
  }

  #extents({ request, contextIds }: Answering, payload: Buffer): void {
    expect(request.type === STATUS && payload.length >= 12, 'extents for a block status')
    expect((payload.length - 4) % 8 === 0, 'whole descriptors')
    const id = payload.readUInt32BE(0)
    expect(!contextIds.has(id), 'a context once')
    contextIds.add(id)
    const count = (payload.length - 4) / 8
    expect((request.flags & REQ_ONE) === 0 || count === 1, 'one extent, as was asked')
    let coveredBytes = 0
    for (let i = 0; i < count; i += 1) {
      expect(coveredBytes < request.length, 'no extent begins behind the range')
      const lengthBytes = payload.readUInt32BE(4 + 8 * i)
      expect(lengthBytes > 0, 'no empty extent')
      coveredBytes += lengthBytes
    }
    const isShort = (request.flags & REQ_ONE) === 0 || coveredBytes <= request.length
    expect(isShort, 'the one extent ends within the range')
    const endBytes = Number(request.offset) + coveredBytes
    expect(endBytes <= this.#agreed.disk.sizeBytes, 'no extent passes the end of the disk')
  }

  #end(answering: Answering): void {
    const { request, coveredBytes, contextIds, hasError } = answering
    this.#answering.delete(request.cookie)
    if (!hasError) {
      this.#verifyError(request, 0)
      expect(request.type !== READ || coveredBytes === request.length, 'every byte of a read')
      const { contextCount } = this.#agreed
      expect(request.type !== STATUS || contextIds.size === contextCount, 'every context')
    }
    this.#finish(request)
  }

  #verifyData(data: Buffer, offset: number): void {
    const { content } = this.#agreed.disk
    if (content === null) return
    const isRight = content.compare(data, 0, data.length, offset, offset + data.length) === 0
    expect(isRight, `wrong data at ${offset}`)
  }

  /** The client used one cookie for several requests: what follows cannot be told apart. */
  #giveUp(): boolean {
    this.#at = this.#bytes.length
    for (const same of this.#open.values()) for (const request of same) request.isAnswered = true
    return false
  }
}
