/**
 * One walk over all maps at once, position by position. A node is shared only in one position, so
 * of the versions that different disks have of a node each is read once; entries that agree go on
 * to the next level together, with the union of their owners.
 */
import { SEGMENT_SLOT_COUNT } from '../base/units.ts'
import {
  KIND_BLOCK,
  KIND_HUGE,
  KIND_NODE,
  KIND_SHIFT,
  KIND_ZERO,
  NODE_ENTRY_COUNT,
  NODE_LEVEL_ROOT,
  NODE_WORD_COUNT,
  SLOT_MASK,
} from '../format/node.ts'
import { expandEntry } from '../map/dirty-nodes.ts'
import { Lookup, SPAN_BLOCK_COUNTS, leafRun } from '../map/lookup.ts'
import type { NodeReader } from '../map/node-reader.ts'
import type { OwnerSets } from './usage-owners.ts'

/** An entry, and who has it at the position that is looked at. */
export interface Version {
  readonly word0: number
  readonly word1: number
  owners: number
}

/** The different nodes, or runs in place of a leaf, of one position; first owners ascend. */
interface Group {
  readonly versions: Version[]
  readonly blockIndex: number
}

export interface MergedVisitor {
  /** A written node; told once. */
  node(segment: number, slot: number, owners: number): void
  /** `count` blocks at consecutive slots, told once for each block index they are mapped at. */
  blocks(segment: number, slot: number, count: number, owners: number): void
  /** Blocks that are zeros by the map. */
  zeros(count: number, owners: number): void
  /** All before this block has been told. */
  reached(blockIndex: number): void
}

/** Nodes read at once. */
const READ_AHEAD_COUNT = 32
/** Work between two pauses, in units of about a microsecond: what follows is in these, too. */
const WORK_MAX = 256
const WORK_READ = 16
const WORK_COMPARE = 2
const WORK_CLOSE = 3

/** Lets others have their turn when enough has been done. */
class Workload {
  readonly #pace: () => Promise<void>
  #done = 0

  constructor(pace: () => Promise<void>) {
    this.#pace = pace
  }

  add(work: number): void {
    this.#done += work
  }

  get isDue(): boolean {
    return this.#done >= WORK_MAX
  }

  async pause(): Promise<void> {
    this.#done = 0
    await this.#pace()
  }
}

export class MergedWalk {
  readonly #sets: OwnerSets
  readonly #visitor: MergedVisitor
  readonly #reader: NodeReader
  readonly #work: Workload
  readonly #run = new Lookup()

  /** `pace` is awaited between steps, and rejects to give up. */
  constructor(
    sets: OwnerSets,
    visitor: MergedVisitor,
    reader: NodeReader,
    pace: () => Promise<void>,
  ) {
    this.#sets = sets
    this.#visitor = visitor
    this.#reader = reader
    this.#work = new Workload(pace)
  }

  /** `roots`: the different root nodes, in any order. Rejects with what reading a node rejects. */
  async run(roots: readonly Version[]): Promise<void> {
    if (roots.length === 0) return
    await this.#visitGroups([{ versions: this.#ordered(roots), blockIndex: 0 }], NODE_LEVEL_ROOT)
  }

  async #visitGroups(groups: readonly Group[], level: number): Promise<void> {
    for (let from = 0; from < groups.length;) {
      let end = from
      let count = 0
      while (end < groups.length && (end === from || count < READ_AHEAD_COUNT)) {
        count += groups[end].versions.length
        end += 1
      }
      const batch = groups.slice(from, end)
      const nodes = await Promise.all(batch.map((group) => this.#read(group, level)))
      for (const [i, group] of batch.entries()) await this.#visit(group, nodes[i], level)
      from = end
    }
  }

  /** A group of many versions in parts, between which others have their turn. */
  async #read({ versions }: Group, level: number): Promise<Uint32Array[]> {
    const nodes: Uint32Array[] = []
    for (let from = 0; from < versions.length; from += READ_AHEAD_COUNT) {
      const part = versions.slice(from, from + READ_AHEAD_COUNT)
      nodes.push(...(await Promise.all(part.map((version) => this.#readOne(version, level)))))
      this.#work.add(WORK_READ * part.length)
      if (this.#work.isDue) await this.#work.pause()
    }
    return nodes
  }

  #readOne({ word0, word1 }: Version, level: number): Promise<Uint32Array> {
    const isRun = word1 >>> KIND_SHIFT !== KIND_NODE
    if (isRun) return Promise.resolve(expandEntry(word0, word1))
    return this.#reader.readNode(word0, word1 & SLOT_MASK, level)
  }

  async #visit(group: Group, nodes: readonly Uint32Array[], level: number): Promise<void> {
    for (const { word0, word1, owners } of group.versions) {
      if (word1 >>> KIND_SHIFT !== KIND_NODE) continue
      this.#visitor.node(word0, word1 & SLOT_MASK, owners)
    }
    const { blockIndex, versions } = group
    const entries = new MergedEntries(this.#sets, versions, nodes, this.#work)
    await entries.compare()
    if (level === 0) this.#visitLeaf(entries)
    else await this.#visitGroups(await this.#children(entries, blockIndex, level), level - 1)
    if (level < 2) this.#visitor.reached(blockIndex + NODE_ENTRY_COUNT * SPAN_BLOCK_COUNTS[level])
  }

  #visitLeaf(entries: MergedEntries): void {
    const run = this.#run
    for (let index = 0; index < NODE_ENTRY_COUNT;) {
      const several = entries.several(index)
      if (several !== null) {
        for (const version of several) this.#visitBlock(version)
        index += 1
        continue
      }
      leafRun(entries.common, index, entries.agreedUntil(index) - index, run)
      if (run.kind === KIND_BLOCK) {
        this.#visitor.blocks(run.segment, run.slot, run.count, entries.all)
      } else if (run.kind === KIND_ZERO) this.#visitor.zeros(run.count, entries.all)
      index += run.count
    }
  }

  #visitBlock({ word0, word1, owners }: Version): void {
    const kind = word1 >>> KIND_SHIFT
    if (kind === KIND_BLOCK) this.#visitor.blocks(word0, word1 & SLOT_MASK, 1, owners)
    else if (kind === KIND_ZERO) this.#visitor.zeros(1, owners)
  }

  /** What has to be looked at one level below; what has not is told. */
  async #children(entries: MergedEntries, blockIndex: number, level: number): Promise<Group[]> {
    const groups: Group[] = []
    const span = SPAN_BLOCK_COUNTS[level]
    for (let index = 0; index < NODE_ENTRY_COUNT; index += 1) {
      const below: Version[] = []
      for (const version of entries.at(index)) {
        const kind = version.word1 >>> KIND_SHIFT
        if (kind === KIND_ZERO) this.#visitor.zeros(span, version.owners)
        else if (kind === KIND_NODE || kind === KIND_HUGE) below.push(version)
      }
      if (below.length === 1 && below[0].word1 >>> KIND_SHIFT === KIND_HUGE) {
        const { word0, word1, owners } = below[0]
        this.#visitor.blocks(word0, word1 & SLOT_MASK, NODE_ENTRY_COUNT, owners)
      } else if (below.length > 0) {
        groups.push({ versions: this.#ordered(below), blockIndex: blockIndex + index * span })
        this.#work.add(below.length)
        if (this.#work.isDue) await this.#work.pause()
      }
    }
    return groups
  }

  /** Versions of which neighbours are likely to agree. */
  #ordered(versions: readonly Version[]): Version[] {
    const sets = this.#sets
    return versions.toSorted((a, b) => sets.first(a.owners) - sets.first(b.owners))
  }
}

/** The different entries that the nodes of one position have at each index. */
class MergedEntries {
  readonly #sets: OwnerSets
  readonly #owners: number[]
  readonly #nodes: readonly Uint32Array[]
  /** By index, where not all agree: the different entries by what they say. */
  readonly #several: Map<number, Map<number, Version>> = new Map()
  /** By index, the first of the nodes up to the last compared that agree. */
  readonly #starts: Uint32Array = new Uint32Array(NODE_ENTRY_COUNT)
  readonly #ranges: Map<number, number> = new Map()
  readonly #work: Workload
  #all = 0

  constructor(
    sets: OwnerSets,
    versions: readonly Version[],
    nodes: readonly Uint32Array[],
    work: Workload,
  ) {
    this.#sets = sets
    this.#work = work
    this.#owners = versions.map((version) => version.owners)
    this.#nodes = nodes
  }

  /** To be called first. */
  async compare(): Promise<void> {
    for (let end = 1; end < this.#nodes.length; end += 1) {
      this.#compareNext(end)
      if (this.#work.isDue) await this.#work.pause()
    }
    for (const index of this.#several.keys()) {
      this.#close(index, this.#nodes.length)
      if (this.#work.isDue) await this.#work.pause()
    }
  }

  /** Where all agree: the entries. */
  get common(): Uint32Array {
    return this.#nodes[0]
  }

  /** The owners of what all agree on. */
  get all(): number {
    if (this.#all === 0) this.#all = this.#range(0, this.#nodes.length)
    return this.#all
  }

  /** The different entries, or null where all agree. */
  several(index: number): Iterable<Version> | null {
    return this.#several.get(index)?.values() ?? null
  }

  at(index: number): Iterable<Version> {
    const { common } = this
    const several = this.several(index)
    if (several !== null) return several
    if (common[2 * index + 1] === 0) return []
    return [{ word0: common[2 * index], word1: common[2 * index + 1], owners: this.all }]
  }

  /** The first index from `index`, where all agree, on which they do not. */
  agreedUntil(index: number): number {
    if (this.#several.size === 0) return NODE_ENTRY_COUNT
    let end = index + 1
    while (end < NODE_ENTRY_COUNT && !this.#several.has(end)) end += 1
    return end
  }

  #compareNext(end: number): void {
    const before = this.#nodes[end - 1]
    const node = this.#nodes[end]
    this.#work.add(WORK_COMPARE)
    for (let word = 0; word < NODE_WORD_COUNT; word += 2) {
      if (node[word] === before[word] && node[word + 1] === before[word + 1]) continue
      this.#close(word / 2, end)
      this.#starts[word / 2] = end
    }
  }

  /** The nodes before `end` and from the noted start on agree on `index`. */
  #close(index: number, end: number): void {
    this.#work.add(WORK_CLOSE)
    const start = this.#starts[index]
    const word0 = this.#nodes[end - 1][2 * index]
    const word1 = this.#nodes[end - 1][2 * index + 1]
    const owners = this.#range(start, end)
    let several = this.#several.get(index)
    if (several === undefined) {
      several = new Map()
      this.#several.set(index, several)
    }
    // The kinds have four bits; the rest is the address.
    const key = (word0 * SEGMENT_SLOT_COUNT + (word1 & SLOT_MASK)) * 16 + (word1 >>> KIND_SHIFT)
    const known = several.get(key)
    if (known === undefined) several.set(key, { word0, word1, owners })
    else known.owners = this.#sets.union(known.owners, owners)
  }

  #range(start: number, end: number): number {
    if (end - start === 1) return this.#owners[start]
    const key = start * (this.#nodes.length + 1) + end
    const known = this.#ranges.get(key)
    if (known !== undefined) return known
    const owners = this.#sets.unionOf(this.#owners, start, end)
    this.#ranges.set(key, owners)
    return owners
  }
}
