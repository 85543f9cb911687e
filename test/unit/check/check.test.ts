/** What a sound pool is, what a crash leaves, and what hostile bytes cannot do. */
import fc from 'fast-check'
import t from 'tap'
import { OperatingError } from '../../../src/base/errors.ts'
import { BLOCK_SIZE_BYTES, TIB } from '../../../src/base/units.ts'
import { checkPool } from '../../../src/check/check.ts'
import { sealPage } from '../../../src/format/page.ts'
import { EntryKind } from '../../../src/format/record.ts'
import { FOOTER_SLOT, SegmentKind, TABLE_SLOT } from '../../../src/format/segment.ts'
import type { Superblock } from '../../../src/format/superblock.ts'
import { SimIo } from '../../../src/io/sim-io.ts'
import { POOL_PATH, arenaMemory, checkBuilt, checksum, codesOf } from '../../support/check-built.ts'
import { deflateCodecs } from '../../support/deflate-codecs.ts'
import type { BuiltRecord } from '../../support/pool-builder.ts'
import { PoolBuilder, blockOf } from '../../support/pool-builder.ts'
import type { SampleHooks } from '../../support/sample-pool.ts'
import { SAMPLE_DISKS, buildSample } from '../../support/sample-pool.ts'

t.test('a sound pool has no findings, and every live block is read', async (t) => {
  const sample = buildSample(checksum)
  const report = await checkBuilt(sample.builder)
  t.strictSame(report.errors, [])
  t.strictSame(report.leaks, [])
  t.strictSame(report.warnings, [])
  t.strictSame(
    report.disks.map((disk) => disk.name),
    SAMPLE_DISKS,
  )
  t.equal(report.segmentCount, 3)
  t.equal(report.replayedRecordCount, 3)
  t.equal(report.verifiedBytes, report.liveBlockCount * BLOCK_SIZE_BYTES)
  // 8 blocks and 4 nodes of "a", two catalogue parts, 512 + 3 imported, 3 in the log.
  t.equal(report.liveBlockCount, 8 + 4 + 2 + 515 + 3)
  t.strictSame(report.position, {
    segment: 3,
    slot: sample.builder.segment(3).usedSlotCount,
    sequence: sample.builder.sequence,
  })
})

t.test('what a crash leaves is no damage', async (t) => {
  const tails: [string, (builder: PoolBuilder) => void][] = [
    ['a torn header', (b) => b.flip(3, b.segment(3).usedSlotCount - 1)],
    ['a torn block', (b) => b.flip(3, tailOf(b).firstBlockSlot)],
    [
      // What a power cut left between footer and table (power cuts, seed 3).
      'a seal of which a page of the table is torn',
      (b) => {
        b.seal(3)
        b.flip(3, TABLE_SLOT)
      },
    ],
    [
      'records past the tear, none of them acknowledged',
      (b) => {
        const torn = tailOf(b)
        b.addRecord(3, [{ kind: EntryKind.trim, disk: 1 }], torn.sequence)
        b.flip(3, torn.slot)
      },
    ],
    ['a segment without a header', (b) => b.segments.set(4, { ...b.segment(3), pages: new Map() })],
    ['a segment with nothing but a header', (b) => b.addSegment(4, SegmentKind.log)],
    [
      // Power cuts, seed 1020.
      'an import cut short while a segment of it was sealed',
      (b) => {
        b.addSegment(4, SegmentKind.bulk)
        b.addBlocks(4, [blockOf(7)])
        b.seal(4)
        b.flip(4, TABLE_SLOT)
      },
    ],
    ['an import just begun', (b) => b.addSegment(4, SegmentKind.bulk)],
    ['a record for a volume that is gone', (b) => b.addRecord(3, [{ kind: 2, disk: 9 }])],
  ]
  for (const [name, tear] of tails) {
    const report = await checkBuilt(buildSample(checksum, { log: tear }).builder)
    t.strictSame([...report.errors, ...report.leaks], [], name)
  }
})

/** A record that nobody knew to be durable. */
function tailOf(builder: PoolBuilder): BuiltRecord {
  const blocks = [blockOf(99)]
  return builder.addRecord(3, [{ kind: EntryKind.data, disk: 3, block: 0, blocks }])
}

t.test('the log continues past an abandoned tail in a later segment', async (t) => {
  const { builder } = buildSample(checksum, {
    log: (b) => {
      // The older timeline: one torn record, one behind it, and a segment of its own.
      const { sequence } = b
      const chain = b.chain.slice()
      const torn = tailOf(b)
      b.addRecord(3, [{ kind: EntryKind.trim, disk: 4, count: 1024 }], sequence)
      b.addSegment(4, SegmentKind.log)
      b.addRecord(4, [{ kind: EntryKind.trim, disk: 4, count: 1024 }], sequence)
      b.flip(3, torn.firstBlockSlot)
      // A bulk segment in between is not the log's.
      b.addSegment(5, SegmentKind.bulk)
      b.addSegment(6, SegmentKind.log)
      b.sequence = sequence
      b.chain.set(chain)
      b.addRecord(6, [{ kind: EntryKind.data, disk: 3, block: 4, blocks: [blockOf(5)] }])
      b.addRecord(6, [{ kind: EntryKind.data, disk: 3, block: 5, blocks: [blockOf(6)] }])
    },
  })
  const report = await checkBuilt(builder)
  t.strictSame([...report.errors, ...report.leaks], [])
  t.equal(report.replayedRecordCount, 5)
  t.strictSame(report.position, { segment: 6, slot: 5, sequence: builder.sequence })
})

t.test('dead blocks may have been punched, live ones may not', async (t) => {
  const { builder, dataSlot } = buildSample(checksum, {
    log: (b) => b.addOperation(3, { op: 'remove', ids: [2, 10, 11] }),
  })
  for (let slot = dataSlot; slot < dataSlot + 8; slot += 1) builder.page(1, slot).fill(0)
  t.strictSame((await checkBuilt(builder)).errors, [])
  const { builder: other, dataSlot: liveSlot } = buildSample(checksum)
  other.page(1, liveSlot + 1).fill(0)
  t.strictSame(codesOf(await checkBuilt(other)), ['block-corrupt'])
})

t.test('a sealed segment that nothing refers to is reclaimable', async (t) => {
  const { builder } = buildSample(checksum, {
    log: (b) => b.addOperation(3, { op: 'remove', ids: [4] }),
  })
  const report = await checkBuilt(builder)
  t.strictSame([...report.errors, ...report.leaks], [])
  t.ok(report.reclaimableBytes >= 515 * BLOCK_SIZE_BYTES)
})

t.test('what a crash while opening left behind is a leak, not damage', async (t) => {
  for (const kind of [SegmentKind.log, SegmentKind.bulk, null]) {
    const superblock = (superblock: Superblock): void => {
      superblock.position.segment = 6
      superblock.position.slot = 1
      superblock.nextSegmentId = 7
    }
    const { builder } = buildSample(checksum, { superblock })
    builder.seal(3)
    builder.addSegment(5, kind ?? SegmentKind.log)
    if (kind === null) builder.flip(5, 0)
    const report = await checkBuilt(builder)
    t.strictSame(report.errors, [])
    t.strictSame(codesOf(report), ['segment-leaked'])
  }
})

t.test('a pool that was never opened is sound', async (t) => {
  const superblock = (superblock: Superblock): void => {
    superblock.position = { segment: 0, slot: 1, sequence: 1, previousChecksum: new Uint32Array(2) }
    superblock.nextSegmentId = 1
    superblock.nextDiskId = 1
    superblock.catalogue = { segment: 0, slot: 0, blockCount: 0 }
    superblock.generation = 1
    superblock.clean = true
  }
  const { builder } = buildSample(checksum, { superblock })
  builder.segments.clear()
  builder.superblockBytes.fill(0, 0, BLOCK_SIZE_BYTES)
  const report = await checkBuilt(builder)
  t.strictSame([...report.errors, ...report.leaks, ...report.warnings], [])
})

t.test('a clean pool may be followed by a checkpoint that was cut short', async (t) => {
  const superblock = (superblock: Superblock): void => void (superblock.clean = true)
  const { builder, positionSlot } = buildSample(checksum, { superblock })
  const { pages } = builder.segment(3)
  for (const slot of pages.keys()) if (slot >= positionSlot) pages.delete(slot)
  t.strictSame((await checkBuilt(builder)).errors, [])
})

t.test('either superblock page is enough', async (t) => {
  for (const page of [0, 1]) {
    const { builder } = buildSample(checksum)
    builder.superblockBytes[page * BLOCK_SIZE_BYTES + 200] ^= 4
    const report = await checkBuilt(builder)
    t.strictSame(report.errors, [])
    t.strictSame(
      report.warnings.map((finding) => finding.code),
      ['superblock-torn'],
    )
    t.equal(report.replayedRecordCount, 3)
  }
})

t.test('operations of the log are followed', async (t) => {
  const { builder } = buildSample(checksum, {
    log: (b) => {
      b.addOperation(3, { op: 'rename', id: 1, name: 'z' })
      b.addOperation(3, { op: 'restore', volumeId: 1, snapshotId: 2 })
      b.addOperation(3, { op: 'resize', id: 11, sizeBytes: 4096 })
      b.addOperation(3, { op: 'hold', id: 2, tag: 'x' }, { op: 'release', id: 2, tag: 'x' })
      const fields = { sizeBytes: 64 * TIB, createdMs: 3, labels: {}, importId: 0 }
      b.addOperation(3, { op: 'create', id: 12, name: 'big', root: null, ...fields })
      b.addRecord(3, [{ kind: EntryKind.trim, disk: 12, count: (64 * TIB) / BLOCK_SIZE_BYTES }])
    },
  })
  const report = await checkBuilt(builder)
  t.strictSame([...report.errors, ...report.leaks], [])
  const names = report.disks.map((disk) => disk.name)
  t.strictSame(names, ['z', 'z@s', 'b', 'c', 'z@t', 'd', 'big'])
  t.equal(report.disks.find((disk) => disk.name === 'd')?.sizeBytes, 4096)
})

t.test('growths and shares of the log are followed', async (t) => {
  let shared = 0
  const { builder } = buildSample(checksum, {
    log: (b) => {
      b.addRecord(3, [{ kind: EntryKind.grow, disk: 3, block: 2048, count: 101 }])
      b.addRecord(3, [{ kind: EntryKind.grow, disk: 3, block: 1, count: 1 }])
      const blocks = [blockOf(7), blockOf(8)]
      shared = b.addRecord(3, [{ kind: EntryKind.data, disk: 1, blocks }]).firstBlockSlot
      const runs = [
        [1, 3, shared],
        [3, 0, 0],
        [2, 0, 1],
      ]
      b.addOperation(3, { op: 'share', id: 3, blockIndex: 2043, runs })
      b.addRecord(3, [{ kind: EntryKind.trim, disk: 1, count: 2 }])
    },
  })
  const report = await checkBuilt(builder)
  t.strictSame([...report.errors, ...report.leaks], [])
  t.equal(report.disks.find((disk) => disk.name === 'b')?.sizeBytes, 2048 * BLOCK_SIZE_BYTES + 100)
  builder.flip(3, shared)
  // Replay ends there, and what follows says that it was durable.
  t.strictSame(
    (await checkBuilt(builder)).errors.map(({ code }) => code),
    ['log-gap'],
  )
})

t.test('a shared block is live where only the share has it', async (t) => {
  const { builder } = buildSample(checksum, {
    log: (b) => {
      const at = b.addRecord(3, [{ kind: EntryKind.data, disk: 1, blocks: [blockOf(7)] }])
      const run = [1, 3, at.firstBlockSlot]
      b.addOperation(3, { op: 'share', id: 3, blockIndex: 0, runs: [run] })
      b.addRecord(3, [{ kind: EntryKind.trim, disk: 1, count: 1 }])
    },
  })
  const before = (await checkBuilt(buildSample(checksum).builder)).liveBlockCount
  t.equal((await checkBuilt(builder)).liveBlockCount, before + 1)
})

t.test('ten thousand snapshots and as many clones are walked once', async (t) => {
  const { builder } = buildSample(checksum, {
    log: (b) => {
      for (let round = 0; round < 100; round += 1) {
        const blocks = [blockOf(round)]
        b.addRecord(3, [{ kind: EntryKind.data, disk: 1, block: round, blocks }])
        const clones = Array.from({ length: 100 }, (_, i) => {
          const id = 1000 + round * 100 + i
          return { id, name: `clone-${id}` }
        })
        b.addOperation(3, { op: 'clone', createdMs: 1, sourceId: 1, clones })
      }
    },
  })
  const report = await checkBuilt(builder)
  t.strictSame(report.errors, [])
  t.equal(report.disks.length, SAMPLE_DISKS.length + 10000)
})

t.test('a check is refused where it cannot be made', async (t) => {
  const isCode = (code: string) => ({ name: 'OperatingError', code })
  const io = new SimIo({ seed: 2, arenaMemory })
  const { builder } = buildSample(checksum)
  await io.runUntil(builder.save(io, POOL_PATH))
  await t.rejects(
    io.runUntil(checkPool(io, checksum, deflateCodecs, '/elsewhere')),
    isCode('not-found'),
  )
  const lock = await io.runUntil(io.lock(`${POOL_PATH}/lock`, 'a test'))
  await t.rejects(io.runUntil(checkPool(io, checksum, deflateCodecs, POOL_PATH)), isCode('busy'))
  await io.runUntil(lock?.release() ?? Promise.resolve())
  const signal = AbortSignal.abort()
  await t.rejects(
    io.runUntil(checkPool(io, checksum, deflateCodecs, POOL_PATH, { signal })),
    isCode('canceled'),
  )
  t.equal(io.arena.usedBytes, 0)
  const newer = buildSample(checksum).builder
  new DataView(newer.superblockBytes.buffer).setUint32(8, 2, true)
  sealPage(newer.superblockBytes, 0, checksum)
  await t.rejects(checkBuilt(newer), isCode('unsupported'))
  const unknown = { superblock: (superblock: Superblock) => (superblock.refuseFeatures = 8) }
  await t.rejects(checkBuilt(buildSample(checksum, unknown).builder), isCode('unsupported'))
})

t.test('an unreadable sector costs its block and nothing else', async (t) => {
  const { builder, importSlot, positionSlot } = buildSample(checksum)
  const io = new SimIo({ seed: 4, arenaMemory })
  await io.runUntil(builder.save(io, POOL_PATH))
  const breakAt = (path: string, slot: number): void => {
    const offsetBytes = slot * BLOCK_SIZE_BYTES
    const where = { path, skip: 0, times: 1000, offsetBytes, lengthBytes: 512 }
    io.addFault({ kind: 'read-error', errno: 5, ...where })
  }
  breakAt('0000000002.seg', importSlot + 7)
  const report = await io.runUntil(checkPool(io, checksum, deflateCodecs, POOL_PATH))
  t.strictSame(
    report?.errors.map(({ code, affected }) => ({ code, affected })),
    [
      {
        code: 'read-failed',
        affected: [{ disk: 'c', offsetBytes: 7 * BLOCK_SIZE_BYTES, lengthBytes: BLOCK_SIZE_BYTES }],
      },
    ],
  )
  t.equal(report?.verifiedBytes, ((report?.liveBlockCount ?? 0) - 1) * BLOCK_SIZE_BYTES)
  const places: [string, number][] = [
    ['0000000001.seg', 0],
    ['0000000001.seg', FOOTER_SLOT],
    ['0000000001.seg', FOOTER_SLOT - 1],
    ['0000000003.seg', positionSlot],
    ['superblock', 0],
  ]
  for (const [path, slot] of places) {
    io.disk.clearFaults()
    breakAt(path, slot)
    const broken = await io.runUntil(checkPool(io, checksum, deflateCodecs, POOL_PATH))
    const found = broken === undefined ? [] : codesOf(broken)
    t.ok(found.includes('read-failed'), `${path} slot ${slot}: ${found.join(', ')}`)
  }
  t.equal(io.arena.usedBytes, 0)
})

t.test('progress ends at the number of live bytes', async (t) => {
  const io = new SimIo({ seed: 3, arenaMemory })
  await io.runUntil(buildSample(checksum).builder.save(io, POOL_PATH))
  const told: number[][] = []
  const progress = (done: number, total: number) => void told.push([done, total])
  const report = await io.runUntil(checkPool(io, checksum, deflateCodecs, POOL_PATH, { progress }))
  const totalBytes = (report?.liveBlockCount ?? 0) * BLOCK_SIZE_BYTES
  t.strictSame(told.at(0), [0, totalBytes])
  t.strictSame(told.at(-1), [totalBytes, totalBytes])
})

/** Pages of the sample a hostile hand can change, each with its checksum made good again. */
const HOSTILE_PAGES: [number, number][] = [
  [1, 1],
  [1, 10],
  [1, 15],
  [1, 17],
  [1, FOOTER_SLOT],
  [2, FOOTER_SLOT],
  [3, 1],
  [3, 3],
  [3, 6],
  [3, 8],
]

t.test('hostile bytes under good checksums neither crash the check nor hang it', async (t) => {
  const edit = fc.record({
    page: fc.nat({ max: HOSTILE_PAGES.length }),
    offset: fc.oneof(fc.nat({ max: 400 }), fc.nat({ max: BLOCK_SIZE_BYTES - 9 })),
    word: fc.oneof(fc.nat({ max: 20 }), fc.nat({ max: 0xffffffff })),
  })
  const property = fc.asyncProperty(
    fc.array(edit, { minLength: 1, maxLength: 4 }),
    async (edits) => {
      const { builder } = buildSample(checksum)
      for (const { page, offset, word } of edits) {
        const [segment, slot] = HOSTILE_PAGES[page] ?? [0, 0]
        const bytes = segment === 0 ? builder.superblockBytes : builder.page(segment, slot)
        new DataView(bytes.buffer).setUint32(offset & ~3, word, true)
        sealPage(bytes, 0, checksum)
      }
      try {
        await checkBuilt(builder)
      } catch (error) {
        if (!(error instanceof OperatingError) || error.code !== 'unsupported') throw error
      }
    },
  )
  await fc.assert(property, { numRuns: 60, seed: 7 })
  t.pass()
})

t.test('hostile nodes with good checksums neither crash the check nor hang it', async (t) => {
  const entry = fc.tuple(
    fc.nat({ max: 511 }),
    fc.nat({ max: 5 }),
    fc.nat({ max: 9 }),
    fc.oneof(fc.nat({ max: 20 }), fc.nat({ max: 16383 })),
  )
  const entries = fc.array(entry, { maxLength: 20 })
  const property = fc.asyncProperty(entries, entries, async (leafEntries, middleEntries) => {
    const hooks: SampleHooks = {
      leaf: (leaf) => {
        for (const [at, kind, segment, slot] of leafEntries) leaf[at] = [kind, segment, slot]
      },
      middle: (middle) => {
        for (const [at, kind, segment, slot] of middleEntries) middle[at] = [kind, segment, slot]
      },
    }
    const report = await checkBuilt(buildSample(checksum, hooks).builder)
    return report.segmentCount === 3
  })
  await fc.assert(property, { numRuns: 40, seed: 8 })
  t.pass()
})

t.test('a fresh pool with nothing in it is sound', async (t) => {
  const { builder } = buildSample(checksum)
  const fresh = new PoolBuilder(checksum)
  fresh.addSegment(1, SegmentKind.log)
  fresh.setSuperblock({
    poolId: Uint8Array.from(builder.page(1, 0).subarray(16, 32)),
    generation: 1,
    refuseFeatures: 0,
    readOnlyFeatures: 0,
    ignoreFeatures: 0,
    clean: true,
    createdMs: 1,
    capacityBytes: 0,
    position: { segment: 1, slot: 1, sequence: 1, previousChecksum: new Uint32Array(2) },
    nextSegmentId: 2,
    nextDiskId: 1,
    catalogue: { segment: 0, slot: 0, blockCount: 0 },
    unfinishedIds: [],
  })
  const report = await checkBuilt(fresh)
  t.strictSame([...report.errors, ...report.leaks, ...report.warnings], [])
  t.ok(report.clean)
})
