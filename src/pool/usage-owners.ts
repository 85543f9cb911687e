/**
 * Sets of owners, each kept once and known by a number; 0 is the empty set. Owners are numbers in
 * an order in which those that share much are neighbours, so a set is kept as runs: pairs of a
 * first owner and the one after the last.
 */
import { assert } from '../base/assert.ts'

/** Unions remembered at once; about 50 bytes each. */
const REMEMBERED_COUNT_MAX = 2 ** 18
/** Two numbers of sets in one number that is still exact. */
const PAIR_FACTOR = 2 ** 26

export class OwnerSets {
  readonly #sets: Uint32Array[] = [new Uint32Array(0)]
  readonly #ids: Map<string, number> = new Map([['', 0]])
  readonly #unions: Map<number, number> = new Map()

  /** Different sets so far, the empty one among them. */
  get count(): number {
    return this.#sets.length
  }

  /** Ascending pairs of first and end, with gaps between them. Must not be changed. */
  runs(set: number): Uint32Array {
    return this.#sets[set]
  }

  /** The set of these owners, which ascend. */
  of(owners: readonly number[]): number {
    const runs: number[] = []
    for (const owner of owners) append(runs, owner, owner + 1)
    return this.#intern(runs)
  }

  /** The set of a list of ascending runs. */
  ofRuns(runs: readonly number[]): number {
    return this.#intern(runs)
  }

  /** The lowest owner of a set that is not empty. */
  first(set: number): number {
    assert(set !== 0, 'a set has a first owner')
    return this.#sets[set][0]
  }

  union(a: number, b: number): number {
    if (a === b || b === 0) return a
    if (a === 0) return b
    const key = a < b ? a * PAIR_FACTOR + b : b * PAIR_FACTOR + a
    const known = this.#unions.get(key)
    if (known !== undefined) return known
    const set = this.#intern(merged(this.#sets[a], this.#sets[b]))
    if (this.#unions.size >= REMEMBERED_COUNT_MAX) this.#unions.clear()
    this.#unions.set(key, set)
    return set
  }

  /** Of sets whose first owners ascend; those in between are not kept. */
  unionOf(sets: readonly number[], from: number, end: number): number {
    if (end - from === 1) return sets[from]
    let runs: ArrayLike<number> = this.#sets[sets[from]]
    for (let i = from + 1; i < end; i += 1) {
      const next = this.#sets[sets[i]]
      runs = isBehind(runs, next) ? joined(runs, next) : merged(runs, next)
    }
    return this.#intern(runs)
  }

  #intern(runs: ArrayLike<number>): number {
    const kept = Uint32Array.from(runs)
    const key = Buffer.from(kept.buffer).toString('latin1')
    const known = this.#ids.get(key)
    if (known !== undefined) return known
    const set = this.#sets.length
    assert(set < PAIR_FACTOR, 'sets of owners have numbers of 26 bits')
    this.#sets.push(kept)
    this.#ids.set(key, set)
    return set
  }
}

/** How many owners the runs hold. */
export function countOf(runs: ArrayLike<number>): number {
  let count = 0
  for (let i = 0; i < runs.length; i += 2) count += runs[i + 1] - runs[i]
  return count
}

/** Adds a run that begins at or behind where the last one does. */
function append(runs: number[], first: number, end: number): void {
  const last = runs.length - 1
  if (last > 0 && first <= runs[last]) runs[last] = Math.max(runs[last], end)
  else runs.push(first, end)
}

function isBehind(runs: ArrayLike<number>, next: ArrayLike<number>): boolean {
  return next[0] >= runs[runs.length - 2]
}

/** Runs that were made by `joined` are its own to add to. */
function joined(runs: ArrayLike<number>, next: ArrayLike<number>): number[] {
  const all = Array.isArray(runs) ? (runs as number[]) : Array.from(runs)
  for (let i = 0; i < next.length; i += 2) append(all, next[i], next[i + 1])
  return all
}

function merged(a: ArrayLike<number>, b: ArrayLike<number>): number[] {
  const runs: number[] = []
  let i = 0
  let j = 0
  while (i < a.length || j < b.length) {
    const isFromA = j === b.length || (i < a.length && a[i] <= b[j])
    if (isFromA) {
      append(runs, a[i], a[i + 1])
      i += 2
    } else {
      append(runs, b[j], b[j + 1])
      j += 2
    }
  }
  return runs
}
