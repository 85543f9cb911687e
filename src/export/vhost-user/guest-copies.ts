/**
 * Copies between the memory of a guest and ours, gathered so that one call of the addon carries out
 * all of them: a guest's request of 128 KiB may lie in 32 places, and a turn has many requests.
 *
 * Each was cut where its region ends before it came here; the addon judges every one again.
 */
import type { SharedMapping } from '../../io/descriptors.ts'
import { COPY_COUNT_MAX } from './limits.ts'

/** Numbers a piece: where in the mapping, where in our memory, bytes. */
const PIECE_NUMBERS = 3

export class GuestCopies {
  readonly #direction: 'from guest' | 'to guest'
  readonly #memory: Uint8Array
  readonly #pieces = new Float64Array(PIECE_NUMBERS * COPY_COUNT_MAX)
  #count = 0
  /** Of all that wait: guests have one or two regions that requests lie in. */
  #mapping: SharedMapping | null = null

  /** `memory`: ours, the other end of every copy. */
  constructor(direction: 'from guest' | 'to guest', memory: Uint8Array) {
    this.#direction = direction
    this.#memory = memory
  }

  /** Carried out by the next `run` at the latest, in the order in which they came. */
  add(mapping: SharedMapping, offset: number, memoryOffset: number, lengthBytes: number): void {
    if (mapping !== this.#mapping || this.#count === COPY_COUNT_MAX) {
      this.run()
      this.#mapping = mapping
    }
    const at = PIECE_NUMBERS * this.#count
    this.#pieces[at] = offset
    this.#pieces[at + 1] = memoryOffset
    this.#pieces[at + 2] = lengthBytes
    this.#count += 1
  }

  run(): void {
    const mapping = this.#mapping
    const count = this.#count
    this.#mapping = null
    this.#count = 0
    if (mapping === null) return
    if (this.#direction === 'from guest') mapping.readPieces(this.#pieces, count, this.#memory)
    else mapping.writePieces(this.#pieces, count, this.#memory)
  }
}
