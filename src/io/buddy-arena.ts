/**
 * The buddy allocator behind every `Io`. Memory is cut into pages of 4 KiB; a free piece of order
 * `k` is 2^k pages long and aligned to its size, and is merged with its *buddy* (the neighbour it
 * was split from) as soon as both are free. All bookkeeping lives in typed arrays beside the
 * memory, so an untouched page stays untouched and neither call allocates.
 */
import { assert } from '../base/assert.ts'
import type { Arena, ArenaWaiter } from './arena.ts'
import { ARENA_PIECE_BYTES_MAX, ARENA_PIECE_BYTES_MIN } from './arena.ts'

const PAGE_SHIFT = 12
const ORDER_MAX = 8
const NONE = -1

assert(1 << PAGE_SHIFT === ARENA_PIECE_BYTES_MIN, 'order 0 is the smallest piece')
assert(1 << (PAGE_SHIFT + ORDER_MAX) === ARENA_PIECE_BYTES_MAX, 'order 8 is the largest piece')

/** States of a page that begins no piece, or begins one that is in use. */
const INSIDE = 0
const FREE = 1
const USED = 2

/** Smallest order whose pieces hold `lengthBytes`. */
function orderOf(lengthBytes: number): number {
  assert(
    Number.isInteger(lengthBytes) && lengthBytes > 0 && lengthBytes <= ARENA_PIECE_BYTES_MAX,
    `arena piece of ${lengthBytes} bytes`,
  )
  const pages = (lengthBytes + ARENA_PIECE_BYTES_MIN - 1) >>> PAGE_SHIFT
  return pages === 1 ? 0 : 32 - Math.clz32(pages - 1)
}

export class BuddyArena implements Arena {
  readonly memory: Buffer
  readonly sizeBytes: number
  readonly #pageCount: number
  /** Of the piece that begins at a page: its state and order. */
  readonly #state: Uint8Array
  readonly #order: Uint8Array
  /** Doubly linked lists of free pieces, one an order. */
  readonly #heads: Int32Array = new Int32Array(ORDER_MAX + 1).fill(NONE)
  readonly #next: Int32Array
  readonly #previous: Int32Array
  #usedBytes = 0
  #waiters: ArenaWaiter[] = []
  #waiterHead = 0

  /** `memory`: whole pages, at least one; piece offsets are counted from its start. */
  constructor(memory: Buffer) {
    assert(memory.length >= ARENA_PIECE_BYTES_MIN, 'arena has at least one page')
    assert(memory.length % ARENA_PIECE_BYTES_MIN === 0, 'arena is whole pages')
    this.memory = memory
    this.sizeBytes = memory.length
    this.#pageCount = memory.length / ARENA_PIECE_BYTES_MIN
    this.#state = new Uint8Array(this.#pageCount)
    this.#order = new Uint8Array(this.#pageCount)
    this.#next = new Int32Array(this.#pageCount)
    this.#previous = new Int32Array(this.#pageCount)
    this.#fill()
  }

  get usedBytes(): number {
    return this.#usedBytes
  }

  allocate(lengthBytes: number): number {
    const order = orderOf(lengthBytes)
    let found = order
    while (found <= ORDER_MAX && this.#heads[found] === NONE) found += 1
    if (found > ORDER_MAX) return NONE
    const page = this.#heads[found]
    this.#unlink(page)
    while (found > order) {
      found -= 1
      this.#link(page + (1 << found), found)
    }
    this.#state[page] = USED
    this.#order[page] = order
    this.#usedBytes += ARENA_PIECE_BYTES_MIN << order
    return page * ARENA_PIECE_BYTES_MIN
  }

  /** The oldest waiter is told before this returns, when the piece can already be had. */
  free(offsetBytes: number, lengthBytes: number): void {
    const order = orderOf(lengthBytes)
    assert(offsetBytes % ARENA_PIECE_BYTES_MIN === 0, 'a piece begins at a page')
    let page = offsetBytes / ARENA_PIECE_BYTES_MIN
    assert(page >= 0 && page < this.#pageCount, 'a freed piece lies in the arena')
    assert(this.#state[page] === USED, 'a freed piece is in use')
    assert(this.#order[page] === order, 'a piece is freed with the length it was allocated for')
    this.#usedBytes -= ARENA_PIECE_BYTES_MIN << order
    this.#state[page] = INSIDE
    let merged = order
    while (merged < ORDER_MAX) {
      const buddy = page ^ (1 << merged)
      if (buddy >= this.#pageCount) break
      if (this.#state[buddy] !== FREE || this.#order[buddy] !== merged) break
      this.#unlink(buddy)
      page = Math.min(page, buddy)
      merged += 1
    }
    this.#link(page, merged)
    this.#tellWaiter()
  }

  wait(waiter: ArenaWaiter): void {
    this.#waiters.push(waiter)
  }

  /** Covers the memory with the largest aligned pieces, lowest offsets at the head of the lists. */
  #fill(): void {
    let end = this.#pageCount
    while (end > 0) {
      // A last stretch that is no whole largest piece is covered from its low bits upwards.
      const trailing = end & -end
      const size = Math.min(trailing, 1 << ORDER_MAX)
      end -= size
      this.#link(end, 31 - Math.clz32(size))
    }
  }

  #link(page: number, order: number): void {
    const head = this.#heads[order]
    this.#state[page] = FREE
    this.#order[page] = order
    this.#next[page] = head
    this.#previous[page] = NONE
    if (head !== NONE) this.#previous[head] = page
    this.#heads[order] = page
  }

  #unlink(page: number): void {
    const next = this.#next[page]
    const previous = this.#previous[page]
    if (previous === NONE) this.#heads[this.#order[page]] = next
    else this.#next[previous] = next
    if (next !== NONE) this.#previous[next] = previous
    this.#state[page] = INSIDE
  }

  #tellWaiter(): void {
    if (this.#waiterHead === this.#waiters.length) return
    const waiter = this.#waiters[this.#waiterHead]
    this.#waiterHead += 1
    if (this.#waiterHead === this.#waiters.length) {
      this.#waiters.length = 0
      this.#waiterHead = 0
    } else if (this.#waiterHead >= 64 && this.#waiterHead * 2 >= this.#waiters.length) {
      this.#waiters = this.#waiters.slice(this.#waiterHead)
      this.#waiterHead = 0
    }
    waiter.arenaFreed()
  }
}
