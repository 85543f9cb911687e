import { strict as assert } from 'node:assert'
import fc from 'fast-check'
import t from 'tap'
import { Prng } from '../../../src/base/prng.ts'
import {
  KIND_BLOCK,
  KIND_HUGE,
  KIND_UNMAPPED,
  KIND_ZERO,
  MAP_BLOCK_COUNT,
} from '../../../src/format/node.ts'
import { diff } from '../../../src/map/diff.ts'
import type { ChangedRun } from '../../../src/map/diff.ts'
import type { MapRoot } from '../../../src/map/map-root.ts'
import { emptyRoot, rootAddress, rootAt } from '../../../src/map/map-root.ts'
import type { MapVisitor, NodeWriter } from '../../../src/map/page-tables.ts'
import { Lookup, PageTables } from '../../../src/map/page-tables.ts'
import { NodeStore, assertContent, changedRuns, lookUp, mappedCount } from './map-model.ts'
import type { Change, Content } from './map-model.ts'

const NODE_BYTES = 4096
const pause = (): Promise<void> => Promise.resolve()

function makeTables(store: NodeStore, nodeCacheBytes = 0): PageTables {
  return new PageTables({ nodeCacheBytes, source: store, pause })
}

async function apply(
  tables: PageTables,
  root: MapRoot,
  epoch: number,
  change: Change,
): Promise<void> {
  const { start, end, segment, slot, kind } = change
  const found = new Lookup()
  while (!tables.tryReside(root, start, end - start, found)) await tables.fault(found)
  if (kind === KIND_BLOCK) tables.setBlocks(root, epoch, start, end - start, segment, slot)
  else tables.setKind(root, epoch, start, end - start, kind)
}

async function collect(runs: AsyncIterable<ChangedRun>): Promise<ChangedRun[]> {
  const all: ChangedRun[] = []
  for await (const run of runs) all.push({ ...run })
  return all
}

/** A disk of the model: a root, what it must hold, and, if it is a volume, its epoch. */
interface Disk {
  root: MapRoot
  content: Content
  epoch: number | null
}

/** Odds of: change, fill, copy, restore, remove, flush some, fail to flush, flush all, reopen. */
const ALL: readonly number[] = [50, 8, 6, 2, 3, 10, 3, 2, 2]
/** Without reopening, which would put other tables in the place of those in use. */
const IN_PLACE: readonly number[] = [50, 8, 6, 2, 3, 10, 3, 2, 0]

/** Random work on a few disks, told by a seed. */
class Workload {
  readonly store: NodeStore = new NodeStore()
  readonly disks: Disk[]
  readonly #prng: Prng
  tables: PageTables
  loadCount = 0
  #epoch = 1
  #nextSlot = 0

  constructor(seed: number) {
    this.#prng = new Prng(seed)
    this.tables = makeTables(this.store)
    this.disks = [{ root: emptyRoot(), content: [], epoch: this.#epoch }]
  }

  /** Blocks near the ends of nodes of every level, where things go wrong. */
  #start(): number {
    const prng = this.#prng
    const anchor = prng.pick([0, 0, 2 ** 18, 2 ** 27, 3 * 2 ** 18, MAP_BLOCK_COUNT - 2 ** 18])
    const start = anchor + 512 * prng.between(-3, 3) + (prng.chance(0.5) ? prng.below(512) : 0)
    return Math.min(Math.max(0, start), MAP_BLOCK_COUNT - 1)
  }

  #count(): number {
    const prng = this.#prng
    return prng.pick([1, prng.between(1, 40), 512, 1024, prng.between(300, 2000)])
  }

  change(): Change {
    const prng = this.#prng
    const start = prng.chance(0.02) ? MAP_BLOCK_COUNT - 1 : this.#start()
    if (prng.chance(0.35)) {
      const spans = [2 ** 18, 2 ** 19 + 512, 2 ** 27, MAP_BLOCK_COUNT]
      const aligned = prng.chance(0.1)
      const count = aligned ? prng.pick(spans) : this.#count()
      const from = aligned && prng.chance(0.5) ? start - (start % 2 ** 18) : start
      const end = Math.min(MAP_BLOCK_COUNT, from + count)
      const kind = prng.chance(0.7) ? KIND_UNMAPPED : KIND_ZERO
      return { start: from, end, kind, segment: 0, slot: 0 }
    }
    const count = Math.min(this.#count(), MAP_BLOCK_COUNT - start)
    // Every run begins a new half of a segment: addresses never repeat and never pass its end.
    const half = this.#nextSlot
    this.#nextSlot += 1
    const slot = 1 + (half % 2) * 8000 + prng.below(100)
    return { start, end: start + count, kind: KIND_BLOCK, segment: 1 + (half >> 1), slot }
  }

  #volume(): Disk {
    return this.#prng.pick(this.disks.filter((disk) => disk.epoch !== null))
  }

  /** A run of small writes that follow each other: what fills leaves until they are promoted. */
  async #fill(): Promise<void> {
    const disk = this.#volume()
    const whole = this.change()
    const start = whole.start - (whole.start % 512)
    for (let done = 0; done < 512; done += 64) {
      const change = { ...whole, start: start + done, end: start + done + 64 }
      await this.apply(disk, { ...change, slot: (whole.slot || 1) + done })
    }
  }

  async apply(disk: Disk, change: Change): Promise<void> {
    const made = change.kind === KIND_BLOCK ? change : { ...change, segment: 0, slot: 0 }
    const found = new Lookup()
    // Looked up before and after, so that nothing remembered of before can stay.
    await lookUp(this.tables, disk.root, made.start, 1, found)
    await apply(this.tables, disk.root, disk.epoch ?? -1, made)
    await lookUp(this.tables, disk.root, made.start, 1, found)
    assert.deepEqual([found.kind, found.segment, found.slot], [made.kind, made.segment, made.slot])
    disk.content = [...disk.content, made]
  }

  #copy(): void {
    const copy = this.capture(this.#prng.pick(this.disks))
    this.disks.push({ ...copy, epoch: this.#prng.chance(0.4) ? (this.#epoch += 1) : null })
  }

  #restore(): void {
    const volume = this.#volume()
    const copy = this.capture(this.#prng.pick(this.disks))
    this.tables.releaseRoot(volume.root)
    volume.root = copy.root
    volume.content = copy.content
    volume.epoch = this.#epoch += 1
  }

  #remove(): void {
    const prng = this.#prng
    const index = prng.below(this.disks.length)
    const others = this.disks.filter((_, i) => i !== index)
    if (!others.some((disk) => disk.epoch !== null)) return
    this.tables.releaseRoot(this.disks[index].root)
    this.disks.splice(index, 1)
  }

  #failToFlush(): void {
    this.store.isFailing = true
    const before = this.tables.dirtyCount
    const calls = this.store.writeCalls
    try {
      this.tables.flushSome(3, this.store)
    } catch {
      if (this.store.writeCalls === calls) throw new Error('failed without a write')
    }
    this.store.isFailing = false
    if (this.tables.dirtyCount > before) throw new Error('a failed flush made nodes dirty')
  }

  /** The disk as it is now, to stay so. */
  capture(disk: Disk): { root: MapRoot; content: Content } {
    const root = this.tables.copyRoot(disk.root)
    if (disk.epoch !== null) disk.epoch = this.#epoch += 1
    return { root, content: disk.content }
  }

  /** A checkpoint and a start with an empty cache. */
  reopen(): void {
    this.tables.flushAll(this.store)
    this.loadCount += this.tables.loadCount
    this.tables = makeTables(this.store)
    for (const disk of this.disks) {
      const address = rootAddress(disk.root)
      disk.root = address === null ? emptyRoot() : rootAt(address.segment, address.slot)
    }
  }

  async step(weights: readonly number[] = ALL): Promise<void> {
    const choice = this.#prng.weighted(weights)
    if (choice === 0) await this.apply(this.#volume(), this.change())
    else if (choice === 1) await this.#fill()
    else if (choice === 2) this.#copy()
    else if (choice === 3) this.#restore()
    else if (choice === 4) this.#remove()
    else if (choice === 5) this.tables.flushSome(this.#prng.between(1, 20), this.store)
    else if (choice === 6) this.#failToFlush()
    else if (choice === 7) this.tables.flushAll(this.store)
    else this.reopen()
  }

  async check(): Promise<void> {
    for (const { root, content } of this.disks) {
      await assertContent(this.tables, root, content)
    }
    this.store.assertPristine()
  }
}

const seeds = fc.integer({ min: 0, max: 2 ** 31 - 1 })

t.test('maps keep what was put in, through snapshots, flushes, faults, reopening', async (t) => {
  let loadCount = 0
  await fc.assert(
    fc.asyncProperty(seeds, fc.integer({ min: 1, max: 90 }), async (seed, stepCount) => {
      const work = new Workload(seed)
      for (let i = 0; i < stepCount; i += 1) await work.step()
      await work.check()
      work.reopen()
      await work.check()
      for (let i = 0; i < 10; i += 1) await work.step(IN_PLACE)
      for (const disk of work.disks) work.tables.releaseRoot(disk.root)
      assert.equal(work.tables.dirtyCount, 0, 'nothing stays dirty for nobody')
      loadCount += work.loadCount + work.tables.loadCount
    }),
    { numRuns: 60 },
  )
  t.ok(loadCount > 1000, `faults happened: ${loadCount}`)
})

t.test('diff and mapped count agree with brute force, flushed or not', async (t) => {
  let changedCount = 0
  await fc.assert(
    fc.asyncProperty(seeds, fc.integer({ min: 5, max: 60 }), async (seed, stepCount) => {
      const work = new Workload(seed)
      for (let i = 0; i < stepCount; i += 1) await work.step()
      for (let pass = 0; pass < 2; pass += 1) {
        const { tables, disks } = work
        for (const { root, content } of disks) {
          t.equal(await tables.mappedBlockCount(root), mappedCount(content))
        }
        const to = disks[0]
        for (const from of [null, ...disks.slice(-3)]) {
          for (const blockCount of [MAP_BLOCK_COUNT, 2 ** 18 + 77]) {
            const runs = await collect(diff(from?.root ?? null, to.root, 0, blockCount, tables))
            t.same(runs, changedRuns(from?.content ?? [], to.content, blockCount))
            changedCount += runs.length
          }
        }
        work.reopen()
      }
    }),
    { numRuns: 25 },
  )
  t.ok(changedCount > 100, `something differed: ${changedCount}`)
})

t.test('diff and walk stand writes, flushes and deletions beside them', async (t) => {
  await fc.assert(
    fc.asyncProperty(seeds, async (seed) => {
      const work = new Workload(seed)
      for (let i = 0; i < 40; i += 1) await work.step()
      const from = work.capture(work.disks[0])
      for (let i = 0; i < 20; i += 1) await work.step(IN_PLACE)
      const to = work.capture(work.disks[work.disks.length - 1])
      const expected = changedRuns(from.content, to.content, MAP_BLOCK_COUNT)
      const runs: ChangedRun[] = []
      for await (const run of diff(from.root, to.root, 0, MAP_BLOCK_COUNT, work.tables)) {
        runs.push({ ...run })
        await work.step(IN_PLACE)
        work.tables.flushSome(2, work.store)
      }
      t.same(runs, expected)
      let walkedCount = 0
      const visitor: MapVisitor = {
        enterNode: () => true,
        blocks: (_segment, _slot, count) => (walkedCount += count),
      }
      const walking = work.tables.walk(to.root, visitor)
      for (let i = 0; i < 10; i += 1) await work.step(IN_PLACE)
      await walking
      t.equal(walkedCount, mappedCount(to.content))
      await work.check()
    }),
    { numRuns: 25 },
  )
})

const RUN_SLOT_COUNT = 31 * 512

/** Maps `blockCount` blocks as an import does: whole huge runs, 31 to a segment. */
async function importMap(tables: PageTables, blockCount: number): Promise<MapRoot> {
  const root = emptyRoot()
  for (let start = 0, segment = 1; start < blockCount; start += RUN_SLOT_COUNT, segment += 1) {
    const end = Math.min(blockCount, start + RUN_SLOT_COUNT)
    await apply(tables, root, 1, { start, end, kind: KIND_BLOCK, segment, slot: 1 })
  }
  return root
}

t.test('an import maps 64 GiB in under 2 MiB of nodes, 1 TiB in about 4', async (t) => {
  const small = new NodeStore()
  const smallTables = makeTables(small)
  const root = await importMap(smallTables, 2 ** 24)
  smallTables.flushAll(small)
  t.ok(small.nodes.size * NODE_BYTES < 2 * 2 ** 20, `${small.nodes.size} nodes`)
  t.equal(await smallTables.mappedBlockCount(root), 2 ** 24)

  const large = new NodeStore()
  const largeTables = makeTables(large)
  await importMap(largeTables, 2 ** 28)
  largeTables.flushAll(large)
  t.equal(large.nodes.size, 1024 + 2 + 1, 'a node a GiB and those above')
})

t.test('a leaf that is one run is promoted, a write into it demotes it', async (t) => {
  const store = new NodeStore()
  const tables = makeTables(store)
  const root = emptyRoot()
  for (let start = 0; start < 512; start += 8) {
    const end = start + 8
    await apply(tables, root, 1, { start, end, kind: KIND_BLOCK, segment: 9, slot: 100 + start })
  }
  t.equal(tables.dirtyCount, 4)
  t.equal(tables.flushAll(store), 4)
  t.equal(store.nodes.size, 3, 'no leaf is written')
  const parents = [...store.nodes.values()].filter((entries) => entries[1] >>> 28 === KIND_HUGE)
  t.equal(parents.length, 1)

  await apply(tables, root, 2, { start: 7, end: 8, kind: KIND_BLOCK, segment: 10, slot: 5 })
  tables.flushAll(store)
  t.equal(store.nodes.size, 7, 'the path with a leaf')
  await assertContent(tables, root, [
    { start: 0, end: 512, kind: KIND_BLOCK, segment: 9, slot: 100 },
    { start: 7, end: 8, kind: KIND_BLOCK, segment: 10, slot: 5 },
  ])
})

t.test('a map that was emptied takes no node at all', async (t) => {
  const store = new NodeStore()
  const tables = makeTables(store)
  const root = emptyRoot()
  const change = { start: 700, end: 2900, kind: KIND_BLOCK, segment: 3, slot: 1 }
  await apply(tables, root, 1, change)
  await apply(tables, root, 1, { ...change, start: 800, kind: KIND_UNMAPPED })
  await apply(tables, root, 1, { ...change, end: 800, kind: KIND_UNMAPPED })
  t.equal(tables.dirtyCount, 0)
  t.equal(rootAddress(root), null)

  // A demoted huge entry and zeros over leaves, both emptied only in their written form.
  await apply(tables, root, 1, change)
  tables.flushAll(store)
  const writtenCount = store.nodes.size
  await apply(tables, root, 2, { ...change, start: 0, end: MAP_BLOCK_COUNT, kind: KIND_UNMAPPED })
  t.equal(tables.flushAll(store), 0)
  t.equal(store.nodes.size, writtenCount)
  t.equal(rootAddress(root), null)
})

t.test('zeros over a subtree take one entry; a map of zeros keeps its root', async (t) => {
  const store = new NodeStore()
  const tables = makeTables(store)
  const root = emptyRoot()
  const zeros = { start: 0, end: 2 ** 27, kind: KIND_ZERO, segment: 0, slot: 0 }
  await apply(tables, root, 1, zeros)
  t.equal(tables.dirtyCount, 1)
  // Small zeros that fill a leaf fold into one entry when written.
  for (let start = 2 ** 27; start < 2 ** 27 + 512; start += 1) {
    await apply(tables, root, 1, { ...zeros, start, end: start + 1 })
  }
  t.equal(tables.flushAll(store), 4)
  t.equal(store.nodes.size, 3)
  await apply(tables, root, 2, { ...zeros, end: MAP_BLOCK_COUNT })
  tables.flushAll(store)
  const address = rootAddress(root)
  t.ok(address, 'a root of zeros is a node')
  await assertContent(tables, root, [{ ...zeros, end: MAP_BLOCK_COUNT }])
  t.equal(await tables.mappedBlockCount(root), 0)
})

t.test('the last block of the address space is a block like any other', async (t) => {
  const store = new NodeStore()
  const tables = makeTables(store)
  const root = emptyRoot()
  const start = MAP_BLOCK_COUNT - 1
  const last = { start, end: MAP_BLOCK_COUNT, kind: KIND_BLOCK, segment: 2 ** 32 - 1, slot: 16350 }
  await apply(tables, root, 1, last)
  await assertContent(tables, root, [last])
  tables.flushAll(store)
  await assertContent(tables, root, [last])
  t.same(await collect(diff(null, root, 0, MAP_BLOCK_COUNT, tables)), [
    { blockIndex: start, count: 1, kind: KIND_BLOCK },
  ])
  const found = new Lookup()
  t.throws(() => tables.lookup(root, MAP_BLOCK_COUNT, 1, found), { name: 'AssertionError' })
  t.throws(() => tables.setBlocks(root, 1, start, 2, 1, 1), { name: 'AssertionError' })
  t.throws(() => tables.setBlocks(root, 1, 0, 2, 1, 16350), { name: 'AssertionError' })
})

t.test('deleting a volume frees its dirty nodes, forgetting it writes them once', async (t) => {
  const store = new NodeStore()
  const tables = makeTables(store)
  const change = { start: 3, end: 2000, kind: KIND_BLOCK, segment: 4, slot: 1 }
  const volume = emptyRoot()
  await apply(tables, volume, 1, change)
  const snapshot = tables.copyRoot(volume)
  await apply(tables, volume, 2, { ...change, end: 5, segment: 5 })
  t.equal(tables.dirtyCount, 3 + 2 + 4, 'a leaf that was not written to is shared')
  tables.releaseRoot(volume)
  t.equal(tables.dirtyCount, 5, 'what the snapshot holds stays')
  tables.releaseRoot(snapshot)
  t.equal(tables.dirtyCount, 0)
  t.equal(tables.flushAll(store), 0)
  t.throws(() => tables.lookup(volume, 0, 1, new Lookup()), { name: 'AssertionError' })
  t.throws(() => tables.copyRoot(volume), { name: 'AssertionError' })
  t.throws(() => tables.releaseRoot(volume), { name: 'AssertionError' })

  await apply(tables, emptyRoot(), 3, change)
  t.equal(tables.flushAll(store), 5)
  t.equal(tables.dirtyCount, 0)
  t.equal(tables.flushAll(store), 0)
})

t.test('I5: writing with the epoch of before a snapshot is caught', async (t) => {
  const store = new NodeStore()
  const tables = makeTables(store)
  const volume = emptyRoot()
  const change = { start: 3, end: 9, kind: KIND_BLOCK, segment: 4, slot: 1 }
  await apply(tables, volume, 1, change)
  tables.copyRoot(volume)
  await t.rejects(apply(tables, volume, 1, { ...change, segment: 5 }), {
    name: 'AssertionError',
    message: /^I5/,
  })
  await apply(tables, volume, 2, { ...change, segment: 5 })
  // Now the leaf is the volume's own; the root of the snapshot still is not.
  const clone = tables.copyRoot(volume)
  await apply(tables, volume, 3, { ...change, start: 2 ** 27, end: 2 ** 27 + 1 })
  await t.rejects(apply(tables, clone, 2, change), { name: 'AssertionError', message: /^I5/ })
})

t.test('I5: the model notices a shared node that was changed behind its back', async (t) => {
  const work = new Workload(5)
  const [volume] = work.disks
  const change = { start: 0, end: 300, kind: KIND_BLOCK, segment: 4, slot: 1 }
  await work.apply(volume, change)
  work.tables.flushAll(work.store)
  await work.check()
  work.reopen()
  const leaf = [...work.store.nodes.values()].find((entries) => entries[2] === 4)
  t.ok(leaf)
  if (leaf !== undefined) leaf[2] = 5
  await t.rejects(work.check(), { message: /block 1/ })
  t.throws(() => work.store.assertPristine(), { message: /changed/ })
})

t.test('an update that was not preceded by tryReside is caught, not half done', async (t) => {
  const store = new NodeStore()
  const tables = makeTables(store)
  const root = emptyRoot()
  await apply(tables, root, 1, { start: 0, end: 3, kind: KIND_BLOCK, segment: 4, slot: 1 })
  tables.flushAll(store)
  const cold = makeTables(store)
  t.throws(() => cold.setBlocks(root, 2, 1, 1, 5, 1), { message: /tryReside/ })
  t.equal(cold.dirtyCount, 0)
  const found = new Lookup()
  t.equal(cold.tryReside(root, 1, 1, found), false)
  t.match(found, { faultLevel: 3, faultSegment: rootAddress(root)?.segment })
})

t.test('faults for one node share a load, and each hears of its failure', async (t) => {
  const store = new NodeStore()
  const tables = makeTables(store)
  const root = emptyRoot()
  await apply(tables, root, 1, { start: 0, end: 3, kind: KIND_BLOCK, segment: 4, slot: 1 })
  tables.flushAll(store)
  const cold = makeTables(store)
  const found = new Lookup()
  t.notOk(cold.lookup(root, 0, 1, found))
  await Promise.all([cold.fault(found), cold.fault(found), cold.fault(found)])
  t.equal(cold.loadCount, 1)

  const lost = rootAt(77, 7)
  t.notOk(cold.lookup(lost, 0, 1, found))
  const results = await Promise.allSettled([cold.fault(found), cold.fault(found)])
  t.same(
    results.map((result) => result.status),
    ['rejected', 'rejected'],
  )
  t.equal(cold.loadCount, 2)
  await t.rejects(cold.fault(found), { message: /77:7/ }, 'a failure is not remembered')
  t.equal(cold.loadCount, 3)
})

t.test('a node that is none is reported as corruption, by lookup and by walk', async (t) => {
  const store = new NodeStore()
  const tables = makeTables(store)
  const root = emptyRoot()
  await apply(tables, root, 1, { start: 0, end: 3, kind: KIND_BLOCK, segment: 4, slot: 1 })
  tables.flushAll(store)
  for (const entries of store.nodes.values()) entries[1000] = 1
  const cold = makeTables(store)
  const found = new Lookup()
  t.notOk(cold.lookup(root, 0, 1, found))
  await t.rejects(cold.fault(found), { code: 'node-corrupt' })
  const visitor = { enterNode: () => true, blocks: () => undefined }
  await t.rejects(cold.walk(root, visitor), { code: 'node-corrupt' })
  // Of a damaged map what can be read is counted.
  t.equal(await cold.mappedBlockCount(root), 0)
})

t.test('counting a thousand clones costs one walk, and a changed one what changed', async (t) => {
  const store = new NodeStore()
  const tables = makeTables(store)
  const root = emptyRoot()
  for (let i = 0; i < 100; i += 1) {
    const start = i * 1000
    const change = { start, end: start + 7, kind: KIND_BLOCK, segment: i + 1, slot: 1 }
    await apply(tables, root, 1, change)
  }
  tables.flushAll(store)
  const nodeCount = store.nodes.size
  const cold = makeTables(store)
  const clones = Array.from({ length: 1000 }, () => cold.copyRoot(root))
  const counts = await Promise.all(clones.map((clone) => cold.mappedBlockCount(clone)))
  t.ok(counts.every((count) => count === 700))
  t.equal(cold.loadCount, nodeCount)

  const [changed] = clones
  await apply(cold, changed, 2, { start: 9, end: 11, kind: KIND_BLOCK, segment: 1, slot: 1 })
  const before = cold.loadCount
  t.equal(await cold.mappedBlockCount(changed), 702)
  await apply(cold, changed, 2, { start: 0, end: 4, kind: KIND_UNMAPPED, segment: 0, slot: 0 })
  t.equal(await cold.mappedBlockCount(changed), 698)
  t.equal(cold.loadCount, before)
})

t.test('a walk enters a shared node once and does not push out what is cached', async (t) => {
  const store = new NodeStore()
  const tables = makeTables(store, 16 * 4608)
  const root = emptyRoot()
  for (let start = 0; start < 100 * 512; start += 512) {
    const change = { start, end: start + 7, kind: KIND_BLOCK, segment: 1 + start, slot: 1 }
    await apply(tables, root, 1, change)
  }
  tables.flushAll(store)
  const snapshot = tables.copyRoot(root)
  await apply(tables, root, 2, { start: 3, end: 4, kind: KIND_BLOCK, segment: 9, slot: 1 })
  tables.flushAll(store)
  const found = new Lookup()
  await lookUp(tables, root, 3, 1, found)
  const entered = new Set<string>()
  let blockCount = 0
  const visitor: MapVisitor = {
    enterNode(segment, slot, level) {
      const key = `${segment}:${slot}:${level}`
      if (entered.has(key)) return false
      entered.add(key)
      return true
    },
    blocks: (_segment, _slot, count) => (blockCount += count),
  }
  await tables.walk(root, visitor)
  await tables.walk(snapshot, visitor)
  await tables.walk(snapshot, visitor)
  t.equal(entered.size, store.nodes.size)
  t.equal(blockCount, 700 + 7)
  const before = tables.loadCount
  t.ok(tables.lookup(root, 3, 1, found), 'still in memory')
  t.equal(tables.loadCount, before)
})

t.test('a flush is bounded, goes bottom up, and failing changes nothing', async (t) => {
  const store = new NodeStore()
  const tables = new PageTables({ nodeCacheBytes: 0, source: store, dirtyNodeCountMax: 40 })
  const root = emptyRoot()
  const content: Change[] = []
  for (let start = 0; start < 40 * 512; start += 512) {
    const change = { start, end: start + 7, kind: KIND_BLOCK, segment: 1 + start, slot: 1 }
    await apply(tables, root, 1, change)
    content.push(change)
  }
  t.equal(tables.dirtyCount, 43)
  t.ok(tables.isDirtyFull)
  store.isFailing = true
  t.throws(() => tables.flushSome(10, store), { message: 'the disk is gone' })
  t.throws(() => tables.flushAll(store), { message: 'the disk is gone' })
  t.equal(tables.dirtyCount, 43)
  await assertContent(tables, root, content)
  store.isFailing = false
  t.equal(tables.flushSome(10, store), 10)
  t.equal(tables.dirtyCount, 33)
  t.notOk(tables.isDirtyFull)
  t.throws(() => rootAddress(root), { name: 'AssertionError' })
  t.equal(tables.flushSome(100, store), 33)
  await assertContent(tables, root, content)
  // Addresses ascend in the order of writing: a node's are all below its own.
  const levels: number[] = []
  const lookLevels: NodeWriter = {
    writeNodes(nodes, batchLevels, out) {
      levels.push(...batchLevels)
      store.writeNodes(nodes, batchLevels, out)
    },
  }
  await apply(tables, root, 2, { ...content[0], start: 5 })
  await apply(tables, root, 2, { ...content[3] })
  tables.flushAll(lookLevels)
  t.same(levels, [0, 0, 1, 2, 3])
})

t.test('evicted nodes are gone, nodes in use stay', async (t) => {
  const store = new NodeStore()
  const tables = makeTables(store)
  const root = emptyRoot()
  const leafCount = 64
  for (let start = 0; start < leafCount * 512; start += 512) {
    const change = { start, end: start + 7, kind: KIND_BLOCK, segment: 1 + start, slot: 1 }
    await apply(tables, root, 1, change)
  }
  tables.flushAll(store)
  const found = new Lookup()
  for (let i = 0; i < 4 * leafCount; i += 1) {
    await lookUp(tables, root, 512 * ((i * 5) % leafCount), 1, found)
    // The first leaf is used all the time.
    const before = tables.loadCount
    await lookUp(tables, root, 3, 1, found)
    t.ok(i === 0 || tables.loadCount === before, 'what is in use is not evicted')
  }
  let residentCount = 0
  for (let start = 0; start < leafCount * 512; start += 512) {
    if (tables.lookup(root, start, 1, found)) residentCount += 1
  }
  t.equal(tables.cachedCount, 16)
  t.equal(residentCount, 16 - 3, 'all but the path to them')
})

t.test('a node that its only map has replaced makes room for others', async (t) => {
  const store = new NodeStore()
  const tables = makeTables(store, 64 * NODE_BYTES)
  const root = emptyRoot()
  for (let round = 0; round < 8; round += 1) {
    const change = { start: 0, end: 7, kind: KIND_BLOCK, segment: 1 + round, slot: 1 }
    await apply(tables, root, 1, change)
    tables.flushAll(store)
    t.equal(tables.cachedCount, 4, 'one node of each level')
  }
  const copy = tables.copyRoot(root)
  const loadsBefore = tables.loadCount
  const change = { start: 0, end: 7, kind: KIND_BLOCK, segment: 100, slot: 1 }
  await apply(tables, root, 2, change)
  tables.flushAll(store)
  const found = new Lookup()
  t.ok(tables.lookup(copy, 0, 7, found), 'what another map has, too, stays')
  t.equal(found.segment, 8)
  t.ok(tables.lookup(root, 0, 7, found))
  t.equal(found.segment, 100)
  t.equal(tables.loadCount, loadsBefore)
})

t.test('a leaf that its only map replaces is taken, not copied, unless it is lent', async (t) => {
  const store = new NodeStore()
  const tables = makeTables(store, 64 * NODE_BYTES)
  const root = emptyRoot()
  let segment = 0
  /** Writes block 0, and the leaf; resolves to the leaf's entries and its address. */
  const rewrite = async (): Promise<{ entries: Uint32Array | null; at: [number, number] }> => {
    segment += 1
    await apply(tables, root, 1, { start: 0, end: 1, kind: KIND_BLOCK, segment, slot: 1 })
    const written = store.writtenCount
    tables.flushAll(store)
    const at = store.addressOf(written)
    return { entries: tables.recallNode(...at), at }
  }
  const first = await rewrite()
  const second = await rewrite()
  t.equal(second.entries, first.entries)
  const lent = await tables.readNode(...second.at, 0)
  t.equal(lent, second.entries)
  const third = await rewrite()
  t.not(third.entries, lent)
  t.equal(lent[0], 2, 'who has it sees what was written')
  t.equal((await rewrite()).entries, third.entries)
})

t.test('a walk of what was written does not see what is written beside it', async (t) => {
  const leafCount = 200
  const store = new NodeStore()
  const root = emptyRoot()
  const write = (tables: PageTables, index: number, segment: number): Promise<void> => {
    const start = 512 * index
    return apply(tables, root, 1, { start, end: start + 1, kind: KIND_BLOCK, segment, slot: 1 })
  }
  const tables: PageTables = new PageTables({
    nodeCacheBytes: 2 * leafCount * NODE_BYTES,
    source: store,
    pause: async () => {
      for (let index = 0; index < leafCount; index += 1) await write(tables, index, 9_999)
    },
  })
  for (let index = 0; index < leafCount; index += 1) await write(tables, index, 1 + index)
  tables.flushAll(store)
  const address = rootAddress(root)
  assert.ok(address !== null)
  const seen: number[] = []
  await tables.walk(rootAt(address.segment, address.slot), {
    enterNode: () => true,
    blocks: (segment) => seen.push(segment),
  })
  const expected = Array.from({ length: leafCount }, (_, index) => 1 + index)
  t.same(
    seen.sort((a, b) => a - b),
    expected,
  )
})

t.test('trimming whole subtrees loads the paths to its ends only', async (t) => {
  const store = new NodeStore()
  const tables = makeTables(store)
  const root = emptyRoot()
  for (let start = 0; start < 2 ** 20; start += 2 ** 15) {
    const change = { start, end: start + 7, kind: KIND_BLOCK, segment: 1 + start, slot: 1 }
    await apply(tables, root, 1, change)
  }
  tables.flushAll(store)
  const trim = { start: 0, end: 2 ** 27, kind: KIND_UNMAPPED, segment: 0, slot: 0 }
  const cold = makeTables(store)
  const whole = cold.copyRoot(root)
  await apply(cold, whole, 2, trim)
  t.equal(cold.loadCount, 1, 'the root node')
  t.equal(cold.dirtyCount, 0)
  await apply(cold, cold.copyRoot(root), 3, { ...trim, end: 2 ** 18 })
  t.equal(cold.loadCount, 2, 'and the node below it')
  t.equal(cold.dirtyCount, 2)
})

t.test('a count that a write overtook is not remembered', async (t) => {
  const store = new NodeStore()
  const tables = makeTables(store)
  const root = emptyRoot()
  const change = { start: 0, end: 7, kind: KIND_BLOCK, segment: 1, slot: 1 }
  await apply(tables, root, 1, change)
  await apply(tables, root, 1, { ...change, start: 2 ** 20, end: 2 ** 20 + 7 })
  tables.flushAll(store)
  await apply(tables, root, 2, { ...change, start: 1, end: 2 })
  // It has passed the entry of blocks 512 to 1023 and waits; what it found is no longer so.
  const counting = tables.mappedBlockCount(root)
  tables.setBlocks(root, 2, 512, 88, 1, 1)
  await counting
  t.equal(await tables.mappedBlockCount(root), 14 + 88)
})
