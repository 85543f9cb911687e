import type { Checksum } from '../base/checksum.ts'
import { BLOCK_SIZE_BYTES } from '../base/units.ts'

/**
 * What every self-validating 4 KiB page of the format shares: a magic at 0 and, in its last eight
 * bytes, the XXH64 of all bytes before them.
 *
 *     0     8  magic, ASCII
 *     8  4080  the structure's own fields
 *  4088     8  checksum of bytes 0 to 4087
 */
export const PAGE_SIZE_BYTES: number = BLOCK_SIZE_BYTES
export const PAGE_CHECKSUM_OFFSET: number = PAGE_SIZE_BYTES - 8

/** The version this build writes. A pool of a higher one is refused. */
export const FORMAT_VERSION = 1

const scratch = new Uint32Array(2)

/** A DataView over one page of `memory`. */
export function pageView(memory: Uint8Array, offsetBytes: number): DataView {
  return new DataView(memory.buffer, memory.byteOffset + offsetBytes, PAGE_SIZE_BYTES)
}

export function writeMagic(view: DataView, magic: string): void {
  for (let i = 0; i < 8; i += 1) view.setUint8(i, magic.charCodeAt(i))
}

export function hasMagic(view: DataView, magic: string): boolean {
  for (let i = 0; i < 8; i += 1) {
    if (view.getUint8(i) !== magic.charCodeAt(i)) return false
  }
  return true
}

/** Computes and stores the checksum; the last step of every encode. */
export function sealPage(memory: Uint8Array, offsetBytes: number, checksum: Checksum): void {
  checksum.hashBytes(memory, offsetBytes, PAGE_CHECKSUM_OFFSET, scratch, 0)
  const view = pageView(memory, offsetBytes)
  view.setUint32(PAGE_CHECKSUM_OFFSET, scratch[0], true)
  view.setUint32(PAGE_CHECKSUM_OFFSET + 4, scratch[1], true)
}

/** True when the stored checksum is that of the bytes. */
export function isPageSound(memory: Uint8Array, offsetBytes: number, checksum: Checksum): boolean {
  checksum.hashBytes(memory, offsetBytes, PAGE_CHECKSUM_OFFSET, scratch, 0)
  const view = pageView(memory, offsetBytes)
  return (
    view.getUint32(PAGE_CHECKSUM_OFFSET, true) === scratch[0] &&
    view.getUint32(PAGE_CHECKSUM_OFFSET + 4, true) === scratch[1]
  )
}

export function bytesEqual(a: Uint8Array, view: DataView, offset: number): boolean {
  for (let i = 0; i < a.length; i += 1) {
    if (view.getUint8(offset + i) !== a[i]) return false
  }
  return true
}

export function copyBytes(from: Uint8Array, view: DataView, offset: number): void {
  for (let i = 0; i < from.length; i += 1) view.setUint8(offset + i, from[i])
}

export function readBytes(view: DataView, offset: number, lengthBytes: number): Uint8Array {
  return new Uint8Array(view.buffer, view.byteOffset + offset, lengthBytes).slice()
}
