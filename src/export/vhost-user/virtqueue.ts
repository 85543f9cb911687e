/**
 * What split and packed rings have in common: the descriptors of a request, and the tables that
 * they may lie in.
 *
 * A ring is shared with a guest that may write anything at any moment. So every number is read
 * once, judged, and only then used; whatever follows links counts its steps; and what is wrong
 * breaks the connection and nothing else.
 */
import { INDIRECT_COUNT_MAX } from './limits.ts'
import type { Chain } from './chain.ts'
import type { MemoryMap } from './memory-map.ts'

export const DESCRIPTOR_BYTES = 16
export const FLAG_NEXT = 1
export const FLAG_WRITE = 2
export const FLAG_INDIRECT = 4

const TWO_32 = 2 ** 32

/** What `next` found. */
export type Found = 'request' | 'nothing' | 'broken'

export interface Virtqueue {
  /** What is wrong with the ring, once something is. */
  readonly failure: string | null
  /** Where it stands, as GET_VRING_BASE tells. */
  readonly base: number
  /** Takes the next request that the guest offers. */
  next(chain: Chain): Found
  /** A request is done; the guest hears of it with `publish`. */
  push(chain: Chain, writtenBytes: number): void
  /** Shows the guest what was pushed. True: it wants to be told. */
  publish(): boolean
  /** Has the guest wake us at its next request. True: there is one already. */
  enableKicks(): boolean
  /** Tells the guest that it need not wake us. */
  disableKicks(): void
  /** It ends as it should, with nothing at work: another ring may come in its place. */
  finish(): void
}

export interface QueueOptions {
  /** Of descriptors. */
  readonly size: number
  readonly hasEventIndex: boolean
  readonly hasIndirect: boolean
}

/** Where tables are copied to, to be read there. */
const table = new Uint8Array(DESCRIPTOR_BYTES * INDIRECT_COUNT_MAX)
const view = new DataView(table.buffer)

/** An address; from 2^53 on inexact, but then still far beyond all memory. */
export function addressOf(low: number, high: number): number {
  return high * TWO_32 + low
}

/**
 * Adds the descriptors of a table in guest memory to `chain`: linked in a split ring, one after
 * the other in a packed one. Null, or what is wrong.
 */
export function addIndirect(
  map: MemoryMap,
  chain: Chain,
  address: number,
  lengthBytes: number,
  isLinked: boolean,
): string | null {
  const count = lengthBytes / DESCRIPTOR_BYTES
  if (!Number.isInteger(count) || count === 0) return `a table of ${lengthBytes} bytes`
  if (count > INDIRECT_COUNT_MAX) return `a table of ${count} descriptors`
  const region = map.regionOf(address)
  if (region < 0) return 'a table in memory that is not shared'
  const start = map.offsetIn(region, address)
  // A table lies in one region: no driver makes one that does not.
  if (map.roomAt(region, start) < lengthBytes) return 'a table that its memory does not hold'
  map.at(region).read(start, table, 0, lengthBytes)
  let index = 0
  for (let steps = 0; steps < count; steps += 1) {
    const at = index * DESCRIPTOR_BYTES
    const low = view.getUint32(at, true)
    const high = view.getUint32(at + 4, true)
    const length = view.getUint32(at + 8, true)
    const flags = view.getUint16(at + (isLinked ? 12 : 14), true)
    if ((flags & FLAG_INDIRECT) !== 0) return 'a table in a table'
    const fault = chain.add(map, addressOf(low, high), length, (flags & FLAG_WRITE) !== 0)
    if (fault !== null) return fault
    if (!isLinked) {
      index += 1
    } else {
      if ((flags & FLAG_NEXT) === 0) return null
      index = view.getUint16(at + 14, true)
      if (index >= count) return 'a link out of its table'
    }
  }
  return isLinked ? 'descriptors that link in a circle' : null
}

/**
 * Whether a step of a counter from `before` to `now` passed `event`, where the other side wants to
 * be told (vring_need_event of the VIRTIO specification).
 */
export function passes(event: number, now: number, before: number): boolean {
  return ((now - event - 1) & 0xffff) < ((now - before) & 0xffff)
}
