/** One request of a client: decoded from the wire, judged before any of it is carried out. */
import type { ExportTarget } from '../target.ts'
import type { CommandFact } from './constants.ts'
import { COMMANDS, Command, CommandFlag, MAGIC_REQUEST, NbdError } from './constants.ts'
import { PAYLOAD_BYTES_MAX } from './limits.ts'

const TWO_32 = 2 ** 32

/** Reused through a {@link RequestPool}: nothing is allocated for a request. */
export class Request {
  /** The client's cookie, echoed as it came. */
  cookieHigh = 0
  cookieLow = 0
  flags = 0
  type = 0
  offsetBytes = 0
  lengthBytes = 0
  /** Of the range, handed to the target so far. */
  issuedBytes = 0
  /** Operations and reply chunks of it that are not finished. */
  pendingCount = 0
  /** First error of any of its parts, an NBD error value. */
  error = 0
  next: Request | null = null

  has(flag: number): boolean {
    return (this.flags & flag) !== 0
  }
}

/** Fills `request` from the 28 bytes at `at`; false when the magic is wrong. */
export function decodeRequest(view: DataView, at: number, request: Request): boolean {
  request.flags = view.getUint16(at + 4)
  request.type = view.getUint16(at + 6)
  request.cookieHigh = view.getUint32(at + 8)
  request.cookieLow = view.getUint32(at + 12)
  // Inexact from 2^53 on, but then still far beyond any disk, which is all that is asked of it.
  request.offsetBytes = view.getUint32(at + 16) * TWO_32 + view.getUint32(at + 20)
  request.lengthBytes = view.getUint32(at + 24)
  request.issuedBytes = 0
  request.pendingCount = 0
  request.error = 0
  return view.getUint32(at) === MAGIC_REQUEST
}

/** What the handshake agreed on that a request is judged by. */
export interface RequestRules {
  readonly isStructured: boolean
  readonly contextCount: number
}

/** The NBD error that answers `request`, 0 when it may be carried out. */
export function judgeRequest(request: Request, target: ExportTarget, rules: RequestRules): number {
  const fact = COMMANDS[request.type] as CommandFact | undefined
  if (fact === undefined || (request.flags & ~fact.flags) !== 0) return NbdError.EINVAL
  if (request.has(CommandFlag.DF) && request.type === Command.READ && !rules.isStructured) {
    return NbdError.EINVAL
  }
  if (fact.isWrite && target.readOnly) return NbdError.EPERM
  if (!fact.hasRange) {
    return request.offsetBytes === 0 && request.lengthBytes === 0 ? 0 : NbdError.EINVAL
  }
  if (request.type === Command.BLOCK_STATUS && rules.contextCount === 0) return NbdError.EINVAL
  // Unspecified by the protocol; nothing to do is taken for the client's mistake.
  if (request.lengthBytes === 0) return NbdError.EINVAL
  if (fact.hasPayload && request.lengthBytes > PAYLOAD_BYTES_MAX) {
    return request.has(CommandFlag.DF) ? NbdError.EOVERFLOW : NbdError.EINVAL
  }
  // In this order no sum is formed that could pass what a number holds exactly.
  const isPastEnd =
    request.offsetBytes > target.sizeBytes ||
    request.lengthBytes > target.sizeBytes - request.offsetBytes
  return isPastEnd ? fact.pastEnd : 0
}

export class RequestPool {
  #free: Request | null = null
  #usedCount = 0

  constructor(count: number) {
    for (let i = 0; i < count; i += 1) {
      const request = new Request()
      request.next = this.#free
      this.#free = request
    }
  }

  get usedCount(): number {
    return this.#usedCount
  }

  /** The next free request, not yet taken: decode into it, then `take` it or leave it. */
  peek(): Request | null {
    return this.#free
  }

  take(request: Request): void {
    this.#free = request.next
    request.next = null
    this.#usedCount += 1
  }

  release(request: Request): void {
    request.next = this.#free
    this.#free = request
    this.#usedCount -= 1
  }
}
