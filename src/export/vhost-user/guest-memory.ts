/** The regions that a front end shares, mapped; and where in them its rings lie. */
import { Errno } from '../../base/errors.ts'
import type { DescriptorIo } from '../../io/descriptors.ts'
import type { MappedRegion } from './memory-map.ts'
import { MemoryMap, judgeRegions } from './memory-map.ts'
import type { Region } from './message.ts'

const EMEDIUMTYPE = 124

export class GuestMemory {
  readonly #descriptors: DescriptorIo
  #regions: MappedRegion[] = []
  #map: MemoryMap = new MemoryMap([])

  constructor(descriptors: DescriptorIo) {
    this.#descriptors = descriptors
  }

  /** Another one after each change. */
  get map(): MemoryMap {
    return this.#map
  }

  /** The front end took away memory that it had shared. */
  get isBroken(): boolean {
    return this.#regions.some(({ mapping }) => mapping.isBroken)
  }

  /** Takes the place of what was shared before. Null, or why not; closes the descriptors. */
  replace(regions: readonly Region[], fds: readonly number[]): string | null {
    const failure = judgeRegions(regions)
    const before = this.#regions
    const added = failure === null ? this.#mapAll(regions, fds) : failure
    for (const fd of fds) this.#descriptors.closeDescriptor(fd)
    if (typeof added === 'string') return added
    this.#regions = added
    this.#remap()
    for (const { mapping } of before) mapping.close()
    return null
  }

  add(region: Region, fd: number): string | null {
    const failure = judgeRegions([...this.#regions, region])
    const added = failure === null ? this.#mapAll([region], [fd]) : failure
    this.#descriptors.closeDescriptor(fd)
    if (typeof added === 'string') return added
    this.#regions = [...this.#regions, ...added]
    this.#remap()
    return null
  }

  remove(region: Region): string | null {
    const index = this.#regions.findIndex(
      ({ guestAddress, userAddress, sizeBytes }) =>
        guestAddress === region.guestAddress &&
        userAddress === region.userAddress &&
        sizeBytes === region.sizeBytes,
    )
    if (index < 0) return 'a region that was not shared'
    const [removed] = this.#regions.splice(index, 1)
    this.#remap()
    removed.mapping.close()
    return null
  }

  close(): void {
    const regions = this.#regions
    this.#regions = []
    this.#remap()
    for (const { mapping } of regions) mapping.close()
  }

  #remap(): void {
    this.#map = new MemoryMap(this.#regions)
  }

  #mapAll(regions: readonly Region[], fds: readonly number[]): MappedRegion[] | string {
    const mapped: MappedRegion[] = []
    for (const [index, region] of regions.entries()) {
      const mapping = this.#descriptors.map(fds[index], region.fileOffset, region.sizeBytes)
      if (typeof mapping === 'number') {
        for (const earlier of mapped) earlier.mapping.close()
        return whyNotMapped(mapping)
      }
      mapped.push({ ...region, mapping })
    }
    return mapped
  }
}

/** `errno`: negative, of a mapping. */
export function whyNotMapped(errno: number): string {
  if (errno === -EMEDIUMTYPE) return 'memory of a file that is neither in tmpfs nor in hugetlbfs'
  if (errno === -Errno.EOVERFLOW) return 'memory beyond the end of its file'
  return `memory that cannot be mapped (errno ${-errno})`
}
