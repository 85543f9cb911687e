/** Reads of settled segments against the bytes that were there before. */
import fc from 'fast-check'
import t from 'tap'
import { missingCodecs } from '../../../src/base/codec.ts'
import type { Codecs } from '../../../src/base/codec.ts'
import { Errno } from '../../../src/base/errors.ts'
import { PLACE_DEAD } from '../../../src/format/directory.ts'
import { DATA_SLOT_END } from '../../../src/format/segment.ts'
import { SegmentStore } from '../../../src/segment/segment-store.ts'
import { PATH, openCodecs } from '../../sim/pool-maker.ts'
import { walkPool } from '../../sim/pool-walk.ts'
import { SuperblockFile } from '../../../src/pool/superblock-file.ts'
import { SimWorld } from '../pool/sim-pool.ts'

t.setTimeout(300_000)

const BLOCK = 4096
const BLOCK_COUNT = 240
const codecs = openCodecs()
const arenaMemory = Buffer.allocUnsafeSlow(16 * 1024 * 1024)
const FOLDER = `${PATH}/segments`

interface Subject {
  world: SimWorld
  /** Slots that hold something, in runs, and what they held before they were settled. */
  runs: { segment: number; slot: number; blocks: Uint8Array[] }[]
  poolId: Uint8Array
}

/** Zeros, duplicates near and far, blocks that compress and such that do not. */
function blockOf(value: number): Uint8Array {
  const block = new Uint8Array(BLOCK)
  if (value % 7 === 0) return block
  const text = `block ${value % 5 === 0 ? value % 25 : value} `
  Buffer.from(block.buffer).fill(text)
  let word = value
  for (let i = 0; value % 3 === 0 && i < BLOCK; i += 1) {
    word = (Math.imul(word, 1664525) + 1013904223) >>> 0
    block[i] = word >>> 24
  }
  return block
}

async function newSubject(): Promise<Subject> {
  const world = await SimWorld.create({ seed: 11, arenaMemory })
  await world.close()
  await world.open({ codecs })
  for (const [name, first] of [
    ['one', 0],
    ['two', 100],
  ] as const) {
    await world.run(world.pool.create({ name, sizeBytes: BLOCK_COUNT * BLOCK }))
    const client = world.disk(name)
    for (let i = 0; i < BLOCK_COUNT; i += 60) {
      const parts = Array.from({ length: 60 }, (_, index) => blockOf(first + i + index))
      await client.write(i * BLOCK, Buffer.concat(parts))
    }
    await client.flush()
    client.close()
    // Sealed, and nothing in it moves yet.
    await world.run(world.pool.reclaim())
  }
  const before = new Map<number, (slot: number) => Uint8Array>()
  for (const name of world.io.disk.list(FOLDER)) {
    const { data } = world.io.disk.openFile(`${FOLDER}/${name}`, 'read')
    const bytes = new Uint8Array(1024 * BLOCK)
    data.read(0, bytes)
    before.set(Number(name.slice(0, 10)), (slot) =>
      bytes.subarray(slot * BLOCK, (slot + 1) * BLOCK),
    )
  }
  await world.run(world.pool.settle('zstd'))
  await world.close()
  const { settledIds } = walkPool(world.io.disk, world.checksum, codecs, PATH)
  const file = await world.run(SuperblockFile.open(world.io, world.checksum, PATH))
  const { poolId } = file.current
  await world.run(file.close())
  const subject: Subject = { world, runs: [], poolId }
  const store = await openStore(subject, codecs, 1 << 20)
  for (const segment of settledIds) {
    const table = await world.run(store.loadTable(segment))
    const bytesOf = before.get(segment)
    if (bytesOf === undefined) continue
    let run: Subject['runs'][number] | null = null
    for (let slot = 1; slot < DATA_SLOT_END; slot += 1) {
      if (table.kindOf(slot) === PLACE_DEAD) run = null
      else if (run === null) subject.runs.push((run = { segment, slot, blocks: [bytesOf(slot)] }))
      else run.blocks.push(bytesOf(slot))
    }
  }
  await world.run(store.close())
  return subject
}

async function openStore(
  { world, poolId }: Subject,
  codecs: Codecs,
  frameCacheBytes: number,
): Promise<SegmentStore> {
  const limits = { checksumCacheBytes: 1, frameCacheBytes, openFileCountMax: 2 }
  const onDamage = (): void => undefined
  const { io, checksum } = world
  const store = new SegmentStore(io, checksum, codecs, poolId, FOLDER, limits, onDamage)
  await world.run(store.load())
  return store
}

interface Read {
  run: number
  from: number
  count: number
}

/** All at once; for each 0, an errno, or "differs". */
async function readAll(subject: Subject, store: SegmentStore, reads: Read[]): Promise<unknown[]> {
  const { world, runs } = subject
  const { arena } = world.io
  const outcomes = reads.map((read) => {
    const run = runs[read.run % runs.length]
    const from = read.from % run.blocks.length
    const count = Math.min(read.count, run.blocks.length - from)
    const at = arena.allocate(count * BLOCK)
    return new Promise<unknown>((resolve) => {
      const ioComplete = (_tag: number, result: number): void => {
        const found = arena.memory.subarray(at, at + count * BLOCK)
        const wanted = Buffer.concat(run.blocks.slice(from, from + count))
        arena.free(at, count * BLOCK)
        resolve(result === 0 && !wanted.equals(found) ? 'differs' : result)
      }
      store.read(run.segment, run.slot + from, count, at, { ioComplete }, 0)
    })
  })
  return world.run(Promise.all(outcomes))
}

const subject = await newSubject()
const read = fc.record({
  run: fc.nat(1000),
  from: fc.nat(500),
  count: fc.integer({ min: 1, max: 64 }),
})

for (const frameCacheBytes of [1, 1 << 24]) {
  await t.test(
    `any reads together give what was written; cache of ${frameCacheBytes}`,
    async (t) => {
      t.ok(subject.runs.reduce((sum, { blocks }) => sum + blocks.length, 0) > BLOCK_COUNT)
      const store = await openStore(subject, codecs, frameCacheBytes)
      await fc.assert(
        fc.asyncProperty(
          fc.array(read, { minLength: 1, maxLength: 24 }),
          fc.boolean(),
          async (reads, fails) => {
            const everywhere = { offsetBytes: 0, lengthBytes: 2 ** 40 }
            const fault = { path: '.seg', skip: 1, times: 1, errno: Errno.EIO }
            if (fails) subject.world.io.addFault({ kind: 'read-error', ...fault, ...everywhere })
            const results = await readAll(subject, store, reads)
            subject.world.io.disk.clearFaults()
            const allowed = fails ? [0, -Errno.EIO] : [0]
            const again = await readAll(subject, store, reads)
            return (
              results.every((result) => (allowed as unknown[]).includes(result)) &&
              again.every((result) => result === 0)
            )
          },
        ),
        { numRuns: 60, seed: 1 },
      )
      await subject.world.run(store.close())
    },
  )
}

await t.test('a frame that many ask for at once is decoded once, and then no more', async (t) => {
  let decodedCount = 0
  const counting: Codecs = {
    ...codecs,
    decode: (codec, source, at, sourceBytes, target, targetOffset, rawBytes) => {
      if (rawBytes > 8192) decodedCount += 1
      return codecs.decode(codec, source, at, sourceBytes, target, targetOffset, rawBytes)
    },
  }
  const store = await openStore(subject, counting, 1 << 24)
  const everything = subject.runs.flatMap(({ blocks }, run) =>
    blocks.map((_, from) => ({ run, from, count: 1 })),
  )
  for (let at = 0; at < everything.length; at += 100) {
    await readAll(subject, store, everything.slice(at, at + 100))
  }
  const once = decodedCount
  t.ok(once > 0 && once < everything.length / 4, `${once} frames of ${everything.length} blocks`)
  for (let at = 0; at < everything.length; at += 100) {
    await readAll(subject, store, everything.slice(at, at + 100))
  }
  t.equal(decodedCount, once)
  await subject.world.run(store.close())
})

// It stayed in the cache, and was found wrong until something else pushed it out (seed 1136).
await t.test('what came out wrong is decoded anew for whoever reads next', async (t) => {
  let isWrong = true
  const wrong: Codecs = {
    ...codecs,
    decode: (codec, source, at, sourceBytes, target, targetOffset, rawBytes) => {
      const isDecoded = codecs.decode(
        codec,
        source,
        at,
        sourceBytes,
        target,
        targetOffset,
        rawBytes,
      )
      if (isWrong && rawBytes > 8192) target[targetOffset] ^= 1
      return isDecoded
    },
  }
  const store = await openStore(subject, wrong, 1 << 24)
  let wrongCount = 0
  for (const run of subject.runs.keys()) {
    isWrong = true
    const [first] = await readAll(subject, store, [{ run, from: 0, count: 1 }])
    isWrong = false
    const [second] = await readAll(subject, store, [{ run, from: 0, count: 1 }])
    if (first !== 0) t.same([first, second], [-Errno.EIO, 0])
    wrongCount += first === 0 ? 0 : 1
  }
  t.ok(wrongCount > 0)
  await subject.world.run(store.close())
})

await t.test('what this host cannot decode is an error to the reader, and no more', async (t) => {
  const lacking = missingCodecs()
  const directories: Codecs = {
    ...codecs,
    decode: (codec, ...rest) => (rest[5] === 8192 ? codecs : lacking).decode(codec, ...rest),
  }
  const store = await openStore(subject, directories, 1)
  const reads = subject.runs.map((_, run) => ({ run, from: 0, count: 64 }))
  const results = await readAll(subject, store, reads)
  t.ok(results.includes(-Errno.EIO))
  t.same(
    results.filter((result) => result !== 0 && result !== -Errno.EIO),
    [],
  )
  await subject.world.run(store.close())
})
