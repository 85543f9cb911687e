/** The requests in what a client sent, and the errors that each deserves (proto.md, "Requests"). */
import type { Agreed } from './nbd-facts.ts'

const EPERM = 1
const EIO = 5
const EINVAL = 22
const ENOSPC = 28
const EOVERFLOW = 75
const PAYLOAD_BYTES_MAX = 32 * 1024 * 1024

export const READ = 0
const WRITE = 1
const DISC = 2
const FLUSH = 3
const TRIM = 4
const ZEROES = 6
export const STATUS = 7
export const DF = 4
export const REQ_ONE = 8
/** By command: FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO as they are documented. */
const FLAGS = [5, 1, 1, 1, 1, 1, 19, 9]

export interface ParsedRequest {
  type: number
  flags: number
  cookie: bigint
  offset: bigint
  length: number
  /** What it may be answered with; empty: success, and nothing else. */
  errors: number[]
  /** Its payload was sent to the end. */
  isWhole: boolean
  isAnswered: boolean
}

export interface Parsed {
  requests: ParsedRequest[]
  /** The server has a reason to hang up without answering everything. */
  isBroken: boolean
}

export function parseRequests(sent: Buffer, start: number, agreed: Agreed): Parsed {
  const requests: ParsedRequest[] = []
  let at = start
  while (at + 28 <= sent.length) {
    if (sent.readUInt32BE(at) !== 0x25609513) return { requests, isBroken: true }
    const request: ParsedRequest = {
      flags: sent.readUInt16BE(at + 4),
      type: sent.readUInt16BE(at + 6),
      cookie: sent.readBigUInt64BE(at + 8),
      offset: sent.readBigUInt64BE(at + 16),
      length: sent.readUInt32BE(at + 24),
      errors: [],
      isWhole: true,
      isAnswered: false,
    }
    if (request.type === DISC) break
    request.errors = errorsOf(request, agreed)
    requests.push(request)
    at += 28
    if (request.type !== WRITE) continue
    if (request.errors.length > 0 && request.length > 2 * PAYLOAD_BYTES_MAX) {
      requests.pop()
      return { requests, isBroken: true }
    }
    at += request.length
    if (at > sent.length) {
      // The server may say that it had to give up waiting for the rest.
      request.isWhole = false
      request.errors.push(108)
    }
  }
  return { requests, isBroken: false }
}

function errorsOf(request: ParsedRequest, { disk, isStructured, contextCount }: Agreed): number[] {
  const { type, flags, offset, length } = request
  const allowed = FLAGS[type] as number | undefined
  if (allowed === undefined || (flags & ~allowed) !== 0) return [EINVAL]
  const errors = new Set<number>()
  const isWrite = type === WRITE || type === TRIM || type === ZEROES
  if (type === READ && (flags & DF) !== 0 && !isStructured) errors.add(EINVAL)
  if (isWrite && disk.isReadOnly) errors.add(EPERM)
  if (type === FLUSH) {
    if (offset !== 0n || length !== 0) errors.add(EINVAL)
    return finish(errors, disk.mayFail)
  }
  if (type === STATUS && contextCount === 0) errors.add(EINVAL)
  if (length === 0) errors.add(EINVAL)
  if ((type === READ || type === WRITE) && length > PAYLOAD_BYTES_MAX) {
    errors.add(EINVAL)
    if ((flags & DF) !== 0) errors.add(EOVERFLOW)
  }
  if (offset + BigInt(length) > BigInt(disk.sizeBytes)) {
    errors.add(type === WRITE || type === ZEROES ? ENOSPC : EINVAL)
  }
  return finish(errors, disk.mayFail)
}

/** 0 stands for success where a fault may or may not strike. */
function finish(errors: Set<number>, mayFail: boolean): number[] {
  return errors.size === 0 && mayFail ? [0, EIO] : [...errors]
}
