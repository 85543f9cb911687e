/** The log writer on a disk that fails, and what it has written against what a scan finds. */
import fc from 'fast-check'
import t from 'tap'
import { missingCodecs } from '../../../src/base/codec.ts'
import { Errno, OperatingError } from '../../../src/base/errors.ts'
import { MIB } from '../../../src/base/units.ts'
import { EntryKind } from '../../../src/format/record.ts'
import { DATA_SLOT_END } from '../../../src/format/segment.ts'
import type { SegmentKind } from '../../../src/format/segment.ts'
import { openChecksum } from '../../../src/io/open-io.ts'
import { SimIo } from '../../../src/io/sim-io.ts'
import { Log } from '../../../src/segment/log.ts'
import { SegmentScanner } from '../../../src/segment/scan.ts'
import type { SegmentState } from '../../../src/segment/segment-state.ts'
import { SegmentStore } from '../../../src/segment/segment-store.ts'

t.setTimeout(300_000)

const checksum = await openChecksum()
const arenaMemory = Buffer.allocUnsafeSlow(8 * MIB)
const FOLDER = '/segments'
/** More than any test adds at once. */
const BLOCKS_BYTES = MIB

/** A store whose new segments can be refused. */
class World {
  readonly io: SimIo = new SimIo({ seed: 1, arenaMemory })
  readonly store: SegmentStore
  readonly log: Log
  readonly blocks: number
  /** Thrown for every new segment while it is set. */
  refusal: Error | null = null

  constructor() {
    const limits = { checksumCacheBytes: 1, frameCacheBytes: 1, openFileCountMax: 4 }
    const id = new Uint8Array(16)
    const codecs = missingCodecs()
    this.store = new SegmentStore(this.io, checksum, codecs, id, FOLDER, limits, () => undefined)
    const create = this.store.create.bind(this.store)
    this.store.create = (kind: SegmentKind, importId?: number): Promise<SegmentState> =>
      this.refusal === null ? create(kind, importId) : Promise.reject(this.refusal)
    this.log = new Log(this.io, this.store)
    this.blocks = this.io.arena.allocate(BLOCKS_BYTES)
    this.io.arena.memory.fill(0x5a, this.blocks, this.blocks + BLOCKS_BYTES)
  }

  static async begin(): Promise<World> {
    const world = new World()
    await world.run(world.io.createDirectory(FOLDER))
    await world.run(world.log.begin(1, new Uint32Array(2)))
    await world.run(world.log.whenSpare())
    return world
  }

  async run<T>(outcome: Promise<T>): Promise<T> {
    return (await this.io.runUntil(outcome)) as T
  }

  /** One record of as many blocks; the result. */
  write(blockCount: number): number {
    this.log.beginRecord()
    const taken = this.log.addBlocks(EntryKind.data, 1, 0, blockCount, this.blocks)
    if (taken !== blockCount) throw new Error(`${taken} taken of ${blockCount}`)
    return this.log.write()
  }

  async end(): Promise<void> {
    await this.run(this.log.close())
    await this.run(this.store.close())
    this.io.arena.free(this.blocks, BLOCKS_BYTES)
  }
}

interface Added {
  kind: number
  disk: number
  block: number
  count: number
}

const addition = fc.record({
  kind: fc.constantFrom(EntryKind.data, EntryKind.trim, EntryKind.zero, EntryKind.data),
  disk: fc.integer({ min: 1, max: 3 }),
  block: fc.nat(1000),
  count: fc.integer({ min: 1, max: 250 }),
  /** How often, each behind the last: small ones fill a header before the blocks do. */
  times: fc.oneof(fc.constant(1), fc.integer({ min: 1, max: 200 })),
})

/** Adds one, through as many records as it takes; notes what went in. */
function addAll(world: World, one: Added, written: Added[]): void {
  const { log } = world
  const isData = one.kind === EntryKind.data
  for (let done = 0; done < one.count;) {
    const left = one.count - done
    const block = one.block + done
    const taken = isData
      ? log.addBlocks(one.kind, one.disk, block, left, world.blocks)
      : log.addRange(one.kind, one.disk, block, left)
        ? left
        : 0
    if (taken > 0) written.push({ ...one, block, count: taken })
    done += taken
    if (done === one.count) return
    if (log.write() !== 0) throw new Error('a record was not written')
    log.beginRecord()
  }
}

/** Each block or range as one line, however it was cut into entries. */
function linesOf(entries: readonly Added[]): string[] {
  return entries.flatMap(({ kind, disk, block, count }) =>
    kind === EntryKind.data
      ? Array.from({ length: count }, (_, i) => `data ${disk} ${block + i}`)
      : [`${kind} ${disk} ${block}+${count}`],
  )
}

t.test('whatever is added, a scan finds it in order', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(addition, { minLength: 1, maxLength: 12 }), async (additions) => {
      const world = await World.begin()
      const { log, store } = world
      const written: Added[] = []
      log.beginRecord()
      for (const { times, ...one } of additions) {
        const count = times > 1 && one.kind === EntryKind.data ? 1 : one.count
        for (let i = 0; i < times; i += 1) addAll(world, { ...one, count, block: 2 * i }, written)
      }
      if (!log.isRecordEmpty && log.write() !== 0) throw new Error('the last was not written')
      const found: Added[] = []
      const scanner = new SegmentScanner(world.io, store)
      const chain = { sequence: 1, previousChecksum: new Uint32Array(2) }
      const end = await world.run(
        scanner.scan(store.get(log.openSegmentId), 1, chain, ({ entries }) => {
          for (let i = 0; i < entries.count; i += 1) {
            const [kind, disk] = [entries.kinds[i], entries.diskIds[i]]
            found.push({ kind, disk, block: entries.blockIndexes[i], count: entries.counts[i] })
          }
        }),
      )
      scanner.close()
      await world.end()
      const isSame = linesOf(found).join('\n') === linesOf(written).join('\n')
      return isSame && end.chain?.sequence === log.nextSequence
    }),
    { numRuns: 25, seed: 1 },
  )
})

t.test('a log that has failed writes, rolls and syncs no more, and says why', async (t) => {
  const world = await World.begin()
  const { log, io } = world
  t.equal(world.write(3), 0)
  io.addFault({ kind: 'write-error', path: '.seg', skip: 0, times: 1, errno: Errno.EIO })
  t.equal(world.write(1), -Errno.EIO)
  t.equal(log.failure, -Errno.EIO)
  t.equal(world.write(1), -Errno.EIO, 'also when the disk would take it')
  log.beginRecord()
  t.equal(log.roll(), -Errno.EIO)
  await t.rejects(world.run(log.sealOpen()), { code: 'io' })
  await world.end()
})

t.test('after a sync that failed nothing is said to be durable', async (t) => {
  const world = await World.begin()
  const { log, io } = world
  t.equal(world.write(1), 0)
  io.addFault({ kind: 'sync-error', path: '.seg', skip: 0, times: 1, errno: Errno.EIO })
  t.equal(await world.run(log.syncs.settle()), -Errno.EIO)
  t.equal(log.failure, -Errno.EIO)
  t.equal(await world.run(log.syncs.settle()), -Errno.EIO)
  t.equal(log.syncs.durableSequence, 1)
  const later = new Promise<number>((resolve) => {
    log.syncs.wait(1, { durable: (_tag, result) => resolve(result) }, 0)
  })
  t.equal(await world.run(later), -Errno.EIO, 'also what was durable before')
  await world.end()
})

t.test('no space for a record is no failure: its slots are given to the next', async (t) => {
  const world = await World.begin()
  const { log, io } = world
  t.equal(world.write(2), 0)
  const { slot } = log.position()
  io.addFault({ kind: 'write-error', path: '.seg', skip: 0, times: 1, errno: Errno.ENOSPC })
  t.equal(world.write(5), -Errno.ENOSPC)
  t.equal(log.failure, 0)
  t.equal(log.position().slot, slot)
  t.equal(world.write(1), 0)
  t.equal(log.firstBlockSlot, slot + 1)
  await world.end()
})

t.test('a spare that cannot be created fails a roll only if it fails again', async (t) => {
  for (const [refusal, errno] of [
    [new OperatingError('no-space', 'full', { errno: Errno.ENOSPC }), Errno.ENOSPC],
    [new OperatingError('io', 'of no known errno'), Errno.EIO],
    [new Error('of another kind'), Errno.EIO],
  ] as const) {
    const world = await World.begin()
    const { log } = world
    t.equal(world.write(1), 0)
    log.beginRecord()
    world.refusal = refusal
    t.equal(log.roll(), 0, 'the first spare is there')
    await world.run(log.whenSpare())
    t.equal(log.spareSegmentId, 0)
    t.equal(world.write(1), 0)
    log.beginRecord()
    t.equal(log.roll(), -Errno.EAGAIN, 'that was long ago; it is tried again')
    await world.run(log.whenSpare())
    t.equal(log.roll(), -errno)
    t.equal(log.failure, errno === Errno.ENOSPC ? 0 : -errno)
    world.refusal = null
    if (errno === Errno.ENOSPC) {
      const before = log.openSegmentId
      await world.run(log.sealOpen())
      t.not(log.openSegmentId, before, 'with space it goes on')
      t.equal(world.write(1), 0)
    }
    await world.end()
  }
})

t.test('sealing waits for a spare, and rejects when there can be none', async (t) => {
  const world = await World.begin()
  const { log } = world
  await world.run(log.sealOpen())
  t.equal(log.position().slot, 1, 'nothing was written, nothing is sealed')
  t.equal(world.write(1), 0)
  world.refusal = new OperatingError('no-space', 'full', { errno: Errno.ENOSPC })
  log.beginRecord()
  await world.run(log.sealOpen())
  t.equal(world.write(1), 0)
  log.beginRecord()
  await t.rejects(world.run(log.sealOpen()), { code: 'no-space' })
  t.equal(log.failure, 0)
  await world.end()
})

t.test('a segment is filled to its last slot, and no further', async (t) => {
  const world = await World.begin()
  const { log } = world
  const first = log.openSegmentId
  while (log.slotsLeft > 101) t.equal(world.write(100), 0)
  log.beginRecord()
  const left = log.slotsLeft
  const taken = log.addBlocks(EntryKind.data, 1, 0, 200, world.blocks)
  t.equal(taken, left - 1, 'a header and blocks')
  t.equal(log.addBlocks(EntryKind.data, 1, 900, 1, world.blocks), 0)
  t.equal(log.write(), 0)
  t.equal(log.position().slot, DATA_SLOT_END)
  log.beginRecord()
  t.notOk(log.addRange(EntryKind.trim, 1, 0, 1), 'not even a header fits')
  t.ok(log.mustRoll(1))
  t.equal(log.roll(), 0)
  t.not(log.openSegmentId, first)
  const scanner = new SegmentScanner(world.io, world.store)
  const state = world.store.get(first)
  const end = await world.run(scanner.scan(state, DATA_SLOT_END, null, () => undefined))
  t.same([end.slot, end.recordCount], [DATA_SLOT_END, 0])
  scanner.close()
  await world.end()
})

t.test(
  'closing with writes that nobody synced, or while they are, lets go of the files',
  async (t) => {
    for (const isUnderWay of [false, true]) {
      const world = await World.begin()
      t.equal(world.write(1), 0)
      let result: number | null = null
      const waiter = { durable: (_tag: number, value: number): void => void (result = value) }
      if (isUnderWay) world.log.syncs.wait(world.log.nextSequence, waiter, 0)
      t.equal(world.write(1), 0)
      await world.end()
      t.equal(result, isUnderWay ? 0 : null)
      t.equal(world.io.arena.usedBytes, 0)
    }
  },
)
