/** The directory of a rewritten segment against a model of what was put into it. */
import fc from 'fast-check'
import t from 'tap'
import { AssertionError } from '../../../src/base/assert.ts'
import { Codec } from '../../../src/base/codec.ts'
import { BLOCK_SIZE_BYTES, SEGMENT_SLOT_COUNT } from '../../../src/base/units.ts'
import {
  DIRECTORY_PAGE_WORDS,
  FRAME_BLOCK_COUNT_MAX,
  PLACE_ALIAS,
  PLACE_DEAD,
  PLACE_FRAME,
  PLACE_ZERO,
  frameWord0,
  frameWord1,
} from '../../../src/format/directory.ts'
import type { FramePlace } from '../../../src/format/directory.ts'
import {
  DATA_SLOT_END,
  DATA_SLOT_FIRST,
  TABLE_PAGE_SLOT_COUNT,
} from '../../../src/format/segment.ts'
import { Rewrite } from '../../../src/segment/rewrite.ts'
import { SegmentTable } from '../../../src/segment/segment-table.ts'

const ID = 7
const NO_FILE = { path: 'none' }

type Step =
  | { kind: 'frame'; blockCount: number; storedBytes: number }
  | { kind: 'zero' | 'skip'; count: number }
  | { kind: 'alias'; segment: number; slot: number }

const step: fc.Arbitrary<Step> = fc.oneof(
  fc.tuple(fc.integer({ min: 1, max: FRAME_BLOCK_COUNT_MAX }), fc.nat()).map(([blockCount, n]) => ({
    kind: 'frame' as const,
    blockCount,
    storedBytes: 1 + (n % (blockCount * BLOCK_SIZE_BYTES)),
  })),
  fc.record({ kind: fc.constant('zero' as const), count: fc.integer({ min: 1, max: 3 }) }),
  // Some far: whole pages of the directory then hold nothing.
  fc.record({ kind: fc.constant('skip' as const), count: fc.oneof(fc.nat(5), fc.nat(2000)) }),
  fc.record({
    kind: fc.constant('alias' as const),
    segment: fc.integer({ min: 1, max: ID - 1 }),
    slot: fc.integer({ min: DATA_SLOT_FIRST, max: DATA_SLOT_END - 1 }),
  }),
)

/** A raw segment in which every slot holds a block, with checksums that say which. */
function fullTable(): SegmentTable {
  const table = new SegmentTable(false)
  for (let slot = DATA_SLOT_FIRST; slot < DATA_SLOT_END; slot += 1) {
    table.checksums.set([slot, 1000 + slot], 2 * slot)
  }
  return table
}

interface Model {
  kinds: Map<number, number>
  frames: { frame: FramePlace; slots: number[] }[]
  aliases: Map<number, [number, number]>
}

/** Puts the steps into the segment, one behind the other; slots of frames may be far apart. */
function build(rewrite: Rewrite, steps: readonly Step[], stride: number): Model {
  const model: Model = { kinds: new Map(), frames: [], aliases: new Map() }
  let slot = DATA_SLOT_FIRST
  let offsetBytes = BLOCK_SIZE_BYTES
  const isRoom = (count: number): boolean => slot + count < DATA_SLOT_END
  for (const one of steps) {
    if (one.kind === 'frame' && isRoom(one.blockCount * stride)) {
      const { blockCount, storedBytes } = one
      const frame = { offsetBytes, storedBytes, blockCount, codec: Codec.zstd }
      const slots: number[] = []
      for (let index = 0; index < blockCount; index += 1) {
        rewrite.expectFrame(slot)
        rewrite.setFrame(slot, frameWord0(frame, index), frameWord1(frame))
        model.kinds.set(slot, PLACE_FRAME)
        slots.push(slot)
        slot += stride
      }
      model.frames.push({ frame, slots })
      offsetBytes += storedBytes
    } else if (one.kind === 'zero' && isRoom(one.count)) {
      for (let i = 0; i < one.count; i += 1, slot += 1) {
        rewrite.setZero(slot)
        model.kinds.set(slot, PLACE_ZERO)
      }
    } else if (one.kind === 'skip' && isRoom(one.count)) slot += one.count
    else if (one.kind === 'alias' && isRoom(1)) {
      rewrite.setAlias(slot, one.segment, one.slot)
      model.kinds.set(slot, PLACE_ALIAS)
      model.aliases.set(slot, [one.segment, one.slot])
      slot += 1
    }
  }
  return model
}

function findFault(rewrite: Rewrite, model: Model): string | null {
  const table = new SegmentTable(true)
  const { pages, indexes } = rewrite.directoryPages()
  const words = new Uint32Array(pages.buffer)
  for (const [at, index] of indexes.entries()) {
    table.setPage(index, words.slice(at * DIRECTORY_PAGE_WORDS, (at + 1) * DIRECTORY_PAGE_WORDS))
  }
  const counts = [0, 0, 0, 0]
  for (let slot = 0; slot < SEGMENT_SLOT_COUNT; slot += 1) {
    const kind = model.kinds.get(slot) ?? PLACE_DEAD
    counts[kind] += 1
    if (table.kindOf(slot) !== kind) return `slot ${slot} is of kind ${table.kindOf(slot)}`
    const sums = [...table.checksums.subarray(2 * slot, 2 * slot + 2)]
    const wanted = kind === PLACE_DEAD ? [0, 0] : [slot, 1000 + slot]
    if (sums.join() !== wanted.join()) return `slot ${slot} has checksum ${sums.join()}`
    if (rewrite.expectsFrame(slot) !== (kind === PLACE_FRAME)) return `slot ${slot}: a frame?`
  }
  const isNeeded = (index: number): boolean =>
    [...model.kinds.keys()].some((slot) => Math.floor(slot / TABLE_PAGE_SLOT_COUNT) === index)
  if (!indexes.every(isNeeded)) return 'a page of nothing is stored'
  const { frameSlotCount, aliasCount, zeroCount } = rewrite.report
  const told = [frameSlotCount, aliasCount, zeroCount].join()
  const counted = [counts[PLACE_FRAME], counts[PLACE_ALIAS], counts[PLACE_ZERO]].join()
  return told === counted ? null : `${told} told, ${counted} counted`
}

t.test('what is put in is in the directory, and nothing else', (t) => {
  const table = fullTable()
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), fc.integer({ min: 1, max: 3 }), (steps, n) => {
      const rewrite = new Rewrite(ID, table, NO_FILE)
      const model = build(rewrite, steps, n)
      const fault = findFault(rewrite, model)
      if (fault !== null) throw new Error(fault)
      // Copied one by one: each frame is told in the same two arrays.
      const frames = Array.from(rewrite.frames(), ({ frame, checksums, slots }) => ({
        frame,
        slots: [...slots.subarray(0, frame.blockCount)],
        sums: [...checksums.subarray(0, 2 * frame.blockCount)],
      }))
      const wanted = model.frames.map(({ frame, slots }) => ({
        frame,
        slots,
        sums: slots.flatMap((slot) => [slot, 1000 + slot]),
      }))
      t.same(frames, wanted)
    }),
    { numRuns: 60, seed: 1 },
  )
  t.end()
})

t.test('a directory that nobody could read is an assertion, not a file', (t) => {
  const newRewrite = (): Rewrite => new Rewrite(ID, fullTable(), NO_FILE)
  const frame = { offsetBytes: 8192, storedBytes: 100, blockCount: 2, codec: Codec.lz4 }
  const words = [frameWord0(frame, 0), frameWord1(frame)] as const
  t.throws(() => newRewrite().setAlias(9, ID, 9), AssertionError, 'an alias of itself')
  t.throws(() => newRewrite().setAlias(9, ID + 1, 3), AssertionError, 'an alias upwards')
  t.throws(() => newRewrite().setZero(DATA_SLOT_END), AssertionError, 'where no block was')
  t.throws(() => newRewrite().setFrame(9, words[0], 0), AssertionError, 'a frame without length')
  const cut = newRewrite()
  cut.setFrame(9, ...words)
  t.throws(() => [...cut.frames()], AssertionError, 'a frame that lacks its last block')
  const turned = newRewrite()
  turned.setFrame(9, frameWord0(frame, 1), frameWord1(frame))
  t.throws(() => [...turned.frames()], AssertionError, 'a frame that begins with its last')
  const crossed = newRewrite()
  const single = { ...frame, blockCount: 1 }
  crossed.setFrame(9, frameWord0(single, 0), frameWord1(single))
  const under = { ...single, offsetBytes: 8190 }
  crossed.setFrame(10, frameWord0(under, 0), frameWord1(under))
  t.throws(() => [...crossed.frames()], AssertionError, 'frames that overlap')
  t.end()
})
