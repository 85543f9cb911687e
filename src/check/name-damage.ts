/**
 * Says which parts of which disks damage hits. Runs only when there is any: walks the maps again
 * and remembers subtrees without damage, so that what disks share is walked once.
 */
import { BLOCK_SIZE_BYTES } from '../base/units.ts'
import type { Damage } from './damage.ts'
import { addAffected, addressKey } from './damage.ts'
import type { Disk, Disks } from './disks.ts'
import { blockCountOf } from './disks.ts'
import type { NodeCache } from './mark-live.ts'
import type { MapDelegate, NodeVisit } from './walk-map.ts'
import { walkMap } from './walk-map.ts'

export class DamageNamer implements MapDelegate {
  readonly #nodes: NodeCache
  readonly #damage: Damage
  readonly #disks: Disks
  /** Nodes below which, with no overlay in the way, nothing is damaged. */
  readonly #sound = new Set<number>()
  /** Hits so far when each node on the path was entered. */
  readonly #hitsAtEntry: number[] = []
  #hitCount = 0

  constructor(nodes: NodeCache, damage: Damage, disks: Disks) {
    this.#nodes = nodes
    this.#damage = damage
    this.#disks = disks
  }

  async run(): Promise<void> {
    if (this.#damage.isEmpty) return
    for (const disk of this.#disks.all()) {
      disk.overlay.visit(new WeakSet(), ({ start, count, segment, slot }) => {
        this.blocks(disk, start, count, segment, slot)
      })
      await walkMap(disk, this)
    }
  }

  async enter(visit: NodeVisit): Promise<Uint32Array | null> {
    const { disk, segment, slot, level, firstBlock, blockCount } = visit
    // What the overlay hides cannot hit anybody.
    if (visit.coveredCount === visit.blockCount) return null
    if (this.#sound.has(addressKey(segment, slot))) return null
    const finding = this.#damage.find(segment, slot)
    if (finding !== null) {
      this.#hitCount += 1
      const count = Math.min(blockCount, blockCountOf(disk) - firstBlock)
      if (count > 0) this.#hit(finding, disk, firstBlock, count)
      return null
    }
    const entries = await this.#nodes.load(segment, slot, level)
    if (!(entries instanceof Uint32Array)) return null
    this.#hitsAtEntry.push(this.#hitCount)
    return entries
  }

  leave(visit: NodeVisit): void {
    const before = this.#hitsAtEntry.pop()
    if (before !== this.#hitCount || visit.coveredCount > 0) return
    this.#sound.add(addressKey(visit.segment, visit.slot))
  }

  blocks(disk: Disk, firstBlock: number, count: number, segment: number, slot: number): void {
    if (!this.#damage.touches(segment)) return
    for (let i = 0; i < count; i += 1) {
      const finding = this.#damage.find(segment, slot + i)
      if (finding === null) continue
      this.#hitCount += 1
      this.#hit(finding, disk, firstBlock + i, 1)
    }
  }

  /** The marker has reported it. */
  pastEnd(): void {
    this.#hitCount += 1
  }

  #hit(
    finding: Parameters<typeof addAffected>[0],
    disk: Disk,
    firstBlock: number,
    count: number,
  ): void {
    const name = this.#disks.nameOf(disk)
    addAffected(finding, name, firstBlock * BLOCK_SIZE_BYTES, count * BLOCK_SIZE_BYTES)
  }
}
