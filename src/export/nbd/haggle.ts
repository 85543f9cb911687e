/**
 * The meaning of options (proto.md, "Option types"): what a client and the server agree on before
 * requests flow. Framing is in handshake.ts. This is the control path: it may allocate.
 */
import { must } from '../../base/assert.ts'
import { VarveError } from '../../base/errors.ts'
import { formatSize } from '../../base/units.ts'
import type { ExportDirectory, ExportEntry, ExportTarget } from '../target.ts'
import {
  EXPORT_NAME_ZEROES_BYTES,
  Info,
  MAGIC_OPTION_REPLY_HIGH,
  MAGIC_OPTION_REPLY_LOW,
  OPTION_REPLY_HEADER_BYTES,
  Option,
  Reply,
  TransmissionFlag,
} from './constants.ts'
import type { SelectedContext } from './contexts.ts'
import { listContexts, selectContexts } from './contexts.ts'
import { CONTEXT_COUNT_MAX, PAYLOAD_BYTES_MAX } from './limits.ts'
import { tryDecodeContextRequest, tryDecodeInfoRequest, tryDecodeString } from './option-data.ts'

export interface HandshakeHost {
  readonly directory: ExportDirectory
  /** How the directory is told who opens. */
  readonly client: string
  /** `secured`: this connection already speaks TLS. */
  readonly tls: 'none' | 'offered' | 'required' | 'secured'
}

/** What both sides agreed on; the receiver owns `target` and closes it. */
export interface Agreement {
  readonly target: ExportTarget
  readonly isStructured: boolean
  readonly contexts: readonly SelectedContext[]
}

export type HandshakeOutcome =
  | { kind: 'transmit'; agreement: Agreement }
  | { kind: 'start-tls' }
  | { kind: 'close'; reason: string }

/** Transmission flags of an export (proto.md, "Transmission flags"). */
export function transmissionFlagsOf(target: ExportTarget, isStructured: boolean): number {
  return (
    TransmissionFlag.HAS_FLAGS |
    TransmissionFlag.SEND_FLUSH |
    TransmissionFlag.SEND_FUA |
    TransmissionFlag.SEND_TRIM |
    TransmissionFlag.SEND_WRITE_ZEROES |
    TransmissionFlag.CAN_MULTI_CONN |
    TransmissionFlag.SEND_CACHE |
    TransmissionFlag.SEND_FAST_ZERO |
    (isStructured ? TransmissionFlag.SEND_DF : 0) |
    (target.readOnly ? TransmissionFlag.READ_ONLY : 0)
  )
}

type OptionHandler = (haggle: Haggle, data: Buffer) => void

/** One row for each option that is understood. */
const HANDLERS = new Map<number, OptionHandler>([
  [Option.EXPORT_NAME, (haggle, data) => haggle.exportName(data)],
  [Option.ABORT, (haggle) => haggle.abort()],
  [Option.LIST, (haggle, data) => haggle.list(data)],
  [Option.STARTTLS, (haggle, data) => haggle.startTls(data)],
  [Option.INFO, (haggle, data) => haggle.info(data, false)],
  [Option.GO, (haggle, data) => haggle.info(data, true)],
  [Option.STRUCTURED_REPLY, (haggle, data) => haggle.structuredReply(data)],
  [Option.LIST_META_CONTEXT, (haggle, data) => haggle.metaContext(data, false)],
  [Option.SET_META_CONTEXT, (haggle, data) => haggle.metaContext(data, true)],
])

export class Haggle {
  readonly #host: HandshakeHost
  /** Null for old clients, which only know NBD_OPT_EXPORT_NAME and no TLS. */
  readonly #isFixed: boolean
  readonly #wantsZeroes: boolean
  #option = 0
  #isStructured = false
  /** Chosen by the last NBD_OPT_SET_META_CONTEXT, valid for this export only. */
  #contexts: { exportName: string; selected: SelectedContext[] } | null = null
  #outcome: HandshakeOutcome | null = null
  #output: Buffer[] = []

  constructor(host: HandshakeHost, isFixed: boolean, wantsZeroes: boolean) {
    this.#host = host
    this.#isFixed = isFixed
    this.#wantsZeroes = wantsZeroes
  }

  get outcome(): HandshakeOutcome | null {
    return this.#outcome
  }

  /** Bytes to send, in order; empties it. */
  takeOutput(): Buffer {
    const output = Buffer.concat(this.#output)
    this.#output = []
    return output
  }

  static understands(option: number): boolean {
    return HANDLERS.has(option)
  }

  /** Answers one option. `isTooBig`: its data was thrown away unread. */
  answer(option: number, data: Buffer, isTooBig: boolean): void {
    this.#option = option
    const handler = HANDLERS.get(option)
    const mustSecure = this.#host.tls === 'required'
    if (mustSecure && option !== Option.STARTTLS && option !== Option.ABORT) {
      this.#refuse(Reply.ERR_TLS_REQD, 'this server talks to TLS clients only')
    } else if (handler === undefined) {
      this.#refuse(Reply.ERR_UNSUP, 'unknown option')
    } else if (isTooBig && option !== Option.ABORT) {
      this.#refuse(Reply.ERR_TOO_BIG, 'the option has too much data')
    } else {
      handler(this, data)
    }
  }

  close(reason: string): void {
    this.#outcome = { kind: 'close', reason }
  }

  exportName(data: Buffer): void {
    const name = tryDecodeString(data)
    const target = name === null ? null : this.#tryOpen(name)
    if (target === null) {
      if (this.#outcome === null) this.close('no such export')
      return
    }
    const reply = Buffer.alloc(10 + (this.#wantsZeroes ? EXPORT_NAME_ZEROES_BYTES : 0))
    reply.writeBigUInt64BE(BigInt(target.sizeBytes), 0)
    reply.writeUInt16BE(transmissionFlagsOf(target, this.#isStructured), 8)
    this.#output.push(reply)
    this.#transmit(target)
  }

  abort(): void {
    this.#reply(Reply.ACK)
    this.close('the client gave up the handshake')
  }

  list(data: Buffer): void {
    if (this.#refusesData(data)) return
    for (const entry of this.#host.directory.list()) {
      const name = Buffer.from(entry.name)
      const length = Buffer.alloc(4)
      length.writeUInt32BE(name.length)
      this.#reply(Reply.SERVER, Buffer.concat([length, name, Buffer.from(describe(entry))]))
    }
    this.#reply(Reply.ACK)
  }

  startTls(data: Buffer): void {
    if (this.#refusesData(data)) return
    const { tls } = this.#host
    if (tls === 'secured') {
      this.#refuse(Reply.ERR_INVALID, 'the connection already uses TLS')
    } else if (tls === 'none' || !this.#isFixed) {
      this.#refuse(Reply.ERR_POLICY, 'TLS is not configured on this server')
    } else {
      this.#reply(Reply.ACK)
      this.#outcome = { kind: 'start-tls' }
    }
  }

  structuredReply(data: Buffer): void {
    if (this.#refusesData(data)) return
    this.#isStructured = true
    this.#reply(Reply.ACK)
  }

  info(data: Buffer, isGo: boolean): void {
    const request = tryDecodeInfoRequest(data)
    if (request === null) {
      this.#refuse(Reply.ERR_INVALID, 'the option data does not parse')
      return
    }
    const target = this.#tryOpen(request.exportName)
    if (target === null) return
    this.#replyExport(target)
    // The canonical name helps who asked for the default export, even unasked.
    if (request.infos.includes(Info.NAME) || request.exportName !== target.name) {
      this.#replyInfo(Info.NAME, Buffer.from(target.name))
    }
    if (request.infos.includes(Info.DESCRIPTION)) {
      this.#replyInfo(Info.DESCRIPTION, Buffer.from(describe(target)))
    }
    if (request.infos.includes(Info.BLOCK_SIZE)) this.#replyBlockSize(target)
    this.#reply(Reply.ACK)
    if (isGo) this.#transmit(target)
    else target.close()
  }

  metaContext(data: Buffer, isSet: boolean): void {
    // Setting replaces what was set before, also when it fails.
    if (isSet) this.#contexts = null
    const request = tryDecodeContextRequest(data)
    if (request === null || (isSet && !this.#isStructured)) {
      const fact = request === null ? 'the option data does not parse' : 'structured replies first'
      this.#refuse(Reply.ERR_INVALID, fact)
      return
    }
    const target = this.#tryOpen(request.exportName)
    if (target === null) return
    const selected = selectContexts(target, isSet ? request.queries : [])
    const listed = isSet ? [] : listContexts(target, request.queries)
    target.close()
    if (selected.length > CONTEXT_COUNT_MAX) {
      this.#refuse(Reply.ERR_TOO_BIG, `at most ${CONTEXT_COUNT_MAX} contexts`)
      return
    }
    for (const { id, name } of selected) this.#replyContext(id, name)
    for (const name of listed) this.#replyContext(0, name)
    this.#reply(Reply.ACK)
    if (isSet) this.#contexts = { exportName: target.name, selected }
  }

  /** Opens by name; null when that was answered with an error. */
  #tryOpen(name: string): ExportTarget | null {
    const entries = name === '' ? this.#host.directory.list() : []
    if (name === '' && entries.length !== 1) {
      this.#refuse(Reply.ERR_UNKNOWN, 'there is no default export: name one')
      return null
    }
    const chosen = name === '' ? must(entries[0], 'the only export').name : name
    try {
      const target = this.#host.directory.open(chosen, this.#host.client)
      if (target === null) this.#refuse(Reply.ERR_UNKNOWN, 'no such export')
      return target
    } catch (error) {
      if (!(error instanceof VarveError)) throw error
      this.#refuse(Reply.ERR_POLICY, error.message)
      return null
    }
  }

  #transmit(target: ExportTarget): void {
    const contexts = this.#contexts?.exportName === target.name ? this.#contexts.selected : []
    const agreement = { target, isStructured: this.#isStructured, contexts }
    this.#outcome = { kind: 'transmit', agreement }
  }

  #refusesData(data: Buffer): boolean {
    if (data.length === 0) return false
    this.#refuse(Reply.ERR_INVALID, 'this option has no data')
    return true
  }

  /** Errors end the session for NBD_OPT_EXPORT_NAME, which has no way to say them. */
  #refuse(type: number, message: string): void {
    if (this.#option === Option.EXPORT_NAME) this.close(message)
    else this.#reply(type, Buffer.from(message))
  }

  #replyExport(target: ExportTarget): void {
    const payload = Buffer.alloc(10)
    payload.writeBigUInt64BE(BigInt(target.sizeBytes), 0)
    payload.writeUInt16BE(transmissionFlagsOf(target, this.#isStructured), 8)
    this.#replyInfo(Info.EXPORT, payload)
  }

  #replyBlockSize(target: ExportTarget): void {
    const payload = Buffer.alloc(12)
    // Targets take any alignment, so the smallest request is one byte.
    payload.writeUInt32BE(1, 0)
    payload.writeUInt32BE(target.blockSizes.preferred, 4)
    payload.writeUInt32BE(PAYLOAD_BYTES_MAX, 8)
    this.#replyInfo(Info.BLOCK_SIZE, payload)
  }

  #replyInfo(info: number, payload: Buffer): void {
    const type = Buffer.alloc(2)
    type.writeUInt16BE(info)
    this.#reply(Reply.INFO, Buffer.concat([type, payload]))
  }

  #replyContext(id: number, name: string): void {
    const head = Buffer.alloc(4)
    head.writeUInt32BE(id)
    this.#reply(Reply.META_CONTEXT, Buffer.concat([head, Buffer.from(name)]))
  }

  #reply(type: number, payload: Buffer = Buffer.alloc(0)): void {
    const header = Buffer.alloc(OPTION_REPLY_HEADER_BYTES)
    header.writeUInt32BE(MAGIC_OPTION_REPLY_HIGH, 0)
    header.writeUInt32BE(MAGIC_OPTION_REPLY_LOW, 4)
    header.writeUInt32BE(this.#option, 8)
    header.writeUInt32BE(type, 12)
    header.writeUInt32BE(payload.length, 16)
    this.#output.push(header, payload)
  }
}

function describe({ readOnly, sizeBytes }: Omit<ExportEntry, 'name'>): string {
  return `${readOnly ? 'read-only disk' : 'disk'}, ${formatSize(sizeBytes)}`
}
