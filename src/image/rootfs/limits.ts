/** What a tree may be at most. An archive is a stranger's: nothing in it is believed unbounded. */
import { OperatingError } from '../../base/errors.ts'
import { GIB, MIB, TIB, formatSize } from '../../base/units.ts'

/** A name of Linux, `NAME_MAX`. */
export const NAME_BYTES_MAX = 255
/** `PATH_MAX` less what the path of the work folder takes in front. */
export const PATH_BYTES_MAX = 3800
/** `mke2fs` holds one folder open a level, and a process may hold 1024. */
export const DEPTH_MAX = 512
/** `EXT4_LINK_MAX`, of names of a file and of folders in a folder. */
export const LINK_COUNT_MAX = 65000
/** A larger file has no place in ext4 with blocks of 4 KiB. */
export const FILE_BYTES_MAX: number = 16 * TIB - 4096
/** ext4 keeps a link's target in one block, with a zero at its end. */
export const TARGET_BYTES_MAX = 4095
/** Some hundred bytes of memory each. */
export const ENTRY_COUNT_MAX = 2_000_000
/** Names, targets and attributes, held in memory. */
export const METADATA_BYTES_MAX: number = 256 * MIB
/** A header that extends another; what Linux lets an attribute hold is 64 KiB. */
export const HEADER_BYTES_MAX: number = MIB
/** Of an unpacked tree, unless the caller says otherwise. */
export const UNPACKED_BYTES_MAX_DEFAULT: number = 64 * GIB

/** What an archive has used of what it may. */
export class Budget {
  readonly #unpackedBytesMax: number
  #unpackedBytes = 0
  #metadataBytes = 0
  #entryCount = 0

  constructor(unpackedBytesMax: number) {
    this.#unpackedBytesMax = unpackedBytesMax
  }

  /** Throws `out-of-range`, as the others do. */
  takeUnpacked(lengthBytes: number): void {
    this.#unpackedBytes += lengthBytes
    if (this.#unpackedBytes <= this.#unpackedBytesMax) return
    throw new OperatingError(
      'out-of-range',
      `what is unpacked is larger than ${formatSize(this.#unpackedBytesMax)}`,
      { hint: 'If it may be that large, give --max-size.' },
    )
  }

  takeEntry(): void {
    this.#entryCount += 1
    if (this.#entryCount <= ENTRY_COUNT_MAX) return
    throw new OperatingError('out-of-range', `there are more than ${ENTRY_COUNT_MAX} entries`)
  }

  takeMetadata(lengthBytes: number): void {
    this.#metadataBytes += lengthBytes
    if (this.#metadataBytes <= METADATA_BYTES_MAX) return
    const limit = formatSize(METADATA_BYTES_MAX)
    throw new OperatingError('out-of-range', `names and attributes take more than ${limit}`)
  }
}

/** The source is not what it should be; `fact` is the whole message. */
export function badSource(fact: string, hint?: string): OperatingError {
  return new OperatingError('usage', fact, hint === undefined ? {} : { hint })
}
