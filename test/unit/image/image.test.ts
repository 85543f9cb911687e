/** Images in and out against plain files: bytes must survive, holes must stay holes. */
import { randomBytes } from 'node:crypto'
import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { open } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import t from 'tap'
import { must } from '../../../src/base/assert.ts'
import { OperatingError } from '../../../src/base/errors.ts'
import { BLOCK_SIZE_BYTES, MIB } from '../../../src/base/units.ts'
import { EXTENT_HOLE, EXTENT_ZERO } from '../../../src/export/target.ts'
import type { ExportTarget, ExtentList, TargetCompletion } from '../../../src/export/target.ts'
import { exportRaw } from '../../../src/image/export-raw.ts'
import type { ImageSink } from '../../../src/image/export-raw.ts'
import { FileSink } from '../../../src/image/file-sink.ts'
import { volumeSizeOf } from '../../../src/image/image-file.ts'
import { importFile, importStream } from '../../../src/image/import-raw.ts'
import type { BlockSink, HoleSeeker } from '../../../src/image/import-raw.ts'
import { runsOf } from '../../../src/image/zeros.ts'
import { BuddyArena } from '../../../src/io/buddy-arena.ts'

const folder = mkdtempSync(join(tmpdir(), 'varve-image-'))
t.teardown(() => rmSync(folder, { recursive: true }))

/** Takes blocks as the pool does, and insists on what it may insist on. */
class MemorySink implements BlockSink {
  readonly content: Buffer
  endBytes = 0
  writtenBytes = 0
  failAt = Infinity

  constructor(sizeBytes: number) {
    this.content = Buffer.alloc(Math.ceil(sizeBytes / BLOCK_SIZE_BYTES) * BLOCK_SIZE_BYTES)
  }

  async write(offsetBytes: number, bytes: Uint8Array): Promise<void> {
    if (offsetBytes % BLOCK_SIZE_BYTES !== 0) throw new Error('not at a block')
    if (bytes.length % BLOCK_SIZE_BYTES !== 0) throw new Error('not whole blocks')
    if (offsetBytes < this.endBytes) throw new Error('not ascending')
    if (offsetBytes + bytes.length > this.content.length) throw new Error('past the end')
    // The bytes are only taken later: whoever reuses them too early is found out.
    await new Promise((resolve) => setImmediate(resolve))
    if (offsetBytes >= this.failAt) throw new OperatingError('no-space', 'full')
    this.content.set(bytes, offsetBytes)
    this.endBytes = offsetBytes + bytes.length
    this.writtenBytes += bytes.length
  }
}

type Extent = { lengthBytes: number; kind: 'data' | 'hole' | 'zero' }

const extentArbitrary: fc.Arbitrary<Extent> = fc.record({
  lengthBytes: fc.oneof(
    fc.integer({ min: 1, max: 40 }).map((blocks) => blocks * BLOCK_SIZE_BYTES),
    fc.integer({ min: 1, max: 3 * MIB }),
  ),
  kind: fc.constantFrom('data', 'hole', 'zero'),
})
const extentsArbitrary = fc.array(extentArbitrary, { minLength: 1, maxLength: 5 })

/** The image's bytes: data is random, so that nothing in it is equal by accident. */
function contentOf(extents: Extent[]): Buffer {
  return Buffer.concat(
    extents.map(({ lengthBytes, kind }) =>
      kind === 'data' ? randomBytes(lengthBytes) : Buffer.alloc(lengthBytes),
    ),
  )
}

/** Answers as lseek would for `extents` on a filesystem of 4 KiB blocks. */
function seekerOf(extents: Extent[], sizeBytes: number): HoleSeeker {
  const blockCount = Math.ceil(sizeBytes / BLOCK_SIZE_BYTES)
  const isData = new Uint8Array(blockCount)
  let at = 0
  for (const { lengthBytes, kind } of extents) {
    const end = at + lengthBytes
    if (kind !== 'hole') isData.fill(1, Math.floor(at / 4096), Math.ceil(end / 4096))
    at = end
  }
  const find = (from: number, wanted: number): number => {
    let block = Math.floor(from / BLOCK_SIZE_BYTES)
    if (isData[block] === wanted) return from
    while (block < blockCount && isData[block] !== wanted) block += 1
    return Math.min(block * BLOCK_SIZE_BYTES, sizeBytes)
  }
  return {
    seekData: (_fd, offsetBytes) => find(offsetBytes, 1),
    seekHole: (_fd, offsetBytes) => find(offsetBytes, 0),
  }
}

/** A disk whose reads complete late and out of order, and whose extents come a few at a time. */
class ListTarget implements ExportTarget {
  readonly name = 'list'
  readonly readOnly = true
  readonly blockSizes = { minimum: 1, preferred: 4096, maximum: MIB }
  readonly sizeBytes: number
  readonly content: Buffer
  readonly extentList: Extent[]
  inFlight = 0
  failAt = Infinity

  constructor(extents: Extent[]) {
    this.extentList = extents
    this.content = contentOf(extents)
    this.sizeBytes = this.content.length
  }

  attach(memory: Buffer): this {
    this.#memory = memory
    return this
  }
  #memory: Buffer = Buffer.alloc(0)

  read(offset: number, length: number, at: number, done: TargetCompletion, tag: number): void {
    this.inFlight += 1
    setTimeout(
      () => {
        this.inFlight -= 1
        this.content.copy(this.#memory, at, offset, offset + length)
        done.targetComplete(tag, offset + length > this.failAt ? -5 : 0)
      },
      Math.floor(Math.random() * 3),
    )
  }

  extents(
    offset: number,
    length: number,
    _context: object,
    out: ExtentList,
    done: TargetCompletion,
    tag: number,
  ): void {
    let at = 0
    out.count = 0
    for (const { lengthBytes, kind } of this.extentList) {
      const end = at + lengthBytes
      if (end > offset && at < offset + length && out.count < 2) {
        // The last one may reach past what was asked about.
        out.lengths[out.count] = end - Math.max(at, offset)
        out.flags[out.count] =
          kind === 'data' ? 0 : kind === 'hole' ? EXTENT_HOLE | EXTENT_ZERO : EXTENT_ZERO
        out.count += 1
      }
      at = end
    }
    setImmediate(() => done.targetComplete(tag, 0))
  }

  write(): void {
    throw new Error('an export does not write')
  }
  flush(): void {
    throw new Error('an export does not flush')
  }
  trim(): void {
    throw new Error('an export does not trim')
  }
  zero(): void {
    throw new Error('an export does not zero')
  }
  snapshots(): readonly string[] {
    return []
  }
  close(): void {
    if (this.inFlight > 0) throw new Error('closed with reads in flight')
  }
}

async function importBytes(
  content: Buffer,
  seeker: HoleSeeker | null,
  sink: BlockSink,
): Promise<number> {
  const path = join(folder, 'source.img')
  writeFileSync(path, content)
  const file = await open(path, 'r')
  try {
    return await importFile(file, content.length, seeker, sink, readArena, {})
  } finally {
    await file.close()
  }
}

t.test('an imported file has its bytes, and its holes are not read', async (t) => {
  await fc.assert(
    fc.asyncProperty(extentsArbitrary, fc.boolean(), async (extents, canSeek) => {
      const content = contentOf(extents)
      const sink = new MemorySink(content.length)
      const seeker = canSeek ? seekerOf(extents, content.length) : null
      const dataBytes = await importBytes(content, seeker, sink)
      if (!sink.content.subarray(0, content.length).equals(content)) return false
      if (sink.content.subarray(content.length).some((byte) => byte !== 0)) return false
      return canSeek ? dataBytes <= content.length : dataBytes === content.length
    }),
    { numRuns: 25 },
  )
  const holes: Extent[] = [
    { lengthBytes: 8 * MIB, kind: 'hole' },
    { lengthBytes: 4096, kind: 'data' },
    { lengthBytes: 8 * MIB, kind: 'hole' },
  ]
  const content = contentOf(holes)
  const sink = new MemorySink(content.length)
  t.equal(await importBytes(content, seekerOf(holes, content.length), sink), 4096)
  t.equal(sink.writtenBytes, 4096)
  t.ok(sink.content.equals(content))
})

t.test('an imported stream has its bytes, however they come', async (t) => {
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 0, max: 4 * MIB }),
      fc.integer({ min: 1, max: 3 * MIB }),
      async (lengthBytes, chunkBytesWanted) => {
        // A thousand chunks are enough of a test.
        const chunkBytes = Math.max(chunkBytesWanted, Math.ceil(lengthBytes / 1000))
        const content = randomBytes(lengthBytes)
        async function* input(): AsyncGenerator<Uint8Array> {
          // One buffer for all: a stream may reuse its memory too.
          const chunk = Buffer.alloc(chunkBytes)
          for (let at = 0; at < lengthBytes; at += chunkBytes) {
            yield chunk.subarray(0, content.copy(chunk, 0, at, at + chunkBytes))
          }
        }
        const sink = new MemorySink(lengthBytes)
        const doneBytes = await importStream(input(), lengthBytes, sink, {})
        return doneBytes === lengthBytes && sink.content.subarray(0, lengthBytes).equals(content)
      },
    ),
    { numRuns: 25 },
  )
  async function* endless(): AsyncGenerator<Uint8Array> {
    for (;;) yield Buffer.alloc(65536, 1)
  }
  const sink = new MemorySink(MIB)
  await t.rejects(importStream(endless(), MIB, sink, {}), { code: 'out-of-range' })
  const full = new MemorySink(64 * MIB)
  full.failAt = 2 * MIB
  await t.rejects(importStream(endless(), 64 * MIB, full, {}), { code: 'no-space' })
  const controller = new AbortController()
  const { signal } = controller
  const progress = (): void => controller.abort()
  const canceled = importStream(endless(), 64 * MIB, new MemorySink(64 * MIB), { signal, progress })
  await t.rejects(canceled, { code: 'canceled' })
})

t.test('an import that fails says so: full, canceled, cut short', async (t) => {
  const content = randomBytes(9 * MIB)
  const full = new MemorySink(content.length)
  full.failAt = 3 * MIB
  await t.rejects(importBytes(content, null, full), { code: 'no-space' })
  const path = join(folder, 'short.img')
  writeFileSync(path, content)
  const file = await open(path, 'r')
  const sink = new MemorySink(content.length * 2)
  await t.rejects(importFile(file, content.length + 1, null, sink, readArena, {}), { code: 'io' })
  const signal = AbortSignal.abort()
  await t.rejects(importFile(file, content.length, null, sink, readArena, { signal }), {
    code: 'canceled',
  })
  await file.close()
})

/** What images are read into. */
const readArena = new BuddyArena(Buffer.alloc(8 * MIB))

t.test('an exported file has its bytes and no more blocks than it needs', async (t) => {
  let run = 0
  await fc.assert(
    fc.asyncProperty(extentsArbitrary, async (extents) => {
      const arena = new BuddyArena(Buffer.alloc(4 * MIB))
      const target = new ListTarget(extents).attach(arena.memory)
      const path = join(folder, `out-${(run += 1)}.img`)
      const sink = await FileSink.create(path, target.sizeBytes, false)
      const dataBytes = await exportRaw(target, arena, sink, {})
      await sink.commit()
      target.close()
      const written = readFileSync(path)
      const sparse = statSync(path).blocks * 512 <= dataBytes + 65536 + extents.length * 8192
      rmSync(path)
      return written.equals(target.content) && sparse && arena.usedBytes === 0
    }),
    { numRuns: 30 },
  )
  t.strictSame(leftovers(), [], 'nothing partial stays')
})

function leftovers(): string[] {
  return readdirSync(folder).filter((name) => name.includes('.partial'))
}

t.test('an export that fails leaves what was there, and no memory in use', async (t) => {
  const extents: Extent[] = [{ lengthBytes: 20 * MIB, kind: 'data' }]
  const path = join(folder, 'kept.img')
  writeFileSync(path, 'what was there')
  await t.rejects(FileSink.create(path, MIB, false), { code: 'exists' })
  for (const failure of ['read', 'write', 'cancel'] as const) {
    const arena = new BuddyArena(Buffer.alloc(16 * MIB))
    const target = new ListTarget(extents).attach(arena.memory)
    const controller = new AbortController()
    if (failure === 'read') target.failAt = 7 * MIB
    const file = await FileSink.create(path, target.sizeBytes, true)
    t.equal(leftovers().length, 1, 'it is written aside')
    const sink: ImageSink = {
      data: async (bytes) => {
        if (failure === 'write') throw new OperatingError('no-space', 'full')
        if (failure === 'cancel') controller.abort()
        await file.data(bytes)
      },
      zeros: (lengthBytes) => file.zeros(lengthBytes),
    }
    const code = { read: 'io', write: 'no-space', cancel: 'canceled' }[failure]
    await t.rejects(exportRaw(target, arena, sink, { signal: controller.signal }), { code })
    target.close()
    await file.abort()
    t.equal(arena.usedBytes, 0)
    t.strictSame(leftovers(), [])
    t.equal(readFileSync(path, 'utf8'), 'what was there')
  }
})

t.test('a file is replaced whole, through a link too, and never by surprise', async (t) => {
  const path = join(folder, 'real.img')
  const linkPath = join(folder, 'link.img')
  writeFileSync(path, 'old')
  symlinkSync(path, linkPath)
  const sink = await FileSink.create(linkPath, 3, true)
  await sink.data(Buffer.from('new'))
  await sink.commit()
  t.equal(readFileSync(path, 'utf8'), 'new')
  const late = join(folder, 'late.img')
  const second = await FileSink.create(late, 3, false)
  writeFileSync(late, 'appeared meanwhile')
  await t.rejects(second.commit(), { code: 'exists' })
  await second.abort()
  t.equal(readFileSync(late, 'utf8'), 'appeared meanwhile')
  t.strictSame(leftovers(), [])
  await t.rejects(FileSink.create(folder, 1, true), { code: 'usage' })
  await t.rejects(FileSink.create(join(folder, 'no/such'), 1, false), { code: 'not-found' })
})

t.test('a block device is written whole, zeros included', { skip: loopSkip() }, async (t) => {
  const backing = join(folder, 'device.img')
  writeFileSync(backing, Buffer.alloc(8 * MIB, 0xff))
  const device = execFileSync('losetup', ['--find', '--show', backing], { encoding: 'utf8' }).trim()
  t.teardown(() => execFileSync('losetup', ['--detach', device]))
  const extents: Extent[] = [
    { lengthBytes: MIB, kind: 'hole' },
    { lengthBytes: MIB, kind: 'data' },
    { lengthBytes: 2 * MIB, kind: 'zero' },
  ]
  const arena = new BuddyArena(Buffer.alloc(4 * MIB))
  const target = new ListTarget(extents).attach(arena.memory)
  await t.rejects(FileSink.create(device, target.sizeBytes, false), { code: 'exists' })
  await t.rejects(FileSink.create(device, 9 * MIB, true), { code: 'out-of-range' })
  const sink = await FileSink.create(device, target.sizeBytes, true)
  await exportRaw(target, arena, sink, {})
  await sink.commit()
  const written = readFileSync(backing)
  t.ok(written.subarray(0, 4 * MIB).equals(target.content))
  t.ok(written.subarray(4 * MIB).equals(Buffer.alloc(4 * MIB, 0xff)), 'past the disk: untouched')
})

/** Not every container may make loop devices. */
function loopSkip(): string | false {
  try {
    const free = execFileSync('losetup', ['--find'], { encoding: 'utf8', stdio: 'pipe' }).trim()
    return existsSync(free) ? false : 'no loop device'
  } catch {
    return 'no loop device may be used'
  }
}

t.test('zero runs are whole blocks, cover everything and alternate', (t) => {
  fc.assert(
    fc.property(extentsArbitrary, (extents) => {
      const content = contentOf(extents).subarray(0, MIB)
      const runs = [...runsOf(content)]
      let at = 0
      for (const [index, { startBytes, endBytes, zero }] of runs.entries()) {
        if (startBytes !== at || endBytes <= startBytes) return false
        if (index > 0 && must(runs[index - 1], 'a run').zero === zero) return false
        if (startBytes % BLOCK_SIZE_BYTES !== 0) return false
        if (zero && content.subarray(startBytes, endBytes).some((byte) => byte !== 0)) return false
        at = endBytes
      }
      return at === content.length
    }),
    { numRuns: 30 },
  )
  t.equal(volumeSizeOf(1), 512)
  t.equal(volumeSizeOf(512), 512)
  t.equal(volumeSizeOf(5_000_001), 5_000_192)
  t.end()
})

t.test('a folder that may not be written is said to be so', { skip: rootSkip() }, async (t) => {
  const closed = mkdtempSync(join(folder, 'closed-'))
  chmodSync(closed, 0o500)
  await t.rejects(FileSink.create(join(closed, 'x'), 1, false), { code: 'io' })
})

function rootSkip(): string | false {
  return process.getuid?.() === 0 ? 'root may write anywhere' : false
}
