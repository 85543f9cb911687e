import { assert, must } from '../base/assert.ts'
import { BLOCK_SIZE_BYTES } from '../base/units.ts'
import { DATA_SLOT_END, DATA_SLOT_FIRST, SegmentKind } from '../format/segment.ts'
import type { Io } from '../io/io.ts'
import { sealSegment } from './seal.ts'
import type { SegmentState } from './segment-state.ts'
import type { SegmentStore } from './segment-store.ts'

/**
 * Fills bulk segments outside the log's order. Nothing may refer to their blocks durably before
 * `finish` has resolved; until then a crash or `abort` leaves files that nobody refers to, which
 * the next open or the abort removes.
 */
export class BulkWriter {
  readonly #io: Io
  readonly #store: SegmentStore
  readonly #staging: number
  readonly #checksums: Uint32Array
  readonly #states: SegmentState[] = []
  readonly #syncs: Promise<void>[] = []
  #current: SegmentState | null = null
  #slot = DATA_SLOT_END

  /** `blockCountMax`: the longest single append; `staging`: SEAL_BYTES of arena memory to use. */
  constructor(io: Io, store: SegmentStore, blockCountMax: number, staging: number) {
    this.#io = io
    this.#store = store
    this.#staging = staging
    this.#checksums = new Uint32Array(2 * blockCountMax)
  }

  get segmentIds(): number[] {
    return this.#states.map((state) => state.id)
  }

  /** What its segments carry; 0 until there is one. */
  get importId(): number {
    return this.#states[0]?.importId ?? 0
  }

  /** Slots left in the segment being filled. */
  get slotsLeft(): number {
    return this.#current === null ? 0 : DATA_SLOT_END - this.#slot
  }

  /** Seals what is being filled and begins the next segment, whose id it returns. */
  async roll(): Promise<number> {
    this.#sealCurrent()
    this.#current = await this.#store.create(SegmentKind.bulk, this.importId)
    this.#current.pinCount += 1
    this.#states.push(this.#current)
    this.#slot = DATA_SLOT_FIRST
    return this.#current.id
  }

  /** Computes the checksums of the blocks to be appended next; two words a block. */
  hash(arenaOffset: number, blockCount: number): Uint32Array {
    const { memory } = this.#io.arena
    this.#store.checksum.hashBlocks(memory, arenaOffset, blockCount, this.#checksums, 0)
    return this.#checksums
  }

  /**
   * Appends `blockCount` blocks, which must fit `slotsLeft`; `checksums` holds two words a block
   * from `index`. Returns their segment and first slot. Throws `no-space` or `io`.
   */
  append(
    arenaOffset: number,
    blockCount: number,
    checksums: Uint32Array,
    index: number,
  ): { segment: number; slot: number } {
    const state = must(this.#current, 'the bulk segment being filled')
    assert(blockCount <= this.slotsLeft, 'the blocks fit the segment')
    const slot = this.#slot
    const file = must(state.file, 'the bulk segment file')
    const lengthBytes = blockCount * BLOCK_SIZE_BYTES
    this.#store.write(file, state.id, slot * BLOCK_SIZE_BYTES, arenaOffset, lengthBytes)
    state.setChecksums(slot, blockCount, checksums, index)
    this.#slot += blockCount
    return { segment: state.id, slot }
  }

  /** Seals the last segment; when it resolves every block is durable. */
  async finish(): Promise<void> {
    this.#sealCurrent()
    await Promise.all(this.#syncs)
  }

  /** Removes every segment. Idempotent. */
  async abort(): Promise<void> {
    await Promise.allSettled(this.#syncs)
    if (this.#current !== null) this.#store.unpin(this.#current)
    this.#current = null
    const states = this.#states.splice(0)
    for (const state of states) await this.#store.delete(state.id)
    if (states.length > 0) await this.#store.syncFolder()
  }

  #sealCurrent(): void {
    const state = this.#current
    if (state === null) return
    const result = sealSegment(this.#io, this.#store, state, this.#slot, this.#staging)
    this.#store.mustSucceed(result, 'seal', state.id)
    this.#current = null
    this.#store.noteSealed(state)
    const file = must(state.file, 'the bulk segment file')
    const sync = this.#store.syncFile(file, state.id).finally(() => this.#store.unpin(state))
    // Awaited by finish or abort; a failure before that must not go unhandled.
    sync.catch(() => undefined)
    this.#syncs.push(sync)
  }
}
