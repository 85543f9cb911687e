/** Walks one disk's map below its overlay. Loading, judging and remembering are the delegate's. */
import {
  KIND_BLOCK,
  KIND_HUGE,
  KIND_NODE,
  KIND_SHIFT,
  NODE_ENTRY_COUNT,
  NODE_LEVEL_ROOT,
  SLOT_MASK,
} from '../format/node.ts'
import type { Disk } from './disks.ts'
import { blockCountOf } from './disks.ts'

/** A node at its place in a disk. */
export interface NodeVisit {
  readonly disk: Disk
  readonly segment: number
  readonly slot: number
  readonly level: number
  readonly firstBlock: number
  /** Blocks below it. */
  readonly blockCount: number
  /** How many of those the overlay decides instead. */
  readonly coveredCount: number
  /** It reaches past the end of the disk. */
  readonly isPastEnd: boolean
}

export interface MapDelegate {
  /** The entries of a node, or null to pass it by. */
  enter(visit: NodeVisit): Promise<Uint32Array | null>
  /** Everything below has been walked. */
  leave(visit: NodeVisit): void
  /** `count` blocks of the disk at consecutive slots. */
  blocks(disk: Disk, firstBlock: number, count: number, segment: number, slot: number): void
  /** Something lies at or after the end of the disk. */
  pastEnd(disk: Disk, firstBlock: number): void
}

export async function walkMap(disk: Disk, delegate: MapDelegate): Promise<void> {
  if (disk.root === null) return
  const [segment, slot] = disk.root
  await new MapWalk(disk, delegate).node(segment, slot, NODE_LEVEL_ROOT, 0)
}

class MapWalk {
  readonly #disk: Disk
  readonly #delegate: MapDelegate
  readonly #endBlock: number
  // The run being gathered.
  #firstBlock = 0
  #count = 0
  #segment = 0
  #slot = 0

  constructor(disk: Disk, delegate: MapDelegate) {
    this.#disk = disk
    this.#delegate = delegate
    this.#endBlock = blockCountOf(disk)
  }

  async node(segment: number, slot: number, level: number, firstBlock: number): Promise<void> {
    const disk = this.#disk
    const blockCount = NODE_ENTRY_COUNT ** (level + 1)
    const end = firstBlock + blockCount
    const coveredCount = disk.overlay.coveredIn(firstBlock, end)
    const isPastEnd = end > this.#endBlock
    const visit = { disk, segment, slot, level, firstBlock, blockCount, coveredCount, isPastEnd }
    const entries = await this.#delegate.enter(visit)
    if (entries === null) return
    const childCount = blockCount / NODE_ENTRY_COUNT
    for (let i = 0; i < NODE_ENTRY_COUNT; i += 1) {
      const kind = entries[2 * i + 1] >>> KIND_SHIFT
      if (kind !== KIND_BLOCK && kind !== KIND_NODE && kind !== KIND_HUGE) continue
      const at = firstBlock + i * childCount
      const covered = this.#coveredBelow(visit, at, childCount)
      const childSegment = entries[2 * i]
      const childSlot = entries[2 * i + 1] & SLOT_MASK
      if (kind !== KIND_NODE) {
        if (covered < childCount) this.#leafRun(at, childCount, covered, childSegment, childSlot)
      } else if (at >= this.#endBlock && covered < childCount) {
        this.#delegate.pastEnd(disk, at)
      } else {
        this.#flush()
        await this.node(childSegment, childSlot, level - 1, at)
      }
    }
    this.#flush()
    this.#delegate.leave(visit)
  }

  #coveredBelow(visit: NodeVisit, at: number, count: number): number {
    if (visit.coveredCount === 0) return 0
    if (visit.coveredCount === visit.blockCount) return count
    return this.#disk.overlay.coveredIn(at, at + count)
  }

  /** A block or huge entry, of which the overlay decides `covered` blocks but not all. */
  #leafRun(at: number, count: number, covered: number, segment: number, slot: number): void {
    if (covered === 0 && at + count <= this.#endBlock) {
      this.#gather(at, count, segment, slot)
      return
    }
    for (let block = at; block < at + count; block += 1) {
      if (this.#disk.overlay.coveredIn(block, block + 1) > 0) continue
      if (block >= this.#endBlock) {
        this.#delegate.pastEnd(this.#disk, block)
        return
      }
      this.#gather(block, 1, segment, slot + block - at)
    }
  }

  #gather(firstBlock: number, count: number, segment: number, slot: number): void {
    const isNext =
      this.#count > 0 &&
      firstBlock === this.#firstBlock + this.#count &&
      segment === this.#segment &&
      slot === this.#slot + this.#count
    if (isNext) {
      this.#count += count
      return
    }
    this.#flush()
    this.#firstBlock = firstBlock
    this.#count = count
    this.#segment = segment
    this.#slot = slot
  }

  #flush(): void {
    if (this.#count === 0) return
    const count = this.#count
    this.#delegate.blocks(this.#disk, this.#firstBlock, count, this.#segment, this.#slot)
    this.#count = 0
  }
}
