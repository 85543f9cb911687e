/**
 * Contents that say what they are. A sector of 512 bytes is generated from its *stamp*, a number
 * that it begins with, so that what is read back names the write it came from, and a byte that is
 * out of place shows. Stamp 0 is a sector of zeros.
 */
export const SECTOR_BYTES = 512
export const SECTORS_PER_BLOCK = 8
const WORDS_PER_SECTOR = SECTOR_BYTES / 4

/** What a sector is called that no stamp explains. */
export const STAMP_BAD = 0xffffffff

/** Blocks that many writes have in common, so that there is something to deduplicate. */
export const COMMON_BLOCK_COUNT = 16
/** Stamps from here on are used once. */
export const STAMP_UNIQUE_FIRST = 1000

export function commonStamp(block: number, sector: number): number {
  return 1 + block * SECTORS_PER_BLOCK + sector
}

/** Every fourth stamp makes data that does not compress. */
function nextWord(word: number, stamp: number): number {
  return stamp % 4 === 0 ? (Math.imul(word, 1664525) + 1013904223) >>> 0 : stamp ^ 0x5a5a5a5a
}

function wordsAt(memory: Uint8Array, offsetBytes: number): Uint32Array {
  return new Uint32Array(memory.buffer, memory.byteOffset + offsetBytes, WORDS_PER_SECTOR)
}

export function writeStamp(memory: Uint8Array, offsetBytes: number, stamp: number): void {
  const words = wordsAt(memory, offsetBytes)
  if (stamp === 0) {
    words.fill(0)
    return
  }
  let word = stamp
  for (let index = 0; index < WORDS_PER_SECTOR; index += 1) {
    words[index] = word
    word = nextWord(word, stamp)
  }
}

/** The stamp of the sector at `offsetBytes`, or STAMP_BAD when the rest does not follow from it. */
export function readStamp(memory: Uint8Array, offsetBytes: number): number {
  const words = wordsAt(memory, offsetBytes)
  const stamp = words[0]
  let word = stamp
  for (let index = 0; index < WORDS_PER_SECTOR; index += 1) {
    if (words[index] !== word) return STAMP_BAD
    word = stamp === 0 ? 0 : nextWord(word, stamp)
  }
  return stamp
}
