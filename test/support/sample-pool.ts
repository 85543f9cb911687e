/** A small sound pool with something of everything, and hooks to make it unsound. */
import type { Checksum } from '../../src/base/checksum.ts'
import { MIB } from '../../src/base/units.ts'
import type { DiskState } from '../../src/format/catalogue.ts'
import { PartKind } from '../../src/format/catalogue.ts'
import { KIND_BLOCK, KIND_HUGE, KIND_NODE } from '../../src/format/node.ts'
import { EntryKind } from '../../src/format/record.ts'
import { SegmentKind } from '../../src/format/segment.ts'
import type { Superblock } from '../../src/format/superblock.ts'
import { POOL_ID, PoolBuilder, blockOf, nodeOf } from './pool-builder.ts'

type NodeEntries = Record<number, readonly [number, number, number]>

/** Called while the pool is built, each at its place. */
export interface SampleHooks {
  /** Leaf and level 1 of the volume "a". */
  leaf?: (entries: NodeEntries) => void
  middle?: (entries: NodeEntries, leafSlot: number) => void
  lines?: (lines: ({ disk: DiskState } | { removed: number[] })[]) => void
  superblock?: (superblock: Superblock) => void
  /** The 512 blocks that "c" is an import of. */
  imported?: (blocks: Uint8Array[]) => void
  /** Appends to the open segment 3 after everything else. */
  log?: (builder: PoolBuilder) => void
}

export interface Sample {
  builder: PoolBuilder
  /** Slots in segment 1. */
  dataSlot: number
  leafSlot: number
  middleSlot: number
  rootSlot: number
  fullSlot: number
  /** First of 512 in segment 2, then level 1, level 2, root. */
  importSlot: number
  /** In segment 3, where replay begins. */
  positionSlot: number
  /** In segment 3, block 2 of "a" as the log has it. */
  newSlot: number
}

export const SAMPLE_DISKS: string[] = ['a', 'a@s', 'b', 'c', 'a@t', 'd']

function volume(id: number, name: string, root: DiskState['root']): DiskState {
  const sizeBytes = 4 * MIB
  const rest = { createdMs: 1, modifiedMs: 1, originId: null, labels: {}, holds: [] }
  return { id, name, kind: 'volume', volumeId: id, sizeBytes, root, ...rest }
}

/** Segment 1: eight blocks of "a", its map, a full of the catalogue and a delta. */
function buildFirstSegment(builder: PoolBuilder, hooks: SampleHooks): Omit<Sample, 'builder'> {
  builder.addSegment(1, SegmentKind.log)
  const blocks = Array.from({ length: 8 }, (_, i) => blockOf(i + 1))
  const data = builder.addRecord(1, [{ kind: EntryKind.data, disk: 1, block: 0, blocks }], 1)
  const dataSlot = data.firstBlockSlot
  const leaf: NodeEntries = {}
  blocks.forEach((_, i) => (leaf[i] = [KIND_BLOCK, 1, dataSlot + i]))
  hooks.leaf?.(leaf)
  const leafSlot = data.firstBlockSlot + blocks.length + 1
  const middle: NodeEntries = { 0: [KIND_NODE, 1, leafSlot] }
  hooks.middle?.(middle, leafSlot)
  const nodes = [
    nodeOf(leaf),
    nodeOf(middle),
    nodeOf({ 0: [KIND_NODE, 1, leafSlot + 1] }),
    nodeOf({ 0: [KIND_NODE, 1, leafSlot + 2] }),
  ]
  builder.addRecord(1, [{ kind: EntryKind.node, blocks: nodes }])
  const rootSlot = leafSlot + 3
  const a = volume(1, 'a', [1, rootSlot])
  const snapshot: DiskState = { ...a, id: 2, name: 's', kind: 'snapshot' }
  const gone = volume(9, 'gone', null)
  const lines = [{ disk: a }, { disk: snapshot }, { disk: gone }]
  hooks.lines?.(lines)
  const nothing = { segment: 0, slot: 0, blockCount: 0 }
  const full = builder.addPart(1, PartKind.full, nothing, lines)
  const slots = { dataSlot, leafSlot, middleSlot: leafSlot + 1, rootSlot, fullSlot: full.slot }
  return { ...slots, importSlot: 0, positionSlot: 0, newSlot: 0 }
}

/** Segment 2: an import with one huge entry. */
function buildImport(builder: PoolBuilder, hooks: SampleHooks): number {
  builder.addSegment(2, SegmentKind.bulk)
  const blocks = Array.from({ length: 512 }, (_, i) => blockOf(1000 + i))
  hooks.imported?.(blocks)
  const first = builder.addBlocks(2, blocks)
  const middle = builder.addBlocks(2, [nodeOf({ 0: [KIND_HUGE, 2, first] })])
  const upper = builder.addBlocks(2, [nodeOf({ 0: [KIND_NODE, 2, middle] })])
  builder.addBlocks(2, [nodeOf({ 0: [KIND_NODE, 2, upper] })])
  builder.seal(2)
  return first
}

export function buildSample(checksum: Checksum, hooks: SampleHooks = {}): Sample {
  const builder = new PoolBuilder(checksum)
  const sample: Sample = { builder, ...buildFirstSegment(builder, hooks) }
  sample.importSlot = buildImport(builder, hooks)
  const previous = { segment: 1, slot: sample.fullSlot, blockCount: 1 }
  const catalogue = builder.addPart(1, PartKind.delta, previous, [
    { disk: volume(3, 'b', null) },
    { disk: volume(4, 'c', [2, sample.importSlot + 514]) },
    { removed: [9] },
  ])
  builder.seal(1)
  builder.addSegment(3, SegmentKind.log)
  builder.addRecord(3, [{ kind: EntryKind.data, disk: 1, block: 7, blocks: [blockOf(70)] }])
  const superblock: Superblock = {
    poolId: POOL_ID,
    generation: 4,
    refuseFeatures: 0,
    readOnlyFeatures: 0,
    ignoreFeatures: 0,
    clean: false,
    createdMs: 1,
    capacityBytes: 0,
    position: {
      segment: 3,
      slot: builder.segment(3).usedSlotCount,
      sequence: builder.sequence,
      previousChecksum: builder.chain.slice(),
    },
    nextSegmentId: 4,
    nextDiskId: 10,
    catalogue,
    unfinishedIds: [],
  }
  sample.positionSlot = superblock.position.slot
  hooks.superblock?.(superblock)
  builder.setSuperblock({ ...superblock, generation: superblock.generation - 1 })
  builder.setSuperblock(superblock)
  buildLog(sample)
  hooks.log?.(builder)
  return sample
}

/** What follows the checkpoint: writes, a snapshot, a clone, a trim of everything. */
function buildLog(sample: Sample): void {
  const { builder } = sample
  const blocks = [blockOf(72), blockOf(73)]
  const write = builder.addRecord(3, [{ kind: EntryKind.data, disk: 1, block: 2, blocks }])
  sample.newSlot = write.firstBlockSlot
  builder.addOperation(
    3,
    { op: 'snapshot', createdMs: 2, snapshots: [{ id: 10, volumeId: 1, name: 't' }] },
    { op: 'clone', createdMs: 2, sourceId: 2, clones: [{ id: 11, name: 'd' }] },
  )
  builder.addRecord(3, [
    { kind: EntryKind.trim, disk: 1, block: 0, count: 1024 },
    { kind: EntryKind.zero, disk: 11, block: 0, count: 1 },
    { kind: EntryKind.data, disk: 1, block: 5, blocks: [blockOf(75)] },
  ])
}
