import t from 'tap'
import fc from 'fast-check'
import { AssertionError } from '../../../src/base/assert.ts'
import { ARENA_PIECE_BYTES_MAX } from '../../../src/io/arena.ts'
import { BuddyArena } from '../../../src/io/buddy-arena.ts'

const PAGE = 4096

interface Piece {
  offset: number
  length: number
  size: number
}

function pieceSize(length: number): number {
  let size = PAGE
  while (size < length) size *= 2
  return size
}

t.test('pieces never overlap, are aligned to their size, and all memory comes back', (t) => {
  const step = fc.record({
    free: fc.boolean(),
    pick: fc.nat(),
    length: fc.oneof(
      fc.integer({ min: 1, max: 5 * PAGE }),
      fc.integer({ min: 1, max: ARENA_PIECE_BYTES_MAX }),
    ),
  })
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 700 }),
      fc.array(step, { maxLength: 120 }),
      (pages, steps) => {
        const arena = new BuddyArena(Buffer.alloc(pages * PAGE))
        const owner = new Int32Array(pages).fill(-1)
        const live: Piece[] = []
        let serial = 0
        let used = 0
        for (const { free, pick, length } of steps) {
          if (free && live.length > 0) {
            const [piece] = live.splice(pick % live.length, 1)
            owner.fill(-1, piece.offset / PAGE, (piece.offset + piece.size) / PAGE)
            arena.free(piece.offset, piece.length)
            used -= piece.size
          } else {
            const size = pieceSize(length)
            const offset = arena.allocate(length)
            if (offset === -1) {
              const isRoom = roomFor(owner, size / PAGE)
              if (isRoom) throw new Error(`refused ${length} bytes though they fit`)
              continue
            }
            if (offset % size !== 0) throw new Error('not aligned')
            if (offset + size > arena.sizeBytes) throw new Error('past the end')
            for (let page = offset / PAGE; page < (offset + size) / PAGE; page++) {
              if (owner[page] !== -1) throw new Error('overlap')
              owner[page] = serial
            }
            serial += 1
            used += size
            live.push({ offset, length, size })
          }
          if (arena.usedBytes !== used) throw new Error('usedBytes is wrong')
        }
        for (const piece of live) arena.free(piece.offset, piece.length)
        if (arena.usedBytes !== 0) throw new Error('not everything came back')
        const again = new BuddyArena(Buffer.alloc(pages * PAGE))
        const largest = Math.min(ARENA_PIECE_BYTES_MAX, PAGE << (31 - Math.clz32(pages)))
        for (;;) {
          const fresh = again.allocate(largest)
          const reused = arena.allocate(largest)
          if ((fresh === -1) !== (reused === -1)) throw new Error('pieces did not merge')
          if (fresh === -1) break
        }
      },
    ),
    { numRuns: 150 },
  )
  t.end()
})

/** Whether an aligned run of free pages exists: a buddy allocator must then find it. */
function roomFor(owner: Int32Array, pages: number): boolean {
  for (let start = 0; start + pages <= owner.length; start += pages) {
    let isFree = true
    for (let page = start; page < start + pages; page++) isFree &&= owner[page] === -1
    if (isFree) return true
  }
  return false
}

t.test('each freed piece tells one waiter, the one that has waited longest', (t) => {
  const arena = new BuddyArena(Buffer.alloc(4 * PAGE))
  const pieces = [0, 1, 2, 3].map(() => arena.allocate(PAGE))
  t.equal(arena.allocate(1), -1, 'nothing is left')
  const told: string[] = []
  for (const name of ['a', 'b', 'c']) {
    arena.wait({
      arenaFreed: () => {
        told.push(name)
        t.not(arena.allocate(PAGE), -1, 'the piece can be had when the waiter is told')
      },
    })
  }
  t.strictSame(told, [], 'waiting alone tells nobody')
  arena.free(pieces[0], PAGE)
  t.strictSame(told, ['a'])
  arena.free(pieces[1], PAGE)
  t.strictSame(told, ['a', 'b'])
  arena.free(pieces[2], PAGE)
  arena.free(pieces[3], PAGE)
  t.strictSame(told, ['a', 'b', 'c'], 'each is told once')
  t.end()
})

t.test('hundreds of waiters are told in order, also when they wait again', (t) => {
  const arena = new BuddyArena(Buffer.alloc(PAGE))
  const told: number[] = []
  for (let index = 0; index < 300; index++) {
    arena.wait({ arenaFreed: () => told.push(index) })
    if (index % 3 === 0) arena.free(arena.allocate(PAGE), PAGE)
  }
  for (let left = told.length; left < 300; left++) arena.free(arena.allocate(PAGE), PAGE)
  t.strictSame(
    told,
    Array.from({ length: 300 }, (_, index) => index),
  )
  t.end()
})

t.test('misuse is caught: foreign offset, wrong length, double free, impossible length', (t) => {
  const arena = new BuddyArena(Buffer.alloc(64 * PAGE))
  const offset = arena.allocate(3 * PAGE)
  t.throws(() => arena.free(offset + PAGE, PAGE), AssertionError)
  t.throws(() => arena.free(offset, PAGE), AssertionError)
  t.throws(() => arena.free(offset + 1, 3 * PAGE), AssertionError)
  t.throws(() => arena.free(-PAGE, PAGE), AssertionError)
  arena.free(offset, 4 * PAGE)
  t.throws(() => arena.free(offset, 4 * PAGE), AssertionError)
  t.throws(() => arena.allocate(0), AssertionError)
  t.throws(() => arena.allocate(ARENA_PIECE_BYTES_MAX + 1), AssertionError)
  t.throws(() => new BuddyArena(Buffer.alloc(PAGE + 1)), AssertionError)
  t.end()
})
