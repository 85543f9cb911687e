/** Units and their conversions, all in one place. Sizes and offsets are bytes unless named. */

export const KIB = 1024
export const MIB: number = 1024 * KIB
export const GIB: number = 1024 * MIB
export const TIB: number = 1024 * GIB

/** The unit of mapping, dedup and checksum. */
export const BLOCK_SIZE_BYTES = 4096
export const BLOCK_SIZE_SHIFT = 12

/** 64 MiB of log: 16,384 slots of one block each. */
export const SEGMENT_SIZE_BYTES: number = 64 * MIB
export const SEGMENT_SLOT_COUNT: number = SEGMENT_SIZE_BYTES / BLOCK_SIZE_BYTES

/** Four levels of nine bits over 4 KiB blocks: the most a map can address. */
export const VOLUME_SIZE_BYTES_MAX: number = 256 * TIB

/** Blocks that `lengthBytes` starting at a block boundary touches. */
export function blocksOf(lengthBytes: number): number {
  return Math.ceil(lengthBytes / BLOCK_SIZE_BYTES)
}

const SIZE_PATTERN = /^(\d+(?:\.\d+)?)\s*([KMGTP]?)(iB|B)?$/i
const EXPONENTS = ['', 'K', 'M', 'G', 'T', 'P']

/**
 * Parses `10G`, `10GiB`, `10GB`, `4096`. `K` and `KiB` are 1024, `KB` is 1000, bare is bytes.
 * Returns null for anything else, and for what is not a whole number of bytes.
 */
export function tryParseSize(text: string): number | null {
  const match = SIZE_PATTERN.exec(text.trim())
  if (match === null) return null
  const [, digits, letter, suffix] = match
  const exponent = EXPONENTS.indexOf(letter.toUpperCase())
  const base = suffix?.toUpperCase() === 'B' && exponent > 0 ? 1000 : 1024
  const bytes = Number(digits) * base ** exponent
  return Number.isSafeInteger(bytes) ? bytes : null
}

/** `1536` → `1.5 KiB`; three significant digits, for people. Machine output prints bytes. */
export function formatSize(bytes: number): string {
  let value = bytes
  let exponent = 0
  while (value >= 1024 && exponent < EXPONENTS.length - 1) {
    value /= 1024
    exponent += 1
  }
  if (exponent === 0) return `${bytes} B`
  const decimals = value < 10 ? 2 : value < 100 ? 1 : 0
  return `${value.toFixed(decimals)} ${EXPONENTS[exponent]}iB`
}
