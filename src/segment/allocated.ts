/**
 * What the segments take on their disk, without asking for each of them at every look: a segment
 * that is not written to keeps what it has. Asked are those that may have changed, and a few others
 * in rotation, as filesystems settle their own bookkeeping (delayed allocation, preallocation)
 * after the last write.
 */
export interface SegmentSizes {
  has(id: number): boolean
  /** False while the segment is being filled: then it changes without a word. */
  isSealed(id: number): boolean
  /** What its file takes now; 0 when it is gone. */
  allocatedBytes(id: number): Promise<number>
}

/** Unchanged segments asked again at each look: a thousand are through after 125 of them. */
const RECHECK_COUNT = 8

export class AllocatedBytes {
  readonly #sizes: SegmentSizes
  readonly #known: Map<number, number> = new Map()
  readonly #changed: Set<number> = new Set()
  #recheck: IterableIterator<number> | null = null
  #sumBytes = 0

  constructor(sizes: SegmentSizes) {
    this.#sizes = sizes
  }

  /** The segment is new, or its file takes more or less than before. */
  noteChanged(id: number): void {
    this.#changed.add(id)
  }

  noteDeleted(id: number): void {
    this.#changed.delete(id)
    this.#set(id, 0)
    this.#known.delete(id)
  }

  /** Of all segments. Costs a look at those that may have changed. */
  async total(): Promise<number> {
    for (const id of [...this.#changed]) {
      // Before the look: a change meanwhile is for the next one.
      if (this.#sizes.isSealed(id)) this.#changed.delete(id)
      await this.#look(id)
    }
    for (const id of this.#nextToRecheck()) await this.#look(id)
    return this.#sumBytes
  }

  async #look(id: number): Promise<void> {
    const bytes = await this.#sizes.allocatedBytes(id)
    if (this.#sizes.has(id)) this.#set(id, bytes)
    else this.noteDeleted(id)
  }

  #nextToRecheck(): number[] {
    const ids: number[] = []
    const iterator = (this.#recheck ??= this.#known.keys())
    while (ids.length < RECHECK_COUNT) {
      const next = iterator.next()
      if (next.done === true) {
        this.#recheck = null
        break
      }
      ids.push(next.value)
    }
    return ids
  }

  #set(id: number, bytes: number): void {
    this.#sumBytes += bytes - (this.#known.get(id) ?? 0)
    this.#known.set(id, bytes)
  }
}
