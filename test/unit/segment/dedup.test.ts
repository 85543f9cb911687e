/** What the deduper finds against all that is stored, with an index that has only a sample. */
import fc from 'fast-check'
import t from 'tap'
import { missingCodecs } from '../../../src/base/codec.ts'
import { Errno } from '../../../src/base/errors.ts'
import { BLOCK_SIZE_BYTES, MIB } from '../../../src/base/units.ts'
import { SegmentKind } from '../../../src/format/segment.ts'
import { openChecksum } from '../../../src/io/open-io.ts'
import { SimIo } from '../../../src/io/sim-io.ts'
import { DedupIndex } from '../../../src/segment/dedup-index.ts'
import { Deduper, MATCH_BLOCK_COUNT_MAX } from '../../../src/segment/dedup.ts'
import type { Admission } from '../../../src/segment/dedup.ts'
import { SegmentStore } from '../../../src/segment/segment-store.ts'
import { POOL_ID, PoolBuilder, blockOf } from '../../support/pool-builder.ts'

t.setTimeout(300_000)

const SEGMENT_IDS = [1, 2, 3]
const BLOCKS_PER_SEGMENT = 400
/** An entry of the index may name a segment that is gone. */
const GONE = 99
const checksum = await openChecksum()
const arenaMemory = Buffer.allocUnsafeSlow(16 * MIB)

/** Blocks of each segment by their number; segments share a fourth of them. */
function valueAt(segment: number, i: number): number {
  return i % 4 === 0 ? i : segment * 10_000 + i
}

class Subject {
  readonly io: SimIo = new SimIo({ seed: 1, arenaMemory })
  readonly index: DedupIndex = new DedupIndex(4096 * 12)
  /** Addresses, as text, of each block by its number. */
  readonly addresses: Map<number, Set<string>> = new Map()
  readonly firstSlots: Map<number, number> = new Map()
  readonly store: SegmentStore
  readonly damage: string[] = []
  #piece: number | null = null

  constructor() {
    const limits = { checksumCacheBytes: 1, frameCacheBytes: 1, openFileCountMax: 2 }
    const { io } = this
    this.store = new SegmentStore(
      io,
      checksum,
      missingCodecs(),
      POOL_ID,
      '/p/segments',
      limits,
      (segment, slot) => this.damage.push(`${segment}:${slot}`),
    )
  }

  async build(): Promise<this> {
    const builder = new PoolBuilder(checksum)
    for (const id of SEGMENT_IDS) {
      builder.addSegment(id, SegmentKind.bulk)
      const values = Array.from({ length: BLOCKS_PER_SEGMENT }, (_, i) => valueAt(id, i))
      const first = builder.addBlocks(id, values.map(blockOf))
      this.firstSlots.set(id, first)
      const { table } = builder.segment(id)
      for (const [i, value] of values.entries()) {
        const slot = first + i
        this.index.set(table[2 * slot], table[2 * slot + 1], id, slot)
        const known = this.addresses.get(value) ?? new Set()
        this.addresses.set(value, known.add(`${id}:${slot}`))
      }
      builder.seal(id)
    }
    // Others push most of them out: of the fingerprints one in eight stays.
    for (let i = 1; this.index.sampleBits < 3; i += 1) {
      this.index.set(Math.imul(i, 0x9e3779b1) >>> 0, i, GONE, 1)
    }
    await this.io.runUntil(builder.save(this.io, '/p'))
    await this.io.runUntil(this.store.load())
    return this
  }

  /** One that knows no tables yet; they run one at a time, in the same memory. */
  newDeduper(): Deduper {
    this.#piece ??= this.io.arena.allocate(MATCH_BLOCK_COUNT_MAX * BLOCK_SIZE_BYTES)
    return new Deduper(this.store, this.index, this.#piece)
  }

  /** What is found for blocks of these numbers; `lies`: with the fingerprints of others. */
  async match(
    deduper: Deduper,
    values: readonly number[],
    admits: Admission,
    lies: readonly number[] = values,
  ): Promise<string[]> {
    const { arena } = this.io
    const lengthBytes = values.length * BLOCK_SIZE_BYTES
    const at = arena.allocate(lengthBytes)
    const hashes = new Uint32Array(2 * values.length)
    for (const [i, value] of lies.entries())
      checksum.hashBlocks(blockOf(value), 0, 1, hashes, 2 * i)
    values.forEach((value, i) => arena.memory.set(blockOf(value), at + i * BLOCK_SIZE_BYTES))
    const found = new Uint32Array(2 * values.length).fill(0xdead)
    await this.io.runUntil(deduper.match(at, values.length, hashes, admits, found))
    arena.free(at, lengthBytes)
    return values.map((_, i) => `${found[2 * i]}:${found[2 * i + 1]}`)
  }

  /** True when the sampled index itself leads to the segment through this block. */
  leadsTo(value: number): number {
    const hash = new Uint32Array(2)
    checksum.hashBlocks(blockOf(value), 0, 1, hash, 0)
    const isThere = this.index.isSampled(hash[0]) && this.index.find(hash[0], hash[1])
    return isThere ? this.index.segment : 0
  }
}

const NOTHING = '0:0'
const all: Admission = () => true

const subject = await new Subject().build()

/** A stretch of a segment, blocks from here and there, and such that are nowhere. */
const stretch = fc
  .tuple(fc.constantFrom(...SEGMENT_IDS), fc.nat(BLOCKS_PER_SEGMENT - 1), fc.nat(60))
  .map(([segment, from, count]) =>
    Array.from({ length: count }, (_, i) => valueAt(segment, (from + i) % BLOCKS_PER_SEGMENT)),
  )
const stranger = fc.nat(1000).map((n) => [900_000 + n])
const batch = fc
  .array(fc.oneof(stretch, stretch, stranger), { minLength: 1, maxLength: 6 })
  .map((parts) => parts.flat().slice(0, MATCH_BLOCK_COUNT_MAX))
  .filter((values) => values.length > 0)
/** Of which segments what is admitted. */
const admission = fc.record({ modulus: fc.integer({ min: 2, max: 5 }), segment: fc.nat(4) })

t.test('what is found is equal and admitted; nothing else is ever said', async () => {
  const deduper = subject.newDeduper()
  await fc.assert(
    fc.asyncProperty(batch, admission, fc.nat(7), async (values, { modulus, segment }, lie) => {
      const admits: Admission = (of, slot) => of !== segment && slot % modulus !== 0
      // Fingerprints of a neighbour: candidates whose bytes are not the same (I7).
      const lies = values.map((value, i) => (lie > 0 && i % 8 === lie ? values[0] : value))
      const found = await subject.match(deduper, values, admits, lies)
      for (const [i, address] of found.entries()) {
        if (address === NOTHING) continue
        const isEqual = subject.addresses.get(values[i])?.has(address) === true
        const [of, slot] = address.split(':').map(Number)
        if (!isEqual || !admits(of, slot)) throw new Error(`${values[i]} is not at ${address}`)
      }
    }),
    { numRuns: 80, seed: 1 },
  )
})

t.test('one sampled block leads to all others that were stored with it', async (t) => {
  t.ok(subject.index.sampleBits >= 3, `one in 2^${subject.index.sampleBits}`)
  let throughSample = 0
  await fc.assert(
    fc.asyncProperty(batch, async (values) => {
      const found = await subject.match(subject.newDeduper(), values, all)
      const reached = new Set(values.map((value) => subject.leadsTo(value)))
      for (const [i, value] of values.entries()) {
        const known = [...(subject.addresses.get(value) ?? [])]
        const isReached = known.some((address) => reached.has(Number(address.split(':')[0])))
        if (isReached && found[i] === NOTHING) throw new Error(`${value} was not found`)
        if (isReached && subject.leadsTo(value) === 0) throughSample += 1
      }
    }),
    { numRuns: 60, seed: 2 },
  )
  t.ok(throughSample > 1000, `${throughSample} blocks that the index itself had not`)
})

t.test('a block that cannot be read is not found, and its neighbours are', async (t) => {
  const { io, store } = subject
  const [segment] = SEGMENT_IDS
  const first = subject.firstSlots.get(segment) ?? 0
  const values = Array.from({ length: 64 }, (_, i) => valueAt(segment, i))
  const deduper = subject.newDeduper()
  const only: Admission = (of) => of === segment
  const before = await subject.match(deduper, values, only)
  t.same(
    before,
    values.map((_, i) => `${segment}:${first + i}`),
  )
  const broken = [5, 6, 40]
  for (const i of broken) io.disk.flipBit(store.pathOf(segment), (first + i) * BLOCK_SIZE_BYTES, 0)
  const after = await subject.match(deduper, values, only)
  t.same(
    after,
    before.map((address, i) => (broken.includes(i) ? NOTHING : address)),
  )
  t.same(subject.damage, [], 'looking is no read that anybody waits for')
  for (const i of broken) io.disk.flipBit(store.pathOf(segment), (first + i) * BLOCK_SIZE_BYTES, 0)
})

t.test('an entry that leads to a segment that is gone leads nowhere', async (t) => {
  const values = Array.from({ length: 64 }, (_, i) => valueAt(3, i))
  const sampled = values.filter((value) => subject.leadsTo(value) !== 0)
  t.ok(sampled.length > 0)
  const before = await subject.match(subject.newDeduper(), values, all)
  const hash = new Uint32Array(2)
  const restore: (() => void)[] = []
  for (const value of sampled) {
    checksum.hashBlocks(blockOf(value), 0, 1, hash, 0)
    const [low, high] = hash
    subject.index.find(low, high)
    const { segment, slot } = subject.index
    restore.push(() => subject.index.set(low, high, segment, slot))
    subject.index.set(low, high, GONE, slot)
  }
  const found = await subject.match(subject.newDeduper(), values, all)
  t.same(new Set(found), new Set([NOTHING]))
  for (const one of restore) one()
  t.same(await subject.match(subject.newDeduper(), values, all), before)
})

t.test('a segment whose table cannot be read is as if it held nothing', async (t) => {
  const { io } = subject
  const values = Array.from({ length: 64 }, (_, i) => valueAt(2, 4 * i + 1))
  const everywhere = { offsetBytes: 0, lengthBytes: 2 ** 40 }
  const fault = { path: '0000000002', skip: 0, times: 999, errno: Errno.EIO }
  io.addFault({ kind: 'read-error', ...fault, ...everywhere })
  t.same(new Set(await subject.match(subject.newDeduper(), values, all)), new Set([NOTHING]))
  io.disk.clearFaults()
  const found = await subject.match(subject.newDeduper(), values, all)
  t.notOk(found.includes(NOTHING), 'it was only not read')
})
