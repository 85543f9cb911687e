import type { Arena } from '../io/arena.ts'
import { PAGE_SIZE_BYTES } from '../format/page.ts'
import { assert } from '../base/assert.ts'

/**
 * A fixed number of arena pieces, by default pages of 4 KiB, set aside for the engine's own I/O
 * (nodes, checksum tables, partial blocks), so that exports that fill the arena with payload cannot
 * keep the engine from finishing the very requests that would free it.
 */
export class PagePool {
  readonly #free: number[] = []
  readonly #waiting: ((offset: number) => void)[] = []
  readonly #pageCount: number
  readonly #pageBytes: number

  constructor(arena: Arena, pageCount: number, pageBytes: number = PAGE_SIZE_BYTES) {
    this.#pageCount = pageCount
    this.#pageBytes = pageBytes
    for (let i = 0; i < pageCount; i += 1) {
      const offset = arena.allocate(pageBytes)
      assert(offset >= 0, 'the arena holds the engine’s own pages')
      this.#free.push(offset)
    }
  }

  /** Offset of a page, or -1 when all are in use. */
  tryTake(): number {
    return this.#free.pop() ?? -1
  }

  /** Takes one page as soon as there is one, first come first served. */
  take(): Promise<number> {
    const offset = this.tryTake()
    if (offset >= 0) return Promise.resolve(offset)
    return new Promise((resolve) => this.#waiting.push(resolve))
  }

  give(offset: number): void {
    const next = this.#waiting.shift()
    if (next !== undefined) {
      next(offset)
      return
    }
    this.#free.push(offset)
    assert(this.#free.length <= this.#pageCount, 'no page is given back twice')
  }

  /** Gives the pages back to the arena; all must be free. */
  release(arena: Arena): void {
    assert(this.#free.length === this.#pageCount, 'every engine page has come back')
    for (const offset of this.#free) arena.free(offset, this.#pageBytes)
    this.#free.length = 0
  }
}
