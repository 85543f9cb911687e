import fc from 'fast-check'
import t from 'tap'
import { AllocatedBytes } from '../../../src/segment/allocated.ts'
import type { SegmentSizes } from '../../../src/segment/allocated.ts'

/** Segments as a filesystem has them; counts how often it is asked. */
class FakeSegments implements SegmentSizes {
  readonly sizes: Map<number, number> = new Map()
  readonly filling: Set<number> = new Set()
  askedCount = 0
  /** Runs in the middle of the next question. */
  meanwhile: (() => void) | null = null

  has(id: number): boolean {
    return this.sizes.has(id)
  }

  isSealed(id: number): boolean {
    return !this.filling.has(id)
  }

  async allocatedBytes(id: number): Promise<number> {
    this.askedCount += 1
    const bytes = this.sizes.get(id) ?? 0
    const { meanwhile } = this
    this.meanwhile = null
    await Promise.resolve()
    meanwhile?.()
    return bytes
  }

  get sumBytes(): number {
    return [...this.sizes.values()].reduce((sum, bytes) => sum + bytes, 0)
  }
}

type Change = {
  kind: 'create' | 'write' | 'seal' | 'punch' | 'delete'
  pick: number
  bytes: number
}

const change: fc.Arbitrary<Change> = fc.record({
  kind: fc.constantFrom('create', 'write', 'seal', 'punch', 'delete'),
  pick: fc.nat(1000),
  bytes: fc.integer({ min: 1, max: 64 }).map((blocks) => blocks * 4096),
})

function apply(segments: FakeSegments, allocated: AllocatedBytes, one: Change, id: number): void {
  if (one.kind === 'create') {
    segments.sizes.set(id, 4096)
    segments.filling.add(id)
    allocated.noteChanged(id)
    return
  }
  const isOfFilling = one.kind === 'write' || one.kind === 'seal'
  const ids = [...segments.sizes.keys()].filter(
    (each) => segments.filling.has(each) === isOfFilling,
  )
  if (ids.length === 0) return
  const chosen = ids[one.pick % ids.length]
  const bytes = segments.sizes.get(chosen) ?? 0
  if (one.kind === 'delete') {
    segments.sizes.delete(chosen)
    allocated.noteDeleted(chosen)
  } else if (one.kind === 'punch') {
    segments.sizes.set(chosen, Math.max(4096, bytes - one.bytes))
    allocated.noteChanged(chosen)
  } else {
    segments.sizes.set(chosen, bytes + one.bytes)
    if (one.kind === 'seal') segments.filling.delete(chosen)
  }
}

t.test(
  'after any changes, also in the middle of a look, the sum is what the disk says',
  async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.array(change, { maxLength: 6 }), { maxLength: 20 }),
        async (rounds) => {
          const segments = new FakeSegments()
          const allocated = new AllocatedBytes(segments)
          let nextId = 1
          const changeAll = (changes: readonly Change[]): void => {
            for (const one of changes) {
              apply(segments, allocated, one, nextId)
              nextId += 1
            }
          }
          for (const changes of rounds) {
            changeAll(changes.slice(0, 3))
            segments.meanwhile = () => changeAll(changes.slice(3))
            await allocated.total()
            segments.meanwhile = null
            const sum = await allocated.total()
            if (sum !== segments.sumBytes) throw new Error(`${sum} is not ${segments.sumBytes}`)
          }
        },
      ),
      { numRuns: 500 },
    )
  },
)

t.test('a look asks for few segments, and what changed unnoticed is found in time', async (t) => {
  const segments = new FakeSegments()
  const allocated = new AllocatedBytes(segments)
  for (let id = 1; id <= 1000; id += 1) {
    segments.sizes.set(id, 4096)
    allocated.noteChanged(id)
  }
  t.equal(await allocated.total(), 1000 * 4096)
  segments.askedCount = 0
  segments.sizes.set(500, 8192)
  await allocated.total()
  t.ok(segments.askedCount < 20, `asked ${segments.askedCount} times`)
  for (let look = 0; look < 130; look += 1) await allocated.total()
  t.equal(await allocated.total(), 1001 * 4096)
})
