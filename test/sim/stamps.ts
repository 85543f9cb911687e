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

/** What a sector is called that gave an error. */
export const STAMP_UNREADABLE = 0xfffffffe

/** Blocks that many writes have in common, so that there is something to deduplicate. */
export const COMMON_BLOCK_COUNT = 16
/** Stamps from here on are used once. */
export const STAMP_UNIQUE_FIRST = 1000

export function commonStamp(block: number, sector: number): number {
  return 1 + block * SECTORS_PER_BLOCK + sector
}

/** Every fourth stamp makes data that does not compress: each word follows from the one before. */
function nextWord(word: number): number {
  return (Math.imul(word, 1664525) + 1013904223) >>> 0
}

let viewed: Uint32Array = new Uint32Array(0)

/** All of the buffer under `memory` as words: one view for all sectors of an arena. */
function wordsOf(memory: Uint8Array): Uint32Array {
  if (viewed.buffer !== memory.buffer) {
    viewed = new Uint32Array(memory.buffer, 0, Math.floor(memory.buffer.byteLength / 4))
  }
  return viewed
}

/** `offsetBytes`: in `memory`, which begins, as a sector does, at a multiple of 4 bytes. */
export function writeStamp(memory: Uint8Array, offsetBytes: number, stamp: number): void {
  const words = wordsOf(memory)
  const first = (memory.byteOffset + offsetBytes) / 4
  const end = first + WORDS_PER_SECTOR
  if (stamp === 0 || stamp % 4 !== 0) {
    words.fill(stamp === 0 ? 0 : stamp ^ 0x5a5a5a5a, first, end)
    words[first] = stamp
    return
  }
  let word = stamp
  for (let at = first; at < end; at += 1) {
    words[at] = word
    word = nextWord(word)
  }
}

/** The stamp of the sector at `offsetBytes`, or STAMP_BAD when the rest does not follow from it. */
export function readStamp(memory: Uint8Array, offsetBytes: number): number {
  const words = wordsOf(memory)
  const first = (memory.byteOffset + offsetBytes) / 4
  const end = first + WORDS_PER_SECTOR
  const stamp = words[first]
  if (stamp === 0 || stamp % 4 !== 0) {
    const rest = stamp === 0 ? 0 : (stamp ^ 0x5a5a5a5a) >>> 0
    for (let at = first + 1; at < end; at += 1) if (words[at] !== rest) return STAMP_BAD
    return stamp
  }
  let word = stamp
  for (let at = first; at < end; at += 1) {
    if (words[at] !== word) return STAMP_BAD
    word = nextWord(word)
  }
  return stamp
}
