/**
 * The bytes of an image as those who judge its header see them. Everything they read is hostile:
 * a range is checked against the file before it is read, and nothing is read whole that could be
 * large.
 */
import type { FileHandle } from 'node:fs/promises'
import { CorruptionError, OperatingError } from '../base/errors.ts'
import { formatSize } from '../base/units.ts'
import { systemError } from './system-error.ts'

export interface ImageBytes {
  readonly sizeBytes: number
  /** Shorter than asked for only at the end of the file. */
  read(offsetBytes: number, lengthBytes: number): Promise<Buffer>
}

const TABLE_CHUNK_BYTES = 65536

export class FileBytes implements ImageBytes {
  readonly sizeBytes: number
  readonly #file: FileHandle
  readonly #signal: AbortSignal | undefined

  constructor(file: FileHandle, sizeBytes: number, signal?: AbortSignal) {
    this.#file = file
    this.sizeBytes = sizeBytes
    this.#signal = signal
  }

  async read(offsetBytes: number, lengthBytes: number): Promise<Buffer> {
    this.#signal?.throwIfAborted()
    const buffer = Buffer.alloc(Math.max(0, Math.min(lengthBytes, this.sizeBytes - offsetBytes)))
    let done = 0
    try {
      while (done < buffer.length) {
        const left = buffer.length - done
        const { bytesRead } = await this.#file.read(buffer, done, left, offsetBytes + done)
        if (bytesRead === 0) break
        done += bytesRead
      }
    } catch (error) {
      throw systemError('the image cannot be read', error)
    }
    return buffer.subarray(0, done)
  }
}

export function imageCorrupt(fact: string, hint?: string): CorruptionError {
  return new CorruptionError('image-corrupt', fact, {
    hint: hint ?? 'Copy the image again, or have the program that made it check it.',
  })
}

export function truncated(what: string, endBytes: number, bytes: ImageBytes): CorruptionError {
  const size = formatSize(bytes.sizeBytes)
  const end = Number.isSafeInteger(endBytes) ? formatSize(endBytes) : 'more than can be'
  return imageCorrupt(`the image is cut off: ${what} ends at ${end}, the file at ${size}`)
}

/** Exactly `lengthBytes`; throws `image-corrupt` where the file has no such range. */
export async function mustRead(
  bytes: ImageBytes,
  offsetBytes: number,
  lengthBytes: number,
  what: string,
): Promise<Buffer> {
  mustHold(bytes, offsetBytes, lengthBytes, what)
  const read = await bytes.read(offsetBytes, lengthBytes)
  if (read.length < lengthBytes) throw truncated(what, offsetBytes + lengthBytes, bytes)
  return read
}

/** Offsets come from 64-bit fields: beyond 2^53 they are only ever too large. */
export function mustHold(
  bytes: ImageBytes,
  offsetBytes: number,
  lengthBytes: number,
  what: string,
): void {
  if (offsetBytes + lengthBytes <= bytes.sizeBytes) return
  throw truncated(what, offsetBytes + lengthBytes, bytes)
}

/** A table in pieces that hold whole entries; the table must lie within the file. */
export async function* readTable(
  bytes: ImageBytes,
  offsetBytes: number,
  lengthBytes: number,
  what: string,
): AsyncGenerator<Buffer> {
  mustHold(bytes, offsetBytes, lengthBytes, what)
  for (let done = 0; done < lengthBytes; done += TABLE_CHUNK_BYTES) {
    const step = Math.min(TABLE_CHUNK_BYTES, lengthBytes - done)
    yield await mustRead(bytes, offsetBytes + done, step, what)
  }
}

/** A 64-bit field as a number: exact up to 2^53, and large beyond, which is all that matters. */
export function sizeAt(buffer: Buffer, offset: number, order: 'big' | 'little'): number {
  const value = order === 'big' ? buffer.readBigUInt64BE(offset) : buffer.readBigUInt64LE(offset)
  return Number(value)
}

/** Throws `out-of-range`: a header may claim anything, and a few bytes can claim exabytes. */
export function verifyVirtualSize(sizeBytes: number, sizeBytesMax: number): void {
  if (sizeBytes <= sizeBytesMax) return
  const claimed = Number.isSafeInteger(sizeBytes) ? formatSize(sizeBytes) : `${sizeBytes} bytes`
  throw new OperatingError(
    'out-of-range',
    `the image is a disk of ${claimed}, more than the ${formatSize(sizeBytesMax)} allowed`,
    { hint: 'If that is right, allow it with --max-size.', details: { sizeBytes, sizeBytesMax } },
  )
}
