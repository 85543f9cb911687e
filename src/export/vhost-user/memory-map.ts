/**
 * The memory that a front end shares, by the addresses of its guest (in requests) and by its own
 * (of rings). Nothing outside the regions that were mapped can be named: every range is cut at
 * their ends, and what is left over is refused.
 *
 * Regions are shown in windows (`io/descriptors.ts`), each a small ArrayBuffer, so that a place in
 * guest memory is two small integers: a window and an offset in it.
 */
import { assert } from '../../base/assert.ts'
import { WINDOW_BYTES } from '../../io/descriptors.ts'
import { REGION_COUNT_MAX } from './limits.ts'
import type { Region } from './message.ts'

const PAGE_BYTES = 4096
const ADDRESS_MAX = 2 ** 53

export interface MappedRegion extends Region {
  /** `windows[i]` shows the region from `i * WINDOW_BYTES` on. */
  readonly windows: readonly ArrayBuffer[]
}

/** Told of the pieces that a range is cut into. */
export interface PieceTaker {
  /** False: no more can be taken. */
  take(window: number, offset: number, lengthBytes: number): boolean
}

/** Why these regions cannot be one guest's memory; null when they can. */
export function judgeRegions(regions: readonly Region[]): string | null {
  if (regions.length > REGION_COUNT_MAX) return `${regions.length} regions of memory`
  for (const { guestAddress, sizeBytes, userAddress, fileOffset } of regions) {
    if (sizeBytes === 0) return 'a region of no memory'
    // Each is below 2^53, so that the sums are exact enough to be compared.
    const ends = [guestAddress, userAddress, fileOffset].map((start) => start + sizeBytes)
    if (ends.some((end) => end > ADDRESS_MAX)) return 'a region beyond all memory'
    if ([guestAddress, userAddress, fileOffset].some((start) => start % PAGE_BYTES !== 0)) {
      return 'a region that begins within a page'
    }
  }
  if (overlap(regions.map(({ guestAddress, sizeBytes }) => [guestAddress, sizeBytes]))) {
    return 'regions that overlap in the guest'
  }
  if (overlap(regions.map(({ userAddress, sizeBytes }) => [userAddress, sizeBytes]))) {
    return 'regions that overlap in the front end'
  }
  return null
}

function overlap(ranges: [number, number][]): boolean {
  const sorted = ranges.sort((a, b) => a[0] - b[0])
  return sorted.some(([start], i) => i > 0 && sorted[i - 1][0] + sorted[i - 1][1] > start)
}

/** One window, by guest address. */
interface Place {
  readonly guestStart: number
  readonly guestEnd: number
  readonly bytes: Buffer
  readonly view: DataView
}

export class MemoryMap {
  readonly #regions: readonly MappedRegion[]
  /** In order of guest addresses. */
  readonly #places: readonly Place[]
  #lastFound = 0

  /** `regions` were judged to be right. */
  constructor(regions: readonly MappedRegion[]) {
    this.#regions = regions
    const places = regions.flatMap((region) =>
      region.windows.map((window, index): Place => {
        const start = index * WINDOW_BYTES
        const lengthBytes = Math.min(WINDOW_BYTES, region.sizeBytes - start)
        assert(window.byteLength >= lengthBytes, 'a window shows its part of the region')
        const guestStart = region.guestAddress + start
        return {
          guestStart,
          guestEnd: guestStart + lengthBytes,
          bytes: Buffer.from(window),
          view: new DataView(window),
        }
      }),
    )
    this.#places = places.sort((a, b) => a.guestStart - b.guestStart)
  }

  bytesOf(window: number): Buffer {
    return this.#places[window].bytes
  }

  viewOf(window: number): DataView {
    return this.#places[window].view
  }

  /** Window of a guest address, -1 where there is no memory. */
  windowOf(guestAddress: number): number {
    const places = this.#places
    const last = this.#lastFound
    if (last < places.length) {
      const { guestStart, guestEnd } = places[last]
      if (guestAddress >= guestStart && guestAddress < guestEnd) return last
    }
    let low = 0
    let high = places.length - 1
    while (low <= high) {
      const middle = (low + high) >>> 1
      const { guestStart, guestEnd } = places[middle]
      if (guestAddress < guestStart) high = middle - 1
      else if (guestAddress >= guestEnd) low = middle + 1
      else {
        this.#lastFound = middle
        return middle
      }
    }
    return -1
  }

  /** Offset of a guest address in the window that it lies in. */
  offsetIn(window: number, guestAddress: number): number {
    return guestAddress - this.#places[window].guestStart
  }

  /** Bytes of the window from `offset` on, those that also lie in the next one included. */
  roomAt(window: number, offset: number): number {
    return this.#places[window].bytes.length - offset
  }

  /** Cuts a range of the guest into pieces; false when part of it is no memory. */
  cut(guestAddress: number, lengthBytes: number, taker: PieceTaker): boolean {
    let address = guestAddress
    let leftBytes = lengthBytes
    while (leftBytes > 0) {
      const window = this.windowOf(address)
      if (window < 0) return false
      const { guestStart, guestEnd } = this.#places[window]
      const pieceBytes = Math.min(leftBytes, guestEnd - address)
      if (!taker.take(window, address - guestStart, pieceBytes)) return false
      address += pieceBytes
      leftBytes -= pieceBytes
    }
    return true
  }

  /** Memory of a ring by the front end's address, in one piece; null where there is none. */
  tryRange(userAddress: number, lengthBytes: number): DataView | null {
    for (const { userAddress: start, sizeBytes, windows } of this.#regions) {
      if (userAddress < start || userAddress >= start + sizeBytes) continue
      const offset = userAddress - start
      if (lengthBytes > sizeBytes - offset) return null
      const index = Math.floor(offset / WINDOW_BYTES)
      const within = offset - index * WINDOW_BYTES
      // Windows reach so far into the next one that no ring lies across their ends.
      if (within + lengthBytes > windows[index].byteLength) return null
      return new DataView(windows[index], within, lengthBytes)
    }
    return null
  }
}
