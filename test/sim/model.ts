/**
 * The reference model: what a pool should hold, and which states it may have after a crash.
 *
 * **States.** A state is all volumes with their snapshots, sizes, holds and contents. States are
 * immutable and share what did not change, so a history of hundreds of them is cheap. Content is
 * one stamp a sector (see `stamps.ts`) over the disk's *windows*: the parts of its address space
 * that the workload touches, so that a disk of 64 TiB has a short model.
 *
 * **Steps.** The workload runs in steps, one after the other: a step's operations are all issued
 * after every operation of the step before has completed. A *control* step is one operation on
 * the catalogue; a *data* step is a handful of writes, trims and zeroes in flight together, never
 * two on one sector.
 *
 * **What is legal after a crash (invariant I2).** The log orders all operations. If A completed
 * before B was issued, A is before B in the log; so steps are in the log in their order, whatever
 * the order within a step. What survives is a prefix of the log. So there is a *frontier* step:
 * every step before it survived whole, of every step after it nothing did, and of the frontier
 * itself any part: a control operation wholly or not at all (one record), a data step block by
 * block (a long write may span records; a block never tears, even for a partial write of it), and
 * where several requests of the step change a block, sector by sector.
 * Operations answered before a completed flush was issued, and answered FUA requests, are
 * *required*: all steps before the one that holds a required operation are required whole, and
 * of that step its required sectors. The order of operations within one step is not judged; that
 * is the only looseness, and steps of a single operation make up for it.
 *
 * **Crash upon crash.** What a recovery showed becomes the last step's outcome; it is not
 * required, as no flush has covered it, but what comes later implies it like any earlier step.
 */
import { BLOCK_SIZE_BYTES } from '../../src/base/units.ts'
import { SECTORS_PER_BLOCK, SECTOR_BYTES, STAMP_UNREADABLE } from './stamps.ts'

export interface Window {
  /** First block in the disk's address space. */
  startBlock: number
  blockCount: number
  /** Where its sectors begin in the model's content. */
  sectorIndex: number
}

/** Which parts of an address space are modelled; shared by all disks of a lineage. */
export interface Geometry {
  windows: readonly Window[]
  sectorCount: number
}

export interface ModelSnapshot {
  name: string
  sizeBytes: number
  sectors: Uint32Array
  holds: readonly string[]
}

export interface ModelVolume {
  name: string
  sizeBytes: number
  geometry: Geometry
  sectors: Uint32Array
  holds: readonly string[]
  snapshots: readonly ModelSnapshot[]
}

/** By name, in no particular order. */
export type ModelState = ReadonlyMap<string, ModelVolume>

export interface Step {
  kind: 'control' | 'data'
  title: string
  before: ModelState
  after: ModelState
  /** Of a data step: `volume` → 1 for each model sector that must have survived. */
  required: Map<string, Uint8Array>
  /** … and → model blocks that several requests change, each its own sectors. */
  shared: Map<string, Set<number>>
}

export function geometryOf(windows: readonly (readonly [number, number])[]): Geometry {
  let sectorIndex = 0
  const placed = windows.map(([startBlock, blockCount]) => {
    const window = { startBlock, blockCount, sectorIndex }
    sectorIndex += blockCount * SECTORS_PER_BLOCK
    return window
  })
  return { windows: placed, sectorCount: sectorIndex }
}

export interface ModelBlock {
  modelBlock: number
  blockIndex: number
  /** Fewer than a block has where the disk ends within. */
  sectorCount: number
}

/** Model blocks of a disk that begin below `sizeBytes`, and where they are. */
export function* blocksWithin(geometry: Geometry, sizeBytes: number): Generator<ModelBlock> {
  for (const window of geometry.windows) {
    for (let index = 0; index < window.blockCount; index += 1) {
      const blockIndex = window.startBlock + index
      const leftSectors = Math.floor((sizeBytes - blockIndex * BLOCK_SIZE_BYTES) / SECTOR_BYTES)
      if (leftSectors <= 0) break
      const modelBlock = window.sectorIndex / SECTORS_PER_BLOCK + index
      yield { modelBlock, blockIndex, sectorCount: Math.min(SECTORS_PER_BLOCK, leftSectors) }
    }
  }
}

/** Content after the disk was cut to `sizeBytes`: what lies beyond is zeros. */
export function cutSectors(volume: ModelVolume, sizeBytes: number): Uint32Array {
  const kept = new Uint32Array(volume.sectors.length)
  for (const { modelBlock, sectorCount } of blocksWithin(volume.geometry, sizeBytes)) {
    const start = modelBlock * SECTORS_PER_BLOCK
    kept.set(volume.sectors.subarray(start, start + sectorCount), start)
  }
  return kept
}

export function withVolume(state: ModelState, volume: ModelVolume): ModelState {
  return new Map(state).set(volume.name, volume)
}

export function withoutVolume(state: ModelState, name: string): ModelState {
  const rest = new Map(state)
  rest.delete(name)
  return rest
}

/** Whether what was found is what is expected; a block that cannot be read may be anything. */
export function isSameBlock(left: Uint32Array, right: Uint32Array, block: number): boolean {
  const start = block * SECTORS_PER_BLOCK
  if (right[start] === STAMP_UNREADABLE) return true
  for (let index = start; index < start + SECTORS_PER_BLOCK; index += 1) {
    if (left[index] !== right[index]) return false
  }
  return true
}

function findContentFault(name: string, expected: Uint32Array, found: Uint32Array): string | null {
  if (expected === found) return null
  for (let block = 0; block * SECTORS_PER_BLOCK < expected.length; block += 1) {
    if (isSameBlock(expected, found, block)) continue
    const start = block * SECTORS_PER_BLOCK
    const show = (sectors: Uint32Array): string =>
      sectors.subarray(start, start + SECTORS_PER_BLOCK).join(' ')
    return `${name} model block ${block}: expected ${show(expected)}, found ${show(found)}`
  }
  return null
}

function sameTexts(left: readonly string[], right: readonly string[]): boolean {
  return [...left].sort().join('\n') === [...right].sort().join('\n')
}

/** What differs apart from volumes' contents: names, sizes, holds, all of the snapshots. */
function findFrameFault(expected: ModelState, found: ModelState): string | null {
  if (!sameTexts([...expected.keys()], [...found.keys()])) {
    return `volumes: expected ${[...expected.keys()].sort()}, found ${[...found.keys()].sort()}`
  }
  for (const [name, volume] of expected) {
    const other = found.get(name) as ModelVolume
    if (volume === other) continue
    if (volume.sizeBytes !== other.sizeBytes) {
      return `${name}: expected ${volume.sizeBytes} bytes, found ${other.sizeBytes}`
    }
    if (!sameTexts(volume.holds, other.holds)) return `${name}: holds ${other.holds}`
    const wanted = volume.snapshots.map((snapshot) => snapshot.name)
    const there = other.snapshots.map((snapshot) => snapshot.name)
    if (!sameTexts(wanted, there)) return `${name}: expected snapshots ${wanted}, found ${there}`
    for (const snapshot of volume.snapshots) {
      const fault = findSnapshotFault(name, snapshot, other)
      if (fault !== null) return fault
    }
  }
  return null
}

function findSnapshotFault(
  volume: string,
  expected: ModelSnapshot,
  other: ModelVolume,
): string | null {
  const found = other.snapshots.find((one) => one.name === expected.name) as ModelSnapshot
  const name = `${volume}@${expected.name}`
  if (expected.sizeBytes !== found.sizeBytes) {
    return `${name}: expected ${expected.sizeBytes} bytes, found ${found.sizeBytes}`
  }
  if (!sameTexts(expected.holds, found.holds)) return `${name}: holds ${found.holds}`
  return findContentFault(name, expected.sectors, found.sectors)
}

/** Why `found` is not `expected`, or null when it is. */
export function findDifference(expected: ModelState, found: ModelState): string | null {
  const fault = findFrameFault(expected, found)
  if (fault !== null) return fault
  for (const [name, volume] of expected) {
    const other = found.get(name) as ModelVolume
    const difference = findContentFault(name, volume.sectors, other.sectors)
    if (difference !== null) return difference
  }
  return null
}

function isRequired(required: Uint8Array | null, block: number): boolean {
  const start = block * SECTORS_PER_BLOCK
  return required?.subarray(start, start + SECTORS_PER_BLOCK).includes(1) === true
}

/** Whether each sector of the block is old or new, and new where it has to be. */
function isMixture(
  before: Uint32Array,
  after: Uint32Array,
  found: Uint32Array,
  block: number,
  required: Uint8Array | null,
): boolean {
  const start = block * SECTORS_PER_BLOCK
  for (let index = start; index < start + SECTORS_PER_BLOCK; index += 1) {
    if (found[index] === after[index]) continue
    if (found[index] !== before[index] || required?.[index] === 1) return false
  }
  return true
}

/** Why `found` is not a state in which `step` is the frontier, or null when it is. */
function findFrontierFault(step: Step, found: ModelState): string | null {
  if (step.kind === 'control') {
    const fault = findDifference(step.after, found)
    return fault === null || findDifference(step.before, found) === null ? null : fault
  }
  const fault = findFrameFault(step.after, found)
  if (fault !== null) return fault
  for (const [name, after] of step.after) {
    const before = step.before.get(name) as ModelVolume
    const other = found.get(name) as ModelVolume
    const required = step.required.get(name) ?? null
    const shared = step.shared.get(name)
    for (let block = 0; block * SECTORS_PER_BLOCK < after.sectors.length; block += 1) {
      if (isSameBlock(after.sectors, other.sectors, block)) continue
      if (shared?.has(block) === true) {
        if (isMixture(before.sectors, after.sectors, other.sectors, block, required)) continue
      } else if (!isRequired(required, block) && isSameBlock(before.sectors, other.sectors, block))
        continue
      return findContentFault(name, after.sectors, other.sectors)
    }
  }
  return null
}

function* unreadableBlocks(sectors: Uint32Array): Generator<number> {
  for (let block = 0; block * SECTORS_PER_BLOCK < sectors.length; block += 1) {
    if (sectors[block * SECTORS_PER_BLOCK] === STAMP_UNREADABLE) yield block
  }
}

/** Blocks that could not be read. */
export function countUnreadable(state: ModelState): number {
  let count = 0
  for (const { sectors, snapshots } of state.values()) {
    for (const content of [sectors, ...snapshots.map((snapshot) => snapshot.sectors)]) {
      count += [...unreadableBlocks(content)].length
    }
  }
  return count
}

/** Whether what cannot be read hides how much of the step, in which `found` may end, happened. */
function leavesOpen(step: Step, found: ModelState): boolean {
  if (step.kind === 'control') {
    const mayBeBoth = findDifference(step.after, found) ?? findDifference(step.before, found)
    return mayBeBoth === null
  }
  for (const [name, { sectors }] of found) {
    const before = (step.before.get(name) as ModelVolume).sectors
    const after = (step.after.get(name) as ModelVolume).sectors
    for (const block of unreadableBlocks(sectors)) {
      if (!isSameBlock(after, before, block)) return true
    }
  }
  return false
}

/** The steps since the last state that is known to be durable whole. */
export class History {
  #base: ModelState = new Map()
  #steps: Step[] = []
  /**
   * The last recovery left open what happened, and the history is as it was: blocks of the step
   * it ended in cannot be read.
   */
  isUnclear = false

  /** The state when every step has had its effect. */
  get latest(): ModelState {
    return this.#steps.at(-1)?.after ?? this.#base
  }

  get length(): number {
    return this.#steps.length
  }

  /** What was found, where it could be read; elsewhere what it should be. */
  #withoutGaps(step: Step, found: ModelState): ModelState {
    if (countUnreadable(found) === 0) return found
    this.isUnclear ||= leavesOpen(step, found)
    if (step.kind === 'control') {
      return findDifference(step.after, found) === null ? step.after : step.before
    }
    const whole = new Map(step.after)
    for (const [name, after] of step.after) {
      const sectors = Uint32Array.from((found.get(name) as ModelVolume).sectors)
      for (const block of unreadableBlocks(sectors)) {
        const start = block * SECTORS_PER_BLOCK
        sectors.set(after.sectors.subarray(start, start + SECTORS_PER_BLOCK), start)
      }
      whole.set(name, { ...after, sectors })
    }
    return whole
  }

  /** Begins a step; its `after` may still be set while it runs. */
  begin(kind: Step['kind'], title: string, after: ModelState): Step {
    const before = this.latest
    const step: Step = { kind, title, before, after, required: new Map(), shared: new Map() }
    this.#steps.push(step)
    return step
  }

  /** The newest step turned out to have no effect at all. */
  cancel(step: Step): void {
    if (this.#steps.at(-1) === step) this.#steps.pop()
  }

  /** Everything in steps before `step` is durable. */
  requireBefore(step: Step): void {
    const index = this.#steps.indexOf(step)
    if (index <= 0) return
    this.#base = this.#steps[index - 1].after
    this.#steps = this.#steps.slice(index)
  }

  /** Everything so far is durable. */
  requireAll(): void {
    this.#base = this.latest
    this.#steps = []
  }

  /** Whether it can as well have ended in an earlier step, with other contents where none show. */
  #mayEndBefore(index: number, found: ModelState, after: ModelState): boolean {
    return this.#steps
      .slice(0, index)
      .some(
        (step) =>
          findFrontierFault(step, found) === null &&
          (findDifference(step.after, after) !== null || leavesOpen(step, found)),
      )
  }

  /**
   * Judges what a recovery shows. Null: it is legal, and the history now ends in it. Otherwise
   * the complaint, one line a frontier that was tried, newest first.
   */
  adopt(found: ModelState): string | null {
    if (this.#steps.length === 0) return findDifference(this.#base, found)
    this.isUnclear = false
    const complaints: string[] = []
    for (let index = this.#steps.length - 1; index >= 0; index -= 1) {
      const step = this.#steps[index]
      const fault = findFrontierFault(step, found)
      if (fault === null) {
        const after = this.#withoutGaps(step, found)
        if (countUnreadable(found) > 0) this.isUnclear ||= this.#mayEndBefore(index, found, after)
        if (this.isUnclear) return null
        this.#steps = this.#steps.slice(0, index + 1)
        this.#steps[index] = { ...step, after }
        return null
      }
      complaints.push(`frontier "${step.title}": ${fault}`)
    }
    return complaints.slice(0, 12).join('\n')
  }
}
