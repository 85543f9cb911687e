/**
 * A judge of one session who knows only the protocol (proto.md) and what the disks are: it reads
 * what the client sent and what the server said, and throws where the two do not fit. It shares no
 * code with the server.
 *
 * What is judged: each option has exactly the replies that it may have, and none comes for what
 * was not sent; each request gets exactly one final reply unless the connection ended; errors are
 * those that the request deserves; data and extents cover what was asked, and, where the content
 * of the disk is known, are right; nothing follows the end of the protocol.
 */
import { Chunks } from './nbd-chunks.ts'
import type { Agreed, DiskFacts } from './nbd-facts.ts'
import { expect } from './nbd-facts.ts'
import { parseRequests } from './nbd-requests.ts'
import type { ParsedRequest } from './nbd-requests.ts'

export interface Session {
  sent: Buffer
  received: Buffer
  /** The client read to the end and gave the server all the time it wanted. */
  isComplete: boolean
}

export interface SessionCounts {
  options: number
  requests: number
  replies: number
}

const GREETING = Buffer.from('4e42444d4147494349484156454f50540003', 'hex')
const OPTION_MAGIC = Buffer.from('IHAVEOPT')
const REPLY_MAGIC = Buffer.from('0003e889045565a9', 'hex')
const ACK = 1
const ERR_UNSUP = 0x80000001
const ERR_POLICY = 0x80000002
const ERR_INVALID = 0x80000003
const ERR_UNKNOWN = 0x80000006
const ERR_TOO_BIG = 0x80000009
const EXPORT_NAME = 1
const GO = 7
const OPTION_BYTES_MAX = 128 * 1024
const OPTION_SKIP_BYTES_MAX = 1024 * 1024
const OPTION_COUNT_MAX = 128
/** Replies that are not the last of their option, by option. */
const PARTIAL = new Map([
  [3, 2],
  [6, 3],
  [7, 3],
  [9, 4],
  [10, 4],
])

export class NbdOracle {
  readonly #disks: ReadonlyMap<string, DiskFacts>
  readonly #session: Session
  #sentAt = 0
  #gotAt = 0
  #isStructured = false
  #contexts: { name: string; count: number } | null = null
  readonly counts: SessionCounts = { options: 0, requests: 0, replies: 0 }

  constructor(disks: readonly DiskFacts[], session: Session) {
    this.#disks = new Map(disks.map((disk) => [disk.name, disk]))
    this.#session = session
  }

  /** Throws ProtocolError. */
  judge(): SessionCounts {
    const agreed = this.#greetingAndFlags() ? this.#options() : null
    if (agreed !== null) this.#transmission(agreed)
    return this.counts
  }

  get #leftBytes(): number {
    return this.#session.received.length - this.#gotAt
  }

  /** The stream may end here: it did, or (complete) nothing more may be said. */
  #mustEnd(fact: string): null {
    expect(this.#leftBytes === 0, `${this.#leftBytes} bytes are said ${fact}`)
    return null
  }

  #greetingAndFlags(): boolean {
    const { sent, received, isComplete } = this.#session
    const said = received.subarray(0, GREETING.length)
    expect(said.equals(GREETING.subarray(0, said.length)), 'another greeting')
    this.#gotAt = said.length
    if (said.length < GREETING.length) {
      expect(!isComplete, 'half a greeting')
      return false
    }
    if (sent.length < 4 || (sent.readUInt32BE(0) & ~3) !== 0) {
      this.#mustEnd('after wrong flags')
      return false
    }
    this.#sentAt = 4
    return true
  }

  #options(): Agreed | null {
    const { sent } = this.#session
    for (;;) {
      const at = this.#sentAt
      if (sent.length < at + 16) return this.#mustEnd('though no option was sent')
      if (!sent.subarray(at, at + 8).equals(OPTION_MAGIC)) return this.#mustEnd('to a wrong magic')
      this.counts.options += 1
      const number = sent.readUInt32BE(at + 8)
      const lengthBytes = sent.readUInt32BE(at + 12)
      if (this.counts.options > OPTION_COUNT_MAX) return this.#mustEnd('to one option too many')
      if (lengthBytes > OPTION_SKIP_BYTES_MAX) return this.#mustEnd('to an option without bounds')
      if (sent.length < at + 16 + lengthBytes) return this.#mustEnd('to half an option')
      this.#sentAt = at + 16 + lengthBytes
      const data = sent.subarray(at + 16, this.#sentAt)
      if (number === EXPORT_NAME) return this.#exportName(data)
      const verdict = this.#verdict(number, data)
      const final = this.#replies(number)
      if (final === null) return null
      const [is, shall] = [final.toString(16), verdict.toString(16)]
      const wanted = `option ${number} is answered ${is}, not ${shall}`
      expect(final === verdict, wanted)
      if (number === 2) return this.#mustEnd('after the end was agreed on')
      if (final !== ACK) continue
      if (number === 8) this.#isStructured = true
      if (number === GO) return this.#agree(this.#mustFind(tryString(data, 0)?.text ?? ''))
    }
  }

  /** Takes the replies to one option; its last one's type, or null where the stream ends. */
  #replies(number: number): number | null {
    const { received, isComplete } = this.#session
    let contextCount = 0
    for (;;) {
      const at = this.#gotAt
      const lengthBytes = this.#leftBytes < 20 ? 0 : received.readUInt32BE(at + 16)
      if (this.#leftBytes < 20 + lengthBytes) {
        expect(!isComplete, `option ${number} is not answered`)
        expect(lengthBytes <= 8192, 'a reply of such a length')
        return null
      }
      expect(received.subarray(at, at + 8).equals(REPLY_MAGIC), 'no magic of an option reply')
      expect(received.readUInt32BE(at + 8) === number, 'a reply to another option')
      const type = received.readUInt32BE(at + 12)
      expect(lengthBytes <= 8192, 'a reply of such a length')
      this.#gotAt = at + 20 + lengthBytes
      this.counts.replies += 1
      if (type === 4) contextCount += 1
      if (type === PARTIAL.get(number)) continue
      expect(type === ACK || type >= 0x80000000, `a reply of type ${type} to option ${number}`)
      if (number === 10 && this.#contexts !== null) this.#contexts.count = contextCount
      return type
    }
  }

  #exportName(data: Buffer): Agreed | null {
    const { received, sent, isComplete } = this.#session
    const text = data.length > OPTION_BYTES_MAX ? null : tryText(data)
    const disk = text === null ? undefined : this.#disks.get(text)
    if (disk === undefined) return this.#mustEnd('to NBD_OPT_EXPORT_NAME of nothing')
    const noZeroes = (sent.readUInt32BE(0) & 2) !== 0
    const replyBytes = noZeroes ? 10 : 134
    if (this.#leftBytes < replyBytes) {
      expect(!isComplete, 'an export is half described')
      return null
    }
    const sizeBytes = Number(received.readBigUInt64BE(this.#gotAt))
    expect(sizeBytes === disk.sizeBytes, 'another size')
    this.#gotAt += replyBytes
    return this.#agree(disk)
  }

  #agree(disk: DiskFacts): Agreed {
    const count = this.#contexts?.name === disk.name ? this.#contexts.count : 0
    return { disk, isStructured: this.#isStructured, contextCount: count }
  }

  #mustFind(name: string): DiskFacts {
    const disk = this.#disks.get(name)
    expect(disk !== undefined, `"${name}" is agreed on and not there`)
    return disk
  }

  /** The type of the last reply that an option deserves. */
  #verdict(number: number, data: Buffer): number {
    if (number < 2 || number > 10 || number === 4) return ERR_UNSUP
    if (number === 2) return ACK
    if (data.length > OPTION_BYTES_MAX) return ERR_TOO_BIG
    if (number === 3 || number === 8) return data.length === 0 ? ACK : ERR_INVALID
    if (number === 5) return data.length === 0 ? ERR_POLICY : ERR_INVALID
    if (number === 10) this.#contexts = null
    const name = tryString(data, 0)
    if (name === null) return ERR_INVALID
    const isInfo = number === 6 || number === GO
    const queries = isInfo ? null : tryQueries(data, name.end)
    if (isInfo && !isCounted(data, name.end)) return ERR_INVALID
    if (!isInfo && queries === null) return ERR_INVALID
    if (number === 10 && !this.#isStructured) return ERR_INVALID
    const disk = this.#disks.get(name.text)
    if (disk === undefined) return ERR_UNKNOWN
    if (number === 10) this.#contexts = { name: disk.name, count: 0 }
    return ACK
  }

  #transmission(agreed: Agreed): void {
    const { sent, received, isComplete } = this.#session
    const parsed = parseRequests(sent, this.#sentAt, agreed)
    this.counts.requests = parsed.requests.length
    const chunks = new Chunks(agreed, parsed.requests, received.subarray(this.#gotAt))
    this.counts.replies += chunks.judge()
    // A read that fails in the middle of a simple reply can only be told by hanging up.
    const mayBreak = agreed.disk.mayFail && !agreed.isStructured
    if (!isComplete || parsed.isBroken || mayBreak) return
    expect(chunks.isWhole, 'half a reply')
    const open = parsed.requests.filter((request) => !request.isAnswered && request.isWhole)
    expect(open.length === 0, `${open.length} requests are not answered: ${describe(open[0])}`)
  }
}

function describe(request: ParsedRequest | undefined): string {
  if (request === undefined) return ''
  const { type, flags, offset, length } = request
  return `type ${type}, flags ${flags}, offset ${offset}, length ${length}`
}

const DECODER = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

function tryText(bytes: Buffer): string | null {
  if (bytes.length > 4096 || bytes.includes(0)) return null
  try {
    return DECODER.decode(bytes)
  } catch {
    return null
  }
}

function tryString(data: Buffer, at: number): { text: string; end: number } | null {
  if (data.length < at + 4) return null
  const end = at + 4 + data.readUInt32BE(at)
  const text = end > data.length ? null : tryText(data.subarray(at + 4, end))
  return text === null ? null : { text, end }
}

/** A 16-bit count and as many numbers. */
function isCounted(data: Buffer, at: number): boolean {
  return data.length >= at + 2 && data.length === at + 2 + 2 * data.readUInt16BE(at)
}

function tryQueries(data: Buffer, at: number): string[] | null {
  if (data.length < at + 4) return null
  const count = data.readUInt32BE(at)
  const queries: string[] = []
  let end = at + 4
  for (let i = 0; i < count; i += 1) {
    const query = tryString(data, end)
    if (query?.text.includes(':') !== true) return null
    queries.push(query.text)
    end = query.end
  }
  return end === data.length ? queries : null
}
