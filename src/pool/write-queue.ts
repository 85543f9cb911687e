/**
 * Brings writes, trims and zeroes of all disks into the log, a batch a turn.
 *
 * In one synchronous stretch at the end of the turn: each operation that is ready is added to the
 * record being built; a full record is written; its entries are applied to the maps, by the same
 * function that recovery uses; its operations are completed. So a map never names a block that is
 * not in the log, and an operation is answered only when it is.
 *
 * An operation that needs a map node or the rest of a partial block from disk waits in `#held`
 * until it has it. Those that come after it pass it by, unless they overlap it: operations on the
 * same block go into the log in the order in which they came. Hence a read-modify-write cannot
 * lose a neighbour's bytes. What changes many blocks and takes its time, a shrink or a copy, stands
 * in the same line with a {@link RangeLock}.
 */
import { assert } from '../base/assert.ts'
import { Errno, OperatingError } from '../base/errors.ts'
import { BLOCK_SIZE_BYTES } from '../base/units.ts'
import type { TargetCompletion } from '../export/target.ts'
import { EntryKind, blocksOfEntry } from '../format/record.ts'
import type { TurnHook } from '../io/io.ts'
import { Lookup } from '../map/page-tables.ts'
import { SpareMissing } from './appender.ts'
import type { PoolCore } from './core.ts'
import type { Disk } from './disk.ts'
import { prepareEdges, releaseEdges } from './edge-pages.ts'
import { RangeLock } from './range-lock.ts'
import type { BlockRange } from './range-lock.ts'
import { WriteOp } from './write-op.ts'

/** Nodes written in one go when too many are dirty: about a millisecond. */
const FLUSH_NODE_COUNT = 250

/** Operations with partial blocks at work at once; each may hold two edge pages. */
export const EDGE_OP_COUNT_MAX = 64

type Progress = 'done' | 'held'

const NOTHING: readonly { disk: Disk; modifiedMs: number }[] = []
const isRewrite = (op: WriteOp): boolean => op.isRewrite

export class WriteQueue implements TurnHook {
  readonly #core: PoolCore
  readonly #found: Lookup = new Lookup()
  readonly #free: WriteOp[] = []
  readonly #onAppended: () => void
  #incoming: (WriteOp | RangeLock)[] = []
  #held: (WriteOp | RangeLock)[] = []
  #working: (WriteOp | RangeLock)[] = []
  /** Operations with a part in the record being built. */
  readonly #inRecord: WriteOp[] = []
  #ended: WriteOp[] = []
  #completing: WriteOp[] = []
  #edgeSlotCount = EDGE_OP_COUNT_MAX
  readonly #recycleOp = (op: WriteOp): void => {
    this.#free.push(op)
  }

  /** `onAppended` is called after each turn that wrote something. */
  constructor(core: PoolCore, onAppended: () => void) {
    this.#core = core
    this.#onAppended = onAppended
  }

  /** Operations not in the log yet, and locks. */
  get pendingCount(): number {
    return this.#incoming.length + this.#held.length
  }

  /**
   * Queues an operation on a range that lies within the disk. Result: 0, -EIO or -ENOSPC. `lock`:
   * held by the caller, around the range.
   */
  submit(
    disk: Disk,
    kind: EntryKind,
    offsetBytes: number,
    lengthBytes: number,
    arenaOffset: number,
    isDurable: boolean,
    completion: TargetCompletion,
    tag: number,
    lock: RangeLock | null = null,
  ): void {
    const op = this.#takeOp()
    const cohort = this.#core.cohorts.enter()
    op.start(
      disk,
      kind,
      offsetBytes,
      lengthBytes,
      arenaOffset,
      isDurable,
      completion,
      tag,
      cohort,
      lock,
    )
    this.#enqueue(op)
  }

  /**
   * Queues whole blocks that hold the very bytes at `arenaOffset` already, under a lock around
   * them: they get new addresses, and the disk counts as unchanged. Result: 0, -EIO or -ENOSPC;
   * -ENOENT: the disk is gone, was restored, or shares more than when `shareCount` was its count.
   */
  rewrite(
    disk: Disk,
    shareCount: number,
    blockIndex: number,
    blockCount: number,
    arenaOffset: number,
    lock: RangeLock,
    completion: TargetCompletion,
  ): void {
    const op = this.#takeOp()
    const cohort = this.#core.cohorts.enter()
    const offsetBytes = blockIndex * BLOCK_SIZE_BYTES
    const lengthBytes = blockCount * BLOCK_SIZE_BYTES
    const { data } = EntryKind
    op.start(disk, data, offsetBytes, lengthBytes, arenaOffset, false, completion, 0, cohort, lock)
    op.shareCount = shareCount
    this.#enqueue(op)
  }

  /** Queues a growth to at least `sizeBytes`. Result: 0, -EIO, -ENOSPC; -ENOENT: no such disk. */
  grow(disk: Disk, sizeBytes: number, completion: TargetCompletion, tag: number): void {
    const op = this.#takeOp()
    op.startGrowth(disk, sizeBytes, completion, tag, this.#core.cohorts.enter())
    this.#enqueue(op)
  }

  /** Resolves when the caller has the ranges to itself; it releases the lock whatever happens. */
  lock(ranges: readonly BlockRange[]): Promise<RangeLock> {
    return new Promise((resolve) => {
      this.#enqueue(new RangeLock(ranges, resolve, (lock) => this.#unlock(lock)))
    })
  }

  #takeOp(): WriteOp {
    return this.#free.pop() ?? new WriteOp(this.#recycleOp)
  }

  #enqueue(one: WriteOp | RangeLock): void {
    this.#incoming.push(one)
    this.#core.io.atTurnEnd(this)
  }

  #unlock(lock: RangeLock): void {
    const index = this.#held.indexOf(lock)
    assert(index >= 0, 'a lock is released between turns')
    this.#held.splice(index, 1)
    if (this.#held.length > 0) this.#core.io.atTurnEnd(this)
  }

  turnEnd(): void {
    const working = this.#working
    for (const op of this.#held) working.push(op)
    for (const op of this.#incoming) working.push(op)
    this.#held.length = 0
    this.#incoming.length = 0
    if (working.length > 0) this.#core.catalogue.readClock()
    for (const one of working) {
      if (one instanceof RangeLock) this.#advanceLock(one)
      else if (this.#advance(one) === 'done') continue
      this.#held.push(one)
    }
    working.length = 0
    // An operation that ended may have been what another waits for.
    if (this.#held.length > 0 && this.#ended.length > 0) this.#core.io.atTurnEnd(this)
    if (!this.#core.log.isRecordEmpty) this.#writeRecord()
    this.#flushNodes()
    this.#completeEnded()
    this.#onAppended()
  }

  #advanceLock(lock: RangeLock): void {
    if (lock.isWaiting && !lock.ranges.some((range) => this.#isTaken(range))) lock.grant()
  }

  /** Whether something that came before and still waits is at these blocks. */
  #isTaken(range: BlockRange): boolean {
    return this.#held.some((earlier) => earlier.meets(range))
  }

  #advance(op: WriteOp): Progress {
    if (op.state === 'preparing') return 'held'
    // A lock keeps writers from the blocks of a rewrite, but no catalogue operation from the disk.
    // Asked in the same turn as its blocks go into the log: none can come in between.
    if (op.isRewrite && !this.#core.catalogue.isUnshared(op.disk, op.shareCount)) {
      this.#end(op, -Errno.ENOENT)
      return 'done'
    }
    if (this.#held.length > 0 && op.lock === null && this.#isTaken(op)) return 'held'
    if (op.state === 'new') {
      if (!op.cutAtEnd()) {
        this.#endWithout(op)
        return 'done'
      }
      if (op.isHeadPartial || op.isTailPartial) {
        if (this.#edgeSlotCount === 0) return 'held'
        this.#edgeSlotCount -= 1
        op.holdsEdgeSlot = true
        op.state = 'preparing'
        void prepareEdges(this.#core, op).then(() => this.#resume(op))
        return 'held'
      }
      op.state = 'ready'
    }
    const refusal = op.result !== 0 ? op.result : this.#admit(op)
    if (refusal === -Errno.ENOSPC && !op.hasLooked && !this.#core.space.isCurrent) {
      // The count between two looks at the disk is on the safe side: look before refusing.
      op.hasLooked = true
      op.state = 'preparing'
      const resume = (): void => this.#resume(op)
      this.#core.space.refresh().then(resume, resume)
      return 'held'
    }
    if (refusal !== 0) {
      if (refusal === -Errno.ENOSPC) this.#core.space.noteRefused(op.endBytes - op.offsetBytes)
      this.#end(op, refusal)
      return 'done'
    }
    if (!this.#reside(op)) return 'held'
    return this.#append(op)
  }

  /** What was being read for `op` is here: it goes on at the end of this turn. */
  #resume(op: WriteOp): void {
    op.state = 'ready'
    this.#core.io.atTurnEnd(this)
  }

  /** 0, or why the operation cannot be taken. */
  #admit(op: WriteOp): number {
    const { log, space } = this.#core
    if (log.failure !== 0) return -Errno.EIO
    const lengthBytes = op.endBytes - op.offsetBytes
    const isData = op.kind === EntryKind.data
    const fits = isData ? space.admits(lengthBytes) : space.admitsSmall(BLOCK_SIZE_BYTES)
    return fits ? 0 : -Errno.ENOSPC
  }

  /** Whether the map's nodes are here; if not, has them loaded. */
  #reside(op: WriteOp): boolean {
    if (op.kind === EntryKind.grow) return true
    const { tables } = this.#core
    const { root } = op.disk
    const found = this.#found
    if (tables.tryReside(root, op.nextBlock, op.endBlock - op.nextBlock, found)) return true
    op.state = 'preparing'
    tables.fault(found).then(
      () => this.#resume(op),
      () => {
        op.result = -Errno.EIO
        this.#resume(op)
      },
    )
    return false
  }

  #append(op: WriteOp): Progress {
    while (op.nextBlock < op.endBlock && !op.isEnded) {
      if (this.#addNext(op)) continue
      const result = this.#makeRoom()
      if (result === -Errno.EAGAIN) {
        // What is already in the log stays; the rest waits for the next segment.
        void this.#core.log.whenSpare().then(() => this.#core.io.atTurnEnd(this))
        return 'held'
      }
      if (result !== 0 && !op.isEnded) this.#end(op, result)
    }
    // Nothing to write: both ends read as zeros already. Whatever made them so, perhaps a trim not
    // durable yet, is what FUA then waits for.
    if (!op.isEnded && this.#inRecord.at(-1) !== op) this.#endWithout(op)
    return 'done'
  }

  /** Nothing of `op` goes into the log: it is done with what comes before it there. */
  #endWithout(op: WriteOp): void {
    op.sequence = this.#core.log.nextSequence
    this.#end(op, 0)
  }

  #noteInRecord(op: WriteOp): void {
    if (this.#inRecord.at(-1) !== op) this.#inRecord.push(op)
  }

  /** Adds the next part of `op` to the record. False: there is no room for any of it. */
  #addNext(op: WriteOp): boolean {
    if (op.kind === EntryKind.grow) return this.#addGrowth(op)
    const { log } = this.#core
    const { id } = op.disk
    const block = op.nextBlock
    const isHead = block < op.wholeStart
    if (isHead || block >= op.wholeEnd) {
      const isSkipped = (isHead ? op.head : op.tail) === 'skip'
      const page = isHead ? op.headPage : op.tailPage
      if (!isSkipped) {
        if (log.addBlocks(EntryKind.data, id, block, 1, page) === 0) return false
        this.#noteInRecord(op)
      }
      op.nextBlock += 1
      return true
    }
    const count = op.wholeEnd - block
    if (op.kind === EntryKind.data) {
      const taken = log.addBlocks(op.kind, id, block, count, op.arenaOffsetOf(block))
      if (taken === 0) return false
      op.nextBlock += taken
      this.#noteInRecord(op)
      return true
    }
    if (!log.addRange(op.kind, id, block, count)) return false
    op.nextBlock = op.wholeEnd
    this.#noteInRecord(op)
    return true
  }

  #addGrowth(op: WriteOp): boolean {
    const { log, catalogue } = this.#core
    const { disk, endBytes } = op
    // Nobody has to have a disk open to grow it.
    if (catalogue.tryDisk(disk.id) !== disk) this.#end(op, -Errno.ENOENT)
    else if (endBytes > disk.sizeBytes) {
      const index = Math.floor(endBytes / BLOCK_SIZE_BYTES)
      const count = (endBytes % BLOCK_SIZE_BYTES) + 1
      if (!log.addRange(EntryKind.grow, disk.id, index, count)) return false
      this.#noteInRecord(op)
    }
    op.nextBlock = op.endBlock
    return true
  }

  /** Writes the record, and begins the next segment if this one is full. 0 or -errno. */
  #makeRoom(): number {
    const { log } = this.#core
    if (!log.isRecordEmpty) {
      const result = this.#writeRecord()
      if (result !== 0) return result
    }
    return log.mustRoll(2) ? log.roll() : 0
  }

  /** Writes the record, applies it, completes what is finished. 0, -ENOSPC or -EIO. */
  #writeRecord(): number {
    const { log, space } = this.#core
    const before = log.appendedBytes
    const result = log.write()
    if (result === 0) {
      space.consume(log.appendedBytes - before)
      const unmodified = this.#inRecord.some(isRewrite) ? this.#rewrittenOnly() : NOTHING
      this.#applyRecord()
      for (const { disk, modifiedMs } of unmodified) disk.modifiedMs = modifiedMs
    }
    log.beginRecord()
    if (result === -Errno.ENOSPC) space.noteDiskRefused()
    const errno = result === 0 || result === -Errno.ENOSPC ? result : -Errno.EIO
    for (const op of this.#inRecord) {
      op.sequence = log.nextSequence
      if (errno !== 0 || op.nextBlock === op.endBlock) this.#end(op, errno)
    }
    this.#inRecord.length = 0
    return errno
  }

  /** Disks that the record does not change, with the time when something last did. */
  #rewrittenOnly(): { disk: Disk; modifiedMs: number }[] {
    const changed = new Set(this.#inRecord.filter((op) => !op.isRewrite).map(({ disk }) => disk))
    const rewritten = new Set(this.#inRecord.filter(isRewrite).map(({ disk }) => disk))
    return [...rewritten]
      .filter((disk) => !changed.has(disk))
      .map((disk) => ({ disk, modifiedMs: disk.modifiedMs }))
  }

  #applyRecord(): void {
    const { log, catalogue } = this.#core
    const { entries } = log
    let slot = log.firstBlockSlot
    for (let i = 0; i < entries.count; i += 1) {
      const kind = entries.kinds[i]
      const count = entries.counts[i]
      const segment = log.openSegmentId
      catalogue.applyEntry(entries.diskIds[i], kind, entries.blockIndexes[i], count, segment, slot)
      slot += blocksOfEntry(kind, count)
    }
  }

  /** The operation is over; who started it hears of it when the batch is done. */
  #end(op: WriteOp, result: number): void {
    assert(!op.isEnded, 'an operation ends once')
    op.isEnded = true
    op.result = result
    if (op.headPage >= 0 || op.tailPage >= 0) releaseEdges(this.#core, op)
    if (op.holdsEdgeSlot) this.#giveEdgeSlot()
    this.#ended.push(op)
  }

  /** With the record that ends a turn, too: then who waits for a slot has been passed by. */
  #giveEdgeSlot(): void {
    this.#edgeSlotCount += 1
    if (this.#held.length > 0) this.#core.io.atTurnEnd(this)
  }

  #completeEnded(): void {
    const ended = this.#ended
    this.#ended = this.#completing
    this.#completing = ended
    const { syncs } = this.#core.log
    for (const op of ended) {
      if (op.isDurable && op.result === 0) syncs.wait(op.sequence, op, 0)
      else op.complete()
    }
    ended.length = 0
  }

  /** Too many dirty nodes: some are written at once, so that memory stays bounded. */
  #flushNodes(): void {
    const { tables, appender, log } = this.#core
    if (!tables.isDirtyFull || log.failure !== 0) return
    try {
      tables.flushSome(FLUSH_NODE_COUNT, appender)
    } catch (error) {
      // They stay dirty, and the next turn tries again: when the segment is there, or space.
      if (!(error instanceof SpareMissing || error instanceof OperatingError)) throw error
    }
  }
}
