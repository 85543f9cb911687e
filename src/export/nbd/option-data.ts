/**
 * What the data of an option says (proto.md, "Option types"), decoded without trusting any length
 * in it. Null means syntactically invalid, which is answered with NBD_REP_ERR_INVALID.
 */
import { STRING_BYTES_MAX } from './limits.ts'

/** Data of NBD_OPT_INFO and NBD_OPT_GO. */
export interface InfoRequest {
  exportName: string
  /** NBD_INFO numbers the client asks for, known or not. */
  infos: number[]
}

/** Data of NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT. */
export interface ContextRequest {
  exportName: string
  queries: string[]
}

const DECODER = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** A string of the protocol: UTF-8, no NUL, at most 4096 bytes; null when it is not one. */
export function tryDecodeString(bytes: Uint8Array): string | null {
  if (bytes.length > STRING_BYTES_MAX || bytes.includes(0)) return null
  try {
    return DECODER.decode(bytes)
  } catch {
    return null
  }
}

export function tryDecodeInfoRequest(data: Buffer): InfoRequest | null {
  const reader = new OptionReader(data)
  const exportName = reader.tryString()
  if (exportName === null) return null
  const count = reader.tryUint16()
  // The count must account for every byte that is left, so it needs no bound of its own.
  if (count === null || reader.remainingBytes !== 2 * count) return null
  const infos: number[] = []
  for (let i = 0; i < count; i += 1) infos.push(reader.tryUint16() ?? 0)
  return { exportName, infos }
}

export function tryDecodeContextRequest(data: Buffer): ContextRequest | null {
  const reader = new OptionReader(data)
  const exportName = reader.tryString()
  const count = exportName === null ? null : reader.tryUint32()
  if (exportName === null || count === null) return null
  const queries: string[] = []
  for (let i = 0; i < count; i += 1) {
    // Every query has four bytes at least, so a false count ends with the data.
    const query = reader.tryString()
    if (query === null || !query.includes(':')) return null
    queries.push(query)
  }
  return reader.remainingBytes === 0 ? { exportName, queries } : null
}

class OptionReader {
  readonly #data: Buffer
  #offset = 0

  constructor(data: Buffer) {
    this.#data = data
  }

  get remainingBytes(): number {
    return this.#data.length - this.#offset
  }

  tryUint16(): number | null {
    if (this.remainingBytes < 2) return null
    this.#offset += 2
    return this.#data.readUInt16BE(this.#offset - 2)
  }

  tryUint32(): number | null {
    if (this.remainingBytes < 4) return null
    this.#offset += 4
    return this.#data.readUInt32BE(this.#offset - 4)
  }

  /** A string behind its 32-bit length. */
  tryString(): string | null {
    const lengthBytes = this.tryUint32()
    if (lengthBytes === null || lengthBytes > this.remainingBytes) return null
    this.#offset += lengthBytes
    return tryDecodeString(this.#data.subarray(this.#offset - lengthBytes, this.#offset))
  }
}
