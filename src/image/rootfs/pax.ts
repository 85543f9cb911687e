/**
 * Extended headers of POSIX.1-2001: records `LENGTH KEY=VALUE\n`, LENGTH in decimal and of the
 * whole record. Pure; keys and values are one character a byte, as attributes may be any bytes.
 */
import { badSource } from './limits.ts'
import type { SparsePiece } from './tar-header.ts'

export interface PaxHeader {
  values: Map<string, string>
  /** GNU.sparse.offset and .numbytes of format 0.0, which come again and again, in order. */
  sparsePairs: string[]
}

export function decodePax(bytes: Buffer): PaxHeader {
  const values = new Map<string, string>()
  const sparsePairs: string[] = []
  let at = 0
  while (at < bytes.length) {
    const blank = bytes.indexOf(32, at)
    const digits = bytes.toString('latin1', at, blank < 0 ? at : Math.min(blank, at + 16))
    const end = /^[0-9]+$/.test(digits) ? at + Number(digits) : NaN
    // What pads the header to its block.
    if (digits === '' && bytes.subarray(at).every((byte) => byte === 0)) break
    const isWhole = end <= bytes.length && end > blank + 1 && bytes[end - 1] === 10
    const equals = isWhole ? bytes.indexOf(61, blank) : -1
    if (equals < 0 || equals >= end) throw badSource('an extended header is damaged')
    const key = bytes.toString('latin1', blank + 1, equals)
    const value = bytes.toString('latin1', equals + 1, end - 1)
    if (key === 'GNU.sparse.offset' || key === 'GNU.sparse.numbytes') sparsePairs.push(value)
    values.set(key, value)
    at = end
  }
  return { values, sparsePairs }
}

/** A count; null where there is none. */
export function paxCount(values: ReadonlyMap<string, string>, key: string): number | null {
  const value = values.get(key)
  if (value === undefined || value === '') return null
  const count = /^[0-9]+$/.test(value) ? Number(value) : NaN
  if (!Number.isSafeInteger(count)) throw badSource(`an extended header has a bad ${key}`)
  return count
}

/** Whole seconds; fractions do not survive. */
export function paxSeconds(values: ReadonlyMap<string, string>, key: string): number | null {
  const value = values.get(key)
  if (value === undefined || value === '') return null
  const seconds = /^-?[0-9]+(\.[0-9]*)?$/.test(value) ? Math.floor(Number(value)) : NaN
  if (!Number.isSafeInteger(seconds)) throw badSource(`an extended header has a bad ${key}`)
  return seconds
}

/** Attributes, as star and GNU tar write them (plain) and as libarchive does (base64). */
export function paxAttributes(values: ReadonlyMap<string, string>): Map<string, Buffer> {
  const xattrs = new Map<string, Buffer>()
  for (const [key, value] of values) {
    if (key.startsWith('LIBARCHIVE.xattr.')) {
      const name = percentDecoded(key.slice('LIBARCHIVE.xattr.'.length))
      if (!xattrs.has(name)) xattrs.set(name, Buffer.from(value, 'base64'))
    } else if (key.startsWith('SCHILY.xattr.')) {
      xattrs.set(key.slice('SCHILY.xattr.'.length), Buffer.from(value, 'latin1'))
    }
  }
  return xattrs
}

function percentDecoded(text: string): string {
  return text.replaceAll(/%([0-9a-fA-F]{2})/g, (_, digits: string) =>
    String.fromCharCode(parseInt(digits, 16)),
  )
}

/** Offsets and lengths in turn. */
export function sparsePiecesOf(numbers: readonly string[]): SparsePiece[] {
  if (numbers.length % 2 !== 0) throw badSource('the map of a sparse file is damaged')
  const pieces: SparsePiece[] = []
  for (let index = 0; index < numbers.length; index += 2) {
    pieces.push({
      offsetBytes: sparseNumber(numbers[index]),
      lengthBytes: sparseNumber(numbers[index + 1]),
    })
  }
  return pieces
}

export function sparseNumber(digits: string): number {
  const value = /^[0-9]{1,16}$/.test(digits) ? Number(digits) : NaN
  if (!Number.isSafeInteger(value)) throw badSource('the map of a sparse file is damaged')
  return value
}
