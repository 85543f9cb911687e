/** The file of fingerprints: what is written is read, and nothing but what is written. */
import fc from 'fast-check'
import t from 'tap'
import { openWasmChecksum } from '../../../src/base/xxh64-wasm.ts'
import {
  ENTRIES_PER_PAGE,
  decodeFingerprintPage,
  encodeFingerprintHead,
  encodeFingerprintPage,
  tryDecodeFingerprintHead,
} from '../../../src/format/fingerprints.ts'
import type { FingerprintEntry } from '../../../src/format/fingerprints.ts'
import { PAGE_SIZE_BYTES, sealPage } from '../../../src/format/page.ts'

const checksum = await openWasmChecksum()
const u32 = fc.nat(0xffffffff)
const poolId = fc.uint8Array({ minLength: 16, maxLength: 16 })
const head = fc.record({ generation: fc.maxSafeNat(), sampleBits: u32, pageCount: u32 })
const entry: fc.Arbitrary<FingerprintEntry> = fc.record({
  segment: fc.integer({ min: 1, max: 0xffffffff }),
  slot: fc.nat(0xffff),
  tag: u32,
  extra: fc.nat(0xffff),
})
/** Somewhere in memory, so that an offset left out is noticed. */
const AT = PAGE_SIZE_BYTES
const memory = new Uint8Array(3 * PAGE_SIZE_BYTES)
const bit = fc.nat(PAGE_SIZE_BYTES * 8 - 1)

function flip(index: number): void {
  memory[AT + (index >> 3)] ^= 1 << (index & 7)
}

function entriesOf(): FingerprintEntry[] | null {
  const found: FingerprintEntry[] = []
  const isSound = decodeFingerprintPage(memory, AT, checksum, (segment, slot, tag, extra) => {
    found.push({ segment, slot, tag, extra })
  })
  if (!isSound && found.length > 0) throw new Error('a page that is not sound was visited')
  return isSound ? found : null
}

t.test('a head is read as it was written, by its own pool only, and not with any bit else', (t) => {
  fc.assert(
    fc.property(head, poolId, poolId, bit, (written, id, other, at) => {
      memory.fill(0xee)
      encodeFingerprintHead(written, id, memory, AT, checksum)
      t.same(tryDecodeFingerprintHead(memory, AT, id, checksum), written)
      const isSame = Buffer.from(id).equals(other)
      t.equal(tryDecodeFingerprintHead(memory, AT, other, checksum) === null, !isSame)
      flip(at)
      t.equal(tryDecodeFingerprintHead(memory, AT, id, checksum), null)
    }),
  )
  t.end()
})

t.test('a head of another version, or with a generation beyond counting, is none', (t) => {
  const id = new Uint8Array(16).fill(7)
  const written = { generation: 5, sampleBits: 1, pageCount: 2 }
  for (const [at, bytes] of [
    // The format version; the high word of the generation.
    [8, [99, 0, 0, 0]],
    [36, [0, 0, 0xff, 0xff]],
  ] as const) {
    encodeFingerprintHead(written, id, memory, AT, checksum)
    memory.set(bytes, AT + at)
    sealPage(memory, AT, checksum)
    t.equal(tryDecodeFingerprintHead(memory, AT, id, checksum), null)
  }
  t.end()
})

t.test('a page of entries is read as it was written, and not at all with any bit else', (t) => {
  const entries = fc.oneof(
    fc.array(entry, { maxLength: 20 }),
    fc.array(entry, { minLength: ENTRIES_PER_PAGE, maxLength: ENTRIES_PER_PAGE }),
  )
  fc.assert(
    fc.property(entries, bit, (written, at) => {
      memory.fill(0xee)
      encodeFingerprintPage(written.length, (i) => written[i], memory, AT, checksum)
      t.same(entriesOf(), written)
      flip(at)
      t.equal(entriesOf(), null)
    }),
  )
  t.end()
})

t.test('pages of zeros, of noise and of the other kind are neither head nor entries', (t) => {
  const id = new Uint8Array(16)
  const isNeither = (): boolean =>
    tryDecodeFingerprintHead(memory, AT, id, checksum) === null && entriesOf() === null
  memory.fill(0)
  t.ok(isNeither())
  for (let i = 0; i < memory.length; i += 1) memory[i] = (i * 151) >> 3
  sealPage(memory, AT, checksum)
  t.ok(isNeither(), 'a checksum alone makes no page')
  encodeFingerprintHead({ generation: 1, sampleBits: 0, pageCount: 0 }, id, memory, AT, checksum)
  t.equal(entriesOf(), null)
  encodeFingerprintPage(0, () => ({ segment: 1, slot: 1, tag: 1, extra: 1 }), memory, AT, checksum)
  t.equal(tryDecodeFingerprintHead(memory, AT, id, checksum), null)
  t.same(entriesOf(), [], 'an empty page is sound')
  t.end()
})
