/**
 * The memory that a front end shares, by the addresses of its guest (in requests) and by its own
 * (of rings). Nothing outside the regions that were mapped can be named: every range is cut at
 * their ends, and what is left over is refused. A place in guest memory is a region's number and
 * an offset in it.
 */
import type { SharedMapping } from '../../io/descriptors.ts'
import { REGION_COUNT_MAX } from './limits.ts'
import type { Region } from './message.ts'

const PAGE_BYTES = 4096
const ADDRESS_MAX = 2 ** 53

export interface MappedRegion extends Region {
  readonly mapping: SharedMapping
}

/** Told of the pieces that a range is cut into. */
export interface PieceTaker {
  /** False: no more can be taken. */
  take(region: number, offset: number, lengthBytes: number): boolean
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

export class MemoryMap {
  /** In order of guest addresses. */
  readonly #regions: readonly MappedRegion[]
  #lastFound = 0

  /** `regions` were judged to be right. */
  constructor(regions: readonly MappedRegion[]) {
    this.#regions = [...regions].sort((a, b) => a.guestAddress - b.guestAddress)
  }

  /** The memory of a region. */
  at(region: number): SharedMapping {
    return this.#regions[region].mapping
  }

  /** Region of a guest address, -1 where there is no memory. */
  regionOf(guestAddress: number): number {
    const regions = this.#regions
    const last = this.#lastFound
    if (last < regions.length) {
      const { guestAddress: start, sizeBytes } = regions[last]
      if (guestAddress >= start && guestAddress < start + sizeBytes) return last
    }
    for (let index = 0; index < regions.length; index += 1) {
      const { guestAddress: start, sizeBytes } = regions[index]
      if (guestAddress < start || guestAddress >= start + sizeBytes) continue
      this.#lastFound = index
      return index
    }
    return -1
  }

  /** Offset of a guest address in the region that it lies in. */
  offsetIn(region: number, guestAddress: number): number {
    return guestAddress - this.#regions[region].guestAddress
  }

  /** Bytes of the region from `offset` on. */
  roomAt(region: number, offset: number): number {
    return this.#regions[region].sizeBytes - offset
  }

  /** Cuts a range of the guest into pieces; false when part of it is no memory. */
  cut(guestAddress: number, lengthBytes: number, taker: PieceTaker): boolean {
    let address = guestAddress
    let leftBytes = lengthBytes
    while (leftBytes > 0) {
      const region = this.regionOf(address)
      if (region < 0) return false
      const offset = this.offsetIn(region, address)
      const pieceBytes = Math.min(leftBytes, this.roomAt(region, offset))
      if (!taker.take(region, offset, pieceBytes)) return false
      address += pieceBytes
      leftBytes -= pieceBytes
    }
    return true
  }

  /** Memory of a ring by the front end's address, in one piece; null where there is none. */
  tryRange(userAddress: number, lengthBytes: number): DataView | null {
    for (const { userAddress: start, sizeBytes, mapping } of this.#regions) {
      const offset = userAddress - start
      if (offset < 0 || offset >= sizeBytes) continue
      return lengthBytes > sizeBytes - offset ? null : mapping.view(offset, lengthBytes)
    }
    return null
  }
}
