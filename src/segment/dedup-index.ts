/**
 * Which address has a block of this fingerprint? A hash table in typed arrays: 12 bytes an entry,
 * no object an entry, open addressing with linear probing.
 *
 *   tag      u32  low word of the XXH64; decides where an entry lies, and if it is sampled
 *   extra    u16  low half of the high word: 48 bits in all keep false hits rare
 *   slot     u16 \
 *   segment  u32 / the address; segment 0: a free entry
 *
 * When the table has grown to its budget, it is sampled: of all fingerprints only those whose tag
 * ends with `k` zero bits are kept, and k grows as the pool does. What is between the samples is
 * found through the table of the segment a sample leads to (`dedup.ts`), because what was stored
 * together comes again together (Lillibridge et al., Sparse Indexing, FAST '09).
 *
 * It is never a source of truth: an entry may be stale, and only equal bytes make a duplicate (I7).
 */
import { assert } from '../base/assert.ts'

const ENTRY_BYTES = 12
const CAPACITY_MIN = 64
const SAMPLE_BITS_MAX = 16
/** Above three quarters the chains get long. */
const LOAD_NUMERATOR = 3
const LOAD_DENOMINATOR = 4
/** Places looked at between two pauses: well below a tenth of a millisecond. */
const RETAIN_STEP_COUNT = 4096

export class DedupIndex {
  readonly #capacityMax: number
  #tags!: Uint32Array
  #extras!: Uint16Array
  #slots!: Uint16Array
  #segments!: Uint32Array
  #mask = 0
  #shift = 0
  #count = 0
  #sampleBits = 0
  // The last entry found.
  segment = 0
  slot = 0

  constructor(budgetBytes: number) {
    let capacity = CAPACITY_MIN
    while (2 * capacity * ENTRY_BYTES <= budgetBytes) capacity *= 2
    this.#capacityMax = capacity
    this.#allocate(CAPACITY_MIN)
  }

  get count(): number {
    return this.#count
  }

  /** One fingerprint in two to this power is kept. */
  get sampleBits(): number {
    return this.#sampleBits
  }

  isSampled(tag: number): boolean {
    return (tag & (2 ** this.#sampleBits - 1)) === 0
  }

  /** True when there is an entry; `segment` and `slot` say which. */
  find(tag: number, high: number): boolean {
    const at = this.#locate(tag, high & 0xffff)
    this.segment = this.#segments[at]
    this.slot = this.#slots[at]
    return this.segment !== 0
  }

  /** Notes where the block is; an entry of the same fingerprint gives way. */
  set(tag: number, high: number, segment: number, slot: number): void {
    assert(segment > 0 && slot > 0, 'an address is never 0')
    if (!this.isSampled(tag)) return
    const extra = high & 0xffff
    let at = this.#locate(tag, extra)
    if (this.#segments[at] === 0) {
      if ((this.#count + 1) * LOAD_DENOMINATOR > this.#tags.length * LOAD_NUMERATOR) {
        this.#makeRoom()
        if (!this.isSampled(tag)) return
        at = this.#locate(tag, extra)
      }
      this.#count += 1
    }
    this.#tags[at] = tag
    this.#extras[at] = extra
    this.#segments[at] = segment
    this.#slots[at] = slot
  }

  /**
   * Makes room for so many entries before they come, sampled as they were when they were saved.
   * Entries that come in the order of another table would crowd the beginning of a small one.
   */
  reserve(count: number, sampleBits: number): void {
    assert(this.#count === 0, 'room is made in an empty index')
    this.#sampleBits = Math.min(sampleBits, SAMPLE_BITS_MAX)
    let capacity = CAPACITY_MIN
    while (capacity < this.#capacityMax && count * LOAD_DENOMINATOR > capacity * LOAD_NUMERATOR) {
      capacity *= 2
    }
    this.#allocate(capacity)
  }

  /**
   * Drops the entries that `isKept` denies, a stretch at a time; `pace` is awaited in between. An
   * entry that moves meanwhile, because the table grows, may be passed over.
   */
  async retain(
    isKept: (segment: number, slot: number) => boolean,
    pace: () => Promise<void>,
  ): Promise<void> {
    for (let first = 0; first < this.#tags.length; first += RETAIN_STEP_COUNT) {
      const end = Math.min(first + RETAIN_STEP_COUNT, this.#tags.length)
      for (let at = first; at < end; at += 1) {
        // What takes the place of a removed entry is looked at, too.
        while (this.#segments[at] !== 0 && !isKept(this.#segments[at], this.#slots[at])) {
          this.#removeAt(at)
        }
      }
      await pace()
    }
  }

  clear(): void {
    this.#allocate(CAPACITY_MIN)
    this.#count = 0
    this.#sampleBits = 0
  }

  /** Every entry, in no order that means anything. The index must not change meanwhile. */
  *entries(): Generator<{ tag: number; extra: number; segment: number; slot: number }> {
    for (let at = 0; at < this.#tags.length; at += 1) {
      const segment = this.#segments[at]
      if (segment === 0) continue
      yield { tag: this.#tags[at], extra: this.#extras[at], segment, slot: this.#slots[at] }
    }
  }

  /** Index of the entry, or of the free place where it would lie. */
  #locate(tag: number, extra: number): number {
    let at = homeOf(tag, this.#shift)
    while (this.#segments[at] !== 0) {
      if (this.#tags[at] === tag && this.#extras[at] === extra) return at
      at = (at + 1) & this.#mask
    }
    return at
  }

  /** Empties a place, and moves up what would not be found across the gap (Knuth 6.4, R). */
  #removeAt(at: number): void {
    let gap = at
    for (let from = (at + 1) & this.#mask; ; from = (from + 1) & this.#mask) {
      if (this.#segments[from] === 0) break
      const home = homeOf(this.#tags[from], this.#shift)
      // True when the entry's home lies behind the gap: then it is found where it is.
      const isBehind = ((from - home) & this.#mask) < ((from - gap) & this.#mask)
      if (isBehind) continue
      this.#tags[gap] = this.#tags[from]
      this.#extras[gap] = this.#extras[from]
      this.#slots[gap] = this.#slots[from]
      this.#segments[gap] = this.#segments[from]
      gap = from
    }
    this.#segments[gap] = 0
    this.#count -= 1
  }

  #makeRoom(): void {
    if (this.#tags.length < this.#capacityMax) {
      this.#rebuild(2 * this.#tags.length)
    } else if (this.#sampleBits < SAMPLE_BITS_MAX) {
      this.#sampleBits += 1
      this.#rebuild(this.#tags.length)
    } else {
      this.clear()
    }
  }

  #rebuild(capacity: number): void {
    const tags = this.#tags
    const extras = this.#extras
    const segments = this.#segments
    const slots = this.#slots
    this.#allocate(capacity)
    this.#count = 0
    for (let from = 0; from < tags.length; from += 1) {
      const segment = segments[from]
      if (segment === 0 || !this.isSampled(tags[from])) continue
      const at = this.#locate(tags[from], extras[from])
      this.#tags[at] = tags[from]
      this.#extras[at] = extras[from]
      this.#segments[at] = segment
      this.#slots[at] = slots[from]
      this.#count += 1
    }
  }

  #allocate(capacity: number): void {
    this.#tags = new Uint32Array(capacity)
    this.#extras = new Uint16Array(capacity)
    this.#slots = new Uint16Array(capacity)
    this.#segments = new Uint32Array(capacity)
    this.#mask = capacity - 1
    this.#shift = homeShift(capacity)
  }
}

/** For `homeOf` in a table of so many places, a power of two. */
export function homeShift(capacity: number): number {
  const shift = Math.clz32(capacity) + 1
  assert(1 << (32 - shift) === capacity, 'a table’s capacity is a power of two')
  return shift
}

/** Where a tag's chain begins: multiplicative hashing (Knuth 6.4), as its low bits may be zero. */
export function homeOf(tag: number, shift: number): number {
  return Math.imul(tag, 0x9e3779b1) >>> shift
}
