import { must } from '../base/assert.ts'
import { BLOCK_SIZE_BYTES, blocksOf } from '../base/units.ts'
import type { TargetCompletion } from '../export/target.ts'
import { EntryKind } from '../format/record.ts'
import type { DurableWaiter } from '../segment/sync-group.ts'
import type { Cohort } from './cohort.ts'
import type { Disk } from './disk.ts'
import { SIZE_BLOCK, rangesMeet } from './range-lock.ts'
import type { BlockRange, RangeLock } from './range-lock.ts'

/** What a part of an operation does; `skip` is a partial block that already reads as zeros. */
export type EdgeState = 'none' | 'page' | 'skip'

/**
 * One write, trim, zero or growth of a disk on its way into the log. The range is cut into at most
 * three parts: a partial block at the head, whole blocks, a partial block at the tail. A partial
 * block becomes a whole one by reading what is there and changing the part (read-modify-write) in
 * an engine page.
 */
export class WriteOp implements DurableWaiter {
  #disk: Disk | null = null
  /** Held by who started it: then nothing else can be at its blocks. */
  lock: RangeLock | null = null
  kind: EntryKind = EntryKind.data
  offsetBytes = 0
  endBytes = 0
  arenaOffset = 0
  isDurable = false
  completion: TargetCompletion | null = null
  tag = 0
  cohort: Cohort | null = null

  /** `new`, then perhaps `preparing` while blocks or nodes are read, then `ready`. */
  state: 'new' | 'preparing' | 'ready' = 'new'
  head: EdgeState = 'none'
  tail: EdgeState = 'none'
  headPage = -1
  tailPage = -1
  /** Next block to go into the log; the range is [firstBlock, endBlock). */
  nextBlock = 0
  firstBlock = 0
  endBlock = 0
  result = 0
  isEnded = false
  holdsEdgeSlot = false
  /** The disk was asked for space once on its behalf. */
  hasLooked = false
  /** The sequence after the record of its last part. */
  sequence = 0
  /** Of a rewrite: the disk's count when it was found who shares the blocks. Else -1. */
  shareCount = -1
  #recycle: (op: WriteOp) => void

  constructor(recycle: (op: WriteOp) => void) {
    this.#recycle = recycle
  }

  start(
    disk: Disk,
    kind: EntryKind,
    offsetBytes: number,
    lengthBytes: number,
    arenaOffset: number,
    isDurable: boolean,
    completion: TargetCompletion,
    tag: number,
    cohort: Cohort,
    lock: RangeLock | null,
  ): void {
    this.#disk = disk
    this.lock = lock
    this.kind = kind
    this.offsetBytes = offsetBytes
    this.endBytes = offsetBytes + lengthBytes
    this.arenaOffset = arenaOffset
    this.isDurable = isDurable
    this.completion = completion
    this.tag = tag
    this.cohort = cohort
    this.state = 'new'
    this.head = 'none'
    this.tail = 'none'
    this.firstBlock = Math.floor(offsetBytes / BLOCK_SIZE_BYTES)
    this.endBlock = blocksOf(this.endBytes)
    this.nextBlock = this.firstBlock
    this.result = 0
    this.isEnded = false
    this.holdsEdgeSlot = false
    this.hasLooked = false
    this.sequence = 0
    this.shareCount = -1
  }

  /** Makes the disk at least so long; the size is {@link endBytes}. */
  startGrowth(
    disk: Disk,
    sizeBytes: number,
    completion: TargetCompletion,
    tag: number,
    cohort: Cohort,
  ): void {
    this.start(disk, EntryKind.grow, sizeBytes, 0, 0, false, completion, tag, cohort, null)
    this.state = 'ready'
    this.firstBlock = SIZE_BLOCK
    this.endBlock = SIZE_BLOCK + 1
    this.nextBlock = this.firstBlock
  }

  get disk(): Disk {
    return must(this.#disk, 'the disk being written')
  }

  /** It writes what is there already, and changes nothing. */
  get isRewrite(): boolean {
    return this.shareCount >= 0
  }

  /** Whether the first block is changed in part; then it is also the head. */
  get isHeadPartial(): boolean {
    return this.offsetBytes % BLOCK_SIZE_BYTES !== 0 || this.#endsWithin(this.firstBlock)
  }

  /** Whether the last block is changed in part and is not the head. */
  get isTailPartial(): boolean {
    const last = this.endBlock - 1
    return last !== this.firstBlock && this.#endsWithin(last)
  }

  /** First block after the head and first block of the tail: what lies between is whole. */
  get wholeStart(): number {
    return this.firstBlock + (this.head === 'none' ? 0 : 1)
  }

  get wholeEnd(): number {
    return this.endBlock - (this.tail === 'none' ? 0 : 1)
  }

  meets(range: BlockRange): boolean {
    return rangesMeet(this, range)
  }

  /**
   * The disk may have shrunk while the operation waited for that: what lies behind the new end is
   * as if it had been written before. False: nothing is left.
   */
  cutAtEnd(): boolean {
    const { sizeBytes } = this.disk
    if (this.endBytes > sizeBytes) {
      this.endBytes = Math.max(this.offsetBytes, sizeBytes)
      this.endBlock = Math.max(this.firstBlock, blocksOf(this.endBytes))
    }
    return this.endBytes > this.offsetBytes
  }

  /** Where in the arena the bytes of a whole block of the caller's begin. */
  arenaOffsetOf(blockIndex: number): number {
    return this.arenaOffset + (blockIndex * BLOCK_SIZE_BYTES - this.offsetBytes)
  }

  durable(_tag: number, result: number): void {
    this.result = result
    this.complete()
  }

  /** Tells the caller and goes back to the free list. */
  complete(): void {
    const completion = must(this.completion, 'the writer')
    const { tag, result } = this
    must(this.cohort, 'the cohort').leave()
    this.cohort = null
    this.completion = null
    this.#disk = null
    this.lock = null
    this.#recycle(this)
    completion.targetComplete(tag, result)
  }

  /** The range ends inside `block`, and not where the disk does: past its end nothing is kept. */
  #endsWithin(block: number): boolean {
    const blockEndBytes = (block + 1) * BLOCK_SIZE_BYTES
    if (this.endBytes >= blockEndBytes) return false
    // A trim or zero to the very end of the disk takes the whole last block. Data cannot: the
    // caller's bytes stop there.
    return this.kind === EntryKind.data || this.endBytes < this.disk.sizeBytes
  }
}
