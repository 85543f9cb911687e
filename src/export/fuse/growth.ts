/**
 * Changes of disks' sizes, one after another for each disk. A write past the end grows its disk
 * first; many such writes may be on their way at once, in any order, next to truncations. Were
 * each to set the size it wants on its own, one that comes late would cut off what a longer one
 * has just written. So they queue: a growth looks at the size when its turn has come, and never
 * makes a disk shorter. Growths that wait together become one.
 */
import { assert, must } from '../../base/assert.ts'
import { OperatingError } from '../../base/errors.ts'
import type { DiskTree } from './disk-tree.ts'

/** Told in the same stretch in which the size was changed: null, or why it was not. */
export type ResizeListener = (failure: Error | null) => void

interface Request {
  readonly sizeBytes: number
  /** At least this size, instead of exactly. */
  readonly isGrowth: boolean
  readonly done: ResizeListener
}

export class Resizes {
  readonly #tree: DiskTree
  /** Of disks whose size is being changed. */
  readonly #waiting: Map<number, Request[]> = new Map()

  constructor(tree: DiskTree) {
    this.#tree = tree
  }

  /** Grows the disk to at least this size. `done` never runs inside this call. */
  growThen(diskId: number, sizeBytes: number, done: ResizeListener): void {
    this.#enqueue(diskId, { sizeBytes, isGrowth: true, done })
  }

  /** As `growThen`, for control work. */
  grow(diskId: number, sizeBytes: number): Promise<void> {
    return this.#request(diskId, sizeBytes, true)
  }

  /** Makes the disk exactly this long. */
  set(diskId: number, sizeBytes: number): Promise<void> {
    return this.#request(diskId, sizeBytes, false)
  }

  #request(diskId: number, sizeBytes: number, isGrowth: boolean): Promise<void> {
    return new Promise((resolve, reject) => {
      const done = (failure: Error | null): void => {
        if (failure === null) resolve()
        else reject(failure)
      }
      this.#enqueue(diskId, { sizeBytes, isGrowth, done })
    })
  }

  #enqueue(diskId: number, request: Request): void {
    const waiting = this.#waiting.get(diskId)
    if (waiting !== undefined) {
      waiting.push(request)
      return
    }
    this.#waiting.set(diskId, [request])
    void this.#run(diskId)
  }

  async #run(diskId: number): Promise<void> {
    const waiting = must(this.#waiting.get(diskId), 'a queue that was just made')
    // Also lets those of the same turn come together.
    await Promise.resolve()
    while (waiting.length > 0) {
      const batch = takeBatch(waiting)
      const failure = await this.#apply(diskId, batch)
      for (const { done } of batch) done(failure)
    }
    this.#waiting.delete(diskId)
  }

  /** Null, or what was thrown. */
  async #apply(diskId: number, batch: readonly Request[]): Promise<Error | null> {
    const { isGrowth } = batch[0]
    const wantedBytes = batch.reduce((most, { sizeBytes }) => Math.max(most, sizeBytes), 0)
    const disk = this.#tree.tryDisk(diskId)
    if (disk === null) return new OperatingError('not-found', 'the disk is gone')
    if (disk.sizeBytes === wantedBytes || (isGrowth && disk.sizeBytes > wantedBytes)) return null
    try {
      await this.#tree.resize(diskId, wantedBytes)
      return null
    } catch (error) {
      assert(error instanceof Error, 'what is thrown is an error')
      return error
    }
  }
}

/** One truncation, or all growths up to the next. */
function takeBatch(waiting: Request[]): Request[] {
  const next = waiting.findIndex(({ isGrowth }) => !isGrowth)
  const count = next === 0 ? 1 : next === -1 ? waiting.length : next
  return waiting.splice(0, count)
}
