/** What a header says that has to be known before QEMU may open the image. */
import { OperatingError } from '../../base/errors.ts'

/** A name in an image of a file that QEMU would open with it. */
export interface Reference {
  role: 'backing' | 'data-file'
  name: string
  /** As the image says; null: it does not. */
  format: string | null
}

export interface VmdkExtent {
  sizeBytes: number
  type: 'FLAT' | 'SPARSE' | 'ZERO'
  /** Null: zeros, no file. */
  name: string | null
  /** Of the extent within its file. */
  offsetBytes: number
}

/** Which blocks of the disk are in the image; the others are zeros. */
export interface BlockMap {
  blockBytes: number
  /** A bit each, the lowest of a byte first. */
  bits: Uint8Array
}

export interface ImageFacts {
  /** What the header claims; null where only QEMU is asked. */
  virtualSizeBytes: number | null
  references: Reference[]
  /** Of a VMDK that is only a description of other files; else null. */
  extents: VmdkExtent[] | null
  /** Where QEMU's driver cannot tell its holes; else null. */
  blocks: BlockMap | null
}

export function unsupportedImage(fact: string, hint: string): OperatingError {
  return new OperatingError('unsupported', fact, { hint })
}

export function needsParent(format: string): OperatingError {
  return unsupportedImage(
    `the ${format} image holds only what differs from another one`,
    'Merge it with its parent where it was made, and import the result.',
  )
}
