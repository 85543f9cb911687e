import { BLOCK_SIZE_BYTES } from '../base/units.ts'
import { PositionFinder } from '../map/positions.ts'
import { addressKey } from '../segment/equal-blocks.ts'
import type { PoolCore } from './core.ts'
import { captureRoot } from './describe.ts'
import { addAffected } from './scrub-findings.ts'
import type { ScrubFinding } from './types.ts'

/** Past this, damage is no longer attributed to disks; it is still reported. */
const ADDRESS_COUNT_MAX = 65_536

/** Damaged addresses, each with the finding that says so. */
export class DamagedAddresses {
  readonly #findings: Map<number, ScrubFinding> = new Map()
  readonly #segments: Set<number> = new Set()

  get isEmpty(): boolean {
    return this.#findings.size === 0
  }

  add(segment: number, slot: number, finding: ScrubFinding): void {
    if (this.#findings.size >= ADDRESS_COUNT_MAX) return
    this.#segments.add(segment)
    this.#findings.set(addressKey(segment, slot), finding)
  }

  find(segment: number, slot: number): ScrubFinding | null {
    return this.#findings.get(addressKey(segment, slot)) ?? null
  }

  touches(segment: number): boolean {
    return this.#segments.has(segment)
  }
}

/** Says in each finding which bytes of which disks it hits. */
export async function nameDamage(
  core: PoolCore,
  damaged: DamagedAddresses,
  pace: () => Promise<void>,
): Promise<void> {
  if (damaged.isEmpty) return
  const { catalogue, cohorts, tables } = core
  let name = ''
  let blockCount = 0
  const finder = new PositionFinder(tables, {
    isTouched: (segment) => damaged.touches(segment),
    isWanted: (segment, slot) => damaged.find(segment, slot) !== null,
    found: (segment, slot, blockIndex, count) => {
      const finding = damaged.find(segment, slot)
      const within = Math.min(count, blockCount - blockIndex)
      if (finding === null || within <= 0) return
      addAffected(finding, name, blockIndex * BLOCK_SIZE_BYTES, within * BLOCK_SIZE_BYTES)
    },
  })
  for (const disk of [...catalogue.disks()]) {
    await pace()
    if (catalogue.tryDisk(disk.id) !== disk) continue
    blockCount = disk.blockCount
    name = catalogue.nameOf(disk)
    const cohort = cohorts.enter()
    const root = captureRoot(core, disk)
    try {
      await finder.find(root)
    } finally {
      tables.releaseRoot(root)
      cohort.leave()
    }
  }
}
