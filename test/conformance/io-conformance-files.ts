/** Promises of the file operations, hot and control. */
import type { Test } from 'tap'
import { OperatingError } from '../../src/base/errors.ts'
import type { Io, IoFile, IoVector } from '../../src/io/io.ts'
import { ioResult } from '../../src/io/io.ts'
import type { IoUnderTest, MakeIo } from './io-conformance.ts'

const PAGE = 4096

/** A piece of the arena that holds `bytes`. */
export function pieceOf(io: Io, bytes: Uint8Array): { offset: number; length: number } {
  const offset = io.arena.allocate(bytes.length)
  if (offset === -1) throw new Error('the arena of a test is full')
  io.arena.memory.set(bytes, offset)
  return { offset, length: bytes.length }
}

export function vectorOf(...pieces: { offset: number; length: number }[]): IoVector {
  const pairs = new Uint32Array(pieces.flatMap(({ offset, length }) => [offset, length]))
  return { pairs, count: pieces.length }
}

/** Bytes that differ at every offset one is likely to confuse. */
export function patternBytes(lengthBytes: number, seed: number): Buffer {
  const bytes = Buffer.alloc(lengthBytes)
  let state = (seed * 2654435761 + 1) >>> 0
  for (let index = 0; index < lengthBytes; index++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    bytes[index] = state >>> 24
  }
  return bytes
}

async function readBytes(io: Io, file: IoFile, offset: number, length: number): Promise<Buffer> {
  const at = io.arena.allocate(length)
  const count = await ioResult((completion) => {
    io.read(file, offset, at, length, completion, 0)
  })
  if (count < 0) throw new Error(`read failed: ${count}`)
  const bytes = Buffer.from(io.arena.memory.subarray(at, at + count))
  io.arena.free(at, length)
  return bytes
}

function writeBytes(io: Io, file: IoFile, offset: number, bytes: Uint8Array): number {
  const piece = pieceOf(io, bytes)
  const result = io.writeSync(file, offset, vectorOf(piece))
  io.arena.free(piece.offset, piece.length)
  return result
}

async function refusal(work: Promise<unknown>): Promise<OperatingError> {
  try {
    await work
  } catch (error) {
    if (error instanceof OperatingError) return error
    throw error
  }
  throw new Error('was not refused')
}

type Case = (t: Test, world: IoUnderTest) => Promise<void>

const CASES: Readonly<Record<string, Case>> = {
  'what is written in pieces is read back whole': async (t, { io, folder }) => {
    const file = await io.open(`${folder}/a`, 'create')
    t.equal(file.path, `${folder}/a`)
    const parts = [1, 4095, 4096, 70000, 262144].map((size, seed) => patternBytes(size, seed))
    const pieces = parts.map((part) => pieceOf(io, part))
    const total = parts.reduce((sum, part) => sum + part.length, 0)
    t.equal(io.writeSync(file, 100, vectorOf(...pieces)), total)
    for (const { offset, length } of pieces) io.arena.free(offset, length)
    t.ok((await readBytes(io, file, 100, total)).equals(Buffer.concat(parts)))
    t.ok((await readBytes(io, file, 0, 100)).equals(Buffer.alloc(100)), 'a gap reads as zeros')
    t.equal((await io.stat(file)).sizeBytes, total + 100)
    await io.close(file)
  },

  'a vector of more pieces than one system call takes is written whole': async (t, world) => {
    const { io, folder } = world
    const file = await io.open(`${folder}/a`, 'create')
    const source = pieceOf(io, patternBytes(3000, 7))
    const order = Array.from({ length: 3000 }, (_, index) => (index * 7) % 3000)
    const pieces = order.map((index) => ({ offset: source.offset + index, length: 1 }))
    t.equal(io.writeSync(file, 0, vectorOf(...pieces)), 3000)
    const expected = Buffer.from(order.map((index) => io.arena.memory[source.offset + index]))
    t.ok((await readBytes(io, file, 0, 3000)).equals(expected))
    await io.close(file)
  },

  'an empty vector writes nothing': async (t, { io, folder }) => {
    const file = await io.open(`${folder}/a`, 'create')
    t.equal(io.writeSync(file, 0, vectorOf()), 0)
    t.equal((await io.stat(file)).sizeBytes, 0)
    await io.close(file)
  },

  'a read is short only at the end of the file': async (t, { io, folder }) => {
    const file = await io.open(`${folder}/a`, 'create')
    const bytes = patternBytes(10000, 3)
    t.equal(writeBytes(io, file, 0, bytes), 10000)
    t.ok((await readBytes(io, file, 8000, PAGE)).equals(bytes.subarray(8000)))
    t.equal((await readBytes(io, file, 10000, PAGE)).length, 0, 'at the end: nothing')
    t.equal((await readBytes(io, file, 1e12, PAGE)).length, 0, 'far past the end: nothing')
    await io.close(file)
  },

  'offsets past 4 GiB are kept exact': async (t, { io, folder }) => {
    const file = await io.open(`${folder}/a`, 'create')
    const offset = 5 * 2 ** 30 + 12345
    t.equal(writeBytes(io, file, offset, patternBytes(5000, 5)), 5000)
    t.ok((await readBytes(io, file, offset, 5000)).equals(patternBytes(5000, 5)))
    t.equal((await io.stat(file)).sizeBytes, offset + 5000)
    await io.close(file)
  },

  'hundreds of reads in flight each land in their own memory': async (t, { io, folder }) => {
    const file = await io.open(`${folder}/a`, 'create')
    const blocks = 700
    for (let block = 0; block < blocks; block++) {
      writeBytes(io, file, block * PAGE, Buffer.alloc(PAGE, block % 251))
    }
    const results = new Map<number, number>()
    const offsets = Array.from({ length: blocks }, () => io.arena.allocate(PAGE))
    await new Promise<void>((resolve) => {
      const completion = {
        ioComplete(tag: number, result: number): void {
          results.set(tag, result)
          if (results.size === blocks) resolve()
        },
      }
      for (let block = 0; block < blocks; block++) {
        io.read(file, block * PAGE, offsets[block], PAGE, completion, block)
      }
    })
    let wrong = 0
    for (let block = 0; block < blocks; block++) {
      const bytes = io.arena.memory.subarray(offsets[block], offsets[block] + PAGE)
      if (results.get(block) !== PAGE || !bytes.equals(Buffer.alloc(PAGE, block % 251))) wrong += 1
      io.arena.free(offsets[block], PAGE)
    }
    t.equal(wrong, 0)
    await io.close(file)
  },

  'sync completes with 0 and writing without permission fails with an errno': async (t, world) => {
    const { io, folder } = world
    const file = await io.open(`${folder}/a`, 'create')
    writeBytes(io, file, 0, patternBytes(PAGE, 1))
    t.equal(await ioResult((completion) => io.sync(file, completion, 0)), 0)
    await io.close(file)
    const reader = await io.open(`${folder}/a`, 'read')
    t.equal(writeBytes(io, reader, 0, patternBytes(PAGE, 1)), -9, 'EBADF')
    t.ok((await readBytes(io, reader, 0, PAGE)).equals(patternBytes(PAGE, 1)))
    await io.close(reader)
    const writer = await io.open(`${folder}/a`, 'write')
    t.equal(writeBytes(io, writer, 0, patternBytes(PAGE, 2)), PAGE)
    t.ok((await readBytes(io, writer, 0, PAGE)).equals(patternBytes(PAGE, 2)))
    await io.close(writer)
  },

  'open modes refuse what they promise to refuse': async (t, { io, folder }) => {
    for (const mode of ['read', 'write'] as const) {
      const error = await refusal(io.open(`${folder}/none`, mode))
      t.match(error, { code: 'not-found', errno: 2 })
    }
    await io.close(await io.open(`${folder}/a`, 'create'))
    t.match(await refusal(io.open(`${folder}/a`, 'create')), { code: 'exists', errno: 17 })
  },

  'truncate shrinks, grows with zeros, and keeps what lies before': async (t, { io, folder }) => {
    const file = await io.open(`${folder}/a`, 'create')
    const bytes = patternBytes(9000, 4)
    writeBytes(io, file, 0, bytes)
    await io.truncate(file, 5000)
    t.equal((await io.stat(file)).sizeBytes, 5000)
    await io.truncate(file, 9000)
    const expected = Buffer.concat([bytes.subarray(0, 5000), Buffer.alloc(4000)])
    t.ok((await readBytes(io, file, 0, 9000)).equals(expected))
    await io.close(file)
  },

  'a punched range reads as zeros and gives space back': async (t, { io, folder }) => {
    const file = await io.open(`${folder}/a`, 'create')
    const bytes = patternBytes(64 * PAGE, 8)
    writeBytes(io, file, 0, bytes)
    await ioResult((completion) => io.sync(file, completion, 0))
    const before = await io.stat(file)
    await io.punch(file, 8 * PAGE, 32 * PAGE)
    const after = await io.stat(file)
    bytes.fill(0, 8 * PAGE, 40 * PAGE)
    t.ok((await readBytes(io, file, 0, bytes.length)).equals(bytes))
    t.equal(after.sizeBytes, before.sizeBytes)
    t.ok(after.allocatedBytes <= before.allocatedBytes - 32 * PAGE, 'space came back')
    await io.close(file)
  },

  'allocate reserves space and leaves the size alone': async (t, { io, folder }) => {
    const file = await io.open(`${folder}/a`, 'create')
    await io.allocate(file, 0, 1 << 20)
    const stat = await io.stat(file)
    t.equal(stat.sizeBytes, 0)
    t.ok(stat.allocatedBytes >= 1 << 20)
    await io.close(file)
  },

  'folders list sorted, rename replaces, remove removes': async (t, { io, folder }) => {
    await io.createDirectory(`${folder}/d`)
    t.match(await refusal(io.createDirectory(`${folder}/d`)), { code: 'exists' })
    for (const name of ['b', 'a', 'c'])
      await io.close(await io.open(`${folder}/d/${name}`, 'create'))
    t.strictSame(await io.list(`${folder}/d`), ['a', 'b', 'c'])
    const file = await io.open(`${folder}/d/a`, 'write')
    writeBytes(io, file, 0, Buffer.from('from a'))
    await io.close(file)
    await io.rename(`${folder}/d/a`, `${folder}/d/b`)
    await io.syncDirectory(`${folder}/d`)
    t.strictSame(await io.list(`${folder}/d`), ['b', 'c'])
    const moved = await io.open(`${folder}/d/b`, 'read')
    t.equal((await readBytes(io, moved, 0, 100)).toString(), 'from a')
    await io.close(moved)
    await io.remove(`${folder}/d/b`)
    t.strictSame(await io.list(`${folder}/d`), ['c'])
    t.match(await refusal(io.remove(`${folder}/d/b`)), { code: 'not-found' })
    t.match(await refusal(io.rename(`${folder}/d/b`, `${folder}/d/x`)), { code: 'not-found' })
    t.match(await refusal(io.list(`${folder}/none`)), { code: 'not-found' })
    t.match(await refusal(io.syncDirectory(`${folder}/none`)), { code: 'not-found' })
  },

  'space tells of the disk': async (t, { io, folder }) => {
    const space = await io.space(folder)
    t.ok(space.totalBytes > 0)
    t.ok(space.freeBytes >= 0 && space.freeBytes <= space.totalBytes)
  },

  'a lock is exclusive, names its holder, and can be had again': async (t, world) => {
    const { io, folder } = world
    const other = await world.another()
    const lock = await io.lock(`${folder}/lock`, 'the first one')
    for (const contender of [io, other]) {
      const error = await refusal(contender.lock(`${folder}/lock`, 'the second one'))
      t.match(error, { code: 'busy', details: { holder: 'the first one' } })
    }
    await lock.release()
    const second = await other.lock(`${folder}/lock`, 'the second one')
    const error = await refusal(io.lock(`${folder}/lock`, 'the third one'))
    t.match(error, { code: 'busy', details: { holder: 'the second one' } })
    await second.release()
    await (await io.lock(`${folder}/lock`, 'the first one')).release()
    await other.shutdown()
  },
}

export async function fileConformance(t: Test, makeIo: MakeIo): Promise<void> {
  for (const [name, run] of Object.entries(CASES)) {
    await t.test(name, async (t) => {
      const world = await makeIo()
      await run(t, world)
      await world.io.shutdown()
      await world.dispose()
    })
  }
}
