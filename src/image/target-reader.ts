/** Reads of an `ExportTarget` as promises, into pieces of the arena. */
import { OperatingError } from '../base/errors.ts'
import type { ExportTarget, ExtentList } from '../export/target.ts'
import { EXTENT_HOLE, EXTENT_ZERO, targetResult } from '../export/target.ts'
import type { Arena } from '../io/arena.ts'

export interface Piece {
  readonly bytes: Uint8Array
  /** Gives the memory back; once. */
  release(): void
}

const EXTENT_COUNT_MAX = 1024

export class TargetReader {
  readonly #target: ExportTarget
  readonly #arena: Arena
  readonly #extents: ExtentList = {
    lengths: new Float64Array(EXTENT_COUNT_MAX),
    flags: new Uint32Array(EXTENT_COUNT_MAX),
    count: 0,
  }

  constructor(target: ExportTarget, arena: Arena) {
    this.#target = target
    this.#arena = arena
  }

  /** At most ARENA_PIECE_BYTES_MAX; waits for memory when there is none. Rejects `io`. */
  async read(offsetBytes: number, lengthBytes: number): Promise<Piece> {
    const arena = this.#arena
    let at = arena.allocate(lengthBytes)
    while (at < 0) {
      await new Promise<void>((resolve) => arena.wait({ arenaFreed: resolve }))
      at = arena.allocate(lengthBytes)
    }
    const result = await targetResult((completion, tag) => {
      this.#target.read(offsetBytes, lengthBytes, at, completion, tag)
    })
    const release = (): void => arena.free(at, lengthBytes)
    if (result < 0) {
      release()
      throw this.#failed('read', offsetBytes, result)
    }
    return { bytes: arena.memory.subarray(at, at + lengthBytes), release }
  }

  /** The disk's extents from `offsetBytes`, as many as one question gives, clipped to its end. */
  async extents(offsetBytes: number): Promise<{ lengthBytes: number; zero: boolean }[]> {
    const lengthBytes = this.#target.sizeBytes - offsetBytes
    const out = this.#extents
    const result = await targetResult((completion, tag) => {
      const context = { kind: 'allocation' } as const
      this.#target.extents(offsetBytes, lengthBytes, context, out, completion, tag)
    })
    if (result < 0) throw this.#failed('map', offsetBytes, result)
    const list: { lengthBytes: number; zero: boolean }[] = []
    let left = lengthBytes
    for (let index = 0; index < out.count && left > 0; index += 1) {
      const step = Math.min(out.lengths[index], left)
      list.push({ lengthBytes: step, zero: (out.flags[index] & (EXTENT_HOLE | EXTENT_ZERO)) !== 0 })
      left -= step
    }
    return list
  }

  #failed(verb: string, offsetBytes: number, result: number): OperatingError {
    return new OperatingError('io', `cannot ${verb} ${this.#target.name} at ${offsetBytes}`, {
      hint: 'Stop what has the pool open and run `varve check`.',
      details: { name: this.#target.name, offsetBytes },
      errno: -result,
    })
  }
}
