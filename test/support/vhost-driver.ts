/**
 * The guest's side of virtqueues, for tests and measurements: puts buffers into a split or packed
 * ring and takes back what the device is done with. Memory is one range; addresses in it are
 * offsets, which the front end shifts to whatever it tells the device.
 */
import { assert } from '../../src/base/assert.ts'

const FLAG_NEXT = 1
const FLAG_WRITE = 2
const FLAG_INDIRECT = 4
const FLAG_AVAILABLE = 0x80
const FLAG_USED = 0x8000

export interface DriverBuffer {
  /** In the shared memory. */
  readonly offset: number
  readonly lengthBytes: number
  readonly isWritable: boolean
}

export interface DriverOptions {
  readonly view: DataView
  /** Where the ring's memory begins; it takes `ringBytes` at most. */
  readonly offset: number
  readonly size: number
  /** What is added to an offset to make it the guest's address. */
  readonly guestBase: number
  readonly hasEventIndex: boolean
  /** Descriptors go into a table of their own. */
  readonly isIndirect: boolean
}

export interface Used {
  readonly id: number
  readonly writtenBytes: number
}

const INDIRECT_COUNT = 32

/** Enough for a ring of either kind with its tables. */
export function ringBytes(size: number): number {
  return 64 * size + 16 * INDIRECT_COUNT * size + 8192
}

export interface Driver {
  /** Offsets of descriptors, driver's part (available) and device's part (used). */
  readonly layout: { descriptors: number; available: number; used: number }
  readonly freeCount: number
  /** Offers one request; its id comes back with `take`. */
  add(buffers: readonly DriverBuffer[]): number
  /** Shows what was added. True: the device wants to be kicked. */
  publish(): boolean
  take(): Used | null
  /** Asks to be told of the next one that is done. */
  enableCalls(): void
}

abstract class DriverBase {
  protected readonly view: DataView
  protected readonly options: DriverOptions
  readonly layout: Driver['layout']
  readonly #tables: number

  constructor(options: DriverOptions) {
    this.options = options
    this.view = options.view
    const { offset, size } = options
    const descriptors = offset
    const available = descriptors + 16 * size
    const used = available + ((6 + 2 * size + 63) & ~63)
    this.layout = { descriptors, available, used }
    this.#tables = (used + 6 + 8 * size + 63) & ~63
    new Uint8Array(this.view.buffer, this.view.byteOffset + offset, ringBytes(size)).fill(0)
  }

  protected words16(offset: number, count: number): Uint16Array {
    return new Uint16Array(this.view.buffer, this.view.byteOffset + offset, count)
  }

  /** Writes a descriptor; `tail`: flags and next, or id and flags. */
  protected write(at: number, address: number, length: number, tail0: number, tail1: number): void {
    this.view.setBigUint64(at, BigInt(address), true)
    this.view.setUint32(at + 8, length, true)
    this.view.setUint16(at + 12, tail0, true)
    this.view.setUint16(at + 14, tail1, true)
  }

  /** The offset of the table of request `id`. */
  protected tableOf(id: number): number {
    return this.#tables + 16 * INDIRECT_COUNT * id
  }

  protected addressOf(buffer: DriverBuffer): number {
    return this.options.guestBase + buffer.offset
  }
}

export class SplitDriver extends DriverBase implements Driver {
  readonly #available: Uint16Array
  readonly #used: Uint16Array
  readonly #free: number[] = []
  readonly #chains: Map<number, number[]> = new Map()
  #added = 0
  #published = 0
  #taken = 0

  constructor(options: DriverOptions) {
    super(options)
    this.#available = this.words16(this.layout.available, 3 + options.size)
    this.#used = this.words16(this.layout.used, 3 + 4 * options.size)
    for (let index = options.size - 1; index >= 0; index -= 1) this.#free.push(index)
  }

  get freeCount(): number {
    return this.#free.length
  }

  add(buffers: readonly DriverBuffer[]): number {
    const { isIndirect, size, guestBase } = this.options
    const slots = Array.from({ length: isIndirect ? 1 : buffers.length }, () => this.#pop())
    const [head] = slots
    const table = this.tableOf(head)
    for (const [index, buffer] of buffers.entries()) {
      const isLast = index === buffers.length - 1
      const flags = (isLast ? 0 : FLAG_NEXT) | (buffer.isWritable ? FLAG_WRITE : 0)
      const at = isIndirect ? table + 16 * index : this.layout.descriptors + 16 * slots[index]
      const next = isLast ? 0 : isIndirect ? index + 1 : slots[index + 1]
      this.write(at, this.addressOf(buffer), buffer.lengthBytes, flags, next)
    }
    if (isIndirect) {
      const at = this.layout.descriptors + 16 * head
      this.write(at, guestBase + table, 16 * buffers.length, FLAG_INDIRECT, 0)
    }
    this.#chains.set(head, slots)
    this.#available[2 + (this.#added & (size - 1))] = head
    this.#added = (this.#added + 1) & 0xffff
    return head
  }

  publish(): boolean {
    const before = this.#published
    const now = this.#added
    Atomics.store(this.#available, 1, now)
    this.#published = now
    if (!this.options.hasEventIndex) return (Atomics.load(this.#used, 0) & 1) === 0
    const event = Atomics.load(this.#used, 2 + 4 * this.options.size)
    return ((now - event - 1) & 0xffff) < ((now - before) & 0xffff)
  }

  take(): Used | null {
    if (Atomics.load(this.#used, 1) === this.#taken) return null
    const at = this.layout.used + 4 + 8 * (this.#taken & (this.options.size - 1))
    this.#taken = (this.#taken + 1) & 0xffff
    const id = this.view.getUint32(at, true)
    const slots = this.#chains.get(id)
    assert(slots !== undefined, 'the device gives back what it was given')
    this.#chains.delete(id)
    this.#free.push(...slots)
    return { id, writtenBytes: this.view.getUint32(at + 4, true) }
  }

  enableCalls(): void {
    Atomics.store(this.#available, 2 + this.options.size, this.#taken)
  }

  #pop(): number {
    const slot = this.#free.pop()
    assert(slot !== undefined, 'a free descriptor')
    return slot
  }
}

export class PackedDriver extends DriverBase implements Driver {
  readonly #words: Uint16Array
  readonly #driverEvent: Uint16Array
  readonly #deviceEvent: Uint16Array
  readonly #freeIds: number[] = []
  readonly #slotCounts: Map<number, number> = new Map()
  #freeCount: number
  #next = 0
  #wrap = 1
  #used = 0
  #usedWrap = 1
  #addedCount = 0
  /** Of the first descriptor of each request added and not published: word index and flags. */
  #unpublished: [number, number][] = []

  constructor(options: DriverOptions) {
    super(options)
    this.#words = this.words16(this.layout.descriptors, 8 * options.size)
    this.#driverEvent = this.words16(this.layout.available, 2)
    this.#deviceEvent = this.words16(this.layout.used, 2)
    this.#freeCount = options.size
    for (let id = options.size - 1; id >= 0; id -= 1) this.#freeIds.push(id)
  }

  get freeCount(): number {
    return this.#freeCount
  }

  add(buffers: readonly DriverBuffer[]): number {
    const { isIndirect, guestBase } = this.options
    const id = this.#freeIds.pop()
    assert(id !== undefined, 'a free id')
    const slotCount = isIndirect ? 1 : buffers.length
    if (isIndirect) {
      const table = this.tableOf(id)
      for (const [index, buffer] of buffers.entries()) {
        const flags = buffer.isWritable ? FLAG_WRITE : 0
        this.write(table + 16 * index, this.addressOf(buffer), buffer.lengthBytes, 0, flags)
      }
      this.#put(guestBase + table, 16 * buffers.length, id, FLAG_INDIRECT, true)
    } else {
      for (const [index, buffer] of buffers.entries()) {
        const isLast = index === buffers.length - 1
        const flags = (isLast ? 0 : FLAG_NEXT) | (buffer.isWritable ? FLAG_WRITE : 0)
        this.#put(this.addressOf(buffer), buffer.lengthBytes, id, flags, index === 0)
      }
    }
    this.#slotCounts.set(id, slotCount)
    this.#freeCount -= slotCount
    this.#addedCount += slotCount
    return id
  }

  publish(): boolean {
    // Backwards: the device sees the first one only when all behind it are there.
    for (const [at, flags] of this.#unpublished.reverse()) Atomics.store(this.#words, at, flags)
    this.#unpublished = []
    const offWrap = Atomics.load(this.#deviceEvent, 0)
    const flags = Atomics.load(this.#deviceEvent, 1) & 3
    const addedCount = this.#addedCount
    this.#addedCount = 0
    if (flags !== 2) return flags === 0
    const { size } = this.options
    const event = (offWrap & 0x7fff) - (offWrap >>> 15 === this.#wrap ? 0 : size)
    return ((this.#next - event - 1) & 0xffff) < (addedCount & 0xffff)
  }

  take(): Used | null {
    const at = this.layout.descriptors + 16 * this.#used
    const flags = Atomics.load(this.#words, 8 * this.#used + 7)
    const isAvailable = (flags & FLAG_AVAILABLE) !== 0
    const isUsed = (flags & FLAG_USED) !== 0
    if (isAvailable !== isUsed || isUsed !== (this.#usedWrap === 1)) return null
    const id = this.view.getUint16(at + 12, true)
    const slotCount = this.#slotCounts.get(id)
    assert(slotCount !== undefined, 'the device gives back what it was given')
    this.#slotCounts.delete(id)
    this.#freeIds.push(id)
    this.#freeCount += slotCount
    this.#used += slotCount
    if (this.#used >= this.options.size) {
      this.#used -= this.options.size
      this.#usedWrap ^= 1
    }
    return { id, writtenBytes: this.view.getUint32(at + 8, true) }
  }

  enableCalls(): void {
    if (this.options.hasEventIndex) {
      Atomics.store(this.#driverEvent, 0, this.#used | (this.#usedWrap << 15))
      Atomics.store(this.#driverEvent, 1, 2)
    } else {
      Atomics.store(this.#driverEvent, 1, 0)
    }
  }

  #put(address: number, length: number, id: number, flags: number, isFirst: boolean): void {
    const at = this.layout.descriptors + 16 * this.#next
    const word = 8 * this.#next + 7
    const all = flags | (this.#wrap === 1 ? FLAG_AVAILABLE : FLAG_USED)
    const current = this.#words[word]
    this.write(at, address, length, id, isFirst ? current : all)
    if (isFirst) this.#unpublished.push([word, all])
    this.#next += 1
    if (this.#next < this.options.size) return
    this.#next = 0
    this.#wrap ^= 1
  }
}
