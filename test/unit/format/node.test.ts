import t from 'tap'
import {
  KIND_BLOCK,
  KIND_HUGE,
  KIND_NODE,
  KIND_UNMAPPED,
  KIND_ZERO,
  MAP_BLOCK_COUNT,
  NODE_SIZE_BYTES,
  NODE_WORD_COUNT,
  decodeNode,
  encodeNode,
  entryWord,
  findNodeFault,
  verifyNode,
} from '../../../src/format/node.ts'
import { DATA_SLOT_END, DATA_SLOT_FIRST } from '../../../src/format/segment.ts'
import { BLOCK_SIZE_BYTES, VOLUME_SIZE_BYTES_MAX } from '../../../src/base/units.ts'

const LAST = NODE_WORD_COUNT - 2

/** A node of unmapped entries but for one. */
function nodeWith(word0: number, word1: number, at = LAST): Uint32Array {
  const entries = new Uint32Array(NODE_WORD_COUNT)
  entries[at] = word0
  entries[at + 1] = word1
  return entries
}

t.test('the words of an entry are what the format says (compatibility-sensitive)', async (t) => {
  t.equal(entryWord(KIND_UNMAPPED, 0), 0)
  t.equal(entryWord(KIND_ZERO, 0), 0x10000000)
  t.equal(entryWord(KIND_BLOCK, 0x3fff), 0x20003fff)
  t.equal(entryWord(KIND_NODE, 1), 0x30000001)
  t.equal(entryWord(KIND_HUGE, 512), 0x40000200)
  t.equal(MAP_BLOCK_COUNT * BLOCK_SIZE_BYTES, VOLUME_SIZE_BYTES_MAX)

  const memory = Buffer.alloc(2 * NODE_SIZE_BYTES, 0xff)
  encodeNode(nodeWith(0x01020304, entryWord(KIND_BLOCK, 0x1234), 2), memory, NODE_SIZE_BYTES)
  t.equal(
    memory.toString('hex', NODE_SIZE_BYTES - 2, NODE_SIZE_BYTES + 18),
    'ffff' + '0000000000000000' + '0403020134120020' + '0000',
  )
})

t.test('each kind stands at its levels only', async (t) => {
  const levelsOf: [number, number, number[]][] = [
    [0, entryWord(KIND_UNMAPPED, 0), [0, 1, 2, 3]],
    [0, entryWord(KIND_ZERO, 0), [0, 1, 2, 3]],
    [1, entryWord(KIND_BLOCK, 1), [0]],
    [1, entryWord(KIND_NODE, 1), [1, 2, 3]],
    [1, entryWord(KIND_HUGE, 1), [1]],
    [1, entryWord(5, 1), []],
    [0, entryWord(5, 0), []],
    [1, (15 << 28) >>> 0, []],
  ]
  for (const [word0, word1, levels] of levelsOf) {
    for (const level of [0, 1, 2, 3]) {
      const fault = findNodeFault(nodeWith(word0, word1), level)
      t.equal(fault === null, levels.includes(level), `${word1.toString(16)} at level ${level}`)
    }
  }
})

t.test('an entry points into the data slots of a segment', async (t) => {
  const sound = (word0: number, word1: number): boolean =>
    findNodeFault(nodeWith(word0, word1), word1 >>> 28 === KIND_BLOCK ? 0 : 1) === null
  for (const kind of [KIND_BLOCK, KIND_NODE, KIND_HUGE]) {
    const last = DATA_SLOT_END - (kind === KIND_HUGE ? 512 : 1)
    t.ok(sound(2 ** 32 - 1, entryWord(kind, DATA_SLOT_FIRST)))
    t.ok(sound(1, entryWord(kind, last)))
    t.notOk(sound(1, entryWord(kind, last + 1)), 'past the end')
    t.notOk(sound(1, entryWord(kind, 0)), 'the header page')
    t.notOk(sound(0, entryWord(kind, 5)), 'segment 0')
    for (let bit = 14; bit < 28; bit += 1) {
      t.notOk(sound(1, entryWord(kind, 5) | (1 << bit)), `reserved bit ${bit}`)
    }
  }
  t.notOk(sound(1, entryWord(KIND_UNMAPPED, 0)), 'unmapped with a segment')
  t.notOk(sound(0, entryWord(KIND_UNMAPPED, 3)), 'unmapped with a slot')
  t.notOk(sound(1, entryWord(KIND_ZERO, 0)), 'zero with a segment')
})

t.test('every entry is judged, and the error says which', async (t) => {
  for (const index of [0, 1, 255, 511]) {
    t.throws(() => verifyNode(nodeWith(1, 0, 2 * index), 2), {
      name: 'CorruptionError',
      code: 'node-corrupt',
      message: new RegExp(`level 2 entry ${index} `),
      details: { level: 2 },
    })
  }
  t.throws(() => verifyNode(new Uint32Array(1023), 0), { code: 'node-corrupt' })
})

t.test('a decoded node is a copy of what was encoded', async (t) => {
  const entries = nodeWith(7, entryWord(KIND_HUGE, 9), 100)
  const memory = new Uint8Array(3 * NODE_SIZE_BYTES)
  // Not aligned for 32-bit words, as a piece of a file read at any offset may be.
  encodeNode(entries, memory, 4099)
  const decoded = decodeNode(memory, 4099, 1)
  t.same(decoded, entries)
  memory.fill(0xff)
  t.same(decoded, entries)
  t.throws(() => decodeNode(memory, 0, 1), { code: 'node-corrupt' })
  t.throws(() => decodeNode(memory, 2 * NODE_SIZE_BYTES + 1, 1), { name: 'AssertionError' })
})
