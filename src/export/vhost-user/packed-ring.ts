/**
 * A packed virtqueue (VIRTIO 1.2, section 2.8): one ring of descriptors that driver and device
 * both write, little-endian,
 *
 *     0   u64  address, u32 length
 *     12  u16  buffer id, u16 flags: 0 next, 1 write, 2 indirect, 7 available, 15 used
 *
 * and for each side four bytes in which it says when it wants to be woken: u16 a place in the ring
 * with the wrap counter on top, u16 flags (0 always, 1 never, 2 at that place).
 *
 * A descriptor is offered while its available bit is the ring's wrap counter and its used bit is
 * not; used, while both are. Buffer ids lie below the ring's size, as every driver has them.
 */
import { assert } from '../../base/assert.ts'
import type { Chain } from './chain.ts'
import type { MemoryMap } from './memory-map.ts'
import type { PackedInflight } from './packed-inflight.ts'
import type { Found, QueueOptions, Virtqueue } from './virtqueue.ts'
import {
  DESCRIPTOR_BYTES,
  FLAG_INDIRECT,
  FLAG_NEXT,
  FLAG_WRITE,
  addIndirect,
  addressOf,
  passes,
} from './virtqueue.ts'

const FLAG_AVAILABLE = 1 << 7
const FLAG_USED = 1 << 15
const WRAP = 1 << 15
const PLACE_MASK = 0x7fff

const EVENT_DISABLE = 1
const EVENT_PLACE = 2
const EVENT_FLAGS_MASK = 3

export const PACKED_EVENT_BYTES = 4

export interface PackedMemory {
  readonly descriptors: DataView
  /** Where the driver says when to wake it. */
  readonly driverEvent: DataView
  /** Where we say it. */
  readonly deviceEvent: DataView
}

export function packedRingBytes(size: number): number {
  return DESCRIPTOR_BYTES * size
}

export class PackedRing implements Virtqueue {
  readonly #map: MemoryMap
  readonly #size: number
  readonly #hasEventIndex: boolean
  readonly #hasIndirect: boolean
  readonly #words: Uint32Array
  readonly #halves: Uint16Array
  readonly #driverEvent: Uint16Array
  readonly #deviceEvent: Uint16Array
  readonly #inflight: PackedInflight | null
  readonly #isBusy: Uint8Array
  /** Descriptors of requests at work, which the driver cannot offer again. */
  #busySlotCount = 0
  /** Next to be taken, next to be used, and what the driver has been shown of that. */
  #taken: number
  #takenWrap: number
  #used: number
  #usedWrap: number
  #published: number
  #hasPublished = false
  /** First descriptors of what was pushed and not published: place and flags. */
  readonly #places: Int32Array
  readonly #flags: Int32Array
  #pushedCount = 0
  #again: number[]
  #againNext = 0
  #failure: string | null = null

  /**
   * `base`: 0-14 next to take, 15 its wrap counter, 16-30 next to use, 31 its wrap counter. The
   * descriptors begin at a multiple of 16 bytes, events at one of 4.
   */
  constructor(
    map: MemoryMap,
    memory: PackedMemory,
    base: number,
    options: QueueOptions,
    inflight: PackedInflight | null = null,
  ) {
    const { size } = options
    assert(memory.descriptors.byteLength === packedRingBytes(size), 'the descriptors are there')
    const { buffer, byteOffset } = memory.descriptors
    this.#map = map
    this.#size = size
    this.#hasEventIndex = options.hasEventIndex
    this.#hasIndirect = options.hasIndirect
    this.#words = new Uint32Array(buffer, byteOffset, 4 * size)
    this.#halves = new Uint16Array(buffer, byteOffset, 8 * size)
    const { driverEvent, deviceEvent } = memory
    this.#driverEvent = new Uint16Array(driverEvent.buffer, driverEvent.byteOffset, 2)
    this.#deviceEvent = new Uint16Array(deviceEvent.buffer, deviceEvent.byteOffset, 2)
    this.#inflight = inflight
    this.#isBusy = new Uint8Array(size)
    this.#places = new Int32Array(size)
    this.#flags = new Int32Array(size)
    this.#taken = base & PLACE_MASK
    this.#takenWrap = (base & WRAP) === 0 ? 0 : 1
    this.#used = (base >>> 16) & PLACE_MASK
    this.#usedWrap = base >>> 31
    const recovered = this.#recover()
    this.#failure ??= typeof recovered === 'string' ? recovered : null
    this.#again = typeof recovered === 'string' ? [] : recovered
    this.#published = this.#used
  }

  get failure(): string | null {
    return this.#failure
  }

  get base(): number {
    const taken = this.#taken | (this.#takenWrap << 15)
    const used = this.#used | (this.#usedWrap << 15)
    return (taken | (used << 16)) >>> 0
  }

  next(chain: Chain): Found {
    if (this.#failure !== null) return 'broken'
    if (this.#againNext < this.#again.length) {
      const id = this.#again[this.#againNext]
      this.#againNext += 1
      return this.#takeAgain(chain, id)
    }
    if (!this.#isOffered()) return 'nothing'
    const fault = this.#collect(chain)
    if (fault !== null) return this.#fail(fault)
    const { id, slotCount } = chain
    if (id >= this.#size) return this.#fail('a buffer id beyond the descriptors')
    if (this.#isBusy[id] !== 0) return this.#fail('a request that is at work already')
    if (slotCount > this.#size - this.#busySlotCount) {
      return this.#fail('descriptors that are at work already')
    }
    this.#inflight?.taken(id, slotCount)
    this.#isBusy[id] = 1
    this.#busySlotCount += slotCount
    this.#taken += slotCount
    if (this.#taken >= this.#size) {
      this.#taken -= this.#size
      this.#takenWrap ^= 1
    }
    return 'request'
  }

  push(chain: Chain, writtenBytes: number): void {
    const { id, slotCount } = chain
    assert(this.#isBusy[id] === 1, 'what is pushed was taken')
    this.#isBusy[id] = 0
    this.#busySlotCount -= slotCount
    const place = this.#used
    this.#words[4 * place + 2] = writtenBytes
    this.#halves[8 * place + 6] = id
    this.#places[this.#pushedCount] = place
    this.#flags[this.#pushedCount] = this.#usedWrap === 1 ? FLAG_AVAILABLE | FLAG_USED : 0
    this.#pushedCount += 1
    this.#used += slotCount
    if (this.#used >= this.#size) {
      this.#used -= this.#size
      this.#usedWrap ^= 1
    }
    this.#inflight?.pushed(id)
  }

  publish(): boolean {
    if (this.#pushedCount === 0) return false
    this.#inflight?.publishing(this.#used, this.#usedWrap)
    // Backwards: the driver, who looks at the first, sees all of them or none.
    for (let index = this.#pushedCount - 1; index >= 0; index -= 1) {
      Atomics.store(this.#halves, 8 * this.#places[index] + 7, this.#flags[index])
    }
    this.#pushedCount = 0
    this.#inflight?.published()
    const before = this.#published
    this.#published = this.#used
    const isFirst = !this.#hasPublished
    this.#hasPublished = true
    return this.#isCallWanted(before) || isFirst
  }

  enableKicks(): boolean {
    if (this.#hasEventIndex) {
      Atomics.store(this.#deviceEvent, 0, this.#taken | (this.#takenWrap << 15))
      Atomics.store(this.#deviceEvent, 1, EVENT_PLACE)
    } else {
      Atomics.store(this.#deviceEvent, 1, 0)
    }
    return this.#againNext < this.#again.length || this.#isOffered()
  }

  disableKicks(): void {
    Atomics.store(this.#deviceEvent, 1, EVENT_DISABLE)
  }

  finish(): void {
    this.#inflight?.reset()
  }

  #recover(): number[] | string {
    if (this.#taken >= this.#size || this.#used >= this.#size) return 'a place beyond the ring'
    if (this.#inflight === null) return []
    const recovered = this.#inflight.recover(this.#used, this.#usedWrap, (place, wrap) => {
      if (place >= this.#size) return false
      const found = Atomics.load(this.#halves, 8 * place + 7) & (FLAG_AVAILABLE | FLAG_USED)
      return found === (wrap === 1 ? FLAG_AVAILABLE | FLAG_USED : 0)
    })
    if (typeof recovered === 'string') return recovered
    this.#used = recovered.used
    this.#usedWrap = recovered.usedWrap
    // With a record of what was taken, what is neither used nor taken has not been seen.
    this.#taken = recovered.used + recovered.slotCount
    this.#takenWrap = recovered.usedWrap
    if (this.#taken >= this.#size) {
      this.#taken -= this.#size
      this.#takenWrap ^= 1
    }
    this.#unmark(recovered.slotCount)
    return recovered.ids
  }

  /**
   * What is at work is not used. A server that died within a publication had marked the end of what
   * it was about to show, and the driver would come upon that once it is shown the beginning.
   */
  #unmark(slotCount: number): void {
    let place = this.#used
    let wrap = this.#usedWrap
    for (let count = 0; count < slotCount; count += 1) {
      const at = 8 * place + 7
      const rest = Atomics.load(this.#halves, at) & ~(FLAG_AVAILABLE | FLAG_USED)
      Atomics.store(this.#halves, at, rest | (wrap === 1 ? FLAG_AVAILABLE : FLAG_USED))
      place += 1
      if (place < this.#size) continue
      place = 0
      wrap ^= 1
    }
  }

  #isOffered(): boolean {
    const flags = Atomics.load(this.#halves, 8 * this.#taken + 7)
    const isAvailable = (flags & FLAG_AVAILABLE) !== 0
    const isUsed = (flags & FLAG_USED) !== 0
    return isAvailable !== isUsed && isAvailable === (this.#takenWrap === 1)
  }

  /** Takes one that an earlier server had taken, from the copies of its descriptors. */
  #takeAgain(chain: Chain, id: number): Found {
    const inflight = this.#inflight
    assert(inflight !== null, 'what is taken again was recorded')
    chain.clear()
    const fault = inflight.eachDescriptor(id, (low, high, length, flags) =>
      this.#add(chain, low, high, length, flags),
    )
    if (fault !== null) return this.#fail(fault)
    chain.id = id
    chain.slotCount = inflight.slotCountOf(id)
    this.#isBusy[id] = 1
    this.#busySlotCount += chain.slotCount
    return 'request'
  }

  #collect(chain: Chain): string | null {
    chain.clear()
    const words = this.#words
    let place = this.#taken
    for (let steps = 0; steps < this.#size; steps += 1) {
      const low = words[4 * place]
      const high = words[4 * place + 1]
      const length = words[4 * place + 2]
      const tail = words[4 * place + 3]
      const flags = tail >>> 16
      const fault = this.#add(chain, low, high, length, flags)
      if (fault !== null) return fault
      this.#inflight?.collected(steps, low, high, length, flags)
      chain.slotCount += 1
      if ((flags & FLAG_NEXT) === 0) {
        chain.id = tail & 0xffff
        return null
      }
      place = place + 1 === this.#size ? 0 : place + 1
    }
    return 'descriptors without an end'
  }

  #add(chain: Chain, low: number, high: number, length: number, flags: number): string | null {
    const address = addressOf(low, high)
    if ((flags & FLAG_INDIRECT) === 0) {
      return chain.add(this.#map, address, length, (flags & FLAG_WRITE) !== 0)
    }
    if (!this.#hasIndirect) return 'a table that was not agreed on'
    if ((flags & FLAG_NEXT) !== 0 || chain.slotCount > 0) return 'a table among descriptors'
    return addIndirect(this.#map, chain, address, length, false)
  }

  #isCallWanted(before: number): boolean {
    const flags = Atomics.load(this.#driverEvent, 1) & EVENT_FLAGS_MASK
    if (flags !== EVENT_PLACE || !this.#hasEventIndex) return flags !== EVENT_DISABLE
    const place = Atomics.load(this.#driverEvent, 0)
    const isThisLap = place >>> 15 === this.#usedWrap
    const event = (place & PLACE_MASK) - (isThisLap ? 0 : this.#size)
    return passes(event, this.#used, before)
  }

  #fail(fact: string): Found {
    this.#failure = fact
    return 'broken'
  }
}
