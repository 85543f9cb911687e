/** When the pool settles by itself, and when it lets it be; one run at a time. */
import t from 'tap'
import { Errno } from '../../../src/base/errors.ts'
import { MIB } from '../../../src/base/units.ts'
import type { OpenPoolOptions } from '../../../src/pool/pool.ts'
import type { ReclaimReport } from '../../../src/pool/types.ts'
import { Turnover } from '../../../src/pool/turnover.ts'
import { Upkeep } from '../../../src/pool/upkeep.ts'
import { openCodecs } from '../../sim/pool-maker.ts'
import { interpose } from '../../support/interpose.ts'
import { BLOCK, SimWorld, fillOf } from './sim-pool.ts'

t.setTimeout(300_000)

const codecs = openCodecs()
const arenaMemory = Buffer.allocUnsafeSlow(16 * MIB)
const SECOND_MS = 1000
/** Long enough for guests to count as idle, and for a look after that. */
const IDLE_MS = 25 * SECOND_MS

interface Watched {
  world: SimWorld
  /** Of the settles that were begun, by whomever. */
  runs: Promise<ReclaimReport>[]
  undo: () => void
}

function watch(method: 'settle' | 'settleIdle', runs: Promise<ReclaimReport>[]): () => void {
  return interpose(
    Upkeep.prototype,
    method,
    (original: (...args: never[]) => Promise<ReclaimReport>) =>
      function (this: Upkeep, ...args: never[]) {
        const run = original.apply(this, args)
        runs.push(run)
        return run
      },
  )
}

async function newWorld(options: OpenPoolOptions = {}, capacityBytes = 0): Promise<Watched> {
  const runs: Promise<ReclaimReport>[] = []
  const undos = [watch('settle', runs), watch('settleIdle', runs)]
  const undo = (): void => undos.forEach((one) => one())
  const world = await SimWorld.create({ seed: 1, arenaMemory }, capacityBytes)
  await world.close()
  await world.open({ codecs, idleCompression: 'lz4', ...options })
  return { world, runs, undo }
}

async function end({ world, undo }: Watched): Promise<void> {
  undo()
  await world.close()
}

async function write(world: SimWorld, name: string, lengthBytes: number): Promise<void> {
  const client = world.disk(name)
  for (let at = 0; at < lengthBytes; at += MIB) await client.fill(at, MIB, 1 + ((at / MIB) % 250))
  await client.flush()
  client.close()
}

t.test(
  'a pool settles by itself when guests are idle, and then only when something came',
  async (t) => {
    const watched = await newWorld()
    const { world, runs } = watched
    await world.run(world.pool.create({ name: 'a', sizeBytes: 256 * MIB }))
    t.equal(world.pool.upkeep(null).idle, 'lz4')
    await write(world, 'a', 2 * MIB)
    await world.io.runFor(10 * SECOND_MS)
    t.equal(runs.length, 0, 'they were not idle long enough')
    await world.io.runFor(IDLE_MS)
    t.equal(runs.length, 1, 'what was left by the last process is settled')
    t.ok((await runs[0]).settledSegmentCount > 0)
    await world.io.runFor(10 * IDLE_MS)
    t.equal(runs.length, 1, 'nothing came')
    await write(world, 'a', MIB)
    await world.io.runFor(2 * IDLE_MS)
    t.equal(runs.length, 1, 'too little to walk all maps for it')
    await write(world, 'a', 130 * MIB)
    await world.io.runFor(2 * IDLE_MS)
    t.equal(runs.length, 2)
    const client = world.disk('a')
    t.equal(fillOf(await client.read(5 * MIB, MIB)), 6)
    client.close()
    await end(watched)
  },
)

t.test('busy guests are not disturbed unless the pool is nearly full', async (t) => {
  const watched = await newWorld({ warnPercent: 50 }, 160 * MIB)
  const { world, runs } = watched
  await world.run(world.pool.create({ name: 'a', sizeBytes: 256 * MIB }))
  const client = world.disk('a')
  const beBusy = async (lengthMs: number): Promise<void> => {
    for (let ms = 0; ms < lengthMs; ms += SECOND_MS) {
      await client.read(0, BLOCK)
      await world.io.runFor(SECOND_MS)
    }
  }
  await client.fill(0, MIB, 1)
  await beBusy(2 * IDLE_MS)
  t.equal(runs.length, 0)
  for (let at = 0; at < 100 * MIB; at += MIB) await client.fill(at, MIB, 1)
  await world.run(world.pool.watchSpace())
  t.not(world.pool.fill.state, 'ok')
  await beBusy(IDLE_MS)
  t.ok(runs.length > 0)
  client.close()
  await end(watched)
})

t.test('guests that never rest get back what they overwrite', async (t) => {
  const turnoverBytesMin = 100 * MIB
  const watched = await newWorld({ idleCompression: null, turnoverBytesMin })
  const { world } = watched
  await world.run(world.pool.create({ name: 'a', sizeBytes: 256 * MIB }))
  const client = world.disk('a')
  const overwrite = async (round: number): Promise<void> => {
    for (let at = 0; at < 64 * MIB; at += MIB) {
      await client.fill(at, MIB, 1 + round)
      await world.io.runFor(1)
    }
    await client.flush()
  }
  await overwrite(0)
  await world.run(world.pool.snapshot(['a@kept']))
  for (let round = 1; round < 14; round += 1) {
    await overwrite(round)
    const { physicalBytes } = await world.run(world.pool.info())
    // What is live, the same again twice, as the first run is too early, and what is just coming.
    t.ok(physicalBytes < 600 * MIB, `round ${round}: ${physicalBytes / MIB} MiB`)
  }
  t.equal(fillOf(await client.read(5 * MIB, MIB)), 14)
  client.close()
  const kept = world.disk('a@kept')
  t.equal(fillOf(await kept.read(5 * MIB, MIB)), 1)
  kept.close()
  await end(watched)
})

t.test('the less a turnover brings, the longer it waits', (t) => {
  const report = (deletedSegmentCount: number, liveBytes: number): ReclaimReport => ({
    ...({} as ReclaimReport),
    deletedSegmentCount,
    liveBytes,
  })
  const turnover = new Turnover(100 * MIB, 7 * MIB)
  t.notOk(turnover.isDue(106 * MIB))
  t.ok(turnover.isDue(107 * MIB))
  turnover.ended(107 * MIB, report(1, 10 * MIB))
  t.ok(turnover.isDue(207 * MIB), 'a segment of 64 MiB came back: that was worth it')
  turnover.ended(207 * MIB, report(0, 200 * MIB))
  t.notOk(turnover.isDue(606 * MIB), 'nothing came back: twice what is live')
  t.ok(turnover.isDue(607 * MIB))
  turnover.ended(607 * MIB, null)
  t.notOk(turnover.isDue(1406 * MIB), 'it failed: four times')
  t.ok(turnover.isDue(1407 * MIB))
  for (let at = 2000; at <= 6000; at += 1000) turnover.ended(at * MIB, null)
  t.ok(turnover.isDue(7600 * MIB), 'eight times at most')
  turnover.ended(7600 * MIB, report(10, 200 * MIB))
  t.ok(turnover.isDue(7800 * MIB))
  t.end()
})

t.test('whatever is removed or imported is reason enough, through whichever door', async (t) => {
  const watched = await newWorld()
  const { world, runs } = watched
  const { pool } = world
  const settles = async (): Promise<boolean> => {
    const before = runs.length
    await world.io.runFor(2 * IDLE_MS)
    return runs.length > before
  }
  for (const name of ['a', 'b']) await world.run(pool.create({ name, sizeBytes: MIB }))
  t.ok(await settles())
  t.notOk(await settles())
  await world.run(pool.remove({ names: ['a'], recursive: false, dryRun: true }))
  t.notOk(await settles(), 'a dry run removes nothing')
  await world.run(pool.remove({ names: ['a'], recursive: false, dryRun: false }))
  t.ok(await settles(), 'by the command line')
  const bulk = await world.run(pool.beginImport({ name: 'image', sizeBytes: MIB }))
  await world.run(pool.remove({ names: ['b'], recursive: false, dryRun: false }))
  t.notOk(await settles(), 'not while something is being imported')
  await world.run(bulk.commit())
  t.ok(await settles(), 'an import')
  const id = pool.files.tryVolume('image')?.id ?? 0
  await world.run(pool.files.remove(id))
  t.ok(await settles(), 'by rm in the filesystem')
  t.notOk(await settles())
  await end(watched)
})

t.test('while it is paused nothing begins, and what has begun waits', async (t) => {
  const watched = await newWorld()
  const { world, runs } = watched
  await world.run(world.pool.create({ name: 'a', sizeBytes: 64 * MIB }))
  await write(world, 'a', 4 * MIB)
  t.ok(world.pool.upkeep(true).isPaused)
  await world.io.runFor(4 * IDLE_MS)
  t.equal(runs.length, 0)
  t.notOk(world.pool.upkeep(false).isPaused)
  let stepCount = 0
  const settling = world.pool.settle('lz4', undefined, ({ phase }) => {
    stepCount += 1
    if (phase === 'mark' && stepCount < 5) world.pool.upkeep(true)
  })
  await world.io.runFor(IDLE_MS)
  const seen = stepCount
  t.equal(world.pool.upkeep(null).phase, 'mark', 'it says where it is')
  await world.io.runFor(IDLE_MS)
  t.equal(stepCount, seen)
  world.pool.upkeep(false)
  t.ok((await world.run(settling)).settledSegmentCount > 0)
  t.ok(stepCount > seen)
  t.same(world.pool.upkeep(null).phase, null)
  await end(watched)
})

t.test('a second run is refused, and the first goes on', async (t) => {
  const watched = await newWorld({ idleCompression: null })
  const { world, runs } = watched
  await world.run(world.pool.create({ name: 'a', sizeBytes: 64 * MIB }))
  await write(world, 'a', 2 * MIB)
  const first = world.pool.settle('lz4')
  await t.rejects(world.pool.reclaim(), { code: 'busy' })
  await t.rejects(world.pool.settle('off'), { code: 'busy' })
  t.ok((await world.run(first)).settledSegmentCount > 0)
  t.ok(await world.run(world.pool.reclaim()), 'and then there is room for the next')
  await world.io.runFor(10 * IDLE_MS)
  t.equal(runs.length, 2, 'nobody else asked: it is off')
  await end(watched)
})

t.test('an idle run gives way to what is asked for, and comes again later', async (t) => {
  const watched = await newWorld()
  const { world, runs } = watched
  await world.run(world.pool.create({ name: 'a', sizeBytes: 64 * MIB }))
  await write(world, 'a', 8 * MIB)
  // Slowed down, so that it is met under way.
  while (runs.length === 0) await world.io.runFor(10)
  world.pool.upkeep(true)
  await world.io.runFor(100)
  const reclaiming = world.pool.reclaim()
  await t.rejects(world.pool.settle('lz4'), { code: 'busy' }, 'but one at a time')
  const canceled = t.rejects(runs[0], { code: 'canceled' })
  await world.io.runFor(100)
  await canceled
  world.pool.upkeep(false)
  t.ok(await world.run(reclaiming))
  await world.io.runFor(2 * IDLE_MS)
  const last = await runs.at(-1)
  t.ok(last !== undefined && last.settledSegmentCount > 0, 'what was given up comes later')
  await end(watched)
})

t.test('closing gives up the run that is under way, and what it did holds', async (t) => {
  for (const delayMs of [0, 1, 10, 100, 1000]) {
    const watched = await newWorld()
    const { world, runs } = watched
    await world.run(world.pool.create({ name: 'a', sizeBytes: 64 * MIB }))
    await write(world, 'a', 8 * MIB)
    while (runs.length === 0) await world.io.runFor(100)
    await world.io.runFor(delayMs)
    // One that is paused would never end by itself.
    world.pool.upkeep(delayMs > 1)
    await world.close()
    await world.io.runFor(2 * IDLE_MS)
    t.equal(runs.length, 1, 'nothing begins behind its back')
    await Promise.allSettled(runs)
    await world.open({ codecs })
    const client = world.disk('a')
    for (let at = 0; at < 8 * MIB; at += MIB) {
      t.equal(fillOf(await client.read(at, MIB)), 1 + at / MIB)
    }
    client.close()
    await end(watched)
  }
})

t.test('a pool that is closed while it waits for guests to be idle looks no more', async (t) => {
  const { world, runs, undo } = await newWorld()
  await world.run(world.pool.create({ name: 'a', sizeBytes: MIB }))
  // The next look would be the first to find them idle.
  await world.io.runFor(14 * SECOND_MS)
  await world.close()
  await world.io.runFor(4 * IDLE_MS)
  t.equal(runs.length, 0)
  undo()
})

t.test(
  'a caller can give up its run; one that is given up before it begins does nothing',
  async (t) => {
    const watched = await newWorld({ idleCompression: null })
    const { world } = watched
    await world.run(world.pool.create({ name: 'a', sizeBytes: 64 * MIB }))
    await write(world, 'a', 4 * MIB)
    const early = AbortSignal.abort()
    await t.rejects(world.run(world.pool.settle('lz4', early)), { code: 'canceled' })
    const controller = new AbortController()
    const settling = world.pool.settle('lz4', controller.signal, ({ phase }) => {
      if (phase === 'settle') controller.abort()
    })
    await t.rejects(world.run(settling), { code: 'canceled' })
    const files = world.io.disk.list('/pool/segments')
    t.notOk(
      files.some((name) => !name.endsWith('.seg')),
      'nothing half made is left',
    )
    t.ok((await world.run(world.pool.settle('lz4'))).settledSegmentCount > 0)
    await end(watched)
  },
)

t.test('what goes wrong by itself is tried again; a failed pool is left alone', async (t) => {
  const watched = await newWorld()
  const { world, runs } = watched
  await world.run(world.pool.create({ name: 'a', sizeBytes: 64 * MIB }))
  await write(world, 'a', MIB)
  const everywhere = { offsetBytes: 0, lengthBytes: 2 ** 40 }
  const { io } = world
  const aim = { path: '.settling', skip: 0, times: 1, errno: Errno.EIO }
  io.addFault({ kind: 'read-error', ...aim, ...everywhere })
  await io.runFor(2 * IDLE_MS)
  t.equal((await runs[0]).skippedSegmentCount, 1)
  await world.run(world.pool.create({ name: 'b', sizeBytes: MIB }))
  await world.run(world.pool.remove({ names: ['b'], recursive: false, dryRun: false }))
  io.addFault({ kind: 'sync-error', path: '.seg', skip: 0, times: 1, errno: Errno.EIO })
  const client = world.disk('a')
  await client.fill(0, BLOCK, 2)
  t.equal(await client.flush(), -Errno.EIO)
  client.close()
  await world.run(t.rejects(world.pool.settle('lz4'), { code: 'pool-failed' }))
  t.match(world.pool.failure, /errno 5/)
  const before = runs.length
  await io.runFor(10 * IDLE_MS)
  t.equal(runs.length, before)
  await end(watched)
})
