/** Every rule of the pool, broken once: the check finds it, under its code, and names the disks. */
import fc from 'fast-check'
import t from 'tap'
import { openWasmChecksum } from '../../../src/base/xxh64-wasm.ts'
import { OperatingError } from '../../../src/base/errors.ts'
import { BLOCK_SIZE_BYTES, MIB, TIB } from '../../../src/base/units.ts'
import type { CheckReport } from '../../../src/check/check.ts'
import { checkPool } from '../../../src/check/check.ts'
import type { AffectedRange, FindingCode } from '../../../src/check/report.ts'
import type { DiskState } from '../../../src/format/catalogue.ts'
import { PartKind, encodePart } from '../../../src/format/catalogue.ts'
import { KIND_BLOCK, KIND_HUGE, KIND_NODE } from '../../../src/format/node.ts'
import { sealPage } from '../../../src/format/page.ts'
import { EntryKind } from '../../../src/format/record.ts'
import { FOOTER_SLOT, SegmentKind, TABLE_SLOT } from '../../../src/format/segment.ts'
import { SimIo } from '../../../src/io/sim-io.ts'
import type { Superblock } from '../../../src/format/superblock.ts'
import type { BuiltRecord } from '../../support/pool-builder.ts'
import { PoolBuilder, blockOf } from '../../support/pool-builder.ts'
import type { Sample, SampleHooks } from '../../support/sample-pool.ts'
import { SAMPLE_DISKS, buildSample } from '../../support/sample-pool.ts'

const checksum = await openWasmChecksum()
const PATH = '/pool'
const arenaMemory = Buffer.alloc(4 * MIB)

/** Saves the pool to a simulated disk and checks it there. */
async function check(builder: PoolBuilder, signal?: AbortSignal): Promise<CheckReport> {
  const io = new SimIo({ seed: 1, arenaMemory })
  await io.runUntil(builder.save(io, PATH))
  const outcome = checkPool(io, checksum, PATH, signal === undefined ? {} : { signal })
  try {
    const report = await io.runUntil(outcome)
    if (report === undefined) throw new Error('the check did not end')
    return report
  } finally {
    t.equal(io.arena.usedBytes, 0, 'the arena is given back')
  }
}

function codes(report: CheckReport): string[] {
  const { errors, leaks } = report
  return [...new Set([...errors, ...leaks].map((finding) => finding.code))].sort()
}

function diskOf(lines: unknown[], id: number): DiskState {
  const found = (lines as { disk: DiskState }[]).find((line) => line.disk.id === id)
  if (found === undefined) throw new Error(`no disk ${id}`)
  return found.disk
}

/** Blocks of a disk, as a finding names them. */
function range(disk: string, block: number, count = 1): AffectedRange {
  const offsetBytes = block * BLOCK_SIZE_BYTES
  return { disk, offsetBytes, lengthBytes: count * BLOCK_SIZE_BYTES }
}

t.test('a sound pool has no findings, and every live block is read', async (t) => {
  const sample = buildSample(checksum)
  const report = await check(sample.builder)
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
      'records past the tear, none of them acknowledged',
      (b) => {
        const torn = tailOf(b)
        b.addRecord(3, [{ kind: EntryKind.trim, disk: 1 }], torn.sequence)
        b.flip(3, torn.slot)
      },
    ],
    ['a segment without a header', (b) => b.segments.set(4, { ...b.segment(3), pages: new Map() })],
    ['a segment with nothing but a header', (b) => b.addSegment(4, SegmentKind.log)],
    ['an import just begun', (b) => b.addSegment(4, SegmentKind.bulk)],
    ['a record for a volume that is gone', (b) => b.addRecord(3, [{ kind: 2, disk: 9 }])],
  ]
  for (const [name, tear] of tails) {
    const report = await check(buildSample(checksum, { log: tear }).builder)
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
  const report = await check(builder)
  t.strictSame([...report.errors, ...report.leaks], [])
  t.equal(report.replayedRecordCount, 5)
  t.strictSame(report.position, { segment: 6, slot: 5, sequence: builder.sequence })
})

t.test('dead blocks may have been punched, live ones may not', async (t) => {
  const { builder, dataSlot } = buildSample(checksum, {
    log: (b) => b.addOperation(3, { op: 'remove', ids: [2, 10, 11] }),
  })
  for (let slot = dataSlot; slot < dataSlot + 8; slot += 1) builder.page(1, slot).fill(0)
  t.strictSame((await check(builder)).errors, [])
  const { builder: other, dataSlot: liveSlot } = buildSample(checksum)
  other.page(1, liveSlot + 1).fill(0)
  t.strictSame(codes(await check(other)), ['block-corrupt'])
})

t.test('a sealed segment that nothing refers to is reclaimable', async (t) => {
  const { builder } = buildSample(checksum, {
    log: (b) => b.addOperation(3, { op: 'remove', ids: [4] }),
  })
  const report = await check(builder)
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
    const report = await check(builder)
    t.strictSame(report.errors, [])
    t.strictSame(codes(report), ['segment-leaked'])
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
  const report = await check(builder)
  t.strictSame([...report.errors, ...report.leaks, ...report.warnings], [])
})

t.test('a clean pool may be followed by a checkpoint that was cut short', async (t) => {
  const superblock = (superblock: Superblock): void => void (superblock.clean = true)
  const { builder, positionSlot } = buildSample(checksum, { superblock })
  const { pages } = builder.segment(3)
  for (const slot of pages.keys()) if (slot >= positionSlot) pages.delete(slot)
  t.strictSame((await check(builder)).errors, [])
})

t.test('either superblock page is enough', async (t) => {
  for (const page of [0, 1]) {
    const { builder } = buildSample(checksum)
    builder.superblockBytes[page * BLOCK_SIZE_BYTES + 200] ^= 4
    const report = await check(builder)
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
      const fields = { sizeBytes: 64 * TIB, createdMs: 3, labels: {}, segmentIds: [] }
      b.addOperation(3, { op: 'create', id: 12, name: 'big', root: null, ...fields })
      b.addRecord(3, [{ kind: EntryKind.trim, disk: 12, count: (64 * TIB) / BLOCK_SIZE_BYTES }])
    },
  })
  const report = await check(builder)
  t.strictSame([...report.errors, ...report.leaks], [])
  const names = report.disks.map((disk) => disk.name)
  t.strictSame(names, ['z', 'z@s', 'b', 'c', 'z@t', 'd', 'big'])
  t.equal(report.disks.find((disk) => disk.name === 'd')?.sizeBytes, 4096)
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
  const report = await check(builder)
  t.strictSame(report.errors, [])
  t.equal(report.disks.length, SAMPLE_DISKS.length + 10000)
})

t.test('a check is refused where it cannot be made', async (t) => {
  const isCode = (code: string) => ({ name: 'OperatingError', code })
  const io = new SimIo({ seed: 2, arenaMemory })
  const { builder } = buildSample(checksum)
  await io.runUntil(builder.save(io, PATH))
  await t.rejects(io.runUntil(checkPool(io, checksum, '/elsewhere')), isCode('not-found'))
  const lock = await io.runUntil(io.lock(`${PATH}/lock`, 'a test'))
  await t.rejects(io.runUntil(checkPool(io, checksum, PATH)), isCode('busy'))
  await io.runUntil(lock?.release() ?? Promise.resolve())
  const signal = AbortSignal.abort()
  await t.rejects(io.runUntil(checkPool(io, checksum, PATH, { signal })), isCode('canceled'))
  t.equal(io.arena.usedBytes, 0)
  const newer = buildSample(checksum).builder
  new DataView(newer.superblockBytes.buffer).setUint32(8, 2, true)
  sealPage(newer.superblockBytes, 0, checksum)
  await t.rejects(check(newer), isCode('unsupported'))
  const unknown = { superblock: (superblock: Superblock) => (superblock.refuseFeatures = 8) }
  await t.rejects(check(buildSample(checksum, unknown).builder), isCode('unsupported'))
})

t.test('progress ends at the number of live bytes', async (t) => {
  const io = new SimIo({ seed: 3, arenaMemory })
  await io.runUntil(buildSample(checksum).builder.save(io, PATH))
  const told: number[][] = []
  const progress = (done: number, total: number) => void told.push([done, total])
  const report = await io.runUntil(checkPool(io, checksum, PATH, { progress }))
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
        await check(builder)
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
    const report = await check(buildSample(checksum, hooks).builder)
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
    bulkSegmentIds: [],
  })
  const report = await check(fresh)
  t.strictSame([...report.errors, ...report.leaks, ...report.warnings], [])
  t.ok(report.clean)
})

interface Breakage {
  name: string
  hooks?: SampleHooks
  damage?: (sample: Sample) => void
  /** Of errors and leaks. */
  finds: FindingCode[]
  /** Of the first finding. */
  affected?: AffectedRange[]
}

/** A line with a disk of its own, sound but for what the test changes. */
function addDisk(lines: unknown[], change: Partial<DiskState>): void {
  const disk = { ...diskOf(lines, 1), id: 5, name: 'e', volumeId: 5, root: null, ...change }
  lines.push({ disk })
}

const SUPERBLOCK_BREAKAGES: Breakage[] = [
  {
    name: 'both superblock pages damaged',
    damage: ({ builder }) => {
      builder.superblockBytes[50] ^= 1
      builder.superblockBytes[BLOCK_SIZE_BYTES + 50] ^= 1
    },
    finds: ['superblock-corrupt'],
  },
  {
    name: 'a superblock on the wrong page',
    damage: ({ builder }) => {
      const newest = builder.superblockBytes.slice(0, BLOCK_SIZE_BYTES)
      builder.superblockBytes.set(newest, BLOCK_SIZE_BYTES)
    },
    finds: ['superblock-nonsense'],
  },
  {
    name: 'a log that begins past every segment',
    hooks: { superblock: (superblock) => (superblock.nextSegmentId = 2) },
    finds: ['superblock-nonsense', 'address-missing-segment'],
  },
  {
    name: 'a catalogue newer than the checkpoint',
    hooks: { superblock: (superblock) => (superblock.nextSegmentId = 1) },
    finds: ['superblock-nonsense', 'address-missing-segment'],
  },
  {
    name: 'a log that begins in slot zero',
    hooks: { superblock: (superblock) => (superblock.position.slot = 0) },
    finds: ['superblock-nonsense', 'log-gap'],
  },
  {
    name: 'a clean pool with records to replay',
    hooks: { superblock: (superblock) => (superblock.clean = true) },
    finds: ['superblock-not-clean'],
  },
  {
    name: 'a next disk id that is taken',
    hooks: { superblock: (superblock) => (superblock.nextDiskId = 4) },
    finds: ['disk-id'],
  },
]

const SEGMENT_BREAKAGES: Breakage[] = [
  {
    name: 'a segment header damaged',
    damage: ({ builder }) => builder.flip(1, 0),
    finds: ['segment-header-corrupt'],
  },
  {
    name: 'a segment under a wrong name',
    damage: ({ builder }) => {
      const { pages } = builder.segment(2)
      builder.addSegment(2, SegmentKind.bulk, 7)
      const header = builder.page(2, 0)
      builder.segment(2).pages = pages.set(0, header)
    },
    finds: ['segment-misnamed'],
  },
  {
    name: 'a header and a footer that disagree',
    damage: ({ builder }) => {
      const { pages } = builder.segment(2)
      builder.addSegment(2, SegmentKind.log)
      const header = builder.page(2, 0)
      builder.segment(2).pages = pages.set(0, header)
    },
    finds: ['segment-header-corrupt'],
  },
  {
    name: 'a log segment below the checkpoint without a footer',
    damage: ({ builder }) => builder.flip(1, FOOTER_SLOT),
    finds: ['segment-unsealed'],
  },
  {
    name: 'an import whose footer is lost',
    damage: ({ builder }) => builder.flip(2, FOOTER_SLOT),
    finds: ['address-unsealed-bulk'],
    affected: [{ disk: 'c', offsetBytes: 0, lengthBytes: 4 * MIB }],
  },
  {
    name: 'a page of a checksum table damaged',
    damage: ({ builder }) => builder.flip(1, TABLE_SLOT),
    finds: ['catalogue-corrupt', 'segment-table-corrupt'],
  },
  {
    name: 'a page of a table without live blocks damaged',
    damage: ({ builder }) => builder.flip(2, TABLE_SLOT + 9),
    finds: ['segment-table-corrupt'],
  },
  {
    name: 'a segment gone',
    damage: ({ builder }) => builder.segments.delete(2),
    finds: ['address-missing-segment'],
    affected: [{ disk: 'c', offsetBytes: 0, lengthBytes: 4 * MIB }],
  },
  {
    name: 'the segment gone in which the log continues',
    damage: ({ builder }) => builder.segments.delete(3),
    finds: ['segment-missing'],
  },
  {
    name: 'a file that is no segment',
    damage: ({ builder }) => builder.strayNames.push('notes.txt', '0.seg', '0000000000.seg'),
    finds: ['name-unknown'],
  },
  {
    name: 'an unfinished import that the checkpoint did not list',
    hooks: { superblock: (superblock) => (superblock.nextSegmentId = 5) },
    damage: ({ builder }) => {
      builder.addSegment(4, SegmentKind.bulk)
      builder.addBlocks(4, [blockOf(1)])
    },
    finds: ['segment-leaked'],
  },
]

const LOG_BREAKAGES: Breakage[] = [
  {
    name: 'a record header below the checkpoint damaged',
    damage: ({ builder }) => builder.flip(3, 1),
    finds: ['record-corrupt'],
  },
  {
    name: 'an acknowledged record damaged',
    damage: ({ builder, positionSlot }) => builder.flip(3, positionSlot),
    finds: ['log-gap'],
  },
  {
    name: 'a block of an acknowledged record damaged',
    damage: ({ builder, newSlot }) => builder.flip(3, newSlot + 1),
    finds: ['log-gap'],
  },
  {
    name: 'an acknowledged record lost, its witness in the next segment',
    hooks: {
      log: (builder) => {
        const last = builder.segment(3).usedSlotCount - 1
        builder.addSegment(4, SegmentKind.log)
        builder.addRecord(4, [{ kind: EntryKind.trim, disk: 1 }])
        builder.flip(3, last)
      },
    },
    finds: ['log-gap'],
  },
  {
    name: 'a record that knows the future',
    hooks: { log: (b) => b.addRecord(3, [{ kind: EntryKind.trim, disk: 1 }], b.sequence + 1) },
    finds: ['record-nonsense'],
  },
  {
    name: 'a record for a disk that never was',
    hooks: { log: (b) => b.addRecord(3, [{ kind: EntryKind.trim, disk: 99 }]) },
    finds: ['record-unknown-disk'],
  },
  {
    name: 'a record for the disk zero',
    hooks: { log: (b) => b.addRecord(3, [{ kind: EntryKind.trim, disk: 0 }]) },
    finds: ['record-unknown-disk'],
  },
  {
    name: 'a write to a snapshot',
    hooks: { log: (b) => b.addRecord(3, [{ kind: EntryKind.trim, disk: 2 }]) },
    finds: ['record-nonsense'],
  },
  {
    name: 'a write past the end',
    hooks: { log: (b) => b.addRecord(3, [{ kind: EntryKind.zero, disk: 1, block: 1024 }]) },
    finds: ['record-past-end'],
  },
  {
    name: 'an operation on a disk that is not there',
    hooks: { log: (b) => b.addOperation(3, { op: 'rename', id: 77, name: 'x' }) },
    finds: ['operation-unknown-disk'],
  },
  {
    name: 'an operation nobody knows',
    hooks: { log: (b) => b.addOperation(3, { op: 'explode' }) },
    finds: ['operation-corrupt'],
  },
  {
    name: 'two operations in one part',
    hooks: {
      log: (b) => {
        const line = JSON.stringify({ op: 'hold', id: 1, tag: 'x' })
        const nothing = { segment: 0, slot: 0, blockCount: 0 }
        const part = encodePart(PartKind.operation, nothing, `${line}\n${line}`)
        b.addRecord(3, [{ kind: EntryKind.operation, blocks: [part] }])
      },
    },
    finds: ['operation-corrupt'],
  },
  {
    name: 'a checkpoint part where an operation belongs',
    hooks: {
      log: (b) => b.addRecord(3, [{ kind: EntryKind.operation, blocks: [b.page(1, 16).slice()] }]),
    },
    finds: ['operation-corrupt'],
  },
  {
    name: 'an id given twice',
    hooks: {
      log: (b) =>
        b.addOperation(3, {
          op: 'clone',
          createdMs: 1,
          sourceId: 1,
          clones: [{ id: 3, name: 'x' }],
        }),
    },
    finds: ['disk-id'],
  },
  {
    name: 'a volume removed under its snapshots',
    hooks: { log: (b) => b.addOperation(3, { op: 'remove', ids: [1] }) },
    finds: ['snapshot-orphan'],
  },
]

const CATALOGUE_BREAKAGES: Breakage[] = [
  {
    name: 'a part of the catalogue damaged',
    damage: ({ builder, fullSlot }) => builder.flip(1, fullSlot),
    finds: ['catalogue-corrupt'],
  },
  {
    name: 'a catalogue that is somewhere else',
    hooks: { superblock: (superblock) => (superblock.catalogue.slot = 2) },
    finds: ['catalogue-corrupt'],
  },
  {
    name: 'a catalogue of too many blocks',
    hooks: { superblock: (superblock) => (superblock.catalogue.blockCount = 300) },
    finds: ['catalogue-corrupt'],
  },
  {
    name: 'parts that form a ring',
    hooks: { superblock: (superblock) => (superblock.catalogue = ringAt(superblock.catalogue)) },
    damage: ({ builder }) => buildRing(builder),
    finds: ['catalogue-chain', 'log-gap'],
  },
  {
    name: 'parts that end in a delta',
    hooks: {
      superblock: (superblock) => {
        superblock.catalogue = { segment: 3, slot: 10, blockCount: 1 }
        superblock.position.slot = 2
      },
    },
    damage: ({ builder }) => {
      builder.addSegment(3, SegmentKind.log)
      while (builder.segment(3).usedSlotCount < 9) builder.addRecord(3, [])
      const nothing = { segment: 0, slot: 0, blockCount: 0 }
      builder.addPart(3, PartKind.delta, nothing, [])
    },
    finds: ['catalogue-chain', 'log-gap'],
  },
  {
    name: 'a line that is no disk',
    hooks: { lines: (lines) => lines.push({ removed: ['x'] as unknown as number[] }) },
    finds: ['catalogue-corrupt'],
  },
  {
    name: 'two volumes of one name',
    hooks: { lines: (lines) => addDisk(lines, { name: 'a' }) },
    finds: ['disk-name'],
  },
  {
    name: 'a volume without a name',
    hooks: { lines: (lines) => addDisk(lines, { name: '' }) },
    finds: ['disk-name'],
  },
  {
    name: 'a snapshot without a volume',
    hooks: { lines: (lines) => addDisk(lines, { kind: 'snapshot', volumeId: 8 }) },
    finds: ['snapshot-orphan'],
  },
  {
    name: 'a volume that belongs to another',
    hooks: { lines: (lines) => addDisk(lines, { volumeId: 1 }) },
    finds: ['disk-id'],
  },
  {
    name: 'a disk with the id zero',
    hooks: { lines: (lines) => addDisk(lines, { id: 0, volumeId: 0 }) },
    finds: ['disk-id'],
  },
  {
    name: 'a disk larger than a map',
    hooks: { lines: (lines) => addDisk(lines, { sizeBytes: 257 * TIB }) },
    finds: ['disk-size'],
  },
]

function ringAt(catalogue: { blockCount: number }): {
  segment: number
  slot: number
  blockCount: number
} {
  return { segment: 3, slot: 2, blockCount: catalogue.blockCount }
}

/** Replaces segment 3 by one with a part that names itself as the one before. */
function buildRing(builder: PoolBuilder): void {
  builder.addSegment(3, SegmentKind.log)
  builder.addPart(3, PartKind.delta, { segment: 3, slot: 2, blockCount: 1 }, [])
  builder.addRecord(3, [])
}

const MAP_BREAKAGES: Breakage[] = [
  {
    name: 'a leaf damaged',
    damage: ({ builder, leafSlot }) => builder.flip(1, leafSlot),
    finds: ['block-corrupt'],
    // Not "a" itself: the log has trimmed it. Nor block 0 of "d", 2 and 3 of "a@t".
    affected: [range('a@s', 0, 512), range('a@t', 0, 512), range('d', 0, 512)],
  },
  {
    name: 'a leaf with an entry of a higher level',
    hooks: { leaf: (leaf) => (leaf[9] = [KIND_NODE, 1, 5]) },
    finds: ['node-corrupt'],
  },
  {
    name: 'a leaf with an entry of no kind',
    hooks: { leaf: (leaf) => (leaf[9] = [7, 1, 5]) },
    finds: ['node-corrupt'],
  },
  {
    name: 'a huge entry that passes the end of its segment',
    hooks: { middle: (middle) => (middle[1] = [KIND_HUGE, 1, 16000]) },
    finds: ['node-corrupt'],
  },
  {
    name: 'a huge entry past what was written',
    hooks: { middle: (middle) => (middle[1] = [KIND_HUGE, 1, 2000]) },
    finds: ['address-past-used'],
    affected: [range('a@s', 512, 512), range('d', 512, 512), range('a@t', 512, 512)],
  },
  {
    name: 'an address past what was written',
    hooks: { leaf: (leaf) => (leaf[3] = [KIND_BLOCK, 1, 900]) },
    finds: ['address-past-used'],
    affected: [range('a@s', 3), range('d', 3)],
  },
  {
    name: 'an address in a segment that is not there',
    hooks: { leaf: (leaf) => (leaf[3] = [KIND_BLOCK, 8, 9]) },
    finds: ['address-missing-segment'],
    affected: [range('a@s', 3), range('d', 3)],
  },
  {
    name: 'an address in the slot of a record header',
    hooks: { leaf: (leaf) => (leaf[4] = [KIND_BLOCK, 1, 1]) },
    finds: ['address-no-block'],
    affected: [range('a@s', 4), range('a@t', 4), range('d', 4)],
  },
  {
    name: 'an entry past the end of its disk',
    hooks: { middle: (middle) => (middle[3] = [KIND_HUGE, 1, 2]) },
    finds: ['entry-past-end'],
  },
  {
    name: 'a node past the end of its disk',
    hooks: { middle: (middle, leafSlot) => (middle[2] = [KIND_NODE, 1, leafSlot]) },
    finds: ['entry-past-end'],
  },
  {
    name: 'a node at two levels',
    hooks: {
      lines: (lines) => {
        const root = diskOf(lines, 1).root
        addDisk(lines, { root: root === null ? null : [1, root[1] - 1] })
      },
    },
    finds: ['node-level'],
  },
  {
    name: 'an old block damaged',
    damage: ({ builder, dataSlot }) => builder.flip(1, dataSlot + 6),
    finds: ['block-corrupt'],
    affected: [range('a@s', 6), range('a@t', 6), range('d', 6)],
  },
  {
    name: 'an imported block damaged',
    damage: ({ builder, importSlot }) => builder.flip(2, importSlot + 300),
    finds: ['block-corrupt'],
    affected: [range('c', 300)],
  },
]

const BREAKAGES = [
  ...SUPERBLOCK_BREAKAGES,
  ...SEGMENT_BREAKAGES,
  ...LOG_BREAKAGES,
  ...CATALOGUE_BREAKAGES,
  ...MAP_BREAKAGES,
]

function byPlace(a: AffectedRange, b: AffectedRange): number {
  return a.disk === b.disk ? a.offsetBytes - b.offsetBytes : a.disk < b.disk ? -1 : 1
}

for (const { name, hooks, damage, finds, affected } of BREAKAGES) {
  t.test(`found: ${name}`, async (t) => {
    const sample = buildSample(checksum, hooks)
    damage?.(sample)
    const report = await check(sample.builder)
    const found = codes(report)
    t.strictSame(found, finds.toSorted())
    if (affected === undefined) return
    const finding = [...report.errors, ...report.leaks].find((one) => one.code === finds[0])
    t.strictSame(finding?.affected.toSorted(byPlace), affected.toSorted(byPlace))
  })
}
