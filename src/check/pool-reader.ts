/**
 * Reads a pool's files for the check: one arena piece of 1 MiB, a bounded number of open files,
 * one read at a time. What lies past the end of a file reads as zeros, as a hole does.
 */
import { OperatingError } from '../base/errors.ts'
import { BLOCK_SIZE_BYTES } from '../base/units.ts'
import { SEGMENT_FOLDER, segmentFileName } from '../format/segment.ts'
import { ARENA_PIECE_BYTES_MAX } from '../io/arena.ts'
import type { Io, IoFile, IoFileStat } from '../io/io.ts'
import { ioResult } from '../io/io.ts'

/** Far below the usual limit of 1024 descriptors. */
const OPEN_FILE_COUNT_MAX = 64

export const READ_SLOT_COUNT_MAX: number = ARENA_PIECE_BYTES_MAX / BLOCK_SIZE_BYTES

export class PoolReader {
  readonly io: Io
  readonly path: string
  readonly #piece: number
  /** In the order of last use. */
  readonly #files = new Map<string, IoFile>()
  readonly #signal: AbortSignal | undefined

  /** Throws OperatingError `no-space` when the arena has no piece to read into. */
  constructor(io: Io, path: string, signal: AbortSignal | undefined) {
    this.io = io
    this.path = path
    this.#signal = signal
    this.#piece = io.arena.allocate(ARENA_PIECE_BYTES_MAX)
    if (this.#piece < 0) {
      throw new OperatingError('no-space', 'no memory to read the pool into', {
        hint: 'give the check an arena of a few MiB of its own',
      })
    }
  }

  get memory(): Uint8Array {
    return this.io.arena.memory
  }

  /** Where in `memory` the last read put its bytes. */
  get offsetBytes(): number {
    return this.#piece
  }

  /** Throws OperatingError `canceled` once the caller gave up. */
  assertWanted(): void {
    if (this.#signal?.aborted === true) {
      throw new OperatingError('canceled', 'the check was canceled')
    }
  }

  /**
   * Reads `slotCount` slots of a segment, at most READ_SLOT_COUNT_MAX, to `offsetBytes`. They
   * stay there until the next read. Returns 0 or -errno.
   */
  async readSlots(segment: number, slot: number, slotCount: number): Promise<number> {
    return this.readBytes(segment, slot * BLOCK_SIZE_BYTES, slotCount * BLOCK_SIZE_BYTES)
  }

  /** As {@link readSlots}, wherever in the segment's file. */
  async readBytes(segment: number, offsetBytes: number, lengthBytes: number): Promise<number> {
    return this.readFile(`${SEGMENT_FOLDER}/${segmentFileName(segment)}`, offsetBytes, lengthBytes)
  }

  /** As {@link readSlots}, for any file of the pool. */
  async readFile(name: string, offsetBytes: number, lengthBytes: number): Promise<number> {
    this.assertWanted()
    const file = await this.#open(name)
    const result = await ioResult((completion) => {
      this.io.read(file, offsetBytes, this.#piece, lengthBytes, completion, 0)
    })
    if (result < 0) return result
    this.memory.fill(0, this.#piece + result, this.#piece + lengthBytes)
    return 0
  }

  async stat(name: string): Promise<IoFileStat> {
    return this.io.stat(await this.#open(name))
  }

  async close(): Promise<void> {
    for (const file of this.#files.values()) await this.io.close(file)
    this.#files.clear()
    this.io.arena.free(this.#piece, ARENA_PIECE_BYTES_MAX)
  }

  async #open(name: string): Promise<IoFile> {
    let file = this.#files.get(name)
    if (file === undefined) {
      if (this.#files.size >= OPEN_FILE_COUNT_MAX) await this.#closeOldest()
      file = await this.io.open(`${this.path}/${name}`, 'read')
    }
    this.#files.delete(name)
    this.#files.set(name, file)
    return file
  }

  async #closeOldest(): Promise<void> {
    for (const [name, file] of this.#files) {
      this.#files.delete(name)
      await this.io.close(file)
      return
    }
  }
}
