/**
 * Verifies the live blocks of one settled segment: frames are decoded and each block held against
 * its checksum; an alias must name an equal block, and is as sound as that. Segments come in
 * ascending order, and an alias points downwards, so what it points to has been judged before.
 */
import type { Checksum } from '../base/checksum.ts'
import { BLOCK_SIZE_BYTES } from '../base/units.ts'
import {
  PLACE_ALIAS,
  PLACE_DEAD,
  PLACE_ZERO,
  aliasSlot,
  frameOffset,
  frameStoredBytes,
  placeKind,
} from '../format/directory.ts'
import { DATA_SLOT_END, DATA_SLOT_FIRST } from '../format/segment.ts'
import type { BadRuns } from './bad-runs.ts'
import type { Damage } from './damage.ts'
import type { FrameReader } from './frame-reader.ts'
import { offsetInFrame } from './frame-reader.ts'
import type { PoolReader } from './pool-reader.ts'
import { READ_SLOT_COUNT_MAX } from './pool-reader.ts'
import type { SegmentTable, SegmentTables } from './segment-tables.ts'
import type { SlotSet } from './slot-set.ts'

const WINDOW_BYTES: number = READ_SLOT_COUNT_MAX * BLOCK_SIZE_BYTES

/** The segment being verified. */
interface Verified {
  id: number
  table: SegmentTable
  places: Uint32Array
}

export class SettledVerifier {
  readonly #reader: PoolReader
  readonly #checksum: Checksum
  readonly #frames: FrameReader
  readonly #tables: SegmentTables
  readonly #live: SlotSet
  readonly #damage: Damage
  readonly #bad: BadRuns
  readonly #zeros: Uint8Array = new Uint8Array(BLOCK_SIZE_BYTES)
  /** Live blocks found to match. */
  verifiedCount = 0

  constructor(
    reader: PoolReader,
    checksum: Checksum,
    frames: FrameReader,
    tables: SegmentTables,
    live: SlotSet,
    damage: Damage,
    bad: BadRuns,
  ) {
    this.#reader = reader
    this.#checksum = checksum
    this.#frames = frames
    this.#tables = tables
    this.#live = live
    this.#damage = damage
    this.#bad = bad
  }

  /** Returns the number of live slots. */
  async verify(id: number, table: SegmentTable, places: Uint32Array): Promise<number> {
    const verified = { id, table, places }
    const frameSlots: number[] = []
    const aliasSlots: number[] = []
    let liveCount = 0
    for (let slot = DATA_SLOT_FIRST; slot < DATA_SLOT_END; slot += 1) {
      if (!this.#live.has(id, slot)) continue
      liveCount += 1
      const finding = table.findingOf(slot)
      const kind = placeKind(places[2 * slot + 1])
      if (finding !== null) this.#damage.add(id, slot, 1, finding)
      else if (kind === PLACE_DEAD) this.#bad.add('address-no-block', id, slot)
      else if (kind === PLACE_ZERO) this.#verifyBlock(verified, slot, this.#zeros, 0)
      else if (kind === PLACE_ALIAS) aliasSlots.push(slot)
      else frameSlots.push(slot)
    }
    await this.#verifyFrames(verified, frameSlots)
    await this.#compareAliases(verified, aliasSlots)
    this.#bad.flush()
    this.#inheritDamage(verified, aliasSlots)
    return liveCount
  }

  #verifyBlock({ id, table }: Verified, slot: number, memory: Uint8Array, offset: number): void {
    const bad = this.#checksum.verifyBlocks(memory, offset, 1, table.words, 2 * slot)
    if (bad === -1) this.verifiedCount += 1
    else this.#bad.add('block-corrupt', id, slot)
  }

  /** Reads the frames in the order of the file, many at once. */
  async #verifyFrames(verified: Verified, slots: number[]): Promise<void> {
    const { id, places } = verified
    const startOf = (slot: number): number => frameOffset(places[2 * slot])
    const endOf = (slot: number): number => startOf(slot) + frameStoredBytes(places[2 * slot + 1])
    slots.sort((a, b) => startOf(a) - startOf(b) || a - b)
    let first = 0
    while (first < slots.length) {
      const startBytes = startOf(slots[first])
      let endBytes = endOf(slots[first])
      let end = first + 1
      while (end < slots.length && endOf(slots[end]) <= startBytes + WINDOW_BYTES) {
        endBytes = Math.max(endBytes, endOf(slots[end]))
        end += 1
      }
      const result = await this.#reader.readBytes(id, startBytes, endBytes - startBytes)
      await this.#verifyWindow(verified, slots.slice(first, end), startBytes, result)
      first = end
    }
  }

  async #verifyWindow(
    verified: Verified,
    slots: number[],
    startBytes: number,
    result: number,
  ): Promise<void> {
    const { id, places } = verified
    let at = 0
    while (at < slots.length) {
      const word0 = places[2 * slots[at]]
      const word1 = places[2 * slots[at] + 1]
      const offset = frameOffset(word0)
      // One unreadable sector must not take other frames along.
      const fault =
        result < 0
          ? await this.#frames.load(id, word0, word1)
          : this.#frames.decode(this.#reader.offsetBytes + offset - startBytes, word0, word1)
      do {
        const slot = slots[at]
        if (fault !== null) this.#bad.add(fault.code, id, slot)
        else this.#verifyBlock(verified, slot, this.#frames.blocks, offsetInFrame(places[2 * slot]))
        at += 1
      } while (
        at < slots.length &&
        frameOffset(places[2 * slots[at]]) === offset &&
        places[2 * slots[at] + 1] === word1
      )
    }
  }

  /** Grouped by where they point, so that each table is loaded once. */
  async #compareAliases({ id, table, places }: Verified, slots: number[]): Promise<void> {
    const unequal: number[] = []
    const byTarget = slots.toSorted((a, b) => places[2 * a] - places[2 * b] || a - b)
    for (const slot of byTarget) {
      if (this.#damage.find(id, slot) !== null) continue
      const target = aliasSlot(places[2 * slot + 1])
      const targets = await this.#tables.load(places[2 * slot])
      // What holds no block, or none that is known, has been reported as such.
      if (targets === null || targets.findingOf(target) !== null) continue
      if (!targets.hasBlock(target)) continue
      const isEqual =
        targets.words[2 * target] === table.words[2 * slot] &&
        targets.words[2 * target + 1] === table.words[2 * slot + 1]
      if (!isEqual) unequal.push(slot)
    }
    for (const slot of unequal.sort((a, b) => a - b)) this.#bad.add('alias-unequal', id, slot)
  }

  #inheritDamage({ id, places }: Verified, slots: number[]): void {
    for (const slot of slots) {
      if (this.#damage.find(id, slot) !== null) continue
      const finding = this.#damage.find(places[2 * slot], aliasSlot(places[2 * slot + 1]))
      if (finding === null) this.verifiedCount += 1
      else this.#damage.add(id, slot, 1, finding)
    }
  }
}
