/** A disk that refuses, fails or lies while a pool is opened, changed and closed. */
import t from 'tap'
import type { Test } from 'tap'
import { Errno, OperatingError } from '../../../src/base/errors.ts'
import { BLOCK_SIZE_BYTES, GIB, MIB } from '../../../src/base/units.ts'
import { checkPool } from '../../../src/check/check.ts'
import { PartKind } from '../../../src/format/catalogue.ts'
import { EntryKind } from '../../../src/format/record.ts'
import { decodeSuperblock, encodeSuperblock } from '../../../src/format/superblock.ts'
import type { Superblock } from '../../../src/format/superblock.ts'
import { openChecksum } from '../../../src/io/open-io.ts'
import { SimIo } from '../../../src/io/sim-io.ts'
import type { SimFault } from '../../../src/io/sim-disk.ts'
import { Pool } from '../../../src/pool/pool.ts'
import { RESERVE_FOLDER, Reserve } from '../../../src/pool/reserve.ts'
import { buildSample } from '../../support/sample-pool.ts'
import type { SampleHooks } from '../../support/sample-pool.ts'
import { openCodecs } from '../../sim/pool-maker.ts'
import { BLOCK, POOL, SimWorld, fillOf } from './sim-pool.ts'

t.setTimeout(600_000)

const checksum = await openChecksum()
const codecs = openCodecs()
const arenaMemory = Buffer.allocUnsafeSlow(16 * MIB)
/** Every place instead of a sample of them. */
const isThorough = process.env.VARVE_EVERY_FAULT === '1'
const EVERYWHERE = { offsetBytes: 0, lengthBytes: 2 ** 40 }
const SUPERBLOCK = `${POOL}/superblock`

/** Changes one page of a superblock file, with a good checksum. */
function changeSuperblock(io: SimIo, page: number, change: (superblock: Superblock) => void): void {
  const { data } = io.disk.openFile(SUPERBLOCK, 'write')
  const bytes = new Uint8Array(BLOCK_SIZE_BYTES)
  data.read(page * BLOCK_SIZE_BYTES, bytes)
  const verdict = decodeSuperblock(bytes, checksum)
  if (verdict.kind !== 'valid') throw new Error(`page ${page} is ${verdict.kind}`)
  change(verdict.superblock)
  encodeSuperblock(verdict.superblock, bytes, checksum)
  data.write(page * BLOCK_SIZE_BYTES, bytes)
}

async function opensAgain(t: Test, world: SimWorld, name: string): Promise<void> {
  world.io.disk.clearFaults()
  t.equal(world.io.arena.usedBytes, 0, `${name}: all memory is given back`)
  await world.open()
  t.same(
    world.pool.list().map((entry) => entry.name),
    ['a'],
    name,
  )
  await world.close()
}

t.test(
  'a superblock that cannot be read, written or synced ends the open, and no more',
  async (t) => {
    const world = await SimWorld.create({ seed: 1, arenaMemory })
    await world.run(world.pool.create({ name: 'a', sizeBytes: MIB }))
    await world.close()
    const aim = { path: 'superblock', skip: 0, times: 1, errno: Errno.EIO }
    const faults: SimFault[] = [
      { kind: 'read-error', ...aim, ...EVERYWHERE },
      { kind: 'write-error', ...aim },
      { kind: 'write-error', ...aim, skip: 1 },
      { kind: 'sync-error', ...aim },
    ]
    for (const fault of faults) {
      world.io.addFault(fault)
      const opening = world.run(Pool.open(world.io, checksum, POOL))
      await t.rejects(opening, { code: 'io', errno: Errno.EIO })
      await opensAgain(t, world, fault.kind)
    }
  },
)

t.test('a pool of another version, or with features unknown here, is left alone', async (t) => {
  const changes: [string, (superblock: Superblock) => void][] = [
    ['unsupported', (superblock) => void (superblock.refuseFeatures |= 2 ** 30)],
    ['unsupported', (superblock) => void (superblock.readOnlyFeatures = 1)],
  ]
  for (const [code, change] of changes) {
    const world = await SimWorld.create({ seed: 2, arenaMemory })
    await world.close()
    for (const page of [0, 1]) changeSuperblock(world.io, page, change)
    await t.rejects(world.run(Pool.open(world.io, checksum, POOL)), { code })
    t.equal(world.io.arena.usedBytes, 0)
  }
  const world = await SimWorld.create({ seed: 2, arenaMemory })
  await world.close()
  for (const page of [0, 1])
    changeSuperblock(world.io, page, (one) => void (one.ignoreFeatures = 5))
  await world.open()
  await world.close()
  // Damage in both pages: nothing says where to begin.
  for (const at of [100, BLOCK_SIZE_BYTES + 100]) world.io.disk.flipBit(SUPERBLOCK, at, 1)
  const opening = world.run(Pool.open(world.io, checksum, POOL))
  await t.rejects(opening, { code: 'superblock-corrupt' })
})

t.test('a damaged catalogue or log is named, and the pool is left as it was', async (t) => {
  const cases: [string, string, SampleHooks][] = [
    [
      'a disk that does not exist is removed',
      'catalogue-corrupt',
      { log: (builder) => void builder.addOperation(3, { op: 'remove', ids: [77] }) },
    ],
    [
      'an id is used twice',
      'catalogue-corrupt',
      {
        log: (builder) => {
          const snapshots = [{ id: 1, volumeId: 1, name: 'again' }]
          builder.addOperation(3, { op: 'snapshot', createdMs: 1, snapshots })
        },
      },
    ],
    [
      'a disk that does not exist is written',
      'record-corrupt',
      {
        log: (builder) => {
          const blocks = [new Uint8Array(BLOCK_SIZE_BYTES)]
          builder.addRecord(3, [{ kind: EntryKind.data, disk: 77, block: 1, blocks }])
        },
      },
    ],
    [
      'what comes later says that what is missing was durable',
      'log-gap',
      {
        log: (builder) => {
          const torn = builder.addRecord(3, [{ kind: EntryKind.trim, disk: 1, block: 1, count: 1 }])
          builder.addRecord(3, [{ kind: EntryKind.trim, disk: 1, block: 2, count: 1 }])
          builder.flip(3, torn.slot)
        },
      },
    ],
  ]
  for (const [name, code, hooks] of cases) {
    const io = new SimIo({ seed: 3, arenaMemory })
    await io.runUntil(buildSample(checksum, hooks).builder.save(io, POOL))
    await t.rejects(io.runUntil(Pool.open(io, checksum, POOL)), { code }, name)
    t.equal(io.arena.usedBytes, 0)
  }
  const io = new SimIo({ seed: 3, arenaMemory })
  const sample = buildSample(checksum, {
    superblock: (one) => {
      one.catalogue = { segment: 1, slot: sampleOf().fullSlot, blockCount: 1 }
    },
    lines: (lines) => void (lines.length = 1),
  })
  // The only part calls itself a delta.
  const page = sample.builder.page(1, sample.fullSlot)
  page[8] = PartKind.delta
  sample.builder.checksum.hashBlocks(
    page,
    0,
    1,
    sample.builder.segment(1).table,
    2 * sample.fullSlot,
  )
  sample.builder.seal(1)
  await io.runUntil(sample.builder.save(io, POOL))
  const opening = io.runUntil(Pool.open(io, checksum, POOL))
  await t.rejects(opening, { code: 'catalogue-corrupt', message: /full part/ })
})

function sampleOf(): { fullSlot: number } {
  return buildSample(checksum)
}

t.test(
  'the reserve is what is on the disk: adopted, made whole again, given up in pieces',
  async (t) => {
    const io = new SimIo({ seed: 4, arenaMemory, capacityBytes: 64 * MIB })
    const run = async <T>(outcome: Promise<T>): Promise<T> => (await io.runUntil(outcome)) as T
    await run(io.createDirectory(POOL))
    const reserve = await run(Reserve.open(io, POOL))
    t.notOk(await run(reserve.release()), 'there is none yet')
    await run(reserve.take(8 * MIB))
    t.equal(reserve.heldBytes, 8 * MIB)
    t.equal(io.disk.usedBytes, 8 * MIB)
    t.ok(await run(reserve.release()))
    t.equal(reserve.heldBytes, 7 * MIB)
    t.same((await run(Reserve.open(io, POOL))).heldBytes, 7 * MIB, 'what an earlier process left')
    // One that a crash left without its space.
    const path = `${POOL}/${RESERVE_FOLDER}/2`
    await run(io.remove(path))
    await run(io.close(await run(io.open(path, 'create'))))
    const adopted = await run(Reserve.open(io, POOL))
    t.equal(adopted.heldBytes, 6 * MIB)
    io.disk.setCapacity(io.disk.usedBytes + MIB)
    await run(adopted.take(8 * MIB))
    t.equal(adopted.heldBytes, 7 * MIB, 'as much as there is room for')
    t.equal(io.disk.list(`${POOL}/${RESERVE_FOLDER}`).length, 7, 'and nothing half made')
    io.disk.setCapacity(64 * MIB)
    await run(adopted.take(8 * MIB))
    t.equal(adopted.heldBytes, 8 * MIB)
    while (await run(adopted.release()));
    t.equal(io.disk.usedBytes, 0)
    const refused = new OperatingError('unsupported', 'no such call')
    let askedCount = 0
    io.allocate = () => {
      askedCount += 1
      return Promise.reject(refused)
    }
    await run(adopted.take(8 * MIB))
    await run(adopted.take(8 * MIB))
    t.equal(askedCount, 1, 'a filesystem that cannot is asked once')
    io.allocate = () => Promise.reject(new TypeError('our bug'))
    const other = await run(Reserve.open(io, POOL))
    await t.rejects(run(other.take(MIB)), TypeError)
    io.createDirectory = () => Promise.reject(new TypeError('our bug'))
    await t.rejects(run(other.take(MIB)), TypeError)
  },
)

t.test('a step that is too large for one record is refused whole', async (t) => {
  const world = await SimWorld.create({ seed: 5, arenaMemory })
  const labels = { note: 'x'.repeat(1_100_000) }
  const creating = world.run(world.pool.create({ name: 'a', sizeBytes: MIB, labels }))
  await t.rejects(creating, { code: 'out-of-range' })
  t.same(world.pool.list(), [])
  await world.run(world.pool.create({ name: 'a', sizeBytes: MIB, labels: { note: 'short' } }))
  await world.reopen()
  t.equal((await world.run(world.pool.volume('a'))).labels.note, 'short')
  await world.close()
})

/** What is done to a pool, one step after the other; each resolves when it is durable. */
const STEPS: readonly ((world: SimWorld) => Promise<unknown>)[] = [
  ({ pool }) => pool.create({ name: 'a', sizeBytes: GIB }),
  (world) => fillBlocks(world, 'a', 0, 24, 1),
  ({ pool }) => pool.snapshot(['a@s']),
  (world) => fillBlocks(world, 'a', 8, 8, 2),
  ({ pool }) => pool.clone('a@s', ['c']),
  async ({ pool }) => {
    const bulk = await pool.beginImport({ name: 'image', sizeBytes: MIB })
    try {
      await bulk.write(0, new Uint8Array(MIB / 2).fill(3))
      await bulk.commit()
    } catch (error) {
      await bulk.abort()
      throw error
    }
  },
  ({ pool }) => pool.settle('lz4'),
  ({ pool }) => pool.resize('c', 4 * BLOCK, true),
  ({ pool }) => pool.remove({ names: ['image'], recursive: true, dryRun: false }),
  ({ pool }) => pool.reclaim(),
  (world) => fillBlocks(world, 'a', 100, 4, 4),
  ({ pool }) => pool.checkpoint(),
  ({ pool }) => pool.remove({ names: ['a@s'], recursive: true, dryRun: false }),
]

async function fillBlocks(
  world: SimWorld,
  name: string,
  block: number,
  count: number,
  value: number,
): Promise<void> {
  const { arena } = world.io
  const target = world.pool.openTarget(name, 'a test')
  if (target === null) throw new OperatingError('not-found', name)
  const lengthBytes = count * BLOCK
  const at = arena.allocate(lengthBytes)
  arena.memory.fill(value, at, at + lengthBytes)
  const result = await new Promise<number>((resolve) => {
    const done = { targetComplete: (_tag: number, errno: number): void => resolve(errno) }
    target.write(block * BLOCK, lengthBytes, at, 1, done, 0)
  })
  arena.free(at, lengthBytes)
  target.close()
  if (result !== 0) throw new OperatingError('io', 'refused', { errno: -result })
}

/** The contents that the pool shows, for comparing. */
async function contentsOf(world: SimWorld): Promise<string> {
  const lines: string[] = []
  for (const { name, sizeBytes } of world.pool.list()) {
    const client = world.disk(name)
    let runs = ''
    for (const block of [0, 7, 8, 15, 16, 23, 24, 100, 103]) {
      if ((block + 1) * BLOCK > sizeBytes) continue
      runs += ` ${fillOf(await client.read(block * BLOCK, BLOCK))}`
    }
    lines.push(`${name} ${sizeBytes}:${runs}`)
    client.close()
  }
  return lines.join('\n')
}

/** Contents before each step, and after the last. */
async function expectedContents(): Promise<string[]> {
  const world = await SimWorld.create({ seed: 6, arenaMemory })
  await world.close()
  await world.open({ codecs })
  const contents = [await contentsOf(world)]
  for (const step of STEPS) {
    await world.run(step(world))
    contents.push(await contentsOf(world))
  }
  await world.close()
  return contents
}

async function runWithFault(
  t: Test,
  fault: SimFault,
  contents: readonly string[],
): Promise<boolean> {
  const name = `${fault.kind} ${'errno' in fault ? fault.errno : ''} at ${fault.path} ${fault.skip}`
  const world = await SimWorld.create({ seed: 6, arenaMemory })
  await world.close()
  await world.open({ codecs })
  world.io.addFault(fault)
  let doneCount = 0
  for (const step of STEPS) {
    try {
      await world.run(step(world))
    } catch (error) {
      if (!(error instanceof OperatingError)) throw error
      break
    }
    doneCount += 1
  }
  const hasStruck = !world.io.disk.hasFaults
  const legal = contents.slice(doneCount, doneCount + 2)
  const now = await contentsOf(world)
  if (!legal.includes(now)) t.fail(`${name}: after ${doneCount} steps\n${now}`)
  world.io.crash({ kind: 'process' })
  world.io = world.io.reboot()
  world.io.disk.clearFaults()
  const { errors } = await world.run(checkPool(world.io, checksum, codecs, POOL))
  if (errors.length > 0) t.fail(`${name}: ${JSON.stringify(errors)}`)
  await world.open({ codecs })
  const later = await contentsOf(world)
  if (!legal.includes(later)) t.fail(`${name}: after ${doneCount} steps and an open\n${later}`)
  await world.close()
  t.same(world.damage, [], name)
  return hasStruck
}

t.test(
  'whatever write or sync fails, what was answered is there and nothing is half done',
  async (t) => {
    const contents = await expectedContents()
    const kinds: [Omit<SimFault, 'skip' | 'times'>, number][] = [
      [{ kind: 'write-error', path: '.seg', errno: Errno.ENOSPC } as SimFault, 7],
      [{ kind: 'write-error', path: '.seg', errno: Errno.EIO } as SimFault, 11],
      [{ kind: 'sync-error', path: '/segments', errno: Errno.EIO } as SimFault, 7],
      [{ kind: 'write-error', path: 'superblock', errno: Errno.EIO } as SimFault, 2],
      [{ kind: 'sync-error', path: 'superblock', errno: Errno.EIO } as SimFault, 2],
    ]
    const placeCountMin = isThorough ? 5 : 2
    for (const [fault, stride] of kinds) {
      let struckCount = 0
      for (let skip = 0; ; skip += isThorough ? 1 : stride) {
        const aimed = { ...fault, skip, times: 1 } as SimFault
        if (!(await runWithFault(t, aimed, contents))) break
        struckCount += 1
      }
      t.ok(struckCount >= placeCountMin, `${fault.kind} at ${fault.path}: ${struckCount} places`)
    }
  },
)

t.test('a pool closes though imports cannot be given up, and says so', async (t) => {
  for (const skip of [0, 1]) {
    const world = await SimWorld.create({ seed: 7, arenaMemory })
    for (const name of ['a', 'b']) {
      const bulk = await world.run(world.pool.beginImport({ name, sizeBytes: 64 * BLOCK }))
      await world.run(bulk.write(0, Buffer.alloc(BLOCK, name)))
    }
    world.io.addFault({ kind: 'sync-error', path: '/segments', skip, times: 1, errno: Errno.EIO })
    await t.rejects(world.run(world.pool.close()), { code: 'io' }, `folder sync ${skip}`)
    world.io.disk.clearFaults()
    await world.open({ codecs })
    t.strictSame(await world.run(world.pool.volumes()), [])
    await world.close()
    t.strictSame((await world.run(checkPool(world.io, checksum, codecs, POOL))).errors, [])
  }
})
