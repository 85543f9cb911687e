/**
 * The log writer: turns what happened in one turn of the loop into records at the end of the open
 * segment.
 *
 * Ordering argument. A record is written with one call into the page cache and becomes durable by
 * a later sync of its segment. Records are numbered and chained; recovery replays them in order
 * and stops at the first that is not whole. So whatever a power cut leaves, what is replayed is a
 * prefix of what was written, and it includes every record below the last completed sync (I2).
 * A slot is written once: the writer only moves forward, and after recovery a new segment is begun
 * (I1). One exception is no exception: a write that failed for want of space (ENOSPC) has given
 * its slots to nobody, so the next record may use them; its header is taken back at once.
 *
 * A segment is sealed (footer written) when the next record does not fit. The next segment was
 * created durably ahead of time, so rolling over waits for nothing.
 */
import { assert, must } from '../base/assert.ts'
import type { Checksum } from '../base/checksum.ts'
import { Errno, OperatingError } from '../base/errors.ts'
import { BLOCK_SIZE_BYTES, BLOCK_SIZE_SHIFT } from '../base/units.ts'
import { PAGE_SIZE_BYTES } from '../format/page.ts'
import {
  RECORD_BLOCK_COUNT_MAX,
  RecordEntries,
  blocksOfEntry,
  encodeRecordHeader,
  readRecordChecksum,
  recordFits,
} from '../format/record.ts'
import { DATA_SLOT_END, DATA_SLOT_FIRST, SegmentKind } from '../format/segment.ts'
import type { LogPosition } from '../format/superblock.ts'
import type { Io, IoFile, IoVector } from '../io/io.ts'
import { SEAL_BYTES, sealSegment } from './seal.ts'
import type { SegmentState } from './segment-state.ts'
import type { SegmentStore } from './segment-store.ts'
import { SyncGroup } from './sync-group.ts'

export class Log {
  readonly syncs: SyncGroup
  /** Entries of the record being built or, after `write`, of the one just written. */
  readonly entries: RecordEntries = new RecordEntries()
  readonly #io: Io
  readonly #store: SegmentStore
  readonly #checksum: Checksum
  /** One page for the header, then room for the table and footer of a seal. */
  readonly #staging: number
  readonly #blockChecksums: Uint32Array = new Uint32Array(2 * RECORD_BLOCK_COUNT_MAX)
  readonly #vector: IoVector
  readonly #previousChecksum: Uint32Array = new Uint32Array(2)
  #segment: SegmentState | null = null
  #spare: SegmentState | null = null
  #spareComing: Promise<void> | null = null
  #spareErrno = 0
  /** A roll waits for the spare being created. */
  #isSpareAsked = false
  #slot = 0
  #sequence = 1
  #blockCount = 0
  #written = false
  #appendedBytes = 0
  #failure = 0

  constructor(io: Io, store: SegmentStore) {
    this.#io = io
    this.#store = store
    this.#checksum = store.checksum
    this.syncs = new SyncGroup(io, store)
    this.#staging = io.arena.allocate(PAGE_SIZE_BYTES + SEAL_BYTES)
    assert(this.#staging >= 0, 'the arena holds the log’s staging area')
    this.#vector = { pairs: new Uint32Array(2 * (RECORD_BLOCK_COUNT_MAX + 1)), count: 0 }
  }

  /** Begins a new segment after `position`'s last record, at open. */
  async begin(sequence: number, previousChecksum: Uint32Array): Promise<void> {
    assert(this.#segment === null, 'a log begins once')
    this.#segment = await this.#store.create(SegmentKind.log)
    this.#slot = DATA_SLOT_FIRST
    this.#sequence = sequence
    this.#previousChecksum.set(previousChecksum)
    this.syncs.reset(sequence)
    this.beginRecord()
    this.#createSpare()
  }

  /** Where the next record will lie. */
  position(): LogPosition {
    return {
      segment: this.#open().id,
      slot: this.#slot,
      sequence: this.#sequence,
      previousChecksum: this.#previousChecksum.slice(),
    }
  }

  /** Every record below this sequence is written. */
  get nextSequence(): number {
    return this.#sequence
  }

  /** Bytes written to the log since it began. */
  get appendedBytes(): number {
    return this.#appendedBytes
  }

  /** 0, or the -errno after which the log takes nothing more (I10). */
  get failure(): number {
    return this.#failure !== 0 ? this.#failure : this.syncs.failure
  }

  /** The segment being filled; never reclaimed. */
  get openSegmentId(): number {
    return this.#open().id
  }

  /** The segment to be filled next; never reclaimed. */
  get spareSegmentId(): number {
    return this.#spare?.id ?? 0
  }

  /** Starts collecting the next record. */
  beginRecord(): void {
    this.entries.count = 0
    this.#blockCount = 0
    this.#vector.pairs[0] = this.#staging
    this.#vector.pairs[1] = PAGE_SIZE_BYTES
    this.#vector.count = 1
    this.#written = false
  }

  get isRecordEmpty(): boolean {
    return this.entries.count === 0
  }

  /** Slots left in the open segment for headers and blocks. */
  get slotsLeft(): number {
    return DATA_SLOT_END - this.#slot
  }

  /**
   * Adds up to `count` blocks that lie one after the other at `arenaOffset`. Returns how many
   * were taken; fewer than asked (also 0) means: write this record, then go on.
   */
  addBlocks(
    kind: number,
    diskId: number,
    blockIndex: number,
    count: number,
    arenaOffset: number,
  ): number {
    assert(!this.#written, 'a record is begun before blocks are added')
    const merges = this.#merges(kind, diskId, blockIndex)
    const entryCount = this.entries.count + (merges ? 0 : 1)
    const room = Math.min(
      count,
      RECORD_BLOCK_COUNT_MAX - this.#blockCount,
      DATA_SLOT_END - this.#slot - 1 - this.#blockCount,
    )
    let taken = room
    while (taken > 0 && !recordFits(entryCount, this.#blockCount + taken)) taken -= 1
    if (taken <= 0) return 0
    this.#addEntry(merges, kind, diskId, blockIndex, taken)
    this.#addPiece(arenaOffset, taken << BLOCK_SIZE_SHIFT)
    this.#blockCount += taken
    return taken
  }

  /** Adds an entry without blocks. False: write this record, then try again. */
  addRange(kind: number, diskId: number, blockIndex: number, count: number): boolean {
    assert(!this.#written, 'a record is begun before ranges are added')
    const full = !recordFits(this.entries.count + 1, this.#blockCount) || this.slotsLeft < 1
    if (full) return false
    this.#addEntry(false, kind, diskId, blockIndex, count)
    return true
  }

  /** Slot of the first block of the record being built or just written. */
  get firstBlockSlot(): number {
    return this.#written ? this.#slot - this.#blockCount : this.#slot + 1
  }

  /**
   * Writes the record. Returns 0, -ENOSPC (nothing happened; may be tried again) or another
   * -errno, after which the log is failed. The entries stay readable until `beginRecord`.
   */
  write(): number {
    assert(!this.#written && this.entries.count > 0, 'a record with entries is written once')
    if (this.failure !== 0) return this.failure
    const segment = this.#open()
    this.#hashBlocks()
    encodeRecordHeader(
      {
        segment: segment.id,
        slot: this.#slot,
        sequence: this.#sequence,
        durableSequence: this.syncs.durableSequence,
        previousChecksum: this.#previousChecksum,
        blockCount: this.#blockCount,
      },
      this.entries,
      this.#blockChecksums,
      this.#store.poolId,
      this.#io.arena.memory,
      this.#staging,
      this.#checksum,
    )
    const file = must(segment.file, 'the open segment file')
    const result = this.#io.writeSync(file, this.#slot * BLOCK_SIZE_BYTES, this.#vector)
    if (result < 0) return result === -Errno.ENOSPC ? this.#takeBack(file) : this.#fail(result)
    segment.setChecksums(this.#slot + 1, this.#blockCount, this.#blockChecksums, 0)
    readRecordChecksum(this.#io.arena.memory, this.#staging, this.#previousChecksum)
    this.#slot += 1 + this.#blockCount
    this.#sequence += 1
    this.#appendedBytes += result
    this.#written = true
    this.syncs.noteWritten(segment, this.#sequence)
    return 0
  }

  /** True when the open segment has no room for `slotCount` more slots, a header included. */
  mustRoll(slotCount: number): boolean {
    return this.slotsLeft < slotCount
  }

  /**
   * Seals the open segment and goes on in the spare one. Returns 0, or -EAGAIN when the spare is
   * still being created (`whenSpare` tells), or -errno as `write` does.
   */
  roll(): number {
    assert(this.#written || this.entries.count === 0, 'no record is half built at a roll')
    if (this.failure !== 0) return this.failure
    if (this.#spare === null) return this.#awaitSpare()
    const segment = this.#open()
    const result = sealSegment(
      this.#io,
      this.#store,
      segment,
      this.#slot,
      this.#staging + PAGE_SIZE_BYTES,
    )
    if (result < 0) return this.#fail(result)
    this.syncs.noteWritten(segment, this.#sequence)
    this.#store.noteSealed(segment)
    this.#segment = this.#spare
    this.#slot = DATA_SLOT_FIRST
    this.#spare = null
    this.#isSpareAsked = false
    this.beginRecord()
    this.#createSpare()
    return 0
  }

  /**
   * Has the spare segment created, again if need be: -EAGAIN. Only when it failed since a roll
   * asked for it does the failure count: there may have been space in between.
   */
  #awaitSpare(): number {
    const errno = this.#spareErrno
    this.#spareErrno = 0
    if (errno !== 0 && this.#isSpareAsked) {
      this.#isSpareAsked = false
      return this.#fail(errno)
    }
    this.#isSpareAsked = true
    this.#createSpare()
    return -Errno.EAGAIN
  }

  /** Resolves when the spare segment is there or could not be created. */
  async whenSpare(): Promise<void> {
    if (this.#spare === null) this.#createSpare()
    await this.#spareComing
  }

  /** Seals the open segment if anything was written to it; see `roll`. */
  async sealOpen(): Promise<void> {
    if (this.#slot === DATA_SLOT_FIRST) return
    let result = this.roll()
    while (result === -Errno.EAGAIN) {
      await this.whenSpare()
      result = this.roll()
    }
    this.#store.mustSucceed(result, 'seal', this.openSegmentId)
  }

  /**
   * Seals the open segment, so that the next open need not scan it, and removes those that hold
   * nothing. Nothing may be unsynced. A cut meanwhile leaves what a crash leaves.
   */
  async close(): Promise<void> {
    await this.#spareComing
    if (this.#spare !== null) await this.#store.delete(this.#spare.id)
    this.#spare = null
    await this.syncs.close()
    if (this.failure === 0 && this.#segment !== null) await this.#closeOpen(this.#segment)
    this.#io.arena.free(this.#staging, PAGE_SIZE_BYTES + SEAL_BYTES)
  }

  async #closeOpen(segment: SegmentState): Promise<void> {
    if (this.#slot === DATA_SLOT_FIRST) {
      await this.#store.delete(segment.id)
      return
    }
    const staging = this.#staging + PAGE_SIZE_BYTES
    // Without room for a footer the segment stays open and the next open scans it.
    if (sealSegment(this.#io, this.#store, segment, this.#slot, staging) < 0) return
    await this.#store.syncFile(must(segment.file, 'the open segment file'), segment.id)
  }

  /**
   * What was refused must not come back: as much of the record as found room may be all of it but
   * zeros, which recovery takes for a whole one. Without a header it is none. Where not even that
   * page finds room, there is no header.
   */
  #takeBack(file: IoFile): number {
    const { memory } = this.#io.arena
    memory.fill(0, this.#staging, this.#staging + PAGE_SIZE_BYTES)
    const header = { pairs: Uint32Array.of(this.#staging, PAGE_SIZE_BYTES), count: 1 }
    const result = this.#io.writeSync(file, this.#slot * BLOCK_SIZE_BYTES, header)
    return result < 0 ? this.#fail(result) : -Errno.ENOSPC
  }

  #open(): SegmentState {
    return must(this.#segment, 'the open segment')
  }

  /** A failure for want of space leaves the log as it was; any other is final. */
  #fail(result: number): number {
    if (result !== -Errno.ENOSPC) this.#failure = result
    return result
  }

  #merges(kind: number, diskId: number, blockIndex: number): boolean {
    const last = this.entries.count - 1
    return (
      last >= 0 &&
      blocksOfEntry(kind, 1) === 1 &&
      this.entries.kinds[last] === kind &&
      this.entries.diskIds[last] === diskId &&
      this.entries.blockIndexes[last] + this.entries.counts[last] === blockIndex
    )
  }

  #addEntry(
    merges: boolean,
    kind: number,
    diskId: number,
    blockIndex: number,
    count: number,
  ): void {
    const entries = this.entries
    if (merges) {
      entries.counts[entries.count - 1] += count
      return
    }
    const i = entries.count
    entries.diskIds[i] = diskId
    entries.blockIndexes[i] = blockIndex
    entries.kinds[i] = kind
    entries.counts[i] = count
    entries.count = i + 1
  }

  #addPiece(arenaOffset: number, lengthBytes: number): void {
    const { pairs } = this.#vector
    const last = 2 * (this.#vector.count - 1)
    if (this.#vector.count > 1 && pairs[last] + pairs[last + 1] === arenaOffset) {
      pairs[last + 1] += lengthBytes
      return
    }
    pairs[last + 2] = arenaOffset
    pairs[last + 3] = lengthBytes
    this.#vector.count += 1
  }

  #hashBlocks(): void {
    const { pairs, count } = this.#vector
    const { memory } = this.#io.arena
    this.#checksum.hashPieces(memory, pairs, 1, count - 1, this.#blockChecksums, 0)
  }

  #createSpare(): void {
    if (this.#spare !== null || this.#spareComing !== null) return
    this.#spareComing = this.#store.create(SegmentKind.log).then(
      (state) => {
        this.#spare = state
        this.#spareComing = null
      },
      (error: unknown) => {
        this.#spareErrno = -(
          (error instanceof OperatingError ? error.errno : undefined) ?? Errno.EIO
        )
        this.#spareComing = null
      },
    )
  }
}
