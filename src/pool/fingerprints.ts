import { VarveError } from '../base/errors.ts'
import type { DedupIndex } from '../segment/dedup-index.ts'
import {
  rebuildFingerprints,
  retagFingerprints,
  saveFingerprints,
  tryLoadFingerprints,
} from '../segment/fingerprint-file.ts'
import type { SegmentStore } from '../segment/segment-store.ts'

/**
 * The dedup index across openings: loaded or made anew when an import or a settle first needs it,
 * so that a command that needs neither does not pay for it, and kept in a file when the pool is
 * closed. Nothing here may keep a pool from opening or closing.
 */
export class Fingerprints {
  readonly #store: SegmentStore
  readonly #index: DedupIndex
  readonly #poolPath: string
  /** Of the checkpoint that closed the pool cleanly; null: it was not. */
  readonly #generation: number | null
  #loading: Promise<void> | null = null

  constructor(store: SegmentStore, index: DedupIndex, poolPath: string, generation: number | null) {
    this.#store = store
    this.#index = index
    this.#poolPath = poolPath
    this.#generation = generation
  }

  /**
   * Resolves when the index knows what is stored. Those who ask at once share the work; where the
   * one who began it gives it up, another begins anew (seed 234).
   */
  async ready(pace: () => Promise<void>): Promise<void> {
    for (;;) {
      const isOurs = this.#loading === null
      const loading = (this.#loading ??= this.#load(pace))
      try {
        await loading
        return
      } catch (error) {
        if (this.#loading === loading) this.#loading = null
        const isGivenUp = error instanceof VarveError && error.code === 'canceled'
        if (isOurs || !isGivenUp) throw error
      }
    }
  }

  /** Keeps it for the next opening after the checkpoint of `generation`. */
  async save(generation: number): Promise<void> {
    try {
      if (this.#loading === null) {
        if (this.#generation === null) return
        await retagFingerprints(this.#store, this.#poolPath, this.#generation, generation)
      } else {
        await this.#loading
        await saveFingerprints(this.#store, this.#index, this.#poolPath, generation)
      }
    } catch (error) {
      // A full disk, say. The next opening reads the tables instead.
      if (!(error instanceof VarveError)) throw error
    }
  }

  async #load(pace: () => Promise<void>): Promise<void> {
    this.#index.clear()
    if (this.#generation !== null) {
      const args = [this.#store, this.#index, this.#poolPath, this.#generation] as const
      if (await tryLoadFingerprints(...args)) return
    }
    await rebuildFingerprints(this.#store, this.#index, pace)
  }
}
