import { assert } from '../base/assert.ts'
import type { MarkBitmap } from './mark.ts'

/**
 * Which stored blocks may be referred to anew, by an import or an alias that has found an equal
 * one. Without it, dedup could bring back to life what a reclaim has just found dead.
 *
 * From the moment a reclaim fixes its state until its end, of the segments it may sweep only what
 * it has marked is admitted, and while it is still marking, nothing. Outside of a reclaim anything
 * whose bytes are still there is: the next one will find the reference. What an import has written
 * is admitted to others only when its name is durable: until then it may be taken back, by an abort
 * or by a recovery that does not find the name.
 */
export class References {
  readonly #unfinishedIds: Map<number, object> = new Map()
  #sweepableIds: ReadonlySet<number> | null = null
  #marked: MarkBitmap | null = null

  /** Segments of imports that may still be taken back; nobody else deletes them. */
  get unfinishedIds(): number[] {
    return [...this.#unfinishedIds.keys()]
  }

  /** A segment that `owner` is filling, and may give up. */
  addUnfinished(segment: number, owner: object): void {
    this.#unfinishedIds.set(segment, owner)
  }

  endUnfinished(segments: readonly number[]): void {
    for (const segment of segments) this.#unfinishedIds.delete(segment)
  }

  /** In the moment the state of a reclaim is fixed. */
  beginRun(sweepableIds: readonly number[]): void {
    assert(this.#sweepableIds === null, 'one reclaim runs at a time')
    this.#sweepableIds = new Set(sweepableIds)
  }

  setMarked(marked: MarkBitmap): void {
    this.#marked = marked
  }

  endRun(): void {
    this.#sweepableIds = null
    this.#marked = null
  }

  /** Whether the import `owner` may refer to the address now. */
  admits(segment: number, slot: number, owner: object): boolean {
    const importing = this.#unfinishedIds.get(segment)
    if (importing !== undefined && importing !== owner) return false
    if (this.#sweepableIds?.has(segment) !== true) return true
    return this.#marked?.isMarked(segment, slot) === true
  }

  /**
   * Whether an alias may point there: only to what was durable when the state was fixed, and is
   * kept. Imports may refer to more: the record that names them comes after what they refer to, and
   * is lost with it. A segment that is settled stays what it is.
   */
  admitsAlias(segment: number, slot: number): boolean {
    if (this.#sweepableIds?.has(segment) !== true) return false
    return this.#marked?.isMarked(segment, slot) === true
  }
}
