/**
 * Where a run has been. Every branch of an instrumented module counts in one byte of a shared map;
 * a module claims its part of the map when it is loaded, and leaves the numbers and texts that
 * stand in its source, for a mutator to try. Without instrumentation the map stays empty.
 */
import { assert } from '../../src/base/assert.ts'

const EDGE_COUNT_MAX = 2 ** 17

declare global {
  var claimFuzzEdges: ((count: number, literals: (number | string)[]) => Uint8Array) | undefined
}

export class EdgeMap {
  /** Visits of each branch since they were last cleared, modulo 256. */
  readonly counts: Uint8Array = new Uint8Array(EDGE_COUNT_MAX)
  /** Numbers and texts in the sources of the modules loaded so far. */
  readonly literals: Set<number | string> = new Set<number | string>()
  readonly #words: Uint32Array = new Uint32Array(this.counts.buffer)
  /** A bit for each class of counts that a branch has been seen with. */
  readonly #seen: Uint8Array = new Uint8Array(EDGE_COUNT_MAX)
  #claimedCount = 0
  #seenCount = 0

  /** Branches visited so far. */
  get seenCount(): number {
    return this.#seenCount
  }

  get claimedCount(): number {
    return this.#claimedCount
  }

  /** Of the next target nothing has been seen. */
  forget(): void {
    this.#seen.fill(0)
    this.#seenCount = 0
  }

  /** For instrumented modules: `count` bytes of the map. */
  claim(count: number, literals: (number | string)[]): Uint8Array {
    const first = this.#claimedCount
    this.#claimedCount += count
    assert(this.#claimedCount <= EDGE_COUNT_MAX, 'all branches fit the map')
    for (const literal of literals) this.literals.add(literal)
    return this.counts.subarray(first, first + count)
  }

  /** Forgets the visits, not what has been seen. */
  clear(): void {
    this.#words.fill(0, 0, (this.#claimedCount + 3) >> 2)
  }

  /** Notes the visits since `clear`; true when one of them is new, in place or by its count. */
  note(): boolean {
    const wordCount = (this.#claimedCount + 3) >> 2
    let isNew = false
    for (let word = 0; word < wordCount; word += 1) {
      if (this.#words[word] === 0) continue
      for (let at = 4 * word; at < 4 * word + 4; at += 1) {
        const count = this.counts[at]
        if (count === 0) continue
        const seen = this.#seen[at]
        const bit = CLASS_OF[count]
        if ((seen & bit) !== 0) continue
        if (seen === 0) this.#seenCount += 1
        this.#seen[at] = seen | bit
        isNew = true
      }
    }
    return isNew
  }
}

/** 1, 2, 3, 4 to 7, 8 to 15, 16 to 31, 32 to 127, more: what differs within is not told apart. */
const CLASS_OF: Uint8Array = Uint8Array.from({ length: 256 }, (_, count) => {
  if (count <= 3) return count === 0 ? 0 : 1 << (count - 1)
  if (count < 8) return 8
  if (count < 16) return 16
  if (count < 32) return 32
  return count < 128 ? 64 : 128
})

/** The map of this process, which modules instrumented from now on report to. */
export function installEdgeMap(): EdgeMap {
  const map = new EdgeMap()
  globalThis.claimFuzzEdges = (count, literals) => map.claim(count, literals)
  return map
}
