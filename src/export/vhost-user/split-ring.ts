/**
 * A split virtqueue (VIRTIO 1.2, section 2.7), little-endian:
 *
 *     descriptors   16 bytes each: u64 address, u32 length, u16 flags, u16 next
 *     available     u16 flags, u16 index, u16 heads[size], u16 used_event
 *     used          u16 flags, u16 index, {u32 id, u32 length}[size], u16 avail_event
 */
import { assert } from '../../base/assert.ts'
import type { Chain } from './chain.ts'
import type { SplitInflight } from './inflight.ts'
import type { MemoryMap } from './memory-map.ts'
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

const AVAILABLE_NO_INTERRUPT = 1
const USED_NO_NOTIFY = 1

const INDEX = 1
const HEADS = 2

export interface SplitMemory {
  readonly descriptors: DataView
  readonly available: DataView
  readonly used: DataView
}

/** Bytes of the three parts, the event words included. */
export function splitRingBytes(size: number): {
  descriptors: number
  available: number
  used: number
} {
  return { descriptors: DESCRIPTOR_BYTES * size, available: 6 + 2 * size, used: 6 + 8 * size }
}

function words16(view: DataView): Uint16Array {
  return new Uint16Array(view.buffer, view.byteOffset, view.byteLength >> 1)
}

function words32(view: DataView): Uint32Array {
  return new Uint32Array(view.buffer, view.byteOffset, view.byteLength >> 2)
}

export class SplitRing implements Virtqueue {
  readonly #map: MemoryMap
  readonly #size: number
  readonly #mask: number
  readonly #hasEventIndex: boolean
  readonly #hasIndirect: boolean
  readonly #descriptors: Uint32Array
  readonly #available: Uint16Array
  readonly #used: Uint32Array
  readonly #usedHead: Uint16Array
  readonly #inflight: SplitInflight | null
  /** Heads that were taken and are not done. */
  readonly #isBusy: Uint8Array
  /** Heads that an earlier server had taken, in their order. */
  #again: number[]
  #againNext = 0
  /** Counters as the rings have them, modulo 2^16. */
  #takenCount: number
  #usedCount: number
  #publishedCount: number
  #hasPublished = false
  #failure: string | null

  /**
   * `base`: the available index to go on from. The parts of `memory` have the sizes that
   * {@link splitRingBytes} says, and begin at multiples of 16, 2 and 4 bytes.
   */
  constructor(
    map: MemoryMap,
    memory: SplitMemory,
    base: number,
    options: QueueOptions,
    inflight: SplitInflight | null = null,
  ) {
    const { size } = options
    const bytes = splitRingBytes(size)
    assert(memory.descriptors.byteLength === bytes.descriptors, 'the descriptors are there')
    assert(memory.available.byteLength === bytes.available, 'the available ring is there')
    assert(memory.used.byteLength === bytes.used, 'the used ring is there')
    this.#map = map
    this.#size = size
    this.#mask = size - 1
    this.#hasEventIndex = options.hasEventIndex
    this.#hasIndirect = options.hasIndirect
    this.#descriptors = words32(memory.descriptors)
    this.#available = words16(memory.available)
    this.#used = words32(memory.used)
    this.#usedHead = words16(memory.used)
    this.#inflight = inflight
    this.#isBusy = new Uint8Array(size)
    this.#usedCount = Atomics.load(this.#usedHead, INDEX)
    this.#publishedCount = this.#usedCount
    const recovered = inflight?.recover(this.#usedCount) ?? []
    this.#failure = typeof recovered === 'string' ? recovered : null
    this.#again = typeof recovered === 'string' ? [] : recovered
    // With a record of what was taken, what is neither used nor taken has not been seen.
    this.#takenCount =
      inflight === null ? base & 0xffff : (this.#usedCount + this.#again.length) & 0xffff
  }

  get failure(): string | null {
    return this.#failure
  }

  get base(): number {
    return this.#takenCount
  }

  next(chain: Chain): Found {
    if (this.#failure !== null) return 'broken'
    if (this.#againNext < this.#again.length) {
      const head = this.#again[this.#againNext]
      this.#againNext += 1
      return this.#take(chain, head)
    }
    const waitingCount = this.#waitingCount()
    if (waitingCount === 0) return 'nothing'
    if (waitingCount > this.#size) return this.#fail(`${waitingCount} requests in a ring`)
    const head = this.#available[HEADS + (this.#takenCount & this.#mask)]
    if (head >= this.#size) return this.#fail('a request beyond the descriptors')
    if (this.#isBusy[head] !== 0) return this.#fail('a request that is at work already')
    const found = this.#take(chain, head)
    if (found === 'request') {
      this.#takenCount = (this.#takenCount + 1) & 0xffff
      this.#inflight?.taken(head)
    }
    return found
  }

  push(chain: Chain, writtenBytes: number): void {
    const { id } = chain
    assert(this.#isBusy[id] === 1, 'what is pushed was taken')
    this.#isBusy[id] = 0
    const at = 1 + 2 * (this.#usedCount & this.#mask)
    this.#used[at] = id
    this.#used[at + 1] = writtenBytes
    this.#usedCount = (this.#usedCount + 1) & 0xffff
    this.#inflight?.pushed(id)
  }

  publish(): boolean {
    const before = this.#publishedCount
    const now = this.#usedCount
    if (now === before) return false
    // Sequentially consistent: the entries are seen before it, and what is read next is read after.
    Atomics.store(this.#usedHead, INDEX, now)
    this.#publishedCount = now
    this.#inflight?.published(now)
    const isFirst = !this.#hasPublished
    this.#hasPublished = true
    if (!this.#hasEventIndex) {
      return (Atomics.load(this.#available, 0) & AVAILABLE_NO_INTERRUPT) === 0
    }
    const event = Atomics.load(this.#available, HEADS + this.#size)
    return isFirst || passes(event, now, before)
  }

  enableKicks(): boolean {
    if (this.#hasEventIndex) {
      Atomics.store(this.#usedHead, HEADS + 4 * this.#size, this.#takenCount)
    } else {
      Atomics.store(this.#usedHead, 0, 0)
    }
    return this.#waitingCount() > 0 || this.#againNext < this.#again.length
  }

  disableKicks(): void {
    // With an event index, one that is long past is never passed again.
    if (!this.#hasEventIndex) Atomics.store(this.#usedHead, 0, USED_NO_NOTIFY)
  }

  finish(): void {
    this.#inflight?.reset()
  }

  #waitingCount(): number {
    return (Atomics.load(this.#available, INDEX) - this.#takenCount) & 0xffff
  }

  #take(chain: Chain, head: number): Found {
    const fault = this.#collect(chain, head)
    if (fault !== null) return this.#fail(fault)
    chain.id = head
    this.#isBusy[head] = 1
    return 'request'
  }

  #collect(chain: Chain, head: number): string | null {
    chain.clear()
    const words = this.#descriptors
    let index = head
    for (let steps = 0; steps < this.#size; steps += 1) {
      const at = 4 * index
      const address = addressOf(words[at], words[at + 1])
      const length = words[at + 2]
      const tail = words[at + 3]
      const flags = tail & 0xffff
      chain.slotCount += 1
      if ((flags & FLAG_INDIRECT) !== 0) {
        if (!this.#hasIndirect) return 'a table that was not agreed on'
        if ((flags & FLAG_NEXT) !== 0) return 'a table with something behind it'
        return addIndirect(this.#map, chain, address, length, true)
      }
      const fault = chain.add(this.#map, address, length, (flags & FLAG_WRITE) !== 0)
      if (fault !== null) return fault
      if ((flags & FLAG_NEXT) === 0) return null
      index = tail >>> 16
      if (index >= this.#size) return 'a link beyond the descriptors'
    }
    return 'descriptors that link in a circle'
  }

  #fail(fact: string): Found {
    this.#failure = fact
    return 'broken'
  }
}
