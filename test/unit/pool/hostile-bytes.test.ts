/**
 * Catalogues and superblocks that no pool writes, under good checksums: each is refused as damage,
 * before anything is made of it. Found by fuzzing whole pools
 * (`npm run fuzz -- --target pool-raw`).
 */
import t from 'tap'
import { missingCodecs } from '../../../src/base/codec.ts'
import { openWasmChecksum } from '../../../src/base/xxh64-wasm.ts'
import { checkPool } from '../../../src/check/check.ts'
import type { CheckReport } from '../../../src/check/check.ts'
import type { DiskState } from '../../../src/format/catalogue.ts'
import type { Superblock } from '../../../src/format/superblock.ts'
import { SimIo } from '../../../src/io/sim-io.ts'
import { Pool } from '../../../src/pool/pool.ts'
import { PatchedPools } from '../../fuzz/pool-patches.ts'
import type { SampleHooks } from '../../support/sample-pool.ts'
import { buildSample } from '../../support/sample-pool.ts'

const checksum = await openWasmChecksum()
const POOL = '/pool'
/** In a part, by the drawing of `src/format/catalogue.ts`. */
const PREVIOUS_SLOT_AT = 20

type Line = { disk: DiskState } | { removed: number[] }

/** Changes the first disk of the checkpoint, the volume "a". */
function withDisk(change: (disk: DiskState) => void): SampleHooks {
  return {
    lines: (lines: Line[]) => {
      const [line] = lines
      if ('disk' in line) change(line.disk)
    },
  }
}

const operation = (value: unknown): SampleHooks => ({
  log: (builder) => void builder.addOperation(3, value),
})

const CASES: [string, SampleHooks][] = [
  ['a disk larger than any map', withDisk((disk) => (disk.sizeBytes = 2 ** 49))],
  ['a root in segment 0', withDisk((disk) => (disk.root = [0, 5]))],
  ['a root where the table lies', withDisk((disk) => (disk.root = [1, 16352]))],
  ['a name that is a path', withDisk((disk) => (disk.name = '../a'))],
  ['a disk with the last id of all', withDisk((disk) => (disk.id = 2 ** 31))],
  [
    'a snapshot with the last id of all',
    operation({
      op: 'snapshot',
      createdMs: 1,
      snapshots: [{ id: 2 ** 31, volumeId: 1, name: 'x' }],
    }),
  ],
  ['a name that is empty', withDisk((disk) => (disk.name = ''))],
  ['two volumes of one name', withDisk((disk) => (disk.name = 'b'))],
  ['a part of 2^32 - 1 blocks', { superblock: (one) => (one.catalogue.blockCount = 2 ** 32 - 1) }],
  ['a part in segment 0', { superblock: (one) => (one.catalogue.segment = 0) }],
  ['a resize past every map', operation({ op: 'resize', id: 1, sizeBytes: 2 ** 50 })],
  ['a rename to a name that is taken', operation({ op: 'rename', id: 1, name: 'b' })],
  ['a rename to a path', operation({ op: 'rename', id: 1, name: '/etc' })],
  [
    'a snapshot of a snapshot',
    operation({ op: 'snapshot', createdMs: 1, snapshots: [{ id: 12, volumeId: 2, name: 'x' }] }),
  ],
  ['a restore from a volume', operation({ op: 'restore', volumeId: 1, snapshotId: 3 })],
]

async function checked(io: SimIo): Promise<CheckReport> {
  return (await io.runUntil(checkPool(io, checksum, missingCodecs(), POOL))) as CheckReport
}

for (const [name, hooks] of CASES) {
  t.test(`refused: ${name}`, async (t) => {
    const io = new SimIo({ seed: 1 })
    await io.runUntil(buildSample(checksum, hooks).builder.save(io, POOL))
    await t.rejects(io.runUntil(Pool.open(io, checksum, POOL)), { code: 'catalogue-corrupt' })
    t.equal(io.arena.usedBytes, 0, 'all memory is given back')
    const { errors } = await checked(io)
    t.ok(errors.length > 0, 'check refuses what opening refuses')
  })
}

const POSITIONS: [string, (superblock: Superblock) => void][] = [
  ['the log begins past its segment', (one) => (one.position.slot = 1_852_403_456)],
  ['the log begins in the header', (one) => (one.position.slot = 0)],
  ['the log begins in a segment to come', (one) => (one.position.segment = 99)],
  ['the sequence has no next', (one) => (one.position.sequence = 2 ** 53 - 1)],
  ['the generation has no next', (one) => (one.generation = 2 ** 53 - 1)],
  ['no segment can be added', (one) => (one.nextSegmentId = 2 ** 32 - 1)],
  ['no disk can be added', (one) => (one.nextDiskId = 2 ** 32 - 1)],
]

for (const [name, superblock] of POSITIONS) {
  t.test(`refused: ${name}`, async (t) => {
    const io = new SimIo({ seed: 1 })
    await io.runUntil(buildSample(checksum, { superblock }).builder.save(io, POOL))
    await t.rejects(io.runUntil(Pool.open(io, checksum, POOL)), { code: 'superblock-corrupt' })
    // Ends, reads each segment once at most, and says so as well.
    const { errors } = await checked(io)
    t.ok(
      errors.some(({ code }) => code === 'superblock-nonsense'),
      'check refuses what opening refuses',
    )
    t.equal(io.arena.usedBytes, 0, 'all memory is given back')
  })
}

t.test('refused: a part that names itself, or a later one, as the one before it', async (t) => {
  for (const stepSlots of [0, 1]) {
    let newestSlot = 0
    const sample = buildSample(checksum, {
      superblock: (one) => (newestSlot = one.catalogue.slot),
    })
    const pools = new PatchedPools(sample.builder, sample.positionSlot, checksum, new Map())
    // Two superblock pages come first, then segment 1 slot by slot.
    const patch = PatchedPools.encode(2 + newestSlot, 0, PREVIOUS_SLOT_AT, newestSlot + stepSlots)
    const io = new SimIo({ seed: 1 })
    await io.runUntil(pools.build(patch, true).save(io, POOL))
    const opening = io.runUntil(Pool.open(io, checksum, POOL))
    await t.rejects(opening, { code: 'catalogue-corrupt', message: /before the one/ })
  }
})
