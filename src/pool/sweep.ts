/**
 * Goes through the segments of a reclaim, the cheapest gain first: those in which nothing is live
 * are deleted, which takes a moment and gives all of it back; of raw ones the dead runs are
 * punched out; and what is left is rewritten where that is asked for, or where so much of a
 * settled segment is dead that the bytes freed are worth the bytes copied.
 */
import { OperatingError, VarveError } from '../base/errors.ts'
import { BLOCK_SIZE_BYTES } from '../base/units.ts'
import { PLACE_FRAME, frameBlockCount, frameStoredBytes } from '../format/directory.ts'
import { DATA_SLOT_END, DATA_SLOT_FIRST } from '../format/segment.ts'
import { SegmentSettler } from '../segment/settle.ts'
import type { SegmentTable } from '../segment/segment-table.ts'
import type { PoolCore } from './core.ts'
import type { MarkBitmap } from './mark.ts'
import type { ReclaimRun } from './reclaim.ts'
import { poolFull } from './space.ts'
import type { SweepReport } from './types.ts'

/** A hole smaller than this is not worth a system call and an extent: 64 KiB. */
const PUNCH_SLOT_COUNT_MIN = 16
/**
 * A settled segment is rewritten when at least an eighth of its frames' bytes is dead: seven bytes
 * copied for one that comes back, at most. What stays below is the price of a reclaim, and bounded.
 */
const DEAD_SHARE_DENOMINATOR = 8

export class Sweep {
  readonly report: SweepReport = {
    deletedSegmentCount: 0,
    punchedBytes: 0,
    settledSegmentCount: 0,
    skippedSegmentCount: 0,
    zeroBytes: 0,
    duplicateBytes: 0,
    droppedBytes: 0,
    encodedFromBytes: 0,
    encodedToBytes: 0,
  }
  readonly #core: PoolCore
  readonly #marked: MarkBitmap
  readonly #run: ReclaimRun
  readonly #settler: SegmentSettler

  private constructor(
    core: PoolCore,
    marked: MarkBitmap,
    run: ReclaimRun,
    settler: SegmentSettler,
  ) {
    this.#core = core
    this.#marked = marked
    this.#run = run
    this.#settler = settler
  }

  static async begin(core: PoolCore, marked: MarkBitmap, run: ReclaimRun): Promise<Sweep> {
    const { store, codecs, dedupIndex } = core
    return new Sweep(core, marked, run, await SegmentSettler.create(store, codecs, dedupIndex))
  }

  close(): void {
    this.#settler.close()
  }

  async run(ids: readonly number[]): Promise<void> {
    const { store } = this.#core
    const live: number[] = []
    for (const id of ids) {
      if (this.#marked.hasAny(id)) {
        live.push(id)
        continue
      }
      this.#run.pacer.verifyWanted()
      await store.delete(id)
      this.report.deletedSegmentCount += 1
    }
    if (this.report.deletedSegmentCount > 0) await store.syncFolder()
    if (this.#run.onlyDead) return
    const phase = this.#run.settleWith === null ? 'sweep' : 'settle'
    for (const [done, id] of live.entries()) {
      this.#run.progress({ phase, done, total: live.length })
      await this.#run.pacer.pace()
      await this.#sweepLive(id)
    }
    this.#run.progress({ phase, done: live.length, total: live.length })
  }

  async #sweepLive(id: number): Promise<void> {
    const { store } = this.#core
    if (this.#marked.isKept(id)) {
      this.report.skippedSegmentCount += 1
      return
    }
    let table: SegmentTable
    try {
      table = await store.loadTable(id)
    } catch (error) {
      this.#skip(error)
      return
    }
    if (table.places !== null) {
      if (this.#isWorthRewriting(id, table)) await this.#settle(id, this.#run.codec)
    } else if (this.#run.settleWith !== null) {
      await this.#settle(id, this.#run.settleWith)
    } else {
      this.report.punchedBytes += await this.#punchDead(id)
    }
  }

  #isWorthRewriting(id: number, table: SegmentTable): boolean {
    const { places } = table
    if (places === null) return false
    let deadBytes = 0
    let totalBytes = 0
    for (let slot = DATA_SLOT_FIRST; slot < DATA_SLOT_END; slot += 1) {
      if (table.kindOf(slot) !== PLACE_FRAME) continue
      const word1 = places[2 * slot + 1]
      const bytes = frameStoredBytes(word1) / frameBlockCount(word1)
      totalBytes += bytes
      if (!this.#marked.isMarked(id, slot)) deadBytes += bytes
    }
    return deadBytes > 0 && deadBytes * DEAD_SHARE_DENOMINATOR >= totalBytes
  }

  async #settle(id: number, codec: ReclaimRun['codec']): Promise<void> {
    const { references } = this.#core
    try {
      await this.#verifyRoom(id)
      const settled = await this.#settler.settle({
        id,
        codec,
        isLive: (slot) => this.#marked.isMarked(id, slot),
        admits: (segment, slot) => references.admitsAlias(segment, slot),
        pace: this.#run.pacer.pace,
      })
      const { report } = this
      report.settledSegmentCount += 1
      report.zeroBytes += settled.zeroCount * BLOCK_SIZE_BYTES
      report.duplicateBytes += settled.aliasCount * BLOCK_SIZE_BYTES
      report.droppedBytes += settled.droppedCount * BLOCK_SIZE_BYTES
      report.encodedFromBytes += settled.frameSlotCount * BLOCK_SIZE_BYTES
      report.encodedToBytes += settled.frameBytes
    } catch (error) {
      if (error instanceof OperatingError && error.code === 'canceled') throw error
      this.#skip(error)
    }
  }

  /** Old and new lie side by side for a while; guests' room is not taken for it when short. */
  async #verifyRoom(id: number): Promise<void> {
    const { store, space } = this.#core
    const bytes = await store.allocatedBytes(id)
    if (space.admitsSmall(bytes)) return
    await space.refresh()
    if (!space.admitsSmall(bytes)) throw poolFull()
  }

  /** A segment that is damaged, or for which there is no room, stays as it is. */
  #skip(error: unknown): void {
    if (!(error instanceof VarveError)) throw error
    this.report.skippedSegmentCount += 1
  }

  /** Punches the runs of dead slots of a segment that is partly live. Returns what came back. */
  async #punchDead(id: number): Promise<number> {
    const { store, space } = this.#core
    const before = await store.allocatedBytes(id)
    let start = DATA_SLOT_FIRST
    let punched = false
    for (let slot = DATA_SLOT_FIRST; slot <= DATA_SLOT_END; slot += 1) {
      if (slot < DATA_SLOT_END && !this.#marked.isMarked(id, slot)) continue
      if (slot - start >= PUNCH_SLOT_COUNT_MIN) {
        // On some filesystems a hole takes a block first.
        const from = start
        await space.withReserve(() => store.punch(id, from, slot - from))
        punched = true
      }
      start = slot + 1
    }
    return punched ? Math.max(0, before - (await store.allocatedBytes(id))) : 0
  }
}
