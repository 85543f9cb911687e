/** The check's own data structures against plain models. */
import fc from 'fast-check'
import t from 'tap'
import type { Overlay, Span } from '../../../src/check/overlay.ts'
import { OverlayFactory } from '../../../src/check/overlay.ts'
import { FINDING_COUNT_MAX, FindingList } from '../../../src/check/report.ts'
import { SlotSet } from '../../../src/check/slot-set.ts'

const BLOCK_COUNT = 60
const TRIM_BLOCK_COUNT = 2 ** 34

/** What every block shows: `segment:slot`, `zero`, or nothing. */
function flatten(overlay: Overlay): string[] {
  const shown = new Array<string>(BLOCK_COUNT).fill('')
  overlay.visit(new WeakSet(), ({ start, count, segment, slot }) => {
    for (let i = 0; i < count; i += 1) {
      if (shown[start + i] !== '') throw new Error(`block ${start + i} is shown twice`)
      shown[start + i] = segment === 0 ? 'zero' : `${segment}:${slot + i}`
    }
  })
  return shown
}

function model(before: string[], { start, count, segment, slot }: Span): string[] {
  return before.map((shown, block) => {
    if (block < start || block >= start + count) return shown
    return segment === 0 ? 'zero' : `${segment}:${slot + block - start}`
  })
}

const spans: fc.Arbitrary<Span[]> = fc.array(
  fc
    .tuple(fc.nat({ max: BLOCK_COUNT - 1 }), fc.integer({ min: 1, max: 20 }), fc.nat({ max: 3 }))
    .map(([start, length, segment]) => {
      const count = Math.min(length, BLOCK_COUNT - start)
      return { start, count, segment, slot: segment === 0 ? 0 : 100 }
    }),
  { maxLength: 40 },
)

t.test('an overlay shows the last write of every block, and never changes', async (t) => {
  const property = fc.property(spans, fc.nat(), (writes, seed) => {
    const factory = new OverlayFactory(seed)
    const versions: [Overlay, string[]][] = [
      [factory.empty, new Array<string>(BLOCK_COUNT).fill('')],
    ]
    for (const span of writes) {
      const [overlay, shown] = versions[versions.length - 1]
      versions.push([factory.with(overlay, span), model(shown, span)])
    }
    return versions.every(([overlay, shown]) => flatten(overlay).join() === shown.join())
  })
  fc.assert(property)
  t.pass()
})

t.test('covered counts are those of the model for every range', async (t) => {
  const property = fc.property(spans, fc.nat(60), fc.nat(60), (writes, from, to) => {
    const factory = new OverlayFactory(5)
    let overlay = factory.empty
    for (const span of writes) overlay = factory.with(overlay, span)
    const shown = flatten(overlay).slice(from, Math.max(from, to))
    const expected = shown.filter((block) => block !== '').length
    return overlay.coveredIn(from, Math.max(from, to)) === expected
  })
  fc.assert(property)
  t.pass()
})

t.test('a trim of 64 TiB is one span, and writes into it are cheap', async (t) => {
  const factory = new OverlayFactory(1)
  let overlay = factory.with(factory.empty, {
    start: 0,
    count: TRIM_BLOCK_COUNT,
    segment: 0,
    slot: 0,
  })
  for (let i = 0; i < 1000; i += 1) {
    overlay = factory.with(overlay, { start: i * 10_000_019, count: 1, segment: 1, slot: 1 })
  }
  let count = 0
  overlay.visit(new WeakSet(), () => (count += 1))
  t.equal(count, 2000)
  t.equal(overlay.coveredIn(0, TRIM_BLOCK_COUNT), TRIM_BLOCK_COUNT)
})

t.test('spans that overlays share are visited once', async (t) => {
  const factory = new OverlayFactory(1)
  let first = factory.empty
  for (let i = 0; i < 100; i += 1) {
    first = factory.with(first, { start: i, count: 1, segment: 1, slot: i + 1 })
  }
  const second = factory.with(first, { start: 50, count: 1, segment: 2, slot: 1 })
  const seen = new WeakSet()
  const blocks = new Set<string>()
  let visitCount = 0
  const visit = ({ segment, slot }: Span): void => {
    visitCount += 1
    blocks.add(`${segment}:${slot}`)
  }
  first.visit(seen, visit)
  first.visit(seen, visit)
  t.equal(visitCount, 100)
  second.visit(seen, visit)
  t.ok(visitCount < 200, `${visitCount} visits`)
  t.ok(blocks.has('2:1'))
})

t.test('a set of slots counts each once', async (t) => {
  const set = new SlotSet()
  set.add(3, 30, 10)
  set.add(3, 35, 10)
  set.add(4, 16383, 1)
  t.equal(set.size, 16)
  t.ok(set.has(3, 44) && set.has(4, 16383))
  t.notOk(set.has(3, 45) || set.has(5, 30))
  t.strictSame([...set.segments()], [3, 4])
})

t.test('findings past the limit are counted, not kept', async (t) => {
  const list = new FindingList()
  for (let i = 0; i < FINDING_COUNT_MAX + 5; i += 1) list.add('block-corrupt', 'here', 'bad')
  t.equal(list.findings.length, FINDING_COUNT_MAX)
  t.equal(list.suppressedCount, 5)
  t.equal(list.count, FINDING_COUNT_MAX + 5)
})
