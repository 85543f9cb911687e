/**
 * What a map must say, kept the simple way: the list of all changes, of which the last one that
 * covers a block counts. Between two neighbouring ends of changes nothing varies, so checking
 * each such interval checks all 2^36 blocks.
 */
import { strict as assert } from 'node:assert'
import { KIND_BLOCK, KIND_UNMAPPED, MAP_BLOCK_COUNT } from '../../../src/format/node.ts'
import type { MapRoot } from '../../../src/map/map-root.ts'
import { Lookup } from '../../../src/map/page-tables.ts'
import type { NodeSource, NodeWriter, PageTables } from '../../../src/map/page-tables.ts'

export interface Change {
  start: number
  end: number
  kind: number
  segment: number
  slot: number
}

export type Content = readonly Change[]

export interface Interval {
  start: number
  end: number
  /** Null: never changed. */
  change: Change | null
}

const ADDRESS_SLOTS = 16384

/** Written nodes, each kept twice: what is handed out, and what it must still be in the end. */
export class NodeStore implements NodeSource, NodeWriter {
  readonly nodes: Map<number, Uint32Array> = new Map<number, Uint32Array>()
  readonly #pristine = new Map<number, Uint32Array>()
  #next = 0
  writeCalls = 0
  isFailing = false

  writeNodes(nodes: readonly Uint32Array[], levels: readonly number[], out: Uint32Array): void {
    assert.equal(nodes.length, levels.length)
    this.writeCalls += 1
    if (this.isFailing) {
      // A writer may have filled in some addresses before it failed.
      out[0] = 7
      out[1] = 7
      throw new Error('the disk is gone')
    }
    nodes.forEach((entries, i) => {
      const [segment, slot] = this.addressOf(this.#next)
      this.#next += 1
      out[2 * i] = segment
      out[2 * i + 1] = slot
      const address = segment * ADDRESS_SLOTS + slot
      this.nodes.set(address, entries.slice())
      this.#pristine.set(address, entries.slice())
    })
  }

  get writtenCount(): number {
    return this.#next
  }

  /** Of the node that was written as the `index`th. */
  addressOf(index: number): [segment: number, slot: number] {
    // Addresses that differ in one word only, so that nothing can go by the other alone.
    return [1_000_000 + (index >> 4), 1 + (index & 15)]
  }

  async loadNode(segment: number, slot: number): Promise<Uint32Array> {
    await Promise.resolve()
    const entries = this.nodes.get(segment * ADDRESS_SLOTS + slot)
    if (entries === undefined) throw new Error(`no node was written at ${segment}:${slot}`)
    return entries
  }

  /** I5: no node was changed after it was written. */
  assertPristine(): void {
    for (const [address, entries] of this.nodes) {
      assert.deepEqual(entries, this.#pristine.get(address), `the node at ${address} changed`)
    }
  }
}

/** The elementary intervals of one or two contents, over the whole address space. */
export function intervals(contents: readonly Content[]): Interval[][] {
  const ends = new Set([0, MAP_BLOCK_COUNT])
  for (const content of contents) {
    for (const change of content) ends.add(change.start).add(change.end)
  }
  const sorted = [...ends].sort((a, b) => a - b)
  return contents.map((content) =>
    sorted.slice(0, -1).map((start, i) => ({
      start,
      end: sorted[i + 1],
      change: content.findLast((c) => c.start <= start && start < c.end) ?? null,
    })),
  )
}

export async function lookUp(
  tables: PageTables,
  root: MapRoot,
  block: number,
  count: number,
  out: Lookup,
): Promise<void> {
  while (!tables.lookup(root, block, count, out)) await tables.fault(out)
  assert(out.count >= 1 && out.count <= count, 'a run is not empty and not too long')
}

/** Fails unless the map says of every block what the content says. */
export async function assertContent(
  tables: PageTables,
  root: MapRoot,
  content: Content,
): Promise<void> {
  const found = new Lookup()
  for (const { start, end, change } of intervals([content])[0]) {
    for (let block = start; block < end; block += found.count) {
      await lookUp(tables, root, block, end - block, found)
      const kind = change?.kind ?? KIND_UNMAPPED
      const isBlock = change !== null && kind === KIND_BLOCK
      assert.deepEqual(
        [found.kind, found.segment, found.slot],
        [kind, isBlock ? change.segment : 0, isBlock ? change.slot + block - change.start : 0],
        `block ${block}`,
      )
    }
  }
}

export function mappedCount(content: Content): number {
  let count = 0
  for (const { start, end, change } of intervals([content])[0]) {
    if (change?.kind === KIND_BLOCK) count += end - start
  }
  return count
}

/** Every range that reads differently, merged where neighbours are of one kind. */
export function changedRuns(
  from: Content,
  to: Content,
  blockCount: number,
): { blockIndex: number; count: number; kind: number }[] {
  const [before, after] = intervals([from, to])
  const runs: { blockIndex: number; count: number; kind: number }[] = []
  after.forEach(({ start, end, change }, i) => {
    const old = before[i].change
    const kind = change?.kind ?? KIND_UNMAPPED
    const oldKind = old?.kind ?? KIND_UNMAPPED
    if (kind !== KIND_BLOCK && oldKind !== KIND_BLOCK) return
    // Addresses are given once: equal ones come from the same change.
    if (kind === oldKind && change === old) return
    const count = Math.min(end, blockCount) - start
    if (count <= 0) return
    const last = runs.at(-1)
    if (last?.kind === kind && last.blockIndex + last.count === start) last.count += count
    else runs.push({ blockIndex: start, count, kind })
  })
  return runs
}
