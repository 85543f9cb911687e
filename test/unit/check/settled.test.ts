/** Settled segments: every rule broken once, and what a broken bit can do. */
import fc from 'fast-check'
import t from 'tap'
import { Codec, missingCodecs } from '../../../src/base/codec.ts'
import { BLOCK_SIZE_BYTES, MIB } from '../../../src/base/units.ts'
import type { AffectedRange, FindingCode } from '../../../src/check/report.ts'
import { KIND_BLOCK } from '../../../src/format/node.ts'
import { sealPage } from '../../../src/format/page.ts'
import { FOOTER_SLOT } from '../../../src/format/segment.ts'
import { checkBuilt, checksum, codesOf } from '../../support/check-built.ts'
import { tryInflate } from '../../support/deflate-codecs.ts'
import type { SampleHooks } from '../../support/sample-pool.ts'
import type { SettledSample, SettledSegment } from '../../support/settled-builder.ts'
import {
  DIRECTORY_SLOT,
  FRAMES_SLOT,
  aliasWords,
  buildSettledSample,
  frameWords,
} from '../../support/settled-builder.ts'

/** A slot of the import whose block no other slot has, in its frame's middle. */
const OWN_BLOCK = 9

function range(disk: string, block: number): AffectedRange {
  return { disk, offsetBytes: block * BLOCK_SIZE_BYTES, lengthBytes: BLOCK_SIZE_BYTES }
}

function byPlace(a: AffectedRange, b: AffectedRange): number {
  return a.disk === b.disk ? a.offsetBytes - b.offsetBytes : a.disk < b.disk ? -1 : 1
}

/** Where in the frames' bytes those of a slot's block lie; frames must be raw. */
function byteOf(segment: SettledSegment, slot: number): number {
  const [word0] = segment.place(slot)
  return (word0 & 0x3ffffff) - BLOCK_SIZE_BYTES + (word0 >>> 28) * BLOCK_SIZE_BYTES
}

interface Breakage {
  name: string
  hooks?: SampleHooks
  codec?: Codec
  /** The bulk segment is sealed again afterwards, when true is returned. */
  damage: (sample: SettledSample) => boolean
  finds: FindingCode[]
  /** Of one of the findings. */
  says?: string
  /** Of all findings. */
  affected?: AffectedRange[]
}

/** Changes the place of a slot of the import that has one of the kind. */
function change(
  kind: number,
  to: (place: [number, number], slot: number, sample: SettledSample) => [number, number],
): (sample: SettledSample) => boolean {
  return (sample) => {
    const slot = sample.bulk.slotOfKind(kind)
    sample.bulk.setPlace(slot, to(sample.bulk.place(slot), slot, sample))
    return true
  }
}

function miscount(name: keyof SettledSegment['counts']): Breakage {
  return {
    name: `a footer that miscounts: ${name}`,
    damage: ({ bulk }) => {
      bulk.counts[name] += 1
      return true
    },
    finds: ['directory-nonsense'],
  }
}

const BYTE_BREAKAGES: Breakage[] = [
  {
    name: 'a block in a raw frame damaged, which others are aliases of',
    codec: Codec.raw,
    damage: ({ builder, log, dataSlot }) => {
      builder.flip(1, FRAMES_SLOT, byteOf(log, dataSlot + 6))
      return false
    },
    finds: ['block-corrupt'],
    affected: [
      ...['a@s', 'a@t', 'd'].map((disk) => range(disk, 6)),
      ...Array.from({ length: 8 }, (_, i) => range('c', 53 + 64 * i)),
    ],
  },
  {
    name: 'a frame that cannot be decoded',
    damage: ({ builder, bulk }) => {
      const at = bulk.place(OWN_BLOCK)[0] & 0x3ffffff
      builder.page(2, FRAMES_SLOT).fill(0xff, at - BLOCK_SIZE_BYTES, at - BLOCK_SIZE_BYTES + 100)
      return false
    },
    finds: ['frame-corrupt'],
  },
  {
    name: 'frames cut off',
    codec: Codec.raw,
    damage: ({ builder }) => {
      const frames = builder.page(2, FRAMES_SLOT)
      builder.segment(2).pages.set(FRAMES_SLOT, frames.slice(0, -5 * BLOCK_SIZE_BYTES))
      return false
    },
    finds: ['block-corrupt'],
  },
  {
    name: 'the frame of the catalogue damaged',
    codec: Codec.raw,
    damage: ({ builder, log, fullSlot }) => {
      builder.flip(1, FRAMES_SLOT, byteOf(log, fullSlot))
      return false
    },
    finds: ['catalogue-corrupt'],
  },
  {
    name: 'a leaf in a frame damaged',
    codec: Codec.raw,
    damage: ({ builder, log, leafSlot }) => {
      builder.flip(1, FRAMES_SLOT, byteOf(log, leafSlot))
      return false
    },
    finds: ['block-corrupt'],
    affected: ['a@s', 'a@t', 'd'].map((disk) => ({
      ...range(disk, 0),
      lengthBytes: 512 * BLOCK_SIZE_BYTES,
    })),
  },
  {
    name: 'a page of a directory damaged',
    damage: ({ builder }) => {
      builder.flip(2, DIRECTORY_SLOT)
      return false
    },
    finds: ['directory-corrupt'],
  },
  {
    name: 'a page of a directory that cannot be decoded',
    damage: ({ builder, bulk }) => {
      const bytes = builder.page(2, DIRECTORY_SLOT)
      const length = new DataView(builder.page(2, FOOTER_SLOT).buffer).getUint32(304, true)
      bytes.fill(0xff, 0, length)
      const footer = builder.page(2, FOOTER_SLOT)
      const found = new Uint32Array(2)
      checksum.hashBytes(bytes, 0, length, found, 0)
      new Uint8Array(footer.buffer).set(new Uint8Array(found.buffer), 48)
      sealPage(footer, 0, bulk.builder.checksum)
      return false
    },
    finds: ['directory-corrupt'],
  },
  {
    name: 'a directory cut off',
    damage: ({ builder }) => {
      const bytes = builder.page(2, DIRECTORY_SLOT)
      builder.segment(2).pages.set(DIRECTORY_SLOT, bytes.slice(0, -1))
      return false
    },
    finds: ['directory-corrupt'],
  },
  {
    name: 'a settled import without its footer',
    damage: ({ builder }) => {
      builder.flip(2, FOOTER_SLOT)
      return false
    },
    finds: ['segment-unsealed'],
    affected: [{ disk: 'c', offsetBytes: 0, lengthBytes: 4 * MIB }],
  },
  {
    name: 'a settled log segment without its footer',
    damage: ({ builder }) => {
      builder.flip(1, FOOTER_SLOT)
      return false
    },
    finds: ['catalogue-corrupt'],
  },
]

const DIRECTORY_BREAKAGES: Breakage[] = [
  ...(['frameBytes', 'frameSlotCount', 'aliasCount', 'zeroCount'] as const).map(miscount),
  {
    name: 'an alias that points upwards',
    damage: change(2, (_, slot) => aliasWords(2, slot + 1)),
    finds: ['directory-nonsense'],
    affected: [range('c', 5)],
  },
  {
    name: 'an alias to itself',
    damage: change(2, (_, slot) => aliasWords(2, slot)),
    finds: ['directory-nonsense'],
  },
  {
    name: 'an alias to a slot that holds no block',
    damage: change(2, () => aliasWords(1, 1)),
    finds: ['address-no-block'],
    affected: [range('c', 5)],
  },
  {
    name: 'an alias past what was written',
    damage: change(2, () => aliasWords(1, 900)),
    finds: ['address-past-used'],
    affected: [range('c', 5)],
  },
  {
    name: 'an alias into a segment that is gone',
    damage: change(2, () => aliasWords(0, 5)),
    finds: ['address-missing-segment'],
    affected: [range('c', 5)],
  },
  {
    name: 'an alias of a block that is not equal',
    damage: change(2, (_, _slot, { dataSlot }) => aliasWords(1, dataSlot + 3)),
    finds: ['alias-unequal'],
    affected: [range('c', 5)],
  },
  {
    name: 'a frame of no known codec',
    damage: change(1, ([word0, word1]) => [(word0 | (3 << 26)) >>> 0, word1]),
    finds: ['directory-nonsense'],
  },
  {
    name: 'a frame past the data',
    damage: change(1, () => frameWords(16351 * BLOCK_SIZE_BYTES - 99, 100, 4, 0, 1)),
    finds: ['directory-nonsense'],
  },
  {
    name: 'frames that overlap',
    says: 'two frames overlap',
    codec: Codec.raw,
    damage: change(1, ([word0, word1]) => [word0 + 1, word1]),
    finds: ['block-corrupt', 'directory-nonsense'],
  },
  {
    name: 'two slots that differ about a frame',
    says: 'two slots differ about a frame',
    codec: Codec.raw,
    damage: change(1, ([word0]) => frameWords(word0 & 0x3ffffff, 3 * BLOCK_SIZE_BYTES, 3, 0, 0)),
    finds: ['directory-nonsense'],
  },
  {
    name: 'two slots that share a block of a frame',
    says: 'two slots share a block of a frame',
    codec: Codec.raw,
    damage: change(2, (_, _slot, { bulk }) => {
      bulk.counts.aliasCount -= 1
      bulk.counts.frameSlotCount += 1
      return bulk.place(bulk.slotOfKind(1))
    }),
    finds: ['block-corrupt', 'directory-nonsense'],
  },
  {
    name: 'zeros with the checksum of something else',
    says: 'zeros have the checksum of something else',
    damage: ({ bulk }) => {
      bulk.setChecksum(bulk.slotOfKind(3), [1, 2])
      return true
    },
    finds: ['block-corrupt', 'directory-nonsense'],
    affected: [range('c', 3)],
  },
  {
    name: 'a dead slot with a checksum',
    says: 'a dead slot has a checksum',
    damage: ({ bulk }) => {
      bulk.setChecksum(600, [1, 2])
      return true
    },
    finds: ['directory-nonsense'],
  },
  {
    name: 'a dead slot with a place',
    damage: ({ bulk }) => {
      bulk.setPlace(600, [1, 0])
      return true
    },
    finds: ['directory-nonsense'],
  },
  {
    name: 'a place where nothing was ever written',
    says: 'a slot that was never written has a place',
    damage: ({ bulk }) => {
      bulk.setPlace(700, aliasWords(1, 2))
      bulk.counts.aliasCount += 1
      return true
    },
    finds: ['directory-nonsense'],
  },
  {
    name: 'a slot dropped that a disk refers to',
    damage: change(3, (_, slot, { bulk }) => {
      bulk.counts.zeroCount -= 1
      bulk.setChecksum(slot, [0, 0])
      return [0, 0]
    }),
    finds: ['address-no-block'],
    affected: [range('c', 3)],
  },
]

const SEGMENT_BREAKAGES: Breakage[] = [
  {
    name: 'a map that refers to the slot of a former record header',
    hooks: { leaf: (leaf) => (leaf[4] = [KIND_BLOCK, 1, 1]) },
    damage: () => false,
    finds: ['address-no-block'],
    affected: ['a@s', 'a@t', 'd'].map((disk) => range(disk, 4)),
  },
  {
    name: 'an import id that no segment can have',
    damage: ({ builder }) => {
      const header = builder.page(2, 0)
      new DataView(header.buffer).setUint32(36, 3, true)
      sealPage(header, 0, checksum)
      return false
    },
    finds: ['segment-header-corrupt'],
  },
  {
    name: 'a log segment with an import id',
    damage: ({ builder }) => {
      const header = builder.page(1, 0)
      new DataView(header.buffer).setUint32(36, 1, true)
      sealPage(header, 0, checksum)
      return false
    },
    finds: ['segment-header-corrupt'],
  },
  {
    name: 'the header of a settled segment damaged',
    damage: ({ builder }) => {
      builder.flip(1, 0)
      return false
    },
    finds: ['segment-header-corrupt'],
  },
  {
    name: 'features that do not announce settled segments',
    hooks: { superblock: (superblock) => (superblock.refuseFeatures = 1) },
    damage: () => false,
    finds: ['superblock-nonsense'],
  },
  {
    name: 'a segment settled from which the log is to be replayed',
    hooks: {
      superblock: (superblock) => {
        superblock.position = { ...superblock.position, segment: 1, slot: 17 }
      },
    },
    damage: () => false,
    finds: ['segment-settled-early'],
  },
]

for (const { name, hooks, codec, damage, finds, says, affected } of [
  ...BYTE_BREAKAGES,
  ...DIRECTORY_BREAKAGES,
  ...SEGMENT_BREAKAGES,
]) {
  t.test(`found: ${name}`, async (t) => {
    const sample = buildSettledSample(checksum, hooks, codec)
    if (damage(sample)) sample.bulk.seal()
    const report = await checkBuilt(sample.builder)
    const found = codesOf(report)
    t.ok(
      finds.every((code) => found.includes(code)),
      found.join(', '),
    )
    if (says !== undefined) t.ok(report.errors.some(({ message }) => message === says))
    if (affected === undefined) return
    t.strictSame(found, finds.toSorted())
    const hit = [...report.errors, ...report.leaks].flatMap((finding) => finding.affected)
    t.strictSame(hit.toSorted(byPlace), affected.toSorted(byPlace))
  })
}

t.test('a sound settled pool has no findings, and every live block is read', async (t) => {
  for (const codec of Object.values(Codec)) {
    const { builder, log, bulk } = buildSettledSample(checksum, {}, codec)
    t.ok(bulk.counts.aliasCount > 64 && bulk.counts.zeroCount >= 64, 'there is something of all')
    const report = await checkBuilt(builder)
    t.strictSame([...report.errors, ...report.leaks, ...report.warnings], [])
    t.equal(report.verifiedBytes, report.liveBlockCount * BLOCK_SIZE_BYTES)
    t.equal(report.liveBlockCount, 8 + 4 + 2 + 515 + 3)
    t.equal(log.counts.frameSlotCount, 14)
  }
})

t.test('what only aliases lead to is live, and named where it is damaged', async (t) => {
  const hooks: SampleHooks = {
    log: (b) => b.addOperation(3, { op: 'remove', ids: [1, 2, 10, 11] }),
  }
  const { builder, log, dataSlot } = buildSettledSample(checksum, hooks, Codec.raw)
  const sound = await checkBuilt(builder)
  t.strictSame([...sound.errors, ...sound.leaks], [])
  builder.flip(1, FRAMES_SLOT, byteOf(log, dataSlot + 6))
  const report = await checkBuilt(builder)
  t.strictSame(codesOf(report), ['block-corrupt'])
  const disks = new Set(report.errors.flatMap(({ affected }) => affected.map(({ disk }) => disk)))
  t.strictSame([...disks], ['c'])
})

t.test('aliases of aliases lead to the block at their end', async (t) => {
  const { builder, bulk, log, dataSlot, importSlot } = buildSettledSample(checksum, {}, Codec.raw)
  // Block 69 is equal to block 1 + 69 / 8 of "a", as block 5 is to its first.
  const first = importSlot + 5
  const second = importSlot + 69
  bulk.setPlace(second, aliasWords(2, first))
  bulk.seal()
  t.strictSame((await checkBuilt(builder)).errors, [])
  builder.flip(1, FRAMES_SLOT, byteOf(log, dataSlot))
  const report = await checkBuilt(builder)
  const blocks = report.errors.flatMap(({ affected }) =>
    affected.filter(({ disk }) => disk === 'c').map((one) => one.offsetBytes / BLOCK_SIZE_BYTES),
  )
  t.ok(blocks.includes(5) && blocks.includes(69), blocks.join(' '))
})

t.test('dead aliases may point to what is gone', async (t) => {
  const hooks: SampleHooks = { log: (b) => b.addOperation(3, { op: 'remove', ids: [4] }) }
  const { builder, bulk } = buildSettledSample(checksum, hooks)
  bulk.setPlace(bulk.slotOfKind(2), aliasWords(1, 900))
  bulk.seal()
  t.strictSame(codesOf(await checkBuilt(builder)), [])
})

t.test('what a crash while settling left is a warning', async (t) => {
  const { builder } = buildSettledSample(checksum)
  builder.strayNames.push('0000000002.seg.settling')
  const report = await checkBuilt(builder)
  t.strictSame([...report.errors, ...report.leaks], [])
  t.strictSame(
    report.warnings.map(({ code }) => code),
    ['settling-leftover'],
  )
})

t.test('compressed blocks are not checked without the addon, and that is said', async (t) => {
  const { builder } = buildSettledSample(checksum)
  const unsupported = { name: 'OperatingError', code: 'unsupported' }
  await t.rejects(checkBuilt(builder, missingCodecs()), unsupported)
  const raw = buildSettledSample(checksum, {}, Codec.raw).builder
  t.strictSame((await checkBuilt(raw, missingCodecs())).errors, [])
})

/** Whether the frame that holds byte `at` of the frames' bytes still decodes to what it was. */
function decodesEqual(segment: SettledSegment, at: number, before: Uint8Array): boolean {
  for (let slot = 1; slot < 600; slot += 1) {
    const [word0, word1] = segment.place(slot)
    if (word1 >>> 30 !== 1) continue
    const from = (word0 & 0x3ffffff) - BLOCK_SIZE_BYTES
    const end = from + (word1 & 0x1ffff)
    if (at < from || at >= end) continue
    const rawBytes = (((word1 >>> 17) & 15) + 1) * BLOCK_SIZE_BYTES
    const after = segment.builder.page(segment.id, FRAMES_SLOT)
    const old = tryInflate(segment.codec, before.subarray(from, end), rawBytes)
    const now = tryInflate(segment.codec, after.subarray(from, end), rawBytes)
    return old !== null && now !== null && Buffer.compare(old, now) === 0
  }
  return true
}

t.test('a flipped bit is found, or no disk can tell', async (t) => {
  const flip = fc.record({
    segment: fc.constantFrom(1, 2),
    slot: fc.constantFrom(0, FRAMES_SLOT, FRAMES_SLOT, FOOTER_SLOT, DIRECTORY_SLOT),
    at: fc.nat(),
    bit: fc.nat({ max: 7 }),
    codec: fc.constantFrom(...Object.values(Codec)),
  })
  let foundCount = 0
  const property = fc.asyncProperty(flip, async ({ segment, slot, at, bit, codec }) => {
    const sample = buildSettledSample(checksum, {}, codec)
    const page = sample.builder.page(segment, slot)
    const before = page.slice()
    const offset = at % page.length
    page[offset] ^= 1 << bit
    const report = await checkBuilt(sample.builder)
    if (report.errors.length > 0) {
      foundCount += 1
      return true
    }
    const settled = segment === 1 ? sample.log : sample.bulk
    return slot === FRAMES_SLOT && decodesEqual(settled, offset, before)
  })
  await fc.assert(property, { numRuns: 60, seed: 11 })
  t.ok(foundCount > 50, `${foundCount} of 60 found`)
})

t.test(
  'hostile directories under good checksums neither crash the check nor hang it',
  async (t) => {
    const word = fc.oneof(fc.nat({ max: 600 }), fc.nat({ max: 0xffffffff }))
    const kinds = fc.constantFrom(0, 1, 2, 3)
    const edit = fc.tuple(fc.nat({ max: 600 }), word, word, kinds)
    const edits = fc.array(edit, { minLength: 1, maxLength: 60 })
    const property = fc.asyncProperty(edits, fc.boolean(), async (places, isLog) => {
      const { builder, log, bulk } = buildSettledSample(checksum)
      const settled = isLog ? log : bulk
      for (const [slot, word0, word1, kind] of places) {
        settled.setPlace(slot, [word0, ((word1 & 0x3fffffff) | (kind << 30)) >>> 0])
      }
      settled.seal()
      const report = await checkBuilt(builder)
      return report.segmentCount === 3
    })
    await fc.assert(property, { numRuns: 25, seed: 12 })
    t.pass()
  },
)
