/**
 * One read of a disk: looks runs of blocks up, fills what is not mapped with zeros, reads the rest
 * from the segments straight into the caller's arena memory, several runs at once. Blocks read in
 * part, at unaligned ends, go through a page of the engine's. Objects are recycled; the aligned
 * path allocates nothing.
 */
import { assert, must } from '../base/assert.ts'
import { Errno } from '../base/errors.ts'
import { BLOCK_SIZE_BYTES, BLOCK_SIZE_SHIFT } from '../base/units.ts'
import type { TargetCompletion } from '../export/target.ts'
import { KIND_BLOCK } from '../format/node.ts'
import type { IoCompletion, TurnHook } from '../io/io.ts'
import { Lookup } from '../map/page-tables.ts'
import type { Cohort } from './cohort.ts'
import type { PoolCore } from './core.ts'
import type { Disk } from './disk.ts'

const BLOCK_MASK = BLOCK_SIZE_BYTES - 1

class DiskRead implements IoCompletion {
  readonly #readers: DiskReads
  readonly #core: PoolCore
  readonly #found: Lookup = new Lookup()
  #disk: Disk | null = null
  #cohort: Cohort | null = null
  #offset = 0
  #end = 0
  #arenaDelta = 0
  #outstanding = 0
  #result = 0
  #completion: TargetCompletion | null = null
  #tag = 0

  constructor(readers: DiskReads, core: PoolCore) {
    this.#readers = readers
    this.#core = core
  }

  start(
    disk: Disk,
    offsetBytes: number,
    lengthBytes: number,
    arenaOffset: number,
    completion: TargetCompletion,
    tag: number,
  ): void {
    this.#disk = disk
    this.#cohort = this.#core.cohorts.enter()
    this.#offset = offsetBytes
    this.#end = offsetBytes + lengthBytes
    this.#arenaDelta = arenaOffset - offsetBytes
    this.#result = 0
    this.#completion = completion
    this.#tag = tag
    this.#outstanding = 1
    this.#advance()
  }

  ioComplete(_tag: number, result: number): void {
    if (result < 0) this.#result = result
    // Not while it is being started: then that holds one of them.
    if (this.#dropOne()) this.finish()
  }

  finish(): void {
    const completion = must(this.#completion, 'the reader')
    const tag = this.#tag
    const result = this.#result
    must(this.#cohort, 'the cohort').leave()
    this.#completion = null
    this.#disk = null
    this.#cohort = null
    this.#readers.recycle(this)
    completion.targetComplete(tag, result)
  }

  /** Goes as far as it can without waiting for a node. Holds one of `#outstanding` meanwhile. */
  #advance(): void {
    const { tables, store, io } = this.#core
    const found = this.#found
    while (this.#offset < this.#end && this.#result === 0) {
      const { root } = must(this.#disk, 'the disk being read')
      const blockIndex = Math.floor(this.#offset / BLOCK_SIZE_BYTES)
      const within = this.#offset & BLOCK_MASK
      const countMax = Math.ceil((this.#end - this.#offset + within) / BLOCK_SIZE_BYTES)
      if (!tables.lookup(root, blockIndex, countMax, found)) {
        this.#waitForNode()
        return
      }
      const arenaOffset = this.#arenaDelta + this.#offset
      const runBytes = Math.min(found.count * BLOCK_SIZE_BYTES - within, this.#end - this.#offset)
      if (found.kind !== KIND_BLOCK) {
        io.arena.memory.fill(0, arenaOffset, arenaOffset + runBytes)
        this.#offset += runBytes
      } else if (within !== 0 || runBytes < BLOCK_SIZE_BYTES) {
        const partBytes = Math.min(BLOCK_SIZE_BYTES - within, runBytes)
        this.#readPart(found.segment, found.slot, within, partBytes, arenaOffset)
        this.#offset += partBytes
      } else {
        const blockCount = runBytes >> BLOCK_SIZE_SHIFT
        this.#outstanding += 1
        store.read(found.segment, found.slot, blockCount, arenaOffset, this, 0)
        this.#offset += blockCount << BLOCK_SIZE_SHIFT
      }
    }
    this.#release()
  }

  #waitForNode(): void {
    this.#core.tables.fault(this.#found).then(
      () => this.#advance(),
      () => {
        this.#result = -Errno.EIO
        this.#release()
      },
    )
  }

  #readPart(
    segment: number,
    slot: number,
    within: number,
    lengthBytes: number,
    arenaOffset: number,
  ): void {
    const { pages, store, io } = this.#core
    this.#outstanding += 1
    void pages.take().then((page) => {
      const copied: IoCompletion = {
        ioComplete: (tag, result) => {
          if (result === 0) {
            const { memory } = io.arena
            memory.copyWithin(arenaOffset, page + within, page + within + lengthBytes)
          }
          pages.give(page)
          this.ioComplete(tag, result)
        },
      }
      store.read(segment, slot, 1, page, copied, 0)
    })
  }

  /** What was at hand at once completes later: never inside of the call that asked for it. */
  #release(): void {
    if (this.#dropOne()) this.#readers.finishLater(this)
  }

  /** True when it was the last. */
  #dropOne(): boolean {
    this.#outstanding -= 1
    assert(this.#outstanding >= 0, 'a part of a read ends once')
    return this.#outstanding === 0
  }
}

/** Starts reads. They complete when their last part arrives, or at the end of the turn. */
export class DiskReads implements TurnHook {
  readonly #core: PoolCore
  readonly #free: DiskRead[] = []
  #finished: DiskRead[] = []
  #finishing: DiskRead[] = []

  constructor(core: PoolCore) {
    this.#core = core
  }

  /** Reads a range that lies within the disk. Result: 0 or -EIO. */
  read(
    disk: Disk,
    offsetBytes: number,
    lengthBytes: number,
    arenaOffset: number,
    completion: TargetCompletion,
    tag: number,
  ): void {
    const read = this.#free.pop() ?? new DiskRead(this, this.#core)
    read.start(disk, offsetBytes, lengthBytes, arenaOffset, completion, tag)
  }

  finishLater(read: DiskRead): void {
    this.#finished.push(read)
    this.#core.io.atTurnEnd(this)
  }

  turnEnd(): void {
    const finishing = this.#finished
    this.#finished = this.#finishing
    this.#finishing = finishing
    for (const read of finishing) read.finish()
    finishing.length = 0
  }

  recycle(read: DiskRead): void {
    this.#free.push(read)
  }
}
