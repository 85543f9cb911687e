/**
 * Ordering: what lies scattered in the log, after random writes, is written anew in the order of
 * its volume, so that reading in sequence is reading at length again.
 *
 * Ordering argument. Nothing here is more than a guest that reads blocks and writes the same bytes
 * back. They are ordinary data records: a cut leaves a map that names the old addresses or the
 * new ones, block by block, and both hold the same bytes. The old ones keep their meaning (I1) and
 * stay readable, for nothing is given back before the reclaim that follows has fixed a checkpoint
 * that no longer names them. A lock on the blocks stands in the line of writes from before they are
 * looked up until they are in the log: no write of a guest's comes in between and is undone. That
 * the volume was removed, restored or copied from meanwhile the write queue asks when it appends.
 * What is read is checked, and what fails stays where it is: no block gets a checksum that says of
 * wrong bytes that they are right (I8).
 *
 * Only blocks that nothing else refers to are moved, so that it costs no space once the old ones
 * are reclaimed, and a snapshot and its volume differ in no more blocks than before.
 */
import { Errno, VarveError } from '../base/errors.ts'
import { BLOCK_SIZE_BYTES } from '../base/units.ts'
import { KIND_BLOCK } from '../format/node.ts'
import { ARENA_PIECE_BYTES_MAX, allocateArena } from '../io/arena.ts'
import { ioResult } from '../io/io.ts'
import type { MapRoot } from '../map/map-root.ts'
import { Lookup } from '../map/page-tables.ts'
import type { Checkpointer } from './checkpoint.ts'
import type { PoolCore } from './core.ts'
import type { Disk } from './disk.ts'
import type { MarkBitmap } from './mark.ts'
import type { Pacer } from './pacer.ts'
import type { RangeLock } from './range-lock.ts'
import { findShared } from './shared-blocks.ts'
import type { SurveyedVolume } from './shared-blocks.ts'
import { STRETCH_BLOCK_COUNT, Stretch } from './stretch.ts'
import type { ReclaimProgress } from './types.ts'
import type { WriteQueue } from './write-queue.ts'

/** Looked at between two pauses: a lookup or two each, where there is nothing to do. */
const STRETCHES_PER_PAUSE = 64

export interface OrderRun {
  pacer: Pacer
  progress: (progress: ReclaimProgress) => void
}

/**
 * Orders all volumes, as far as there is room. Resolves to the bytes written. Rejects `canceled`;
 * anything else that goes wrong only leaves blocks where they are.
 */
export async function orderVolumes(
  core: PoolCore,
  writes: WriteQueue,
  checkpointer: Checkpointer,
  imports: Iterable<{ readonly root: MapRoot }>,
  run: OrderRun,
): Promise<number> {
  run.progress({ phase: 'order', done: 0, total: 1 })
  if (!core.space.admitsSpare(ARENA_PIECE_BYTES_MAX)) return 0
  const found = await findShared(core, checkpointer, imports, run.pacer)
  if (found === null) return 0
  const piece = await allocateArena(core.io.arena, ARENA_PIECE_BYTES_MAX)
  try {
    const ordering = new Ordering(core, writes, found.shared, piece, run)
    await ordering.run(found.volumes)
    return ordering.orderedBytes
  } finally {
    core.io.arena.free(piece, ARENA_PIECE_BYTES_MAX)
  }
}

class Ordering {
  readonly #core: PoolCore
  readonly #writes: WriteQueue
  readonly #shared: MarkBitmap
  /** Arena memory for the blocks of a stretch. */
  readonly #piece: number
  readonly #run: OrderRun
  readonly #stretch = new Stretch()
  readonly #found = new Lookup()
  #lookedCount = 0
  /** There is no more room, or the log has failed. */
  #isOver = false
  orderedBytes = 0

  constructor(
    core: PoolCore,
    writes: WriteQueue,
    shared: MarkBitmap,
    piece: number,
    run: OrderRun,
  ) {
    this.#core = core
    this.#writes = writes
    this.#shared = shared
    this.#piece = piece
    this.#run = run
  }

  async run(volumes: readonly SurveyedVolume[]): Promise<void> {
    const stretchesOf = ({ disk }: SurveyedVolume): number =>
      Math.ceil(wholeBlocksOf(disk) / STRETCH_BLOCK_COUNT)
    const total = volumes.reduce((sum, volume) => sum + stretchesOf(volume), 0)
    let done = 0
    for (const volume of volumes) {
      const before = done
      await this.#orderVolume(volume, (block) => {
        const at = before + Math.floor(block / STRETCH_BLOCK_COUNT)
        this.#run.progress({ phase: 'order', done: Math.min(at, total), total })
      })
      if (this.#isOver) return
      done += stretchesOf(volume)
    }
    this.#run.progress({ phase: 'order', done: total, total })
  }

  async #orderVolume(volume: SurveyedVolume, progress: (block: number) => void): Promise<void> {
    const { pacer } = this.#run
    let block = 0
    while (!this.#isOver && this.#isAsFound(volume) && block < wholeBlocksOf(volume.disk)) {
      this.#lookedCount += 1
      if (this.#lookedCount % STRETCHES_PER_PAUSE === 0) {
        progress(block)
        await pacer.pace()
        continue
      }
      const next = this.#trySkip(volume.disk, block)
      if (next > block) {
        block = next
        continue
      }
      // A node that cannot be read is for a scrub to find.
      if (next < 0 && !(await this.#tryFault())) return
      if (next < 0) continue
      if (!(await this.#survey(volume, block))) return
      if (this.#stretch.isScattered) {
        await this.#orderStretch(volume, block)
        await pacer.pace()
      }
      block += STRETCH_BLOCK_COUNT
    }
  }

  /** Where the next stretch begins that is not one run, or a hole. -1: a node is missing. */
  #trySkip({ root, sizeBytes }: Disk, block: number): number {
    const left = Math.ceil(sizeBytes / BLOCK_SIZE_BYTES) - block
    const found = this.#found
    if (!this.#core.tables.lookup(root, block, left, found)) return -1
    if (found.count >= left) return block + left
    return block + found.count - (found.count % STRETCH_BLOCK_COUNT)
  }

  /** Fills `#stretch`. False: the volume is not as it was, or its map cannot be read. */
  async #survey(volume: SurveyedVolume, firstBlock: number): Promise<boolean> {
    while (this.#isAsFound(volume)) {
      if (this.#trySurvey(volume.disk, firstBlock)) return true
      if (!(await this.#tryFault())) return false
    }
    return false
  }

  #trySurvey(disk: Disk, firstBlock: number): boolean {
    const stretch = this.#stretch
    const found = this.#found
    const count = Math.min(STRETCH_BLOCK_COUNT, wholeBlocksOf(disk) - firstBlock)
    stretch.clear()
    for (let index = 0; index < count; index += found.count) {
      const { tables } = this.#core
      if (!tables.lookup(disk.root, firstBlock + index, count - index, found)) return false
      if (found.kind !== KIND_BLOCK) continue
      stretch.setRun(index, found.count, found.segment, found.slot)
      for (let i = 0; i < found.count; i += 1) {
        if (this.#shared.isMarked(found.segment, found.slot + i)) stretch.fix(index + i, 1)
      }
    }
    return true
  }

  async #tryFault(): Promise<boolean> {
    try {
      await this.#core.tables.fault(this.#found)
      return true
    } catch (error) {
      if (!(error instanceof VarveError)) throw error
      return false
    }
  }

  async #orderStretch(volume: SurveyedVolume, firstBlock: number): Promise<void> {
    if (!(await this.#hasRoom())) {
      this.#isOver = true
      return
    }
    const endBlock = firstBlock + STRETCH_BLOCK_COUNT
    const lock = await this.#writes.lock([{ disk: volume.disk, firstBlock, endBlock }])
    const cohort = this.#core.cohorts.enter()
    try {
      // What was found before the lock was granted may be something else by now.
      if (!(await this.#survey(volume, firstBlock)) || !this.#stretch.isScattered) return
      await this.#read()
      // What cannot be read stays, and may leave nothing to gain.
      if (this.#stretch.isScattered) await this.#write(volume, firstBlock, lock)
    } finally {
      cohort.leave()
      lock.release()
    }
  }

  async #hasRoom(): Promise<boolean> {
    const { space } = this.#core
    if (space.admitsSpare(ARENA_PIECE_BYTES_MAX)) return true
    if (space.isCurrent) return false
    await space.refresh().catch(() => undefined)
    return space.admitsSpare(ARENA_PIECE_BYTES_MAX)
  }

  async #read(): Promise<void> {
    const { store } = this.#core
    const stretch = this.#stretch
    const { addresses } = stretch
    const reads = stretch.movableAddresses().map(async ({ index, count }) => {
      const result = await ioResult((completion) => {
        const [segment, slot] = [addresses[2 * index], addresses[2 * index + 1]]
        store.read(segment, slot, count, this.#offsetOf(index), completion, 0)
      })
      if (result !== 0) stretch.fix(index, count)
    })
    await Promise.all(reads)
  }

  async #write(volume: SurveyedVolume, firstBlock: number, lock: RangeLock): Promise<void> {
    const { disk, shareCount } = volume
    const writes = this.#stretch.movable().map(async ({ index, count }) => {
      const result = await new Promise<number>((resolve) => {
        const completion = { targetComplete: (_tag: number, code: number) => resolve(code) }
        const [block, at] = [firstBlock + index, this.#offsetOf(index)]
        this.#writes.rewrite(disk, shareCount, block, count, at, lock, completion)
      })
      if (result === 0) this.orderedBytes += count * BLOCK_SIZE_BYTES
      else if (result !== -Errno.ENOENT) this.#isOver = true
    })
    await Promise.all(writes)
  }

  #offsetOf(index: number): number {
    return this.#piece + index * BLOCK_SIZE_BYTES
  }

  /** Nobody else has come to share what the volume had to itself. */
  #isAsFound({ disk, shareCount }: SurveyedVolume): boolean {
    return this.#core.catalogue.isUnshared(disk, shareCount)
  }
}

/** Without a last block that the size ends in: a write of less than a block reads the rest. */
function wholeBlocksOf({ sizeBytes }: Disk): number {
  return Math.floor(sizeBytes / BLOCK_SIZE_BYTES)
}
