/** Segments that are not what they should be, read through the store: errors, and never data. */
import t from 'tap'
import { Codec, missingCodecs } from '../../../src/base/codec.ts'
import type { Codecs } from '../../../src/base/codec.ts'
import { Errno, OperatingError } from '../../../src/base/errors.ts'
import { BLOCK_SIZE_BYTES, MIB } from '../../../src/base/units.ts'
import { PLACE_ALIAS, PLACE_DEAD, PLACE_FRAME } from '../../../src/format/directory.ts'
import { EntryKind } from '../../../src/format/record.ts'
import { DATA_SLOT_END, FOOTER_SLOT, SegmentKind, TABLE_SLOT } from '../../../src/format/segment.ts'
import { openChecksum } from '../../../src/io/open-io.ts'
import { SimIo } from '../../../src/io/sim-io.ts'
import { DedupIndex } from '../../../src/segment/dedup-index.ts'
import { rebuildFingerprints } from '../../../src/segment/fingerprint-file.ts'
import { SegmentScanner } from '../../../src/segment/scan.ts'
import { SegmentStore } from '../../../src/segment/segment-store.ts'
import { deflateCodecs } from '../../support/deflate-codecs.ts'
import { POOL_ID, PoolBuilder, blockOf } from '../../support/pool-builder.ts'
import {
  DIRECTORY_SLOT,
  SettledSegment,
  aliasWords,
  buildSettledSample,
  frameWords,
} from '../../support/settled-builder.ts'
import type { KnownBlocks } from '../../support/settled-builder.ts'

t.setTimeout(300_000)

const checksum = await openChecksum()
const arenaMemory = Buffer.allocUnsafeSlow(16 * MIB)
const RAW = 1
const SETTLED = 2
const COUNT = 40
const EVERYWHERE = { offsetBytes: 0, lengthBytes: 2 ** 40 }

class Subject {
  readonly io: SimIo = new SimIo({ seed: 1, arenaMemory })
  readonly store: SegmentStore
  readonly damage: string[] = []

  private constructor(codecs: Codecs) {
    const limits = { checksumCacheBytes: 1, frameCacheBytes: 1, openFileCountMax: 4 }
    const note = (segment: number, slot: number, fact: string): void => {
      this.damage.push(`${segment}:${slot} ${fact}`)
    }
    const { io } = this
    this.store = new SegmentStore(io, checksum, codecs, POOL_ID, '/p/segments', limits, note)
  }

  static async of(builder: PoolBuilder, codecs: Codecs = deflateCodecs): Promise<Subject> {
    const subject = new Subject(codecs)
    await subject.run(builder.save(subject.io, '/p'))
    await subject.run(subject.store.load())
    return subject
  }

  async run<T>(outcome: Promise<T>): Promise<T> {
    return (await this.io.runUntil(outcome)) as T
  }

  /** The bytes, or a negative errno. */
  async read(segment: number, slot: number, count = 1): Promise<Buffer | number> {
    const { arena } = this.io
    const lengthBytes = count * BLOCK_SIZE_BYTES
    const at = arena.allocate(lengthBytes)
    const result = await this.run(
      new Promise<number>((resolve) => {
        const ioComplete = (_tag: number, value: number): void => resolve(value)
        this.store.read(segment, slot, count, at, { ioComplete }, 0)
      }),
    )
    const bytes = Buffer.from(arena.memory.subarray(at, at + lengthBytes))
    arena.free(at, lengthBytes)
    return result < 0 ? result : bytes
  }

  /** Results of reads of one run each, all asked for at once, and what they brought. */
  async readAll(
    reads: readonly [segment: number, slot: number, count: number][],
  ): Promise<{ result: number; bytes: Buffer }[]> {
    const { arena } = this.io
    const places = reads.map(([, , count]) => arena.allocate(count * BLOCK_SIZE_BYTES))
    const results = await this.run(
      Promise.all(
        reads.map(
          ([segment, slot, count], index) =>
            new Promise<number>((resolve) => {
              const ioComplete = (_tag: number, value: number): void => resolve(value)
              this.store.read(segment, slot, count, places[index], { ioComplete }, 0)
            }),
        ),
      ),
    )
    return reads.map(([, , count], index) => {
      const end = places[index] + count * BLOCK_SIZE_BYTES
      const bytes = Buffer.from(arena.memory.subarray(places[index], end))
      arena.free(places[index], count * BLOCK_SIZE_BYTES)
      return { result: results[index], bytes }
    })
  }

  failReads(path: string, range = EVERYWHERE): void {
    this.io.addFault({ kind: 'read-error', path, skip: 0, times: 1, errno: Errno.EIO, ...range })
  }
}

interface Built {
  builder: PoolBuilder
  /** Of the first block of each. */
  slot: number
  settled: SettledSegment
}

/** A raw segment of blocks 0 to 39, and a settled one with the even ones and others. */
function build(change: (built: Built) => void = () => undefined): Built {
  const builder = new PoolBuilder(checksum)
  const known: KnownBlocks = new Map()
  builder.addSegment(RAW, SegmentKind.bulk)
  const values = Array.from({ length: COUNT }, (_, i) => blockOf(1 + i))
  const slot = builder.addBlocks(RAW, values)
  values.forEach((block, i) => known.set(Buffer.from(block).toString('latin1'), [RAW, slot + i]))
  builder.seal(RAW)
  builder.addSegment(SETTLED, SegmentKind.bulk)
  const others = values.map((block, i) => (i % 2 === 0 ? block : blockOf(1000 + i)))
  builder.addBlocks(SETTLED, others)
  const built = { builder, slot, settled: new SettledSegment(builder, SETTLED, Codec.lz4, known) }
  change(built)
  return built
}

function expected(segment: number): Buffer {
  const isOwn = (i: number): boolean => segment === SETTLED && i % 2 === 1
  return Buffer.concat(
    Array.from({ length: COUNT }, (_, i) => blockOf(isOwn(i) ? 1000 + i : 1 + i)),
  )
}

t.test('what is sound is read', async (t) => {
  const { builder, slot } = build()
  const subject = await Subject.of(builder)
  for (const segment of [RAW, SETTLED]) {
    t.same(await subject.read(segment, slot, COUNT), expected(segment))
  }
  t.same(subject.damage, [])
  await subject.run(subject.store.close())
})

t.test('what cannot be read once is an error once', async (t) => {
  const { builder, slot } = build()
  const places: [string, number][] = [
    ['the footer', FOOTER_SLOT],
    ['the table', TABLE_SLOT],
    ['the directory', DIRECTORY_SLOT],
    ['the blocks', slot],
  ]
  for (const segment of [RAW, SETTLED]) {
    for (const [what, at] of places) {
      if (at === (segment === RAW ? DIRECTORY_SLOT : TABLE_SLOT)) continue
      const subject = await Subject.of(builder)
      const range = { offsetBytes: at * BLOCK_SIZE_BYTES, lengthBytes: BLOCK_SIZE_BYTES }
      subject.failReads(`000${segment}.seg`, range)
      t.equal(await subject.read(segment, slot, 4), -Errno.EIO, `${what} of ${segment}`)
      t.ok(subject.damage.length > 0, 'it is told')
      if (segment === RAW && at === slot) t.match(subject.damage[0], /failed with errno 5/)
      const again = await subject.read(segment, slot, COUNT)
      t.same(again, expected(segment), `${what} of ${segment}, again`)
      await subject.run(subject.store.close())
    }
  }
})

t.test(
  'a bit that has turned over is an error at the blocks it concerns, never data',
  async (t) => {
    for (const segment of [RAW, SETTLED]) {
      const { builder, slot } = build()
      const subject = await Subject.of(builder)
      const { io, store } = subject
      const path = store.pathOf(segment)
      const places = segment === RAW ? [slot, TABLE_SLOT] : [slot, DIRECTORY_SLOT]
      for (const at of [...places, FOOTER_SLOT]) {
        const fresh = await Subject.of(build().builder)
        fresh.io.disk.flipBit(path, at * BLOCK_SIZE_BYTES + 20, 3)
        t.equal(
          await fresh.read(segment, slot, 2),
          -Errno.EIO,
          `${segment}: slot ${at} of the file`,
        )
        t.ok(fresh.damage.length > 0)
        if (at === slot) {
          t.same(await fresh.read(RAW, slot + 20, 1), Buffer.from(blockOf(21)))
        } else {
          await t.rejects(fresh.run(fresh.store.loadTable(segment)), { code: 'segment-corrupt' })
        }
        await fresh.run(fresh.store.close())
      }
      io.disk.heal()
      await subject.run(store.close())
    }
  },
)

t.test('a file that is cut short, or gone, is an error', async (t) => {
  const { builder, slot } = build()
  const subject = await Subject.of(builder)
  const { io, store } = subject
  for (const segment of [RAW, SETTLED]) {
    const file = await subject.run(io.open(store.pathOf(segment), 'write'))
    // Table and footer are read while it is whole, and one block or frame.
    t.type(await subject.read(segment, slot + 1), Buffer)
    await subject.run(io.truncate(file, BLOCK_SIZE_BYTES))
    t.equal(await subject.read(segment, slot + 21), -Errno.EIO)
    t.match(subject.damage.at(-1), segment === RAW ? /is cut short/ : /cannot be read or decoded/)
    await subject.run(io.close(file))
  }
  t.equal(await subject.read(99, 1), -Errno.EIO, 'there is none')
  t.match(subject.damage.at(-1), /99:1 the segment is missing/)
  await t.rejects(subject.run(store.readPage(99, 1)), { code: 'io', details: { segment: 99 } })
  t.throws(() => store.get(99), { code: 'segment-corrupt' })
  await subject.run(store.close())
})

t.test('places that cannot be are errors, whatever their checksums say', async (t) => {
  const cases: [string, (built: Built) => void][] = [
    ['dead', ({ settled }) => settled.setPlace(settled.slotOfKind(PLACE_FRAME), [0, 0])],
    ['upwards', ({ settled, slot }) => settled.setPlace(slot, aliasWords(SETTLED, slot + 1))],
    ['to itself', ({ settled, slot }) => settled.setPlace(slot, aliasWords(SETTLED, slot))],
    ['nowhere', ({ settled, slot }) => settled.setPlace(slot, aliasWords(0, 5))],
    ['header', ({ settled, slot }) => settled.setPlace(slot, frameWords(10, 100, 1, 0, 1))],
    ['codec', ({ settled, slot }) => settled.setPlace(slot, frameWords(4096, 100, 1, 0, 3))],
    [
      'past the data',
      ({ settled, slot }) => {
        const offset = DATA_SLOT_END * BLOCK_SIZE_BYTES - 50
        settled.setPlace(slot, frameWords(offset, 100, 1, 0, 1))
      },
    ],
    ['raw', ({ settled, slot }) => settled.setPlace(slot, frameWords(5000, 4096, 1, 0, 0))],
    ['garbage', ({ settled, slot }) => settled.setPlace(slot, frameWords(5000, 77, 2, 1, 1))],
  ]
  for (const [name, change] of cases) {
    const { builder, slot } = build((built) => {
      change(built)
      built.settled.seal()
    })
    const subject = await Subject.of(builder)
    t.equal(await subject.read(SETTLED, slot, COUNT), -Errno.EIO, name)
    t.equal(await subject.read(SETTLED, slot, 2), -Errno.EIO, name)
    t.ok(subject.damage.length > 0)
    t.same(await subject.read(SETTLED, slot + 2, 10), expected(SETTLED).subarray(8192, 49152))
    await subject.run(subject.store.close())
  }
})

t.test('a frame’s blocks in a strange order are what their checksums say, or errors', async (t) => {
  // Sound checksums, but the second block of a frame is said to be its first.
  const { builder, slot } = build(({ settled }) => {
    const first = settled.slotOfKind(PLACE_FRAME)
    settled.setPlace(first + 2, settled.place(first))
    settled.seal()
  })
  const subject = await Subject.of(builder)
  t.equal(await subject.read(SETTLED, slot, COUNT), -Errno.EIO)
  t.match(subject.damage[0], /does not match its checksum/)
  await subject.run(subject.store.close())
})

t.test('addresses are resolved to their end; an alias that points upwards ends it', async (t) => {
  const { builder, slot } = build()
  const sound = await Subject.of(builder)
  const { store } = sound
  t.same(await sound.run(store.resolve(SETTLED, slot)), { segment: RAW, slot })
  t.same(await sound.run(store.resolve(SETTLED, slot + 1)), { segment: SETTLED, slot: slot + 1 })
  t.equal((await sound.run(store.loadTable(SETTLED))).kindOf(slot), PLACE_ALIAS)
  t.equal((await sound.run(store.loadTable(RAW))).kindOf(slot), PLACE_FRAME)
  t.equal((await sound.run(store.loadTable(RAW))).kindOf(9999), PLACE_DEAD)
  await sound.run(store.close())
  const wrong = build(({ settled }) => {
    settled.setPlace(slot, aliasWords(SETTLED, slot + 2))
    settled.seal()
  })
  const subject = await Subject.of(wrong.builder)
  const upwards = subject.run(subject.store.resolve(SETTLED, slot))
  await t.rejects(upwards, { code: 'segment-corrupt', details: { segment: SETTLED, slot } })
  await subject.run(subject.store.close())
})

t.test(
  'a segment says what it is by its header, else by its footer, else not at all',
  async (t) => {
    const { builder } = build()
    const subject = await Subject.of(builder)
    const { io, store } = subject
    subject.failReads('0001.seg')
    await t.rejects(subject.run(store.readKind(store.get(RAW))), { code: 'io' })
    io.disk.flipBit(store.pathOf(RAW), 9, 1)
    t.equal(await subject.run(store.readKind(store.get(RAW))), SegmentKind.bulk)
    t.notOk(store.get(RAW).isHeaderSound)
    io.disk.flipBit(store.pathOf(SETTLED), 9, 1)
    io.disk.flipBit(store.pathOf(SETTLED), FOOTER_SLOT * BLOCK_SIZE_BYTES + 9, 1)
    const nothing = subject.run(store.readKind(store.get(SETTLED)))
    await t.rejects(nothing, { code: 'segment-corrupt' })
    await subject.run(store.close())
  },
)

t.test(
  'what this host has no codec for, or cannot decode, is an error to the reader',
  async (t) => {
    const { builder, slot } = build()
    const lacking = await Subject.of(builder, missingCodecs())
    t.equal(await lacking.read(SETTLED, slot, 1), -Errno.EIO, 'its directory cannot be decoded')
    t.same(await lacking.read(RAW, slot, COUNT), expected(RAW), 'what is raw needs none')
    await lacking.run(lacking.store.close())
    const wrong = await Subject.of(builder, { ...deflateCodecs, decode: () => false })
    t.equal(await wrong.read(SETTLED, slot, 1), -Errno.EIO)
    t.match(wrong.damage[0], /damaged checksum table/)
    await wrong.run(wrong.store.close())
  },
)

t.test('of many reads that arrive at once each is judged by its own blocks', async (t) => {
  const { builder, slot } = build()
  const subject = await Subject.of(builder)
  const bad = 17
  subject.io.disk.flipBit(subject.store.pathOf(RAW), (slot + bad) * BLOCK_SIZE_BYTES + 99, 3)
  // The tables are in memory then, and all reads of the next lot complete in few turns.
  await subject.read(RAW, slot)
  await subject.read(SETTLED, slot + 1)
  const reads: [number, number, number][] = []
  for (let round = 0; round < 12; round += 1) {
    for (let i = 0; i < COUNT; i += 1) {
      const count = Math.min(1 + ((round + i) % 8), COUNT - i)
      reads.push([(round + i) % 3 === 0 ? SETTLED : RAW, slot + i, count])
    }
  }
  const meetsBad = (segment: number, first: number, count: number): boolean => {
    for (let i = first - slot; i < first - slot + count; i += 1) {
      // The even ones of the settled segment are aliases of the raw one's.
      if (i === bad && segment === RAW) return true
    }
    return false
  }
  const done = await subject.readAll(reads)
  let refusedCount = 0
  for (const [index, { result, bytes }] of done.entries()) {
    const [segment, first, count] = reads[index]
    const isBad = meetsBad(segment, first, count)
    if (isBad) refusedCount += 1
    const from = (first - slot) * BLOCK_SIZE_BYTES
    const wanted = expected(segment).subarray(from, from + count * BLOCK_SIZE_BYTES)
    const isRight = isBad ? result === -Errno.EIO : result === 0 && bytes.equals(wanted)
    if (!isRight) t.fail(`read of ${count} from ${segment}:${first}: ${result}`)
  }
  t.ok(refusedCount > 10, `${refusedCount} refused`)
  const facts = new Set(subject.damage)
  t.strictSame([...facts], [`${RAW}:${slot + bad} the block does not match its checksum`])
  await subject.run(subject.store.close())
})

t.test(
  'fingerprints are made anew from what can be read, and from nothing that has gone',
  async (t) => {
    const { builder, slot } = build()
    builder.addSegment(3, SegmentKind.bulk)
    builder.addBlocks(3, [blockOf(3000), blockOf(3001)])
    builder.seal(3)
    const knows = (index: DedupIndex, value: number): number => {
      const hash = new Uint32Array(2)
      checksum.hashBlocks(blockOf(value), 0, 1, hash, 0)
      return index.find(hash[0], hash[1]) ? index.segment : 0
    }
    const known = async (
      spoil: (subject: Subject) => void,
      pace: (subject: Subject) => Promise<void> = () => Promise.resolve(),
    ): Promise<number[]> => {
      const subject = await Subject.of(builder)
      const index = new DedupIndex(MIB)
      spoil(subject)
      await subject.run(rebuildFingerprints(subject.store, index, () => pace(subject)))
      await subject.run(subject.store.close())
      return [1, 1001, 3000].map((value) => knows(index, value))
    }
    t.same(await known(() => undefined), [RAW, SETTLED, 3])
    const flip = (slots: number, segment: number) => (subject: Subject) => {
      subject.io.disk.flipBit(subject.store.pathOf(segment), slots * BLOCK_SIZE_BYTES + 9, 1)
    }
    t.same(await known(flip(TABLE_SLOT, RAW)), [0, SETTLED, 3], 'a damaged table')
    t.same(await known(flip(FOOTER_SLOT, SETTLED)), [RAW, 0, 3], 'a damaged footer')
    t.same(await known(flip(slot, RAW)), [RAW, SETTLED, 3], 'blocks are not looked at')
    t.same(await known((subject) => subject.failReads('0003.seg')), [RAW, SETTLED, 0])
    const remove = async ({ store }: Subject): Promise<void> => {
      if (store.has(SETTLED)) await store.delete(SETTLED)
    }
    t.same(await known(() => undefined, remove), [RAW, 0, 3], 'it was removed meanwhile')
    const giveUp = (): Promise<void> => Promise.reject(new OperatingError('canceled', 'enough'))
    await t.rejects(
      known(() => undefined, giveUp),
      { code: 'canceled' },
    )
  },
)

t.test('closing waits for those who still read', async (t) => {
  const { builder, slot } = build()
  const subject = await Subject.of(builder)
  const { store } = subject
  const { arena } = subject.io
  const at = arena.allocate(BLOCK_SIZE_BYTES)
  let result: number | null = null
  const ioComplete = (_tag: number, value: number): void => void (result = value)
  store.read(SETTLED, slot + 1, 1, at, { ioComplete }, 0)
  await subject.run(store.close())
  t.equal(result, 0)
  t.ok(arena.memory.subarray(at, at + BLOCK_SIZE_BYTES).equals(blockOf(1001)))
  arena.free(at, BLOCK_SIZE_BYTES)
  t.equal(arena.usedBytes, 0)
})

t.test('a scan ends at the first record that does not belong where it lies', async (t) => {
  const changes: [string, number, (builder: PoolBuilder) => void][] = [
    ['nothing', 4, () => undefined],
    ['damaged header', 2, (builder) => builder.flip(1, 5)],
    ['damaged block', 2, (builder) => builder.flip(1, 6)],
    [
      'another chain, first word',
      3,
      (builder) => {
        builder.chain[0] ^= 1
      },
    ],
    [
      'another chain, second word',
      3,
      (builder) => {
        builder.chain[1] ^= 1
      },
    ],
    ['a number left out', 3, (builder) => void (builder.sequence += 1)],
    ['another place', 3, (builder) => void (builder.segment(1).usedSlotCount += 1)],
  ]
  for (const [name, recordCount, change] of changes) {
    const builder = new PoolBuilder(checksum)
    builder.addSegment(1, SegmentKind.log)
    const add = (value: number): void => {
      const blocks = [blockOf(value)]
      builder.addRecord(1, [{ kind: EntryKind.data, disk: 1, block: value, blocks }])
    }
    for (const value of [1, 2, 3]) add(value)
    change(builder)
    add(4)
    if (name === 'another place') {
      const { pages } = builder.segment(1)
      // The record that says it lies at slot 8, at slot 7.
      for (const slot of [7, 8]) pages.set(slot, pages.get(slot + 1) ?? new Uint8Array())
    }
    const subject = await Subject.of(builder)
    const scanner = new SegmentScanner(subject.io, subject.store)
    const chain = { sequence: 1, previousChecksum: new Uint32Array(2) }
    const state = subject.store.get(1)
    const end = await subject.run(scanner.scan(state, 1, chain, () => undefined))
    t.same([end.recordCount, end.slot], [recordCount, 1 + 2 * recordCount], name)
    subject.failReads('0001.seg')
    const failing = subject.run(scanner.scan(state, 1, chain, () => undefined))
    await t.rejects(failing, { code: 'io', errno: Errno.EIO })
    t.ok((await subject.run(scanner.highestDurable(state, 1))) >= 2)
    scanner.close()
    await subject.run(subject.store.close())
  }
})

t.test('a scanner needs memory, and says so when there is none', async (t) => {
  const { builder } = build()
  const subject = await Subject.of(builder)
  const { arena } = subject.io
  const taken: number[] = []
  for (let at = arena.allocate(MIB); at >= 0; at = arena.allocate(MIB)) taken.push(at)
  t.throws(() => new SegmentScanner(subject.io, subject.store), { code: 'no-space' })
  for (const at of taken) arena.free(at, MIB)
  new SegmentScanner(subject.io, subject.store).close()
  await subject.run(subject.store.close())
})

t.test('the sample of the checks is read by the store as well', async (t) => {
  const { builder, importSlot } = buildSettledSample(checksum)
  const subject = await Subject.of(builder)
  // More than the table of a read holds at first.
  const bytes = (await subject.read(SETTLED, importSlot, 256)) as Buffer
  t.ok(bytes.subarray(0, BLOCK_SIZE_BYTES).equals(blockOf(1000)))
  t.ok(bytes.subarray(3 * BLOCK_SIZE_BYTES, 4 * BLOCK_SIZE_BYTES).every((byte) => byte === 0))
  t.same(subject.damage, [])
  await subject.run(subject.store.close())
})
