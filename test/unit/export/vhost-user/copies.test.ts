/** Requests in many pieces of guest memory, and the lists by which they are copied. */
import t from 'tap'
import { Chain } from '../../../../src/export/vhost-user/chain.ts'
import { GuestCopies } from '../../../../src/export/vhost-user/guest-copies.ts'
import { COPY_COUNT_MAX } from '../../../../src/export/vhost-user/limits.ts'
import { MemoryMap } from '../../../../src/export/vhost-user/memory-map.ts'
import { PlainMapping } from '../../../support/plain-mapping.ts'
import { copyIn, copyOut } from './ring-bench.ts'

const REGION_BYTES = 65536
const PIECE_BYTES = 13
const PIECE_COUNT = 300

/** Two regions that lie side by side in the guest, and nowhere else. */
function twoRegions(): { map: MemoryMap; mappings: PlainMapping[] } {
  const mappings = [0, 1].map(() => new PlainMapping(new ArrayBuffer(REGION_BYTES)))
  const regions = mappings.map((mapping, index) => ({
    guestAddress: index * REGION_BYTES,
    userAddress: index * REGION_BYTES,
    sizeBytes: REGION_BYTES,
    fileOffset: 0,
    mapping,
  }))
  return { map: new MemoryMap(regions), mappings }
}

/** Pieces that touch nowhere, in an order of their own; one lies across both regions. */
function scattered(): number[] {
  const places = Array.from(
    { length: PIECE_COUNT },
    (_, index) => 400 * ((index * 7) % PIECE_COUNT),
  )
  return [REGION_BYTES - 5, ...places]
}

t.test('a chain of many pieces is one range of bytes, wherever a copy begins and ends', (t) => {
  const { map, mappings } = twoRegions()
  const places = scattered()
  const chain = new Chain()
  chain.clear()
  for (const place of places) t.equal(chain.add(map, place, PIECE_BYTES, true), null)
  const model = Buffer.from(
    Uint8Array.from({ length: chain.writableBytes }, (_, index) => (index * 31) % 251),
  )
  copyIn(chain, map, 0, model)
  const guest = Buffer.concat(mappings.map(({ bytes }) => bytes))
  for (const [index, place] of places.entries()) {
    const at = index * PIECE_BYTES
    const expected = model.subarray(at, at + PIECE_BYTES)
    if (!guest.subarray(place, place + PIECE_BYTES).equals(expected)) t.fail(`piece ${index}`)
  }
  t.equal(
    guest.reduce((count, byte) => count + (byte === 0 ? 0 : 1), 0),
    model.reduce((count, byte) => count + (byte === 0 ? 0 : 1), 0),
    'nothing else is written',
  )
  for (const [at, count] of [
    [0, 1],
    [PIECE_BYTES - 1, 2],
    [5, 1000],
    [1234, model.length - 1234],
  ]) {
    const back = Buffer.alloc(count)
    copyOut(chain, map, at, back)
    t.ok(back.equals(model.subarray(at, at + count)), `${count} bytes from ${at}`)
  }
  const last = new GuestCopies('to guest', Uint8Array.of(99))
  chain.copyLastByte(map, last, 0)
  last.run()
  const back = Buffer.alloc(1)
  copyOut(chain, map, model.length - 1, back)
  t.equal(back[0], 99, 'the status lies at the end')
  t.end()
})

t.test('more copies than a list holds are all carried out, the last one last', (t) => {
  const { mappings } = twoRegions()
  const count = 2 * COPY_COUNT_MAX + 1
  const memory = Uint8Array.from({ length: count }, (_, index) => index % 253)
  const copies = new GuestCopies('to guest', memory)
  for (let index = 0; index < count; index += 1) copies.add(mappings[0], index, index, 1)
  // Over one that still waits.
  copies.add(mappings[0], count - 1, 7, 1)
  copies.add(mappings[1], 5, 3, 2)
  copies.add(mappings[0], 0, 9, 1)
  copies.run()
  const expected = Buffer.from(memory)
  expected[count - 1] = 7
  expected[0] = 9
  t.ok(expected.equals(mappings[0].bytes.subarray(0, count)))
  t.same([...mappings[1].bytes.subarray(4, 8)], [0, 3, 4, 0])
  mappings[0].bytes.fill(0)
  copies.run()
  t.ok(
    mappings[0].bytes.every((byte) => byte === 0),
    'nothing is done twice',
  )
  t.end()
})
