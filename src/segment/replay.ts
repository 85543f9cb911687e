/**
 * Finds the end of the log after a crash: replays every record from the checkpoint on, across
 * segments, up to the first that is not whole.
 *
 * The torn tail is abandoned, its slots never reused (I1): the segment is sealed with what is
 * valid in it, and the log goes on in a new one. Segments that hold only abandoned records are
 * reported, to be removed once a new checkpoint is durable.
 *
 * What is replayed may be in the page cache only: the process may have died before a sync, or
 * after one that failed, which leaves lost pages clean, so that no later sync would write them.
 * Therefore every replayed record is written again, the same bytes to the same slots, and synced
 * with its segment's footer before a checkpoint can refer to it.
 *
 * A tear and rot look alike at the place itself. They differ in what was written later: each
 * record says up to where the log was durable at that time. If anything past the end says the
 * missing record was durable, it was acknowledged and has been lost: `log-gap`, not a tear. An
 * abandoned tail of an earlier crash cannot raise a false alarm: what it says was durable was
 * replayed then, so this replay begins at or after it.
 */
import { assert, must } from '../base/assert.ts'
import { CorruptionError } from '../base/errors.ts'
import { BLOCK_SIZE_BYTES, SEGMENT_SLOT_COUNT } from '../base/units.ts'
import { DATA_SLOT_FIRST, SegmentKind } from '../format/segment.ts'
import type { LogPosition } from '../format/superblock.ts'
import type { Io, IoFile } from '../io/io.ts'
import type { RecordHeader } from '../format/record.ts'
import type { ChainEnd, ScanEnd, ScannedRecord } from './scan.ts'
import { SegmentScanner } from './scan.ts'
import { SEAL_BYTES, sealSegment } from './seal.ts'
import type { SegmentState } from './segment-state.ts'
import type { SegmentStore } from './segment-store.ts'

export interface ReplayEnd {
  chain: ChainEnd
  recordCount: number
  /** Log segments without a valid record of this log's continuation. */
  abandonedIds: number[]
}

export type RecordVisitor = (record: ScannedRecord) => Promise<void> | void

/** Runs work that may find the disk full; again, if room could be made for it. */
export type RoomMaker = <T>(work: () => Promise<T>) => Promise<T>

/** One recovery's way through the log: `prepare`, `run`, `close`. */
export class LogReplay {
  readonly #io: Io
  readonly #store: SegmentStore
  readonly #scanner: SegmentScanner
  readonly #position: LogPosition
  readonly #isClean: boolean
  readonly #withRoom: RoomMaker
  /** Segments with replayed records, and the slot each ends at. */
  readonly #ends: { state: SegmentState; slot: number }[] = []
  readonly #abandoned: SegmentState[] = []
  readonly #pinned: Set<SegmentState> = new Set()
  /** Segments that were sealed, and whose table or footer was damaged: they are sealed again. */
  readonly resealedIds: number[] = []

  /** `isClean`: the pool was closed, so that nothing follows `position`. */
  constructor(
    io: Io,
    store: SegmentStore,
    position: LogPosition,
    isClean: boolean,
    withRoom: RoomMaker,
  ) {
    this.#withRoom = withRoom
    this.#io = io
    this.#store = store
    this.#position = position
    this.#isClean = isClean
    this.#scanner = new SegmentScanner(io, store)
  }

  close(): void {
    for (const state of this.#pinned) this.#store.unpin(state)
    this.#pinned.clear()
    this.#scanner.close()
  }

  /** Keeps the file open to the end: node faults of the visitor open many others. */
  #pin(state: SegmentState): void {
    if (this.#pinned.has(state)) return
    this.#pinned.add(state)
    state.pinCount += 1
  }

  /**
   * Makes what lies before the checkpoint readable in the segment that was open then: its
   * checksums are only in its records. Rejects `segment-corrupt` for one of another kind, or with
   * an I/O error.
   */
  async prepare(): Promise<void> {
    const { segment, slot } = this.#position
    if (!this.#store.has(segment)) return
    const state = this.#store.get(segment)
    this.#pin(state)
    if ((await this.#store.readKind(state)) !== SegmentKind.log) {
      throw new CorruptionError('segment-corrupt', `segment ${segment} is not a log segment`, {
        hint: 'run "varve check" on the pool',
        details: { segment },
      })
    }
    await this.#verifyRaw(state)
    // After a clean close the footer is as good as the records, and nothing is to be replayed.
    if (this.#isClean && (await this.#tryLoadTable(state))) return
    if (this.#isClean) this.resealedIds.push(segment)
    await this.#rebuildTable(state, slot)
  }

  /** The log never goes on in what was settled: sealing it as a log would take its blocks away. */
  async #verifyRaw(state: SegmentState): Promise<void> {
    const { footer } = state
    await this.#store.readSealed(state)
    const { isSettled } = state
    state.footer = footer
    if (!isSettled) return
    const fact = `segment ${state.id} is settled, yet the log is said to go on in it`
    throw new CorruptionError('segment-corrupt', fact, {
      hint: 'run "varve check" on the pool',
      details: { segment: state.id },
    })
  }

  /** False when footer or table are damaged: its records say the same. */
  async #tryLoadTable(state: SegmentState): Promise<boolean> {
    try {
      if (!(await this.#store.readSealed(state))) return false
      await this.#store.prepare(state, 0, SEGMENT_SLOT_COUNT)
      return true
    } catch (error) {
      if (!(error instanceof CorruptionError)) throw error
      return false
    }
  }

  /** Visits every record. Rejects `log-gap`, an I/O error, or with what `visit` throws. */
  async run(visit: RecordVisitor): Promise<ReplayEnd> {
    const { segment, slot } = this.#position
    let chain: ChainEnd = this.#position
    let recordCount = 0
    const replaySegment = async (state: SegmentState, from: number): Promise<void> => {
      const end = await this.#replaySegment(state, from, chain, visit)
      chain = end.chain ?? chain
      recordCount += end.recordCount
    }
    if (this.#store.has(segment)) await replaySegment(this.#store.get(segment), slot)
    for (const id of this.#store.ids()) {
      if (id <= segment) continue
      const state = this.#store.get(id)
      if ((await this.#store.readKind(state)) === SegmentKind.bulk) continue
      this.#pin(state)
      if (state.kind !== null && (await this.#scanner.peek(state, chain))) {
        await this.#verifyRaw(state)
        state.beginTable()
        await replaySegment(state, DATA_SLOT_FIRST)
        continue
      }
      this.#abandoned.push(state)
    }
    await this.#verifyNothingLost(chain.sequence)
    for (const { state, slot: endSlot } of this.#ends) {
      await this.#withRoom(() => this.#seal(state, endSlot))
    }
    return { chain, recordCount, abandonedIds: this.#abandoned.map((state) => state.id) }
  }

  async #replaySegment(
    state: SegmentState,
    slot: number,
    chain: ChainEnd,
    visit: RecordVisitor,
  ): Promise<ScanEnd> {
    const file = await this.#store.openFile(state)
    const end = await this.#scanner.scan(state, slot, chain, async (record) => {
      noteChecksums(state, record)
      await this.#withRoom(async () => this.#writeAgain(file, state, record))
      await visit(record)
    })
    this.#ends.push({ state, slot: end.slot })
    return end
  }

  /** Puts a record into the page cache once more, as it is; see the head of the file. */
  #writeAgain(file: IoFile, state: SegmentState, record: ScannedRecord): void {
    const lengthBytes = (1 + record.header.blockCount) * BLOCK_SIZE_BYTES
    const pairs = Uint32Array.of(record.blocksOffset - BLOCK_SIZE_BYTES, lengthBytes)
    const offsetBytes = (record.firstBlockSlot - 1) * BLOCK_SIZE_BYTES
    this.#store.mustSucceed(
      this.#io.writeSync(file, offsetBytes, { pairs, count: 1 }),
      'write',
      state.id,
    )
  }

  /**
   * Checksums of what lies before the checkpoint in a segment that was still open then. Whether the
   * blocks match them is for those to see who read them.
   */
  async #rebuildTable(state: SegmentState, endSlot: number): Promise<void> {
    state.beginTable()
    const note = (header: RecordHeader, checksums: Uint32Array): void => {
      state.setChecksums(header.slot + 1, header.blockCount, checksums, 0)
    }
    const lost = await this.#scanner.scanHeaders(state, endSlot, note)
    // Blocks behind a damaged header have no checksum: reading them fails, and nothing else does.
    for (const slot of lost) this.#store.noteDamage(state.id, slot, 'a record’s header is damaged')
  }

  async #seal(state: SegmentState, usedSlotCount: number): Promise<void> {
    const staging = this.#io.arena.allocate(SEAL_BYTES)
    assert(staging >= 0, 'the arena holds a table and a footer while the pool opens')
    const result = sealSegment(this.#io, this.#store, state, usedSlotCount, staging)
    this.#io.arena.free(staging, SEAL_BYTES)
    this.#store.mustSucceed(result, 'seal', state.id)
    await this.#store.syncFile(must(state.file, 'the segment being sealed'), state.id)
    this.#store.noteSealed(state)
  }

  async #verifyNothingLost(sequence: number): Promise<void> {
    const remains = this.#abandoned.map((state) => ({ state, slot: DATA_SLOT_FIRST }))
    for (const { state, slot } of [...this.#ends, ...remains]) {
      const durable = await this.#scanner.highestDurable(state, slot)
      if (durable <= sequence) continue
      throw new CorruptionError(
        'log-gap',
        `record ${sequence} was durable and is damaged or missing (segment ${state.id} says ` +
          `everything below ${durable} was)`,
        {
          hint: 'the pool is unchanged; run "varve check", then restore the damaged segment',
          details: { sequence, segment: state.id },
        },
      )
    }
  }
}

function noteChecksums(state: SegmentState, record: ScannedRecord): void {
  state.setChecksums(record.firstBlockSlot, record.header.blockCount, record.blockChecksums, 0)
}
