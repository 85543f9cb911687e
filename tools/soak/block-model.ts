/**
 * What a client of the soak knows of its disk: by block, which of its writes may be there. Every
 * block is stamped with its disk, its place and its write, so nothing passes for another.
 */
export const BLOCK_BYTES = 4096
const HEAD_WORDS = 4
const BLOCK_WORDS: number = BLOCK_BYTES / 4

/** `answered`: what was answered survives the server; `flushed`: only what was flushed does. */
export type Promised = 'answered' | 'flushed'

export class BlockModel {
  readonly blockCount: number
  readonly #disk: number
  readonly #promised: Promised
  /** Stamps that a block may have, oldest first; 0: zeros. */
  readonly #possible: number[][]
  readonly #busy: Set<number> = new Set()
  /** Newest stamp that was answered, of blocks written since the last flush. */
  readonly #answered: Map<number, number> = new Map()
  #nextStamp = 1

  constructor(disk: number, blockCount: number, promised: Promised) {
    this.#disk = disk
    this.blockCount = blockCount
    this.#promised = promised
    this.#possible = Array.from({ length: blockCount }, () => [0])
  }

  get writeCount(): number {
    return this.#nextStamp - 1
  }

  /** How many of `count` blocks from `first` on nobody is writing. */
  free(first: number, count: number): number {
    let free = 0
    while (free < count && first + free < this.blockCount && !this.#busy.has(first + free)) {
      free += 1
    }
    return free
  }

  /** Begins a write of free blocks; call `answered` when it was. */
  begin(first: number, count: number): { bytes: Buffer; answered: () => void } {
    const bytes = Buffer.alloc(count * BLOCK_BYTES)
    const stamps: number[] = []
    for (let i = 0; i < count; i += 1) {
      const stamp = this.#nextStamp
      this.#nextStamp += 1
      this.#busy.add(first + i)
      this.#possible[first + i].push(stamp)
      stampBlock(bytes, i * BLOCK_BYTES, this.#disk, first + i, stamp)
      stamps.push(stamp)
    }
    const answered = (): void => {
      for (const [i, stamp] of stamps.entries()) {
        this.#busy.delete(first + i)
        if (this.#promised === 'answered') this.#possible[first + i] = [stamp]
        else this.#answered.set(first + i, stamp)
      }
    }
    return { bytes, answered }
  }

  /** Begins a flush; call what it returns when it was answered. */
  beginFlush(): () => void {
    const covered = new Map(this.#answered)
    return () => {
      for (const [block, stamp] of covered) {
        const possible = this.#possible[block]
        possible.splice(0, possible.indexOf(stamp))
        if (this.#answered.get(block) === stamp) this.#answered.delete(block)
      }
    }
  }

  /** Of a disk at rest: nothing in flight, everything flushed. */
  contents(): Uint32Array {
    return Uint32Array.from(this.#possible, (possible) => possible[possible.length - 1])
  }

  setContents(contents: Uint32Array): void {
    for (const [block, stamp] of contents.entries()) this.#possible[block] = [stamp]
    this.#busy.clear()
    this.#answered.clear()
  }

  /** Throws with a block that cannot hold this; else what is there is what it holds. */
  verify(first: number, bytes: Buffer): void {
    for (let i = 0; i * BLOCK_BYTES < bytes.length; i += 1) {
      const block = first + i
      const stamp = this.stampOf(block, bytes.subarray(i * BLOCK_BYTES, (i + 1) * BLOCK_BYTES))
      const possible = this.#possible[block]
      if (stamp === null || !possible.includes(stamp)) {
        throw new Error(`block ${block} holds ${stamp ?? 'rubbish'}, not ${possible.join(' or ')}`)
      }
      this.#possible[block] = [stamp]
      this.#busy.delete(block)
    }
    this.#answered.clear()
  }

  /** Null: this disk never had such a block there. */
  stampOf(block: number, bytes: Buffer): number | null {
    const stamp = bytes.readUInt32LE(8)
    const expected = Buffer.alloc(BLOCK_BYTES)
    if (stamp !== 0) stampBlock(expected, 0, this.#disk, block, stamp)
    return expected.equals(bytes) ? stamp : null
  }
}

/** Every other stamp makes data that does not compress. */
function stampBlock(
  bytes: Buffer,
  offsetBytes: number,
  disk: number,
  block: number,
  stamp: number,
): void {
  const words = new Uint32Array(BLOCK_WORDS)
  words.set([disk, block, stamp, ~stamp])
  let word = Math.imul(stamp, 2654435761) ^ block
  for (let i = HEAD_WORDS; i < BLOCK_WORDS; i += 1) {
    words[i] = word
    if (stamp % 2 === 0) word = Math.imul(word, 1664525) + 1013904223
  }
  bytes.set(new Uint8Array(words.buffer), offsetBytes)
}
