/** The index of fingerprints against a Map. */
import fc from 'fast-check'
import t from 'tap'
import { DedupIndex } from '../../../src/segment/dedup-index.ts'

/** Of what is known: the low word, and the half of the high word that is kept. */
type Model = Map<string, { tag: number; segment: number; slot: number }>

const fingerprint = fc.record({
  // Many with zeros at the end, which stay in a sample; many that meet.
  tag: fc.oneof(
    fc.nat(2 ** 32 - 1),
    fc.nat(255),
    fc.nat(65535).map((top) => (top << 16) >>> 0),
  ),
  high: fc.oneof(fc.nat(3), fc.nat(2 ** 32 - 1)),
})
const command = fc.oneof(
  {
    weight: 20,
    arbitrary: fc.record({
      kind: fc.constant('set' as const),
      fingerprint,
      segment: fc.integer({ min: 1, max: 9 }),
      slot: fc.integer({ min: 1, max: 16350 }),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('retain' as const), segment: fc.nat(9) }) },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constant('many' as const), from: fc.nat(2 ** 20) }),
  },
)

function keyOf(tag: number, high: number): string {
  return `${tag} ${high & 0xffff}`
}

/** What the index has, it has as it was last told; what it need not have given up, it has. */
function findFault(index: DedupIndex, model: Model): string | null {
  let sampledCount = 0
  for (const [key, { tag, segment, slot }] of model) {
    const high = Number(key.split(' ')[1])
    if (!index.isSampled(tag)) continue
    sampledCount += 1
    if (!index.find(tag, high)) return `${key} was lost`
    if (index.segment !== segment || index.slot !== slot) return `${key} is said to lie elsewhere`
  }
  return index.count === sampledCount ? null : `${index.count} entries, expected ${sampledCount}`
}

const noPause = (): Promise<void> => Promise.resolve()

function setBoth(index: DedupIndex, model: Model, tag: number, high: number, at: number): void {
  const [segment, slot] = [1 + (at % 9), 1 + (at % 16350)]
  index.set(tag, high, segment, slot)
  model.set(keyOf(tag, high), { tag, segment, slot })
}

await t.test('the index holds what its sample covers, as it was last told', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(command, { maxLength: 60 }), async (commands) => {
      const index = new DedupIndex(2 * 4096 * 12)
      const model: Model = new Map()
      let bits = 0
      for (const one of commands) {
        if (one.kind === 'set') {
          const { tag, high } = one.fingerprint
          index.set(tag, high, one.segment, one.slot)
          model.set(keyOf(tag, high), { tag, segment: one.segment, slot: one.slot })
        } else if (one.kind === 'many') {
          for (let i = 0; i < 2000; i += 1) {
            setBoth(index, model, Math.imul(one.from + i, 0x9e3779b1) >>> 0, i & 7, i)
          }
        } else {
          await index.retain((segment) => segment !== one.segment, noPause)
          for (const [key, entry] of model) if (entry.segment === one.segment) model.delete(key)
        }
        if (index.sampleBits < bits) return
        bits = index.sampleBits
        // What the sample left out is not known again when it is asked for later.
        for (const [key, entry] of model) if (!index.isSampled(entry.tag)) model.delete(key)
        const fault = findFault(index, model)
        if (fault !== null) throw new Error(fault)
      }
    }),
    { numRuns: 60, seed: 1 },
  )
})

await t.test('a full index keeps a share of its fingerprints, evenly', (t) => {
  const index = new DedupIndex(4096 * 12)
  const count = 100_000
  for (let i = 0; i < count; i += 1) index.set(Math.imul(i, 0x85ebca6b) >>> 0, i, 1, 1 + (i % 9))
  t.ok(index.sampleBits >= 5, `one in 2^${index.sampleBits}`)
  const expected = count / 2 ** index.sampleBits
  t.ok(index.count > expected / 2 && index.count < expected * 2, `${index.count} of ${expected}`)
  t.end()
})

await t.test('fingerprints that all end with zeros do not make the index go round', (t) => {
  const index = new DedupIndex(4096 * 12)
  for (let i = 0; i < 65536; i += 1) index.set((i << 16) >>> 0, i % 3, 1, 1)
  t.notOk(index.find(1, 1))
  t.ok(index.count > 0 && index.count < 4096)
  t.end()
})

await t.test('an entry that was retained away is not found, its neighbours are', async (t) => {
  const index = new DedupIndex(1 << 20)
  for (let i = 0; i < 3000; i += 1) index.set(i, 0, 1 + (i % 3), 1 + i)
  await index.retain((segment) => segment !== 2, noPause)
  for (let i = 0; i < 3000; i += 1) {
    if (index.find(i, 0) !== (i % 3 !== 1)) t.fail(`entry ${i}`)
  }
  t.equal(index.count, 2000)
})
