/**
 * Puts the engine's own pages into the log: map nodes, catalogue operations, catalogue parts. All
 * of it is synchronous; where the log must roll over and the next segment is not there yet it
 * throws {@link SpareMissing}, and the caller tries again from the start.
 */
import { assert } from '../base/assert.ts'
import { Errno, OperatingError } from '../base/errors.ts'
import { BLOCK_SIZE_BYTES } from '../base/units.ts'
import type { PartAddress } from '../format/catalogue.ts'
import { PAGE_SIZE_BYTES } from '../format/page.ts'
import { EntryKind, RECORD_BLOCK_COUNT_MAX } from '../format/record.ts'
import type { Io } from '../io/io.ts'
import type { NodeWriter } from '../map/page-tables.ts'
import type { Log } from '../segment/log.ts'
import type { Space } from './space.ts'

/** The log must wait for its next segment. */
export class SpareMissing extends Error {
  override readonly name = 'SpareMissing'
}

const STAGING_BYTES: number = 256 * BLOCK_SIZE_BYTES

export class Appender implements NodeWriter {
  readonly #io: Io
  readonly #log: Log
  readonly #staging: number
  readonly #space: Space

  constructor(io: Io, log: Log, space: Space) {
    this.#io = io
    this.#log = log
    this.#space = space
    this.#staging = io.arena.allocate(STAGING_BYTES)
    assert(this.#staging >= 0, 'the arena holds the engine’s staging area')
  }

  close(): void {
    this.#io.arena.free(this.#staging, STAGING_BYTES)
  }

  /** See `NodeWriter`. Throws SpareMissing, `no-space`, or `io` when the log has failed. */
  writeNodes(nodes: readonly Uint32Array[], levels: readonly number[], out: Uint32Array): void {
    for (let from = 0; from < nodes.length;) {
      this.#ensureRoom(2)
      const room = Math.min(RECORD_BLOCK_COUNT_MAX, this.#log.slotsLeft - 1)
      const count = Math.min(room, nodes.length - from)
      for (let i = 0; i < count; i += 1) {
        const node = nodes[from + i]
        const bytes = new Uint8Array(node.buffer, node.byteOffset, PAGE_SIZE_BYTES)
        this.#io.arena.memory.set(bytes, this.#staging + i * PAGE_SIZE_BYTES)
      }
      const taken = this.#log.addBlocks(EntryKind.node, 0, levels[from], count, this.#staging)
      assert(taken === count, 'the nodes fit the record')
      const slot = this.#write()
      for (let i = 0; i < count; i += 1) {
        out[2 * (from + i)] = this.#log.openSegmentId
        out[2 * (from + i) + 1] = slot + i
      }
      from += count
    }
  }

  /** Appends a catalogue part of whole pages as one record. Throws as `writeNodes` does. */
  writePart(kind: number, pages: Uint8Array): PartAddress {
    const blockCount = pages.length / PAGE_SIZE_BYTES
    assert(blockCount <= RECORD_BLOCK_COUNT_MAX, 'a part fits one record')
    this.#ensureRoom(1 + blockCount)
    this.#io.arena.memory.set(pages, this.#staging)
    const taken = this.#log.addBlocks(kind, 0, 0, blockCount, this.#staging)
    assert(taken === blockCount, 'the part fits the record')
    const slot = this.#write()
    return { segment: this.#log.openSegmentId, slot, blockCount }
  }

  /** Runs `append` until it has to wait neither for a segment nor for the reserve. */
  retrying<T>(append: () => T): Promise<T> {
    return this.#space.withReserve(async () => {
      for (;;) {
        try {
          return append()
        } catch (error) {
          if (!(error instanceof SpareMissing)) throw error
          await this.#log.whenSpare()
        }
      }
    })
  }

  #ensureRoom(slotCount: number): void {
    assert(this.#log.isRecordEmpty, 'no record is half built when the engine writes')
    if (!this.#log.mustRoll(slotCount)) return
    const result = this.#log.roll()
    if (result === -Errno.EAGAIN) throw new SpareMissing('the next segment is being created')
    this.#mustSucceed(result)
  }

  /** Writes the record and returns the slot of its first block. */
  #write(): number {
    const result = this.#log.write()
    const slot = this.#log.firstBlockSlot
    const blockCount = this.#log.entries.counts[0]
    this.#log.beginRecord()
    this.#mustSucceed(result)
    this.#space.consume((1 + blockCount) * BLOCK_SIZE_BYTES)
    return slot
  }

  #mustSucceed(result: number): void {
    if (result >= 0) return
    if (result === -Errno.ENOSPC) {
      throw new OperatingError('no-space', 'the disk under the pool is full', {
        errno: Errno.ENOSPC,
        hint: 'free space there, or remove disks and run "varve reclaim"',
      })
    }
    throw new OperatingError('pool-failed', `the log cannot be written: errno ${-result}`, {
      errno: -result,
      hint: 'what was flushed is safe; repair the disk, then reopen the pool',
    })
  }
}
