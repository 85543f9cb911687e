/**
 * What is made of a count: the figures of each disk and of sets of disks. Their definitions are in
 * docs/decisions/2026-11-25-accounting.md.
 */
import { assert } from '../base/assert.ts'
import { BLOCK_SIZE_BYTES, blocksOf } from '../base/units.ts'
import type { Usage } from './types.ts'
import { OWNER_INTERNAL, partOf } from './usage-count.ts'
import type { SpaceCount } from './usage-count.ts'
import { countOf } from './usage-owners.ts'

/** What is known of the owners besides; by owner. */
export interface Owners {
  readonly sizeBytes: ArrayLike<number>
  /** A number for each lineage; all of one are neighbours. */
  readonly lineages: ArrayLike<number>
}

/** No row of its own. */
export const ROW_NONE = -1

/** A sum for each owner, to which runs of owners are added at once. */
class Spread {
  /** At each owner, by how much its sum is more than that of the one before. */
  readonly #steps: Float64Array

  constructor(ownerCount: number) {
    this.#steps = new Float64Array(ownerCount + 1)
  }

  /** `amount` to each owner of the runs. */
  add(runs: ArrayLike<number>, amount: number): void {
    if (amount === 0) return
    for (let i = 0; i < runs.length; i += 2) {
      this.#steps[runs[i]] += amount
      this.#steps[runs[i + 1]] -= amount
    }
  }

  addOne(owner: number, amount: number): void {
    this.#steps[owner] += amount
    this.#steps[owner + 1] -= amount
  }

  /** Divides `total` among the `count` owners of the runs, see `partOf`. */
  share(runs: ArrayLike<number>, count: number, total: number): void {
    this.add(runs, Math.floor(total / count))
    let rest = total % count
    for (let i = 0; rest > 0; i += 2) {
      const taken = Math.min(rest, runs[i + 1] - runs[i])
      this.#steps[runs[i]] += 1
      this.#steps[runs[i] + taken] -= 1
      rest -= taken
    }
  }

  sums(): Float64Array {
    const sums = this.#steps.slice(0, -1)
    for (let i = 1; i < sums.length; i += 1) sums[i] += sums[i - 1]
    return sums
  }
}

/** Between two pauses: a few tenths of a millisecond. */
const PACE_SET_COUNT = 256

/** All sums that one look at every set gives. */
class Sums {
  readonly #count: SpaceCount
  readonly #owners: Owners
  readonly #rowOf: Int32Array
  /** The first owner behind one that is in another row. */
  readonly #rowEnds: Int32Array
  readonly #seenIn: Int32Array
  readonly mappedData: Spread
  readonly mappedZero: Spread
  readonly mapZero: Spread
  /** What each would store if only its lineage shared. */
  readonly lineage: Spread
  readonly raw: Spread
  readonly data: Spread
  readonly amortised: Spread
  readonly rowReferenced: Float64Array
  readonly rowStored: Float64Array
  readonly rowExclusive: Float64Array
  /** What any owner but the internal one reaches, and what none but these does. */
  poolReferenced = 0
  poolStored = 0
  poolExclusive = 0

  constructor(count: SpaceCount, owners: Owners, rowOf: Int32Array, rowCount: number) {
    this.#count = count
    this.#owners = owners
    this.#rowOf = rowOf
    this.#rowEnds = rowEnds(rowOf)
    const { ownerCount } = count
    this.mappedData = new Spread(ownerCount)
    this.mappedZero = new Spread(ownerCount)
    this.mapZero = new Spread(ownerCount)
    this.lineage = new Spread(ownerCount)
    this.raw = new Spread(ownerCount)
    this.data = new Spread(ownerCount)
    this.amortised = new Spread(ownerCount)
    this.#seenIn = new Int32Array(rowCount)
    this.rowReferenced = new Float64Array(rowCount)
    this.rowStored = new Float64Array(rowCount)
    this.rowExclusive = new Float64Array(rowCount)
  }

  /** To be called once, before the sums are read. */
  async addAll(pace: () => Promise<void>): Promise<void> {
    for (let set = 1; set < this.#count.sets.count; set += 1) {
      this.#addSet(set)
      if (set % PACE_SET_COUNT === 0) await pace()
    }
  }

  #addSet(set: number): void {
    const { sets, mapped, mappedZeros, mapZeros, stored, storedBytes } = this.#count
    const runs = sets.runs(set)
    const mappedBytes = mapped.get(set) * BLOCK_SIZE_BYTES
    this.mappedData.add(runs, mappedBytes)
    this.mappedZero.add(runs, mappedZeros.get(set) * BLOCK_SIZE_BYTES)
    this.mapZero.add(runs, mapZeros.get(set) * BLOCK_SIZE_BYTES)
    if (mappedBytes > 0) this.#addLineages(runs, mappedBytes)
    const rawBytes = stored.get(set) * BLOCK_SIZE_BYTES
    if (rawBytes > 0) this.#addStored(set, runs, rawBytes, storedBytes.get(set))
  }

  /** Each lineage is taken to store `bytes` once. */
  #addLineages(runs: ArrayLike<number>, bytes: number): void {
    const { lineages } = this.#owners
    let own: number[] = []
    for (let i = 0; i < runs.length; i += 2) {
      for (let from = runs[i]; from < runs[i + 1];) {
        let end = from + 1
        while (end < runs[i + 1] && lineages[end] === lineages[from]) end += 1
        if (own.length > 0 && lineages[own[0]] !== lineages[from]) {
          this.lineage.share(own, countOf(own), bytes)
          own = []
        }
        own.push(from, end)
        from = end
      }
    }
    this.lineage.share(own, countOf(own), bytes)
  }

  #addStored(set: number, runs: ArrayLike<number>, rawBytes: number, bytes: number): void {
    const { ownerCount, sets } = this.#count
    const asData = clipped(runs, 0, ownerCount)
    const asNode = clipped(runs, ownerCount, 2 * ownerCount)
    const isMixed = asData.length > 0 && asNode.length > 0
    const all = isMixed
      ? sets.runs(sets.union(sets.ofRuns(asData), sets.ofRuns(asNode)))
      : [...asData, ...asNode]
    const count = countOf(all)
    this.amortised.share(all, count, bytes)
    if (isMixed) this.#shareData(all, asData, count, rawBytes, bytes)
    else if (asData.length > 0) {
      this.raw.share(all, count, rawBytes)
      this.data.share(all, count, bytes)
    }
    this.#addRows(set, all, rawBytes, bytes)
  }

  /** Of blocks that are a node for some, those that have them as data get their part of that. */
  #shareData(
    all: ArrayLike<number>,
    asData: ArrayLike<number>,
    count: number,
    rawBytes: number,
    bytes: number,
  ): void {
    let index = 0
    for (const owner of ownersOf(all)) {
      if (includes(asData, owner)) {
        this.raw.addOne(owner, partOf(rawBytes, count, index))
        this.data.addOne(owner, partOf(bytes, count, index))
      }
      index += 1
    }
  }

  #addRows(set: number, all: ArrayLike<number>, rawBytes: number, bytes: number): void {
    let isOutside = false
    let rowsMet = 0
    let lastRow = ROW_NONE
    for (let i = 0; i < all.length; i += 2) {
      for (let owner = all[i]; owner < all[i + 1]; owner = this.#rowEnds[owner]) {
        const row = this.#rowOf[owner]
        if (row === ROW_NONE) isOutside = true
        else if (this.#seenIn[row] !== set) {
          this.#seenIn[row] = set
          this.rowReferenced[row] += rawBytes
          this.rowStored[row] += bytes
          rowsMet += 1
          lastRow = row
        }
      }
    }
    if (rowsMet === 1 && !isOutside) this.rowExclusive[lastRow] += bytes
    if (all.length === 2 && all[1] === OWNER_INTERNAL + 1) return
    this.poolReferenced += rawBytes
    this.poolStored += bytes
    if (all[0] !== OWNER_INTERNAL) this.poolExclusive += bytes
  }
}

export interface PoolFigures {
  rows: Usage[]
  /** Of all disks as one set. */
  pool: Usage
  /** Amortised to no disk. */
  internalBytes: number
}

/** `rowOf`: by owner the row it belongs to, or {@link ROW_NONE}. */
export async function figuresOf(
  count: SpaceCount,
  owners: Owners,
  rowOf: Int32Array,
  rowCount: number,
  pace: () => Promise<void>,
): Promise<PoolFigures> {
  assert(rowOf.length === count.ownerCount, 'every owner has a row, or none')
  assert(rowOf[OWNER_INTERNAL] === ROW_NONE, 'what no disk owns is in no row')
  const sums = new Sums(count, owners, rowOf, rowCount)
  await sums.addAll(pace)
  const perDisk = diskFigures(sums, owners)
  const rows = Array.from({ length: rowCount }, (_, row) =>
    usageOf(sums.rowReferenced[row], sums.rowStored[row], sums.rowExclusive[row]),
  )
  const pool = usageOf(sums.poolReferenced, sums.poolStored, sums.poolExclusive)
  for (let owner = OWNER_INTERNAL + 1; owner < count.ownerCount; owner += 1) {
    addAdditive(pool, perDisk, owner)
    if (rowOf[owner] !== ROW_NONE) addAdditive(rows[rowOf[owner]], perDisk, owner)
  }
  return { rows, pool, internalBytes: perDisk.amortisedBytes[OWNER_INTERNAL] }
}

/** What nobody but the owners of row 0 reaches. */
export async function exclusiveOf(
  count: SpaceCount,
  owners: Owners,
  rowOf: Int32Array,
  pace: () => Promise<void>,
): Promise<number> {
  const sums = new Sums(count, owners, rowOf, 1)
  await sums.addAll(pace)
  return sums.rowExclusive[0]
}

type Additive = Exclude<
  keyof Usage,
  'referencedBytes' | 'storedBytes' | 'exclusiveBytes' | 'sharedBytes'
>

/** By owner, what adds up over disks. */
function diskFigures(sums: Sums, owners: Owners): Record<Additive, Float64Array> {
  const [mappedData, lineage] = [sums.mappedData.sums(), sums.lineage.sums()]
  const [raw, data] = [sums.raw.sums(), sums.data.sums()]
  const amortisedBytes = sums.amortised.sums()
  const [mappedZero, mapZero] = [sums.mappedZero.sums(), sums.mapZero.sums()]
  const mappedBytes = mappedData.map((bytes, i) => bytes + mappedZero[i])
  // Parts in whole bytes can make it negative by a few: then clone is that much less.
  const dedupBytes = lineage.map((bytes, i) => Math.max(0, bytes - raw[i]))
  return {
    logicalBytes: Float64Array.from(owners.sizeBytes),
    mappedBytes,
    amortisedBytes,
    metadataBytes: amortisedBytes.map((bytes, i) => bytes - data[i]),
    thinBytes: mappedBytes.map((bytes, i) => roundedBytes(owners, i) - bytes - mapZero[i]),
    zeroBytes: mappedZero.map((bytes, i) => bytes + mapZero[i]),
    cloneBytes: mappedData.map((bytes, i) => bytes - raw[i] - dedupBytes[i]),
    dedupBytes,
    compressionBytes: raw.map((bytes, i) => bytes - data[i]),
  }
}

function roundedBytes(owners: Owners, owner: number): number {
  return blocksOf(owners.sizeBytes[owner]) * BLOCK_SIZE_BYTES
}

function addAdditive(usage: Usage, figures: Record<Additive, Float64Array>, owner: number): void {
  for (const key of Object.keys(figures) as Additive[]) usage[key] += figures[key][owner]
}

/** In the order in which they are shown. */
function usageOf(referencedBytes: number, storedBytes: number, exclusiveBytes: number): Usage {
  return {
    logicalBytes: 0,
    mappedBytes: 0,
    referencedBytes,
    storedBytes,
    exclusiveBytes,
    sharedBytes: storedBytes - exclusiveBytes,
    amortisedBytes: 0,
    metadataBytes: 0,
    thinBytes: 0,
    zeroBytes: 0,
    cloneBytes: 0,
    dedupBytes: 0,
    compressionBytes: 0,
  }
}

/** The runs from `first` to `end`, exclusive, counted from `first` on. */
function clipped(runs: ArrayLike<number>, first: number, end: number): number[] {
  const inside: number[] = []
  for (let i = 0; i < runs.length; i += 2) {
    const from = Math.max(runs[i], first)
    const to = Math.min(runs[i + 1], end)
    if (from < to) inside.push(from - first, to - first)
  }
  return inside
}

function* ownersOf(runs: ArrayLike<number>): Generator<number> {
  for (let i = 0; i < runs.length; i += 2) {
    for (let owner = runs[i]; owner < runs[i + 1]; owner += 1) yield owner
  }
}

function includes(runs: ArrayLike<number>, owner: number): boolean {
  for (let i = 0; i < runs.length; i += 2) {
    if (owner >= runs[i] && owner < runs[i + 1]) return true
  }
  return false
}

function rowEnds(rowOf: Int32Array): Int32Array {
  const ends = new Int32Array(rowOf.length)
  for (let owner = rowOf.length - 1; owner >= 0; owner -= 1) {
    const isLast = owner + 1 === rowOf.length || rowOf[owner + 1] !== rowOf[owner]
    ends[owner] = isLast ? owner + 1 : ends[owner + 1]
  }
  return ends
}
