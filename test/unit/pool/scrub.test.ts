/** Damage beyond a bit: what is healed from where, what is named, and what goes on beside it. */
import t from 'tap'
import type { Test as Tap } from 'tap'
import { must } from '../../../src/base/assert.ts'
import { MIB, SEGMENT_SIZE_BYTES } from '../../../src/base/units.ts'
import { checkPool } from '../../../src/check/check.ts'
import { FOOTER_SLOT, TABLE_SLOT } from '../../../src/format/segment.ts'
import type { ScrubReport } from '../../../src/pool/types.ts'
import { deflateCodecs } from '../../support/deflate-codecs.ts'
import { PoolImage } from '../../support/pool-image.ts'
import { ROT_OPTIONS, arenaMemory, contentOf } from './rot-pool.ts'
import { BLOCK, POOL, SimWorld, fillOf } from './sim-pool.ts'

const EIO = -5

async function newWorld(seed: number): Promise<SimWorld> {
  const world = await SimWorld.create({ seed, arenaMemory })
  await world.close()
  await world.open(ROT_OPTIONS)
  return world
}

async function reopen(world: SimWorld): Promise<void> {
  await world.close()
  await world.open(ROT_OPTIONS)
}

async function newVolume(world: SimWorld, name: string, bytes: Uint8Array): Promise<void> {
  await world.run(world.pool.create({ name, sizeBytes: 8 * MIB }))
  await write(world, name, 0, bytes)
}

async function write(
  world: SimWorld,
  name: string,
  block: number,
  bytes: Uint8Array,
): Promise<number> {
  const client = world.disk(name)
  const result = await client.write(block * BLOCK, bytes)
  await client.flush()
  client.close()
  return result
}

async function read(
  world: SimWorld,
  name: string,
  block: number,
  count = 1,
): Promise<Uint8Array | number> {
  const client = world.disk(name)
  const bytes = await client.read(block * BLOCK, count * BLOCK)
  client.close()
  return bytes
}

/** The page of a segment that holds exactly these bytes; the first, or all. */
async function findPages(
  world: SimWorld,
  bytes: Uint8Array,
): Promise<{ file: string; page: number }[]> {
  const image = await world.run(PoolImage.take(world.io, POOL, ['segments']))
  const found: { file: string; page: number }[] = []
  for (const [file, { pages }] of image.files) {
    for (const [page, held] of pages)
      if (Buffer.compare(held, bytes) === 0) found.push({ file, page })
  }
  return found
}

async function pageOf(world: SimWorld, file: string, page: number): Promise<Uint8Array> {
  const image = await world.run(PoolImage.take(world.io, POOL, ['segments']))
  return image.page(file, page)
}

/** Bytes that nobody wrote there, many at once: no single bit puts them right. */
async function spoil(
  world: SimWorld,
  file: string,
  offsetBytes: number,
  lengthBytes = 64,
  bytes: Uint8Array = new Uint8Array(lengthBytes).fill(0xa7),
): Promise<void> {
  const { io } = world
  const open = await world.run(io.open(`${POOL}/${file}`, 'write'))
  const piece = io.arena.allocate(BLOCK)
  io.arena.memory.set(bytes, piece)
  io.writeSync(open, offsetBytes, { pairs: Uint32Array.of(piece, lengthBytes), count: 1 })
  io.arena.free(piece, BLOCK)
  await world.run(io.close(open))
}

/** Of segments that are settled, ascending. */
async function settledFiles(world: SimWorld): Promise<string[]> {
  const { files } = await world.run(PoolImage.take(world.io, POOL, ['segments']))
  const isSettled = (name: string): boolean =>
    (files.get(name)?.sizeBytes ?? 0) > SEGMENT_SIZE_BYTES
  return [...files.keys()].filter(isSettled).sort()
}

function isSame(found: Uint8Array | number, expected: Uint8Array): boolean {
  return typeof found !== 'number' && Buffer.compare(found, expected) === 0
}

function scrub(world: SimWorld): Promise<ScrubReport> {
  return world.run(world.pool.scrub({ rateBytes: null }))
}

function saysOutcomes(report: ScrubReport): string[] {
  return report.findings.map(({ code, outcome }) => `${code} ${outcome}`)
}

async function errorsOf(world: SimWorld): Promise<string[]> {
  const report = await world.run(checkPool(world.io, world.checksum, deflateCodecs, POOL))
  return report.errors.map(({ code, where }) => `${code} ${where}`)
}

function blockOf(bytes: Uint8Array, block: number): Uint8Array {
  return bytes.subarray(block * BLOCK, (block + 1) * BLOCK)
}

t.test('a block is healed from an equal one, and every disk that shows it is named', async (t) => {
  const world = await newWorld(1)
  const content = contentOf(30, 3)
  await newVolume(world, 'a', content)
  await world.run(world.pool.snapshot(['a@s']))
  await newVolume(world, 'b', content)
  const [place, ...copies] = await findPages(world, blockOf(content, 4))
  t.ok(copies.length > 0)
  await spoil(world, place.file, place.page * BLOCK + 100)
  t.equal(await read(world, 'a', 4), EIO)
  const report = await scrub(world)
  t.strictSame(saysOutcomes(report), ['block-corrupt healed'])
  const range = { offsetBytes: 4 * BLOCK, lengthBytes: BLOCK }
  t.strictSame(report.findings[0].affected, [
    { disk: 'a', ...range },
    { disk: 'a@s', ...range },
  ])
  t.ok(isSame(await read(world, 'a', 4), blockOf(content, 4)))
  t.equal((await scrub(world)).foundCount, 0)
  await world.close()
  t.strictSame(await errorsOf(world), [])
})

t.test(
  'a header that a write gone astray has replaced is healed as the segment’s own',
  async (t) => {
    const world = await newWorld(14)
    const content = contentOf(20, 6)
    await newVolume(world, 'a', content)
    const other = contentOf(20, 9)
    await world.importVolume('i', other)
    // Seals the log segment.
    await world.run(world.pool.reclaim())
    await reopen(world)
    const [ofLog] = await findPages(world, blockOf(content, 4))
    const [ofImport] = await findPages(world, blockOf(other, 4))
    t.not(ofLog.file, ofImport.file)
    await spoil(world, ofLog.file, 0, BLOCK, await pageOf(world, ofImport.file, 0))
    const report = await scrub(world)
    t.strictSame(saysOutcomes(report), ['segment-header-corrupt healed'])
    await world.close()
    t.strictSame(await errorsOf(world), [])
  },
)

t.test('who shows a block through an alias is named, too, and fails with it', async (t) => {
  const world = await newWorld(12)
  const content = contentOf(20, 6)
  await newVolume(world, 'a', content)
  await world.run(world.pool.settle('off'))
  await newVolume(world, 'b', content)
  await world.run(world.pool.settle('off'))
  await reopen(world)
  const places = await findPages(world, blockOf(content, 5))
  t.equal(places.length, 1, 'it is stored once')
  await spoil(world, places[0].file, places[0].page * BLOCK + 7)
  const [finding] = (await scrub(world)).findings
  t.equal(finding.outcome, 'lost')
  const range = { offsetBytes: 5 * BLOCK, lengthBytes: BLOCK }
  t.strictSame(finding.affected, [
    { disk: 'a', ...range },
    { disk: 'b', ...range },
  ])
  t.equal(await read(world, 'b', 5), EIO)
  t.equal(typeof (await read(world, 'b', 6, 14)), 'object')
  await world.close()
})

for (const compression of ['lz4', 'off'] as const) {
  t.test(
    `frames (${compression}) are healed block by block, and what has no copy is lost alone`,
    async (t) => {
      const world = await newWorld(2)
      const content = contentOf(24, 5)
      await newVolume(world, 'a', content)
      await world.run(world.pool.settle(compression))
      // Its map is written elsewhere then: what is spoiled are blocks.
      await write(world, 'a', 23, blockOf(content, 23))
      // Only some of what is in the frames lies elsewhere, too.
      await newVolume(world, 'b', content.subarray(0, 6 * BLOCK))
      await reopen(world)
      const file = must((await settledFiles(world))[0], 'a settled segment')
      for (let at = BLOCK; at < 8 * BLOCK; at += 512) await spoil(world, file, at + 9)
      const before: (Uint8Array | number)[] = []
      for (let i = 0; i < 24; i += 1) before.push(await read(world, 'a', i))
      t.ok(before.includes(EIO))
      const report = await scrub(world)
      t.ok(report.healedCount > 0 && report.lostCount > 0, saysOutcomes(report).join())
      for (let i = 0; i < 24; i += 1) {
        const now = await read(world, 'a', i)
        if (i < 6 || before[i] !== EIO) t.ok(isSame(now, blockOf(content, i)), `${i}`)
        const isNamed = report.findings.some(({ outcome, affected }) => {
          return outcome === 'lost' && affected.some((range) => isWithin(range, 'a', i))
        })
        t.equal(now === EIO, isNamed, `block ${i}`)
      }
      t.equal((await scrub(world)).healedCount, 0)
      await mustGoOn(t, world, content)
    },
  )
}

function isWithin(
  range: { disk: string; offsetBytes: number; lengthBytes: number },
  disk: string,
  block: number,
): boolean {
  const at = block * BLOCK
  return (
    range.disk === disk && at >= range.offsetBytes && at < range.offsetBytes + range.lengthBytes
  )
}

/** Beside blocks of "a" that are lost: everything else is as ever, and writing makes them good. */
async function mustGoOn(t: Tap, world: SimWorld, content: Uint8Array): Promise<void> {
  await world.run(world.pool.snapshot(['a@later']))
  await world.run(world.pool.clone('a@later', ['c']))
  await world.run(world.pool.reclaim())
  await world.run(world.pool.settle('lz4'))
  await world.run(world.pool.info())
  for (const name of ['a', 'c']) {
    t.equal(await write(world, name, 0, content), 0)
    t.ok(isSame(await read(world, name, 0, content.length / BLOCK), content))
  }
  const request = { names: ['a@later'], recursive: false, dryRun: false }
  await world.run(world.pool.remove(request))
  await world.run(world.pool.settle('lz4'))
  t.equal((await scrub(world)).lostCount, 0)
  t.equal(world.pool.failure, null)
  await world.close()
  t.strictSame(await errorsOf(world), [])
}

t.test(
  'a block without a copy is lost alone: reads beside it, writes over it, all else',
  async (t) => {
    const world = await newWorld(3)
    const content = contentOf(30, 7)
    await newVolume(world, 'a', content)
    await world.run(world.pool.reclaim())
    const [place] = await findPages(world, blockOf(content, 9))
    await spoil(world, place.file, place.page * BLOCK)
    t.strictSame(saysOutcomes(await scrub(world)), ['block-corrupt lost'])
    t.equal(await read(world, 'a', 9), EIO)
    t.equal(typeof (await read(world, 'a', 8)), 'object')
    t.equal(typeof (await read(world, 'a', 10, 16)), 'object')
    const client = world.disk('a')
    t.equal(await client.fill(9 * BLOCK + 10, 20, 1), EIO, 'a part of it cannot be changed')
    client.close()
    t.equal(world.pool.failure, null)
    await mustGoOn(t, world, content)
  },
)

t.test(
  'a table beyond a bit is put together from the records, a bulk one from its blocks',
  async (t) => {
    const world = await newWorld(4)
    const content = contentOf(30, 9)
    await newVolume(world, 'a', content)
    await world.importVolume('i', contentOf(40, 8))
    // Seals what is open, and punches nothing.
    await scrub(world)
    await world.close()
    const image = await world.run(PoolImage.take(world.io, POOL, ['segments']))
    await world.open(ROT_OPTIONS)
    for (const [file, { pages }] of image.files) {
      if (pages.has(FOOTER_SLOT)) await spoil(world, file, TABLE_SLOT * BLOCK + 16, 512)
    }
    t.equal(await read(world, 'i', 1), EIO)
    const report = await scrub(world)
    t.ok(report.foundCount >= 2)
    t.strictSame([...new Set(saysOutcomes(report))], ['segment-table-corrupt healed'])
    t.ok(isSame(await read(world, 'i', 0, 40), contentOf(40, 8)))
    await world.close()
    t.strictSame(await errorsOf(world), [])
  },
)

t.test(
  'a damaged node makes its range fail, for reads and writes, and nothing is given up',
  async (t) => {
    const world = await newWorld(5)
    const content = contentOf(20, 1)
    await newVolume(world, 'a', content)
    await write(world, 'a', 600, contentOf(10, 2))
    await newVolume(world, 'b', contentOf(10, 4))
    await reopen(world)
    const leaf = await leafWith(world, 20)
    await spoil(world, leaf.file, leaf.page * BLOCK + 3000)
    await spoil(world, leaf.file, leaf.page * BLOCK + 8)
    await reopen(world)
    t.equal(await read(world, 'a', 3), EIO)
    t.equal(await read(world, 'a', 100), EIO, 'nobody knows what was there')
    t.ok(isSame(await read(world, 'a', 600, 10), contentOf(10, 2)))
    t.equal(await write(world, 'a', 3, blockOf(content, 3)), EIO)
    t.equal(await write(world, 'a', 601, blockOf(content, 3)), 0)
    t.equal(world.pool.failure, null)
    const report = await scrub(world)
    t.strictSame(saysOutcomes(report), ['block-corrupt lost'])
    t.strictSame(report.findings[0].affected, [
      { disk: 'a', offsetBytes: 0, lengthBytes: 512 * BLOCK },
    ])
    const removed = { names: ['b'], recursive: false, dryRun: false }
    await world.run(world.pool.remove(removed))
    const kept = await world.run(world.pool.settle('lz4'))
    t.equal(kept.deletedSegmentCount + kept.settledSegmentCount + kept.punchedBytes, 0)
    t.ok(kept.skippedSegmentCount > 0)
    t.equal((await world.run(world.pool.volumes())).length, 1)
    // All of what the node stands for is replaced: it is needed no more.
    const client = world.disk('a')
    t.equal(await client.trim(0, 512 * BLOCK), 0)
    client.close()
    t.equal(fillOf(await read(world, 'a', 3)), 0)
    t.ok((await world.run(world.pool.settle('lz4'))).settledSegmentCount > 0)
    t.ok(isSame(await read(world, 'a', 602, 8), contentOf(10, 2).subarray(2 * BLOCK)))
    await world.close()
    t.strictSame(await errorsOf(world), [])
  },
)

/** The page of a leaf of which `count` entries are blocks. */
async function leafWith(world: SimWorld, count: number): Promise<{ file: string; page: number }> {
  const image = await world.run(PoolImage.take(world.io, POOL, ['segments']))
  for (const [file, { pages }] of image.files) {
    for (const [page, bytes] of pages) {
      const words = new Uint32Array(bytes.buffer, bytes.byteOffset, 1024)
      const kinds = words.filter((_, i) => i % 2 === 1 && i < 1024).map((word) => word >>> 28)
      const isLeaf = kinds.filter((kind) => kind === 2).length === count
      if (isLeaf && kinds.every((kind) => kind === 0 || kind === 2)) return { file, page }
    }
  }
  throw new Error('there is no such leaf')
}

t.test('a node that is in memory is healed from there, the catalogue written anew', async (t) => {
  const world = await newWorld(6)
  await newVolume(world, 'a', contentOf(20, 1))
  await reopen(world)
  t.equal(typeof (await read(world, 'a', 3)), 'object')
  const leaf = await leafWith(world, 20)
  await spoil(world, leaf.file, leaf.page * BLOCK + 8)
  t.strictSame(saysOutcomes(await scrub(world)), ['block-corrupt healed'])
  const image = await world.run(PoolImage.take(world.io, POOL, ['segments']))
  for (const [file, { pages }] of image.files) {
    for (const [page, bytes] of pages) {
      const magic = Buffer.from(bytes.subarray(0, 8)).toString('latin1')
      if (magic === 'VARVCAT1') await spoil(world, file, page * BLOCK + 40)
    }
  }
  const report = await scrub(world)
  t.equal(report.lostCount, 0)
  t.ok(report.healedCount > 0)
  await reopen(world)
  t.ok(isSame(await read(world, 'a', 0, 20), contentOf(20, 1)))
  await world.close()
  t.strictSame(await errorsOf(world), [])
})

t.test('where a directory is lost, nothing that its aliases may lead to is given up', async (t) => {
  const world = await newWorld(7)
  const content = contentOf(24, 5)
  await newVolume(world, 'a', content)
  await world.run(world.pool.settle('lz4'))
  await newVolume(world, 'b', content)
  await world.run(world.pool.settle('lz4'))
  await world.run(world.pool.remove({ names: ['a'], recursive: false, dryRun: false }))
  await reopen(world)
  const file = must((await settledFiles(world)).at(-1), 'a settled segment')
  const kept = await world.run(PoolImage.take(world.io, POOL, ['segments']))
  const directory = kept.page(file, FOOTER_SLOT + 1).slice()
  await spoil(world, file, (FOOTER_SLOT + 1) * BLOCK, 64)
  await reopen(world)
  t.equal(await read(world, 'b', 3), EIO)
  t.strictSame([...new Set(saysOutcomes(await scrub(world)))], ['segment-table-corrupt lost'])
  const report = await world.run(world.pool.reclaim())
  t.equal(report.deletedSegmentCount, 0)
  // Put right by somebody else, all of it is there.
  await world.close()
  const back = await world.run(world.io.open(`${POOL}/${file}`, 'write'))
  const piece = world.io.arena.allocate(BLOCK)
  world.io.arena.memory.set(directory, piece)
  const vector = { pairs: Uint32Array.of(piece, 64), count: 1 }
  world.io.writeSync(back, (FOOTER_SLOT + 1) * BLOCK, vector)
  world.io.arena.free(piece, BLOCK)
  await world.run(world.io.close(back))
  await world.open(ROT_OPTIONS)
  t.ok(isSame(await read(world, 'b', 0, 24), content))
  await world.close()
})

t.test(
  'a run that is stopped goes on where it was, in the next process, and says so',
  async (t) => {
    const world = await newWorld(8)
    for (const name of ['a', 'b', 'c']) {
      await newVolume(world, name, contentOf(20, name.charCodeAt(0)))
      await world.run(world.pool.reclaim())
    }
    t.strictSame((await world.run(world.pool.scrubStatus())).last, null)
    const controller = new AbortController()
    const stopped = world.pool.scrub({ rateBytes: null }, controller.signal, ({ phase, done }) => {
      if (phase === 'segments' && done === 2) controller.abort()
    })
    await t.rejects(world.run(stopped), { code: 'canceled' })
    const { running } = await world.run(world.pool.scrubStatus())
    await reopen(world)
    t.strictSame((await world.run(world.pool.scrubStatus())).running, running)
    await world.crash()
    let first = Infinity
    let total = 0
    const report = await world.run(
      world.pool.scrub({ rateBytes: null }, undefined, (made) => {
        if (made.phase === 'segments') first = Math.min(first, made.done)
        total = Math.max(total, made.total)
      }),
    )
    t.ok(report.isResumed)
    t.ok(report.readBytes > (running?.readBytes ?? Infinity))
    const { last, running: none } = await world.run(world.pool.scrubStatus())
    t.equal(none, null)
    t.equal(last?.endedMs, report.endedMs)
    const whole = await scrub(world)
    t.notOk(whole.isResumed)
    await world.close()
  },
)

t.test(
  'damage that is not dealt with when a run is stopped is found by the next one',
  async (t) => {
    const world = await newWorld(9)
    const content = contentOf(20, 3)
    await newVolume(world, 'a', content)
    await world.run(world.pool.reclaim())
    await newVolume(world, 'b', contentOf(20, 4))
    await world.run(world.pool.reclaim())
    const [place] = await findPages(world, blockOf(content, 9))
    await spoil(world, place.file, place.page * BLOCK)
    const controller = new AbortController()
    const stopped = world.pool.scrub({ rateBytes: null }, controller.signal, ({ phase }) => {
      if (phase === 'heal') controller.abort()
    })
    await t.rejects(world.run(stopped), { code: 'canceled' })
    await world.crash('process')
    t.strictSame(saysOutcomes(await scrub(world)), ['block-corrupt lost'])
    await world.close()
  },
)

t.test('runs begin by themselves when they are due; one at a time; a rate is kept', async (t) => {
  const world = await newWorld(10)
  await newVolume(world, 'a', contentOf(60, 3))
  await world.close()
  await world.open({ ...ROT_OPTIONS, scrubEveryDays: 1 })
  const wait = (delayMs: number): Promise<void> =>
    world.run(new Promise<void>((resolve) => void world.io.setTimer(delayMs, resolve)))
  await wait(3_600_000)
  t.equal((await world.run(world.pool.scrubStatus())).last, null)
  await wait(86_400_000)
  t.not((await world.run(world.pool.scrubStatus())).last, null)
  const startedMs = world.io.nowMs()
  const slow = world.pool.scrub({ rateBytes: 100_000 })
  await t.rejects(world.run(world.pool.scrub({ rateBytes: null })), { code: 'busy' })
  const { readBytes } = await world.run(slow)
  t.ok(world.io.nowMs() - startedMs >= (readBytes / 100_000) * 1000 - 1000)
  await world.close()
})
