/** Errors on the wire: `{code, message, hint, details, errno}`, and back to the same class. */
import { CorruptionError, OperatingError, VarveError } from '../base/errors.ts'
import type { CorruptionCode, ErrorFields, OperatingCode } from '../base/errors.ts'

/** A failure of the daemon's own code: neither the world's fault nor the data's. */
const INTERNAL = 'internal'

export interface WireError {
  code: string
  message: string
  hint?: string
  details?: Record<string, unknown>
  errno?: number
}

const HTTP_STATUS: Record<OperatingCode, number> = {
  usage: 400,
  'not-found': 404,
  exists: 409,
  busy: 409,
  'no-space': 507,
  'read-only': 403,
  'out-of-range': 400,
  'pool-failed': 503,
  io: 500,
  unsupported: 501,
  unreachable: 503,
  // The client has gone; this status is seen by nobody but a log.
  canceled: 499,
}

const CORRUPTION_CODES: Record<CorruptionCode, true> = {
  'superblock-corrupt': true,
  'segment-corrupt': true,
  'record-corrupt': true,
  'node-corrupt': true,
  'catalogue-corrupt': true,
  'block-corrupt': true,
  'log-gap': true,
  'image-corrupt': true,
}

function isOperatingCode(code: string): code is OperatingCode {
  return Object.hasOwn(HTTP_STATUS, code)
}

function isCorruptionCode(code: string): code is CorruptionCode {
  return Object.hasOwn(CORRUPTION_CODES, code)
}

export function encodeError(error: unknown): WireError {
  if (!(error instanceof VarveError)) {
    return { code: INTERNAL, message: error instanceof Error ? error.message : String(error) }
  }
  const wire: WireError = { code: error.code, message: error.message }
  if (error.hint !== undefined) wire.hint = error.hint
  if (Object.keys(error.details).length > 0) wire.details = error.details
  if (error instanceof OperatingError && error.errno !== undefined) wire.errno = error.errno
  return wire
}

/** The status line's number for a unary answer. */
export function statusOf(wire: WireError): number {
  return isOperatingCode(wire.code) ? HTTP_STATUS[wire.code] : 500
}

/** Takes anything: what does not look like an error of ours comes back as `unreachable`. */
export function decodeError(value: unknown): Error {
  if (typeof value !== 'object' || value === null) return foreignAnswer()
  const wire = value as Partial<Record<keyof WireError, unknown>>
  if (typeof wire.code !== 'string' || typeof wire.message !== 'string') return foreignAnswer()
  const fields: ErrorFields & { errno?: number } = {}
  if (typeof wire.hint === 'string') fields.hint = wire.hint
  if (typeof wire.details === 'object' && wire.details !== null) {
    fields.details = wire.details as Record<string, unknown>
  }
  if (typeof wire.errno === 'number') fields.errno = wire.errno
  if (isOperatingCode(wire.code)) return new OperatingError(wire.code, wire.message, fields)
  if (isCorruptionCode(wire.code)) return new CorruptionError(wire.code, wire.message, fields)
  return new Error(`the daemon failed: ${wire.message}`)
}

function foreignAnswer(): OperatingError {
  return new OperatingError('unreachable', 'the daemon gave an answer that is not understood', {
    hint: 'Check that `varve` and the running daemon are of the same version.',
  })
}
