/**
 * What is in flight of a packed ring (see `inflight.ts`). Used descriptors overwrite offered ones,
 * so the record holds copies. The structures are those of vhost-user.rst, "Inflight I/O tracking";
 * two fields that there keep a list of free entries name the batch being published instead, because
 * what is free can be told from what is at work:
 *
 *     0    u64  features
 *     8    u16  version (1), u16 count of descriptors
 *     12   u16  first id of the batch, u16 ids in it
 *     16   u16  next to use after the batch, with its wrap counter on top; u16 before it
 *     32   per descriptor, 32 bytes: u8 at work, -, u16 next entry, u16 next id of the batch, u16
 *          descriptors, u64 order, u16 entry of the first copy, u16 flags, u32 length, u64 address
 *
 * The first half of an entry is about the buffer of that id, the second is a copy of a descriptor.
 */
import { assert, must } from '../../base/assert.ts'

const VERSION = 1
const HEAD_BYTES = 32
const ENTRY_BYTES = 32
const PLACE_MASK = 0x7fff

/** What an earlier server left. */
export interface Recovered {
  readonly used: number
  readonly usedWrap: number
  /** To take up again, oldest first. */
  readonly ids: number[]
  /** Descriptors that they take. */
  readonly slotCount: number
}

export class PackedInflight {
  readonly #size: number
  readonly #view: DataView
  readonly #bytes: Uint8Array
  /** Entries that hold no copy. */
  #free: number[] = []
  /** Entries of the request being collected. */
  #collected: number[] = []
  readonly #batch: number[] = []
  #order = 1n

  /** `view`: the region of this queue. A region of zeros is a new one. */
  constructor(view: DataView, size: number) {
    assert(view.byteLength >= HEAD_BYTES + ENTRY_BYTES * size, 'a region holds its queue')
    this.#size = size
    this.#view = view
    this.#bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength)
  }

  /**
   * `used`, `usedWrap`: where the front end says that the ring stands. `isShown`: whether the
   * descriptor at a place is a used one. A string says why the record cannot be right.
   */
  recover(
    used: number,
    usedWrap: number,
    isShown: (place: number, wrap: number) => boolean,
  ): Recovered | string {
    const view = this.#view
    if (view.getUint16(8, true) === 0) {
      view.setUint16(10, this.#size, true)
      view.setUint16(18, used | (usedWrap << 15), true)
      view.setUint16(8, VERSION, true)
      this.#free = Array.from({ length: this.#size }, (_, index) => index)
      return { used, usedWrap, ids: [], slotCount: 0 }
    }
    if (view.getUint16(8, true) !== VERSION) return 'requests in flight of another version'
    if (view.getUint16(10, true) !== this.#size) return 'requests in flight of another ring'
    // Shown to the driver, and not cleared here: the server died in between.
    const before = view.getUint16(18, true)
    if (view.getUint16(14, true) > 0 && isShown(before & PLACE_MASK, before >>> 15)) {
      const fault = this.#finishBatch()
      if (fault !== null) return fault
    }
    return this.#survivors()
  }

  /** Whatever ring comes next begins anew. */
  reset(): void {
    this.#view.setUint16(8, 0, true)
  }

  /** Copies descriptor `index` of the request that is being looked at. */
  collected(index: number, low: number, high: number, length: number, flags: number): void {
    if (index === 0) this.#free.push(...this.#collected.splice(0))
    const entry = must(this.#free.pop(), 'a free entry')
    const at = this.#at(entry)
    const view = this.#view
    view.setUint16(at + 18, flags, true)
    view.setUint32(at + 20, length, true)
    view.setUint32(at + 24, low, true)
    view.setUint32(at + 28, high, true)
    const before = this.#collected.at(-1)
    if (before !== undefined) view.setUint16(this.#at(before) + 2, entry, true)
    this.#collected.push(entry)
  }

  /** What was collected is a request, and has been taken. */
  taken(id: number, slotCount: number): void {
    const at = this.#at(id)
    const view = this.#view
    view.setUint16(at + 6, slotCount, true)
    view.setBigUint64(at + 8, this.#order, true)
    view.setUint16(at + 16, this.#collected[0], true)
    this.#order += 1n
    this.#collected = []
    Atomics.store(this.#bytes, at, 1)
  }

  /** It is on its way back to the driver, who has not seen it yet. */
  pushed(id: number): void {
    this.#batch.push(id)
  }

  /** The driver is about to be shown what was pushed. */
  publishing(used: number, usedWrap: number): void {
    const view = this.#view
    for (const [index, id] of this.#batch.entries()) {
      view.setUint16(this.#at(id) + 4, this.#batch[index + 1] ?? 0, true)
    }
    view.setUint16(12, this.#batch[0], true)
    view.setUint16(16, used | (usedWrap << 15), true)
    this.#setBatchCount(this.#batch.length)
  }

  published(): void {
    const view = this.#view
    for (const id of this.#batch) this.#clear(id)
    this.#batch.length = 0
    view.setUint16(18, view.getUint16(16, true), true)
    this.#setBatchCount(0)
  }

  slotCountOf(id: number): number {
    return this.#view.getUint16(this.#at(id) + 6, true)
  }

  /** Tells the copies of a request that `recover` named; the first fault ends it. */
  eachDescriptor(
    id: number,
    take: (low: number, high: number, length: number, flags: number) => string | null,
  ): string | null {
    const view = this.#view
    for (const entry of this.#entriesOf(id)) {
      const at = this.#at(entry)
      const length = view.getUint32(at + 20, true)
      const flags = view.getUint16(at + 18, true)
      const low = view.getUint32(at + 24, true)
      const fault = take(low, view.getUint32(at + 28, true), length, flags)
      if (fault !== null) return fault
    }
    return null
  }

  #at(entry: number): number {
    return HEAD_BYTES + ENTRY_BYTES * entry
  }

  /** Entries of its copies; fewer than it says where the links leave the record. */
  #entriesOf(id: number): number[] {
    const entries: number[] = []
    let entry = this.#view.getUint16(this.#at(id) + 16, true)
    const count = Math.min(this.slotCountOf(id), this.#size)
    while (entries.length < count && entry < this.#size) {
      entries.push(entry)
      entry = this.#view.getUint16(this.#at(entry) + 2, true)
    }
    return entries
  }

  #setBatchCount(count: number): void {
    // One store, behind all that it is about.
    const { buffer, byteOffset } = this.#bytes
    Atomics.store(new Uint16Array(buffer, byteOffset + 14, 1), 0, count)
  }

  #clear(id: number): void {
    this.#free.push(...this.#entriesOf(id))
    Atomics.store(this.#bytes, this.#at(id), 0)
  }

  #finishBatch(): string | null {
    const view = this.#view
    const count = view.getUint16(14, true)
    if (count > this.#size) return `a batch of ${count} requests`
    let id = view.getUint16(12, true)
    for (let index = 0; index < count; index += 1) {
      if (id >= this.#size) return 'a batch that leaves the descriptors'
      Atomics.store(this.#bytes, this.#at(id), 0)
      id = view.getUint16(this.#at(id) + 4, true)
    }
    view.setUint16(18, view.getUint16(16, true), true)
    return null
  }

  #survivors(): Recovered | string {
    const view = this.#view
    const found: { id: number; order: bigint }[] = []
    const isTaken = new Uint8Array(this.#size)
    let slotCount = 0
    for (let id = 0; id < this.#size; id += 1) {
      if (this.#bytes[this.#at(id)] === 0) continue
      const entries = this.#entriesOf(id)
      if (entries.length === 0 || entries.length !== this.slotCountOf(id)) {
        return 'a request in flight without its descriptors'
      }
      for (const entry of entries) {
        if (isTaken[entry] === 1) return 'requests in flight that share descriptors'
        isTaken[entry] = 1
      }
      slotCount += entries.length
      found.push({ id, order: view.getBigUint64(this.#at(id) + 8, true) })
    }
    found.sort((a, b) => (a.order < b.order ? -1 : 1))
    const last = found.at(-1)
    if (last !== undefined) this.#order = BigInt.asUintN(63, last.order) + 1n
    this.#free = []
    for (let entry = 0; entry < this.#size; entry += 1) {
      if (isTaken[entry] === 0) this.#free.push(entry)
    }
    const used = view.getUint16(18, true) & PLACE_MASK
    if (used >= this.#size) return 'a place beyond the ring'
    const usedWrap = view.getUint16(18, true) >>> 15
    return { used, usedWrap, ids: found.map(({ id }) => id), slotCount }
  }
}
