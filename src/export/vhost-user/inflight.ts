/**
 * Which requests are at work, in memory that the front end keeps when we die (vhost-user.rst,
 * "Inflight I/O tracking"), so that the next server takes them up again. Of a split ring:
 *
 *     0    u64  features
 *     8    u16  version (1), u16 count of descriptors
 *     12   u16  head that was pushed last, u16 used index as of the last clearing
 *     16   per descriptor, 16 bytes: u8 at work, 5 unused, u16 next of the batch, u64 order
 *
 * The memory is the front end's, too: what is found in it is judged like anything of a ring.
 */
import { assert } from '../../base/assert.ts'
import type { InflightRequest } from './message.ts'
import { QUEUE_COUNT_MAX, QUEUE_SIZE_MAX } from './limits.ts'

const VERSION = 1
const HEAD_BYTES = 16
const ENTRY_BYTES = 16
/** Regions of queues begin at cache lines. */
const QUEUE_ALIGNMENT_BYTES = 64

/** Bytes of one queue's region: a packed ring's entries are twice as long, and both fit. */
export function inflightQueueBytes(queueSize: number): number {
  const bytes = 2 * HEAD_BYTES + 2 * ENTRY_BYTES * queueSize
  return Math.ceil(bytes / QUEUE_ALIGNMENT_BYTES) * QUEUE_ALIGNMENT_BYTES
}

/** Null, or what is wrong with a region for so many queues. */
export function judgeInflight(request: InflightRequest): string | null {
  const { queueCount, queueSize } = request
  if (queueCount === 0 || queueCount > QUEUE_COUNT_MAX) return `${queueCount} queues in flight`
  if (queueSize === 0 || queueSize > QUEUE_SIZE_MAX) return `queues of ${queueSize} in flight`
  return null
}

export class SplitInflight {
  readonly #size: number
  readonly #bytes: Uint8Array
  readonly #words: Uint16Array
  readonly #view: DataView
  #order = 1n
  /** Pushed since the last `published`. */
  readonly #batch: number[] = []

  /** `view`: the region of this queue. A region of zeros is a new one. */
  constructor(view: DataView, size: number) {
    assert(view.byteLength >= HEAD_BYTES + ENTRY_BYTES * size, 'a region holds its queue')
    this.#size = size
    this.#view = view
    this.#bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength)
    this.#words = new Uint16Array(view.buffer, view.byteOffset, view.byteLength >> 1)
  }

  /** Heads to take up again, oldest first, or why the record cannot be right. */
  recover(usedIndex: number): number[] | string {
    const words = this.#words
    if (words[4] === 0) {
      words[4] = VERSION
      words[5] = this.#size
      words[7] = usedIndex
      return []
    }
    if (words[4] !== VERSION) return `requests in flight of version ${words[4]}`
    if (words[5] !== this.#size) return `requests in flight of ${words[5]} descriptors`
    const fault = this.#finishBatch(usedIndex)
    return fault ?? this.#survivors()
  }

  /** Whatever ring comes next begins anew: a driver that starts again counts from 0. */
  reset(): void {
    Atomics.store(this.#words, 4, 0)
  }

  /** A new request was taken. */
  taken(head: number): void {
    const at = HEAD_BYTES + ENTRY_BYTES * head
    this.#view.setBigUint64(at + 8, this.#order, true)
    this.#order += 1n
    this.#setBusy(head, 1)
  }

  /** It is in the used ring, whose index the guest has not seen yet. */
  pushed(head: number): void {
    const words = this.#words
    words[(HEAD_BYTES + ENTRY_BYTES * head + 6) >> 1] = words[6]
    Atomics.store(words, 6, head)
    this.#batch.push(head)
  }

  /** The guest has seen it. */
  published(usedIndex: number): void {
    for (const head of this.#batch) this.#setBusy(head, 0)
    this.#batch.length = 0
    Atomics.store(this.#words, 7, usedIndex)
  }

  #setBusy(head: number, isBusy: 0 | 1): void {
    Atomics.store(this.#bytes, HEAD_BYTES + ENTRY_BYTES * head, isBusy)
  }

  /** The server died between showing a batch to the guest and clearing it here. */
  #finishBatch(usedIndex: number): string | null {
    const words = this.#words
    const shownCount = (usedIndex - words[7]) & 0xffff
    if (shownCount > this.#size) return `a batch of ${shownCount} requests`
    let head = words[6]
    for (let index = 0; index < shownCount; index += 1) {
      if (head >= this.#size) return 'a batch that leaves the descriptors'
      this.#setBusy(head, 0)
      head = words[(HEAD_BYTES + ENTRY_BYTES * head + 6) >> 1]
    }
    Atomics.store(words, 7, usedIndex)
    return null
  }

  #survivors(): number[] {
    const found: { head: number; order: bigint }[] = []
    for (let head = 0; head < this.#size; head += 1) {
      const at = HEAD_BYTES + ENTRY_BYTES * head
      if (this.#bytes[at] === 0) continue
      found.push({ head, order: this.#view.getBigUint64(at + 8, true) })
    }
    found.sort((a, b) => (a.order < b.order ? -1 : 1))
    const last = found.at(-1)
    if (last !== undefined) this.#order = BigInt.asUintN(63, last.order) + 1n
    return found.map(({ head }) => head)
  }
}
