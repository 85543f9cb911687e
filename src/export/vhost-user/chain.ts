/**
 * The buffers of one request: what the device reads, then what it writes, as pieces of memory
 * regions. Reused; a chain of ordinary length allocates nothing.
 */
import type { GuestCopies } from './guest-copies.ts'
import { PIECE_COUNT_MAX } from './limits.ts'
import type { MemoryMap, PieceTaker } from './memory-map.ts'

const PIECES_START = 32

export class Chain implements PieceTaker {
  /** What names it in the ring: the first descriptor's index (split) or the buffer id (packed). */
  id = 0
  /** Descriptors of the ring itself that it takes. */
  slotCount = 0
  readableBytes = 0
  writableBytes = 0
  #regions = new Float64Array(PIECES_START)
  #offsets = new Float64Array(PIECES_START)
  #lengths = new Float64Array(PIECES_START)
  #count = 0
  #isWritable = false
  /** Where `copy` goes on: a piece, and bytes of it that are done with. */
  #piece = 0
  #doneBytes = 0

  clear(): void {
    this.#count = 0
    this.#isWritable = false
    this.readableBytes = 0
    this.writableBytes = 0
    this.slotCount = 0
    this.#piece = 0
    this.#doneBytes = 0
  }

  /** Adds a descriptor. Null, or what is wrong with it. */
  add(map: MemoryMap, address: number, lengthBytes: number, isWritable: boolean): string | null {
    if (lengthBytes === 0) return 'an empty descriptor'
    if (this.#isWritable && !isWritable) return 'something to read behind something to write'
    this.#isWritable = isWritable
    const before = this.#count
    if (!map.cut(address, lengthBytes, this)) {
      return this.#count === PIECE_COUNT_MAX ? 'too many pieces' : 'memory that is not shared'
    }
    for (let index = before; index < this.#count; index += 1) {
      if (isWritable) this.writableBytes += this.#lengths[index]
      else this.readableBytes += this.#lengths[index]
    }
    return null
  }

  take(region: number, offset: number, lengthBytes: number): boolean {
    if (this.#count === PIECE_COUNT_MAX) return false
    if (this.#count === this.#lengths.length) this.#grow()
    this.#regions[this.#count] = region
    this.#offsets[this.#count] = offset
    this.#lengths[this.#count] = lengthBytes
    this.#count += 1
    return true
  }

  /** Goes to byte `atBytes` of all the chain's bytes, those to read and then those to write. */
  seek(atBytes: number): void {
    let piece = 0
    let left = atBytes
    while (piece < this.#count && left >= this.#lengths[piece]) {
      left -= this.#lengths[piece]
      piece += 1
    }
    this.#piece = piece
    this.#doneBytes = left
  }

  /**
   * Has `lengthBytes`, which the chain has from there on, copied between the guest's memory and
   * ours from `memoryOffset` on, in the direction of `copies`. Whatever is judged, hashed or
   * written afterwards is the copy: the guest may change its own at any moment.
   */
  copy(map: MemoryMap, copies: GuestCopies, memoryOffset: number, lengthBytes: number): void {
    let doneBytes = 0
    while (doneBytes < lengthBytes) {
      const offset = this.#offsets[this.#piece] + this.#doneBytes
      const room = this.#lengths[this.#piece] - this.#doneBytes
      const count = Math.min(lengthBytes - doneBytes, room)
      copies.add(map.at(this.#regions[this.#piece]), offset, memoryOffset + doneBytes, count)
      doneBytes += count
      this.#advance(count)
    }
  }

  /** The same for the last byte that the device may write. */
  copyLastByte(map: MemoryMap, copies: GuestCopies, memoryOffset: number): void {
    const last = this.#count - 1
    const offset = this.#offsets[last] + this.#lengths[last] - 1
    copies.add(map.at(this.#regions[last]), offset, memoryOffset, 1)
  }

  #advance(byteCount: number): void {
    this.#doneBytes += byteCount
    if (this.#doneBytes < this.#lengths[this.#piece]) return
    this.#piece += 1
    this.#doneBytes = 0
  }

  #grow(): void {
    const length = Math.min(2 * this.#lengths.length, PIECE_COUNT_MAX)
    this.#regions = extended(this.#regions, length)
    this.#offsets = extended(this.#offsets, length)
    this.#lengths = extended(this.#lengths, length)
  }
}

function extended(array: Float64Array<ArrayBuffer>, length: number): Float64Array<ArrayBuffer> {
  const longer = new Float64Array(length)
  longer.set(array)
  return longer
}
