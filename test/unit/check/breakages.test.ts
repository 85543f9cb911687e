/** Every rule of the pool, broken once: the check finds it, under its code, and names the disks. */
import t from 'tap'
import { BLOCK_SIZE_BYTES, MIB, TIB } from '../../../src/base/units.ts'
import type { AffectedRange, FindingCode } from '../../../src/check/report.ts'
import type { DiskState } from '../../../src/format/catalogue.ts'
import { PartKind, encodePart } from '../../../src/format/catalogue.ts'
import { KIND_BLOCK, KIND_HUGE, KIND_NODE } from '../../../src/format/node.ts'
import { EntryKind } from '../../../src/format/record.ts'
import { FOOTER_SLOT, SegmentKind, TABLE_SLOT } from '../../../src/format/segment.ts'
import { checkBuilt, checksum, codesOf } from '../../support/check-built.ts'
import type { PoolBuilder } from '../../support/pool-builder.ts'
import { blockOf } from '../../support/pool-builder.ts'
import type { Sample, SampleHooks } from '../../support/sample-pool.ts'
import { buildSample } from '../../support/sample-pool.ts'

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
    name: 'a growth of a disk that never was',
    hooks: { log: (b) => b.addRecord(3, [{ kind: EntryKind.grow, disk: 99 }]) },
    finds: ['record-unknown-disk'],
  },
  {
    name: 'a growth of a snapshot',
    hooks: { log: (b) => b.addRecord(3, [{ kind: EntryKind.grow, disk: 2 }]) },
    finds: ['record-nonsense'],
  },
  {
    name: 'blocks shared past the end',
    hooks: { log: (b) => b.addOperation(3, shareOf(1, 1023, [2, 0, 0])) },
    finds: ['record-past-end'],
  },
  {
    name: 'blocks shared with a snapshot',
    hooks: { log: (b) => b.addOperation(3, shareOf(2, 0, [1, 0, 0])) },
    finds: ['operation-unknown-disk'],
  },
  {
    name: 'blocks shared that lie in no segment there is',
    hooks: { log: (b) => b.addOperation(3, shareOf(1, 0, [1, 77, 5])) },
    finds: ['address-missing-segment'],
  },
  {
    name: 'a share of no blocks',
    hooks: { log: (b) => b.addOperation(3, { op: 'share', id: 1, blockIndex: 0, runs: [] }) },
    finds: ['operation-corrupt'],
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

function shareOf(id: number, blockIndex: number, run: number[]): unknown {
  return { op: 'share', id, blockIndex, runs: [run] }
}

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
    finds: ['catalogue-chain', 'log-gap', 'superblock-nonsense'],
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
    finds: ['catalogue-corrupt'],
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
    finds: ['catalogue-corrupt'],
  },
  {
    name: 'a snapshot before its volume',
    hooks: {
      lines: (lines) => {
        addDisk(lines, { id: 6, name: 's', kind: 'snapshot', volumeId: 7 })
        addDisk(lines, { id: 7, name: 'late', volumeId: 7 })
      },
    },
    finds: ['snapshot-orphan'],
  },
  {
    name: 'a disk larger than a map',
    hooks: { lines: (lines) => addDisk(lines, { sizeBytes: 257 * TIB }) },
    finds: ['catalogue-corrupt'],
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
    const report = await checkBuilt(sample.builder)
    const found = codesOf(report)
    t.strictSame(found, finds.toSorted())
    if (affected === undefined) return
    const finding = [...report.errors, ...report.leaks].find((one) => one.code === finds[0])
    t.strictSame(finding?.affected.toSorted(byPlace), affected.toSorted(byPlace))
  })
}
