/**
 * One 512-byte header of a tar archive, as POSIX.1-1988 (ustar) draws it and GNU tar extends it.
 * Pure; names are one character a byte.
 *
 *      0 name 100      100 mode 8     108 uid 8      116 gid 8     124 size 12    136 mtime 12
 *    148 checksum 8    156 type 1     157 link 100   257 magic 6   263 version 2  265 user 32
 *    297 group 32      329 major 8    337 minor 8    345 prefix 155
 *
 * GNU, old sparse format, from 386: four times offset 12 and length 12; 482 extended; 483 size 12.
 */
import { badSource } from './limits.ts'

export const TAR_BLOCK_BYTES = 512

export interface TarHeader {
  name: string
  linkName: string
  type: string
  mode: number
  userId: number
  groupId: number
  sizeBytes: number
  mtimeSeconds: number
  major: number
  minor: number
}

export interface SparsePiece {
  offsetBytes: number
  lengthBytes: number
}

const GNU_MAGIC = 'ustar  \0'
const GNU_SPARSE_AT = 386
const GNU_SPARSE_COUNT = 4
const GNU_EXTENSION_COUNT = 21

export function isZeroBlock(block: Uint8Array): boolean {
  return block.every((byte) => byte === 0)
}

/** Refuses a block whose checksum is not right, and numbers that are none. */
export function decodeTarHeader(block: Buffer): TarHeader {
  verifyChecksum(block)
  const magic = block.toString('latin1', 257, 265)
  const isUstar = magic.startsWith('ustar')
  // GNU uses the place of the prefix for other things.
  const prefix = isUstar && magic !== GNU_MAGIC ? text(block, 345, 155) : ''
  const name = text(block, 0, 100)
  return {
    name: prefix === '' ? name : `${prefix}/${name}`,
    linkName: text(block, 157, 100),
    type: String.fromCharCode(block[156]),
    mode: number(block, 100, 8) & 0o7777,
    userId: number(block, 108, 8),
    groupId: number(block, 116, 8),
    sizeBytes: mustCount(number(block, 124, 12), 'size'),
    mtimeSeconds: number(block, 136, 12),
    major: isUstar ? number(block, 329, 8) : 0,
    minor: isUstar ? number(block, 337, 8) : 0,
  }
}

/** The pieces in a header of type `S`, the file's size, and whether an extension follows. */
export function decodeGnuSparse(block: Buffer): {
  pieces: SparsePiece[]
  sizeBytes: number
  isExtended: boolean
} {
  return {
    pieces: sparsePieces(block, GNU_SPARSE_AT, GNU_SPARSE_COUNT),
    sizeBytes: mustCount(number(block, 483, 12), 'size'),
    isExtended: block[482] !== 0,
  }
}

/** The block after such a header. */
export function decodeGnuExtension(block: Buffer): {
  pieces: SparsePiece[]
  isExtended: boolean
} {
  return { pieces: sparsePieces(block, 0, GNU_EXTENSION_COUNT), isExtended: block[504] !== 0 }
}

function sparsePieces(block: Buffer, start: number, count: number): SparsePiece[] {
  const pieces: SparsePiece[] = []
  for (let index = 0; index < count; index += 1) {
    const at = start + index * 24
    if (block[at] === 0) break
    pieces.push({
      offsetBytes: mustCount(number(block, at, 12), 'offset'),
      lengthBytes: mustCount(number(block, at + 12, 12), 'length'),
    })
  }
  return pieces
}

/** The sum of all bytes, with blanks for the sum itself; some old writers added signed bytes. */
function verifyChecksum(block: Buffer): void {
  let unsigned = 0
  let signed = 0
  for (let at = 0; at < TAR_BLOCK_BYTES; at += 1) {
    const byte = at >= 148 && at < 156 ? 32 : block[at]
    unsigned += byte
    signed += byte < 128 ? byte : byte - 256
  }
  const digits = text(block, 148, 8).trim()
  const stored = /^[0-7]+$/.test(digits) ? parseInt(digits, 8) : NaN
  if (stored !== unsigned && stored !== signed) {
    throw badSource('this is no tar archive, or it is damaged', 'Fetch or make it again.')
  }
}

function text(block: Buffer, at: number, lengthBytes: number): string {
  const end = block.indexOf(0, at)
  const last = at + lengthBytes
  return block.toString('latin1', at, end < 0 || end > last ? last : end)
}

/** Octal digits between blanks, or GNU's binary with the highest bit set. */
function number(block: Buffer, at: number, lengthBytes: number): number {
  if (block[at] >= 0x80) return binaryNumber(block, at, lengthBytes)
  const digits = text(block, at, lengthBytes).trim()
  if (digits === '') return 0
  const value = /^[0-7]+$/.test(digits) ? parseInt(digits, 8) : NaN
  if (!Number.isSafeInteger(value)) throw badSource('a header of the archive has a bad number')
  return value
}

/** Two's complement, big end first, the format's own bit taken for a sign. */
function binaryNumber(block: Buffer, at: number, lengthBytes: number): number {
  const isNegative = block[at] === 0xff
  let value = isNegative ? -1 : block[at] & 0x7f
  for (let index = 1; index < lengthBytes; index += 1) value = value * 256 + block[at + index]
  if (!Number.isSafeInteger(value)) throw badSource('a header of the archive has a bad number')
  return value
}

function mustCount(value: number, what: string): number {
  if (value < 0) throw badSource(`a header of the archive has a negative ${what}`)
  return value
}
