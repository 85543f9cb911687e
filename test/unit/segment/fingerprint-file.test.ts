/** The index across a close: what is loaded was saved, all of it if the file is sound. */
import t from 'tap'
import { missingCodecs } from '../../../src/base/codec.ts'
import { Errno } from '../../../src/base/errors.ts'
import { MIB } from '../../../src/base/units.ts'
import { ENTRIES_PER_PAGE, FINGERPRINT_FILE } from '../../../src/format/fingerprints.ts'
import { PAGE_SIZE_BYTES } from '../../../src/format/page.ts'
import { openChecksum } from '../../../src/io/open-io.ts'
import { SimIo } from '../../../src/io/sim-io.ts'
import { DedupIndex } from '../../../src/segment/dedup-index.ts'
import {
  retagFingerprints,
  saveFingerprints,
  tryLoadFingerprints,
} from '../../../src/segment/fingerprint-file.ts'
import { SegmentStore } from '../../../src/segment/segment-store.ts'

t.setTimeout(300_000)

const checksum = await openChecksum()
const arenaMemory = Buffer.allocUnsafeSlow(8 * MIB)
const PATH = `/p/${FINGERPRINT_FILE}`
/** More pages than are read or written at once. */
const COUNT = 150 * ENTRIES_PER_PAGE + 7
const BUDGET_BYTES = 4 * MIB

function tagOf(i: number): number {
  return Math.imul(i, 0x9e3779b1) >>> 0
}

class Subject {
  readonly io: SimIo = new SimIo({ seed: 1, arenaMemory })
  readonly store: SegmentStore

  private constructor(poolId: Uint8Array) {
    const limits = { checksumCacheBytes: 1, frameCacheBytes: 1, openFileCountMax: 2 }
    const nobody = (): void => undefined
    const { io } = this
    this.store = new SegmentStore(io, checksum, missingCodecs(), poolId, '/p/s', limits, nobody)
  }

  /** With the fingerprints of `count` blocks saved for generation 5. */
  static async saved(count: number, poolId: Uint8Array = new Uint8Array(16)): Promise<Subject> {
    const subject = new Subject(poolId)
    await subject.run(subject.io.createDirectory('/p'))
    const index = new DedupIndex(BUDGET_BYTES)
    for (let i = 0; i < count; i += 1) index.set(tagOf(i), i & 0xffff, 1 + (i % 9), 1 + (i % 16000))
    await subject.run(saveFingerprints(subject.store, index, '/p', 5))
    return subject
  }

  async run<T>(outcome: Promise<T>): Promise<T> {
    return (await this.io.runUntil(outcome)) as T
  }

  async load(generation: number, budgetBytes = BUDGET_BYTES): Promise<DedupIndex | null> {
    const index = new DedupIndex(budgetBytes)
    const isLoaded = await this.run(tryLoadFingerprints(this.store, index, '/p', generation))
    return isLoaded ? index : null
  }
}

/** How many of the saved ones are there; throws for one that was never saved. */
function countOf(index: DedupIndex, count: number): number {
  let foundCount = 0
  for (let i = 0; i < count; i += 1) {
    if (!index.isSampled(tagOf(i)) || !index.find(tagOf(i), i & 0xffff)) continue
    if (index.segment !== 1 + (i % 9) || index.slot !== 1 + (i % 16000)) throw new Error(`${i}`)
    foundCount += 1
  }
  if (foundCount !== index.count) throw new Error('something is there that was never saved')
  return foundCount
}

t.test('what was saved is loaded, in as many pages as it takes', async (t) => {
  for (const count of [0, 1, ENTRIES_PER_PAGE, 63 * ENTRIES_PER_PAGE, COUNT]) {
    const subject = await Subject.saved(count)
    const index = await subject.load(5)
    t.equal(index === null ? -1 : countOf(index, count), count)
    t.equal(await subject.load(4), null, 'of another checkpoint')
    t.equal(await subject.load(6), null)
  }
})

t.test('an index with less memory keeps a sample of it', async (t) => {
  const subject = await Subject.saved(COUNT)
  const index = await subject.load(5, 8192 * 12)
  if (index === null) throw new Error('it was not loaded')
  const found = countOf(index, COUNT)
  t.ok(index.sampleBits >= 2, `one in 2^${index.sampleBits}`)
  t.ok(found > COUNT / 2 ** index.sampleBits / 2, `${found} of ${COUNT}`)
})

t.test('a page that is damaged costs what is in it, and no more', async (t) => {
  const subject = await Subject.saved(COUNT)
  subject.io.disk.flipBit(PATH, 70 * PAGE_SIZE_BYTES + 99, 2)
  const index = await subject.load(5)
  t.equal(index === null ? -1 : countOf(index, COUNT), COUNT - ENTRIES_PER_PAGE)
})

t.test(
  'a file that is cut short or cannot be read brings nothing that was not saved',
  async (t) => {
    for (const pageCount of [0, 1, 2, 64, 100]) {
      const subject = await Subject.saved(COUNT)
      const file = await subject.run(subject.io.open(PATH, 'write'))
      await subject.run(subject.io.truncate(file, pageCount * PAGE_SIZE_BYTES + 10))
      await subject.run(subject.io.close(file))
      const index = await subject.load(5)
      const most = Math.max(0, pageCount - 1) * ENTRIES_PER_PAGE
      t.ok(index === null || countOf(index, COUNT) <= most, `${pageCount} pages`)
    }
    for (const skip of [0, 1, 2, 3]) {
      const subject = await Subject.saved(COUNT)
      const everywhere = { offsetBytes: 0, lengthBytes: 2 ** 40 }
      const fault = { path: PATH, skip, times: 1, errno: Errno.EIO, ...everywhere }
      subject.io.addFault({ kind: 'read-error', ...fault })
      const index = await subject.load(5)
      t.ok(index === null || countOf(index, COUNT) < COUNT)
      t.equal(
        countOf((await subject.load(5)) ?? new DedupIndex(4096 * 12), COUNT),
        COUNT,
        'then it can',
      )
    }
  },
)

t.test('it is said to be of a later checkpoint only if it was of the one before', async (t) => {
  const subject = await Subject.saved(100)
  const { store } = subject
  await subject.run(retagFingerprints(store, '/p', 4, 9))
  t.equal(await subject.load(9), null)
  t.not(await subject.load(5), null)
  await subject.run(retagFingerprints(store, '/p', 5, 9))
  t.equal(await subject.load(5), null)
  t.equal(countOf((await subject.load(9)) ?? new DedupIndex(4096 * 12), 100), 100)
  const other = await Subject.saved(100, new Uint8Array(16).fill(1))
  const { data } = subject.io.disk.openFile(PATH, 'read')
  const head = new Uint8Array(PAGE_SIZE_BYTES)
  data.read(0, head)
  other.io.disk.openFile(PATH, 'write').data.write(0, head)
  t.equal(await other.load(9), null, 'of another pool')
  await subject.run(subject.io.remove(PATH))
  await subject.run(retagFingerprints(store, '/p', 9, 10))
  t.equal(await subject.load(10), null, 'there is none')
})

t.test('saving it that fails leaves the one of before, or none that counts', async (t) => {
  for (const kind of ['write-error', 'sync-error'] as const) {
    const subject = await Subject.saved(100)
    subject.io.addFault({ kind, path: FINGERPRINT_FILE, skip: 0, times: 1, errno: Errno.ENOSPC })
    const index = new DedupIndex(4096 * 12)
    index.set(1, 1, 1, 1)
    const saving = subject.run(saveFingerprints(subject.store, index, '/p', 6))
    await t.rejects(saving, { code: 'no-space' })
    t.equal(await subject.load(6), null)
    t.equal(countOf((await subject.load(5)) ?? new DedupIndex(4096 * 12), 100), 100)
    await subject.run(saveFingerprints(subject.store, index, '/p', 6))
    t.equal((await subject.load(6))?.count, 1, 'the next does not stumble over what was left')
  }
})
