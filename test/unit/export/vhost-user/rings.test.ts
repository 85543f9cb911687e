/** Split and packed rings: what honest drivers do, and what hostile ones try. */
import fc from 'fast-check'
import t from 'tap'
import { must } from '../../../../src/base/assert.ts'
import { Chain } from '../../../../src/export/vhost-user/chain.ts'
import { SplitInflight } from '../../../../src/export/vhost-user/inflight.ts'
import { PackedInflight } from '../../../../src/export/vhost-user/packed-inflight.ts'
import type { Virtqueue } from '../../../../src/export/vhost-user/virtqueue.ts'
import type { DriverBuffer } from '../../../support/vhost-driver.ts'
import {
  DATA_AT,
  GUEST_BASE,
  MEMORY_BYTES,
  SIZE,
  copyIn,
  copyOut,
  ringBench,
} from './ring-bench.ts'
import type { RingBench } from './ring-bench.ts'

const NEXT = 1
const WRITE = 2
const INDIRECT = 4

function buffer(offset: number, lengthBytes: number, isWritable = false): DriverBuffer {
  return { offset: DATA_AT + offset, lengthBytes, isWritable }
}

/** Takes everything there is. */
function takeAll(ring: Virtqueue): Chain[] {
  const chains: Chain[] = []
  for (;;) {
    const chain = new Chain()
    const found = ring.next(chain)
    if (found === 'broken') throw new Error(ring.failure ?? 'no reason')
    if (found === 'nothing') return chains
    chains.push(chain)
  }
}

/** The server dies while it publishes: before the driver is shown anything, or behind that. */
function dieBeforeClearing(bench: RingBench, ring: Virtqueue, end: 'announced' | 'shown'): void {
  const memory = new Uint8Array(bench.view.buffer)
  const before = memory.slice()
  const kinds = [SplitInflight.prototype, PackedInflight.prototype]
  const originals = kinds.map((kind) => Object.getOwnPropertyDescriptor(kind, 'published'))
  for (const kind of kinds) kind.published = () => undefined
  ring.publish()
  for (const [index, kind] of kinds.entries()) {
    Object.defineProperty(kind, 'published', must(originals[index], 'the method'))
  }
  if (end === 'announced') memory.set(before)
}

/** What a chain's first readable bytes are. */
function textOf(bench: RingBench, chain: Chain): string {
  const bytes = Buffer.alloc(chain.readableBytes)
  copyOut(chain, bench.map, 0, bytes)
  return bytes.toString('latin1')
}

for (const isPacked of [false, true]) {
  const kind = isPacked ? 'packed' : 'split'

  for (const isIndirect of [false, true]) {
    const way = isIndirect ? ', in tables' : ''
    t.test(`${kind} ring${way}: what is offered comes once, in order, and goes back`, (t) => {
      const bench = ringBench({ isPacked, isIndirect })
      const ring = bench.open()
      let next = 0
      // Long enough for the counters to wrap around the ring many times.
      fc.assert(
        fc.property(fc.array(fc.integer({ min: 0, max: 3 }), { maxLength: 40 }), (steps) => {
          for (const step of steps) {
            const ids: number[] = []
            const expected: string[] = []
            for (let index = 0; index < step && bench.driver.freeCount >= 3; index += 1) {
              const text = String(next++ % 1000).padStart(3, '0')
              const at = 16 * index
              Buffer.from(bench.view.buffer).write(text, DATA_AT + at)
              const parts = [buffer(at, 1), buffer(at + 1, 2), buffer(at + 8, 4, true)]
              ids.push(bench.driver.add(parts))
              expected.push(text)
            }
            bench.driver.publish()
            const chains = takeAll(ring)
            t.same(
              chains.map((chain) => textOf(bench, chain)),
              expected,
            )
            t.ok(chains.every(({ writableBytes }) => writableBytes === 4))
            t.equal(bench.driver.take(), null, 'nothing is shown before it is published')
            for (const chain of chains) ring.push(chain, 4)
            ring.publish()
            const back = ids.map(() => bench.driver.take())
            t.same(
              back,
              ids.map((id) => ({ id, writtenBytes: 4 })),
            )
          }
        }),
        { numRuns: 30, seed: 7 },
      )
      t.end()
    })
  }

  t.test(`${kind} ring: what ends in another order frees what it took`, (t) => {
    const bench = ringBench({ isPacked })
    const ring = bench.open()
    for (let round = 0; round < 20; round += 1) {
      const ids = [1, 2, 3].map((count) =>
        bench.driver.add(Array.from({ length: count }, (_, index) => buffer(index, 1))),
      )
      bench.driver.publish()
      const [a, b, c] = takeAll(ring)
      for (const chain of [c, a, b]) ring.push(chain, 0)
      ring.publish()
      const back = ids.map(() => bench.driver.take()?.id)
      t.same(back, [ids[2], ids[0], ids[1]])
    }
    t.equal(bench.driver.freeCount, SIZE)
    t.end()
  })

  t.test(`${kind} ring: a restart takes up what was at work, oldest first, and no other`, (t) => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.integer({ min: 1, max: 3 }), fc.nat(7)), { maxLength: 30 }),
        fc.constantFrom('clean', 'pushed', 'announced', 'shown', 'cleared'),
        (steps, end) => {
          const bench = ringBench({ isPacked, isTracked: true, isIndirect: false })
          let ring = bench.open()
          let atWork: Chain[] = []
          for (const [count, done] of steps) {
            for (let index = 0; index < count && bench.driver.freeCount >= 2; index += 1) {
              bench.driver.add([buffer(index, 2), buffer(index + 100, 1, true)])
            }
            bench.driver.publish()
            atWork.push(...takeAll(ring))
            const finished = atWork.filter((_, index) => (done >> index) & 1)
            atWork = atWork.filter((chain) => !finished.includes(chain))
            for (const chain of finished) ring.push(chain, 1)
            ring.publish()
            while (bench.driver.take() !== null) continue
          }
          const [first] = atWork
          if (first !== undefined && end !== 'clean') {
            ring.push(first, 1)
            if (end === 'announced' || end === 'shown') dieBeforeClearing(bench, ring, end)
            if (end === 'cleared') ring.publish()
            if (end === 'shown' || end === 'cleared') atWork.shift()
          }
          ring = bench.open()
          const again = takeAll(ring)
          t.same(
            again.map(({ id }) => id),
            atWork.map(({ id }) => id),
          )
          t.ok(again.every(({ readableBytes }) => readableBytes === 2))
          for (const chain of again) ring.push(chain, 1)
          ring.publish()
          while (bench.driver.take() !== null) continue
          t.equal(bench.driver.freeCount, SIZE, 'every descriptor is free')
        },
      ),
      { numRuns: 200, seed: 11 },
    )
    t.end()
  })

  t.test(`${kind} ring: whatever its memory holds, it ends, and stays inside`, (t) => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(200), fc.nat(255)), { maxLength: 60 }),
        fc.array(fc.tuple(fc.nat(4096), fc.nat(255)), { maxLength: 20 }),
        fc.boolean(),
        (ringBytes, tableBytes, isIndirect) => {
          const bench = ringBench({ isPacked, isIndirect })
          for (let index = 0; index < 2; index += 1) {
            bench.driver.add([buffer(0, 16), buffer(64, 64, true)])
          }
          bench.driver.publish()
          const ring = bench.open()
          for (const [at, value] of [...ringBytes, ...tableBytes]) bench.view.setUint8(at, value)
          const bytes = Buffer.alloc(MEMORY_BYTES)
          for (let steps = 0; steps < 100; steps += 1) {
            const chain = new Chain()
            const found = ring.next(chain)
            if (found !== 'request') break
            const readable = Math.min(chain.readableBytes, bytes.length)
            const writable = Math.min(chain.writableBytes, bytes.length)
            copyOut(chain, bench.map, 0, bytes.subarray(0, readable))
            copyIn(chain, bench.map, chain.readableBytes, bytes.subarray(0, writable))
            ring.push(chain, 0)
            ring.publish()
          }
          t.ok(true)
        },
      ),
      { numRuns: 2000, seed: 5 },
    )
    t.end()
  })

  t.test(`${kind} ring: kicks and calls are asked for where they are needed`, (t) => {
    const bench = ringBench({ isPacked })
    const ring = bench.open()
    t.equal(ring.enableKicks(), false)
    bench.driver.add([buffer(0, 1)])
    t.equal(bench.driver.publish(), true, 'the first request kicks')
    t.equal(ring.enableKicks(), true, 'there is one by now')
    const [first] = takeAll(ring)
    ring.disableKicks()
    bench.driver.add([buffer(0, 1)])
    t.equal(bench.driver.publish(), false, 'we look by ourselves')
    bench.driver.enableCalls()
    ring.push(first, 0)
    t.equal(ring.publish(), true, 'the driver waits')
    t.equal(ring.publish(), false, 'nothing new')
    const [second] = takeAll(ring)
    ring.push(second, 0)
    t.equal(ring.publish(), false, 'the driver has not looked since')
    t.end()
  })
}

/** Sets a descriptor: of a split ring, or of a packed one (where it is offered with `id` 0). */
function set(
  bench: RingBench,
  index: number,
  fields: { address?: number; length?: number; flags: number; next?: number },
): void {
  const { address = GUEST_BASE + DATA_AT, length = 16, flags, next = 0 } = fields
  const at = bench.descriptorAt(index)
  bench.view.setBigUint64(at, BigInt(address), true)
  bench.view.setUint32(at + 8, length, true)
  bench.view.setUint16(at + (bench.isPacked ? 14 : 12), bench.isPacked ? flags | 0x80 : flags, true)
  bench.view.setUint16(at + (bench.isPacked ? 12 : 14), next, true)
}

/** A table at the beginning of the data. */
function table(bench: RingBench, entries: readonly { flags: number; next?: number }[]): number {
  for (const [index, { flags, next = 0 }] of entries.entries()) {
    const at = DATA_AT + 16 * index
    bench.view.setBigUint64(at, BigInt(GUEST_BASE + DATA_AT + 1024), true)
    bench.view.setUint32(at + 8, 16, true)
    bench.view.setUint16(at + (bench.isPacked ? 14 : 12), flags, true)
    bench.view.setUint16(at + (bench.isPacked ? 12 : 14), next, true)
  }
  return 16 * entries.length
}

const END = GUEST_BASE + MEMORY_BYTES

interface Attack {
  readonly what: string
  readonly of: 'both' | 'split' | 'packed'
  readonly says: RegExp
  readonly plant: (bench: RingBench) => void
}

const ATTACKS: readonly Attack[] = [
  {
    what: 'an address outside the memory',
    of: 'both',
    says: /not shared/,
    plant: (bench) => set(bench, 0, { address: END, flags: 0 }),
  },
  {
    what: 'an address beyond all numbers',
    of: 'both',
    says: /not shared/,
    plant: (bench) => {
      set(bench, 0, { flags: 0 })
      bench.view.setBigUint64(bench.descriptorAt(0), 0xffff_ffff_ffff_fff0n, true)
    },
  },
  {
    what: 'a range that leaves the memory',
    of: 'both',
    says: /not shared/,
    plant: (bench) => set(bench, 0, { address: END - 8, length: 9, flags: 0 }),
  },
  {
    what: 'a range as long as numbers go',
    of: 'both',
    says: /not shared/,
    plant: (bench) => set(bench, 0, { length: 0xffff_ffff, flags: 0 }),
  },
  {
    what: 'an empty descriptor',
    of: 'both',
    says: /empty/,
    plant: (bench) => set(bench, 0, { length: 0, flags: 0 }),
  },
  {
    what: 'something to read behind something to write',
    of: 'both',
    says: /behind/,
    plant: (bench) => {
      set(bench, 0, { flags: WRITE | NEXT, next: 1 })
      set(bench, 1, { flags: 0 })
    },
  },
  {
    what: 'a circle of two',
    of: 'split',
    says: /circle/,
    plant: (bench) => {
      set(bench, 0, { flags: NEXT, next: 1 })
      set(bench, 1, { flags: NEXT, next: 0 })
    },
  },
  {
    what: 'a link to itself',
    of: 'split',
    says: /circle/,
    plant: (bench) => set(bench, 0, { flags: NEXT, next: 0 }),
  },
  {
    what: 'a link beyond the descriptors',
    of: 'split',
    says: /beyond/,
    plant: (bench) => set(bench, 0, { flags: NEXT, next: SIZE }),
  },
  {
    what: 'descriptors without an end',
    of: 'packed',
    says: /without an end/,
    plant: (bench) => {
      for (let index = 0; index < SIZE; index += 1) set(bench, index, { flags: NEXT })
    },
  },
  {
    what: 'a buffer id beyond the ring',
    of: 'packed',
    says: /buffer id/,
    plant: (bench) => set(bench, 0, { flags: 0, next: SIZE }),
  },
  {
    what: 'a head beyond the descriptors',
    of: 'split',
    says: /beyond/,
    plant: (bench) => bench.view.setUint16(bench.driver.layout.available + 4, SIZE, true),
  },
  {
    what: 'more requests than descriptors',
    of: 'split',
    says: /requests in a ring/,
    plant: (bench) => bench.view.setUint16(bench.driver.layout.available + 2, SIZE + 1, true),
  },
  {
    what: 'a table that no table can be',
    of: 'both',
    says: /table of 17 bytes/,
    plant: (bench) => set(bench, 0, { length: 17, flags: INDIRECT }),
  },
  {
    what: 'a table without entries',
    of: 'both',
    says: /table of 0 bytes/,
    plant: (bench) => set(bench, 0, { length: 0, flags: INDIRECT }),
  },
  {
    what: 'an endless table',
    of: 'both',
    says: /descriptors/,
    plant: (bench) => set(bench, 0, { length: 0xffff_fff0, flags: INDIRECT }),
  },
  {
    what: 'a table outside the memory',
    of: 'both',
    says: /not shared/,
    plant: (bench) => set(bench, 0, { address: END, flags: INDIRECT }),
  },
  {
    what: 'a table that leaves the memory',
    of: 'both',
    says: /does not hold/,
    plant: (bench) => set(bench, 0, { address: END - 16, length: 32, flags: INDIRECT }),
  },
  {
    what: 'a table in a table',
    of: 'both',
    says: /table in a table/,
    plant: (bench) =>
      set(bench, 0, { length: table(bench, [{ flags: INDIRECT }]), flags: INDIRECT }),
  },
  {
    what: 'a table with something behind it',
    of: 'both',
    says: /behind it|among/,
    plant: (bench) =>
      set(bench, 0, { length: table(bench, [{ flags: 0 }]), flags: INDIRECT | NEXT, next: 1 }),
  },
  {
    what: 'a circle in a table',
    of: 'split',
    says: /circle/,
    plant: (bench) => {
      const length = table(bench, [
        { flags: NEXT, next: 1 },
        { flags: NEXT, next: 0 },
      ])
      set(bench, 0, { length, flags: INDIRECT })
    },
  },
  {
    what: 'a link out of its table',
    of: 'split',
    says: /out of its table/,
    plant: (bench) =>
      set(bench, 0, { length: table(bench, [{ flags: NEXT, next: 1 }]), flags: INDIRECT }),
  },
]

for (const { what, of, says, plant } of ATTACKS) {
  for (const isPacked of [false, true]) {
    if (of !== 'both' && (of === 'packed') !== isPacked) continue
    t.test(`${isPacked ? 'packed' : 'split'} ring: ${what} breaks it, and says so`, (t) => {
      const bench = ringBench({ isPacked })
      const ring = bench.open()
      if (!isPacked) bench.view.setUint16(bench.driver.layout.available + 2, 1, true)
      plant(bench)
      t.equal(ring.next(new Chain()), 'broken')
      t.match(ring.failure, says)
      t.equal(ring.next(new Chain()), 'broken', 'for good')
      t.end()
    })
  }
}

t.test('a request that is at work cannot be offered again', (t) => {
  const bench = ringBench({ isPacked: false })
  const ring = bench.open()
  bench.driver.add([buffer(0, 16)])
  bench.driver.publish()
  t.equal(takeAll(ring).length, 1)
  bench.view.setUint16(bench.driver.layout.available + 2, 2, true)
  bench.view.setUint16(bench.driver.layout.available + 6, 0, true)
  t.equal(ring.next(new Chain()), 'broken')
  t.match(ring.failure, /at work already/)
  t.end()
})

// The driver met it behind the first of what the next server showed.
t.test('packed ring: what a publication had marked when it was cut short is not used', (t) => {
  const bench = ringBench({ isPacked: true, isTracked: true })
  const ring = bench.open()
  bench.driver.add([buffer(0, 16)])
  bench.driver.add([buffer(64, 16)])
  bench.driver.publish()
  for (const chain of takeAll(ring)) ring.push(chain, 0)
  // The second is marked before the first.
  bench.view.setUint16(bench.descriptorAt(1) + 14, 0x8080, true)
  const next = bench.open()
  const [first, second] = takeAll(next)
  next.push(first, 1)
  next.publish()
  t.equal(bench.driver.take()?.writtenBytes, 1)
  t.equal(bench.driver.take(), null)
  next.push(second, 2)
  next.publish()
  t.equal(bench.driver.take()?.writtenBytes, 2)
  t.end()
})

t.test('tables that were not agreed on break the ring', (t) => {
  for (const isPacked of [false, true]) {
    const bench = ringBench({ isPacked, isIndirect: true, hasIndirect: false })
    bench.driver.add([buffer(0, 16)])
    bench.driver.publish()
    const ring = bench.open()
    t.equal(ring.next(new Chain()), 'broken')
    t.match(ring.failure, /not agreed/)
  }
  t.end()
})

t.test('a record of what is in flight that cannot be right is refused', (t) => {
  for (const isPacked of [false, true]) {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat(100), fc.nat(255)), { maxLength: 30 }), (patches) => {
        const bench = ringBench({ isPacked, isTracked: true })
        const ring = bench.open()
        bench.driver.add([buffer(0, 16), buffer(64, 1, true)])
        bench.driver.publish()
        takeAll(ring)
        for (const [at, value] of patches) bench.record.setUint8(at, value)
        try {
          const chain = new Chain()
          const next = bench.open()
          for (let steps = 0; steps < 40 && next.next(chain) === 'request'; steps += 1) {
            next.push(chain, 0)
            next.publish()
          }
        } catch (error) {
          t.match(String(error), /in flight|batch|place beyond/)
        }
      }),
      { numRuns: 1000, seed: 3 },
    )
  }
  t.end()
})
