import fc from 'fast-check'
import t from 'tap'
import { Errno } from '../../../../src/base/errors.ts'
import { PoolFilesystem } from '../../../../src/export/fuse/filesystem.ts'
import { LibfuseData } from '../../../../src/export/fuse/libfuse-data.ts'
import { diskNode } from '../../../../src/export/fuse/nodes.ts'
import { BuddyArena } from '../../../../src/io/buddy-arena.ts'
import { MemoryTree } from '../../../support/memory-tree.ts'

const PIECE_BYTES = 128 << 10
const FILE_BYTES = 1 << 20

interface Opened {
  arena: BuddyArena
  tree: MemoryTree
  data: LibfuseData
  handle: number
  id: number
}

function open(arenaBytes: number): Opened {
  const arena = new BuddyArena(Buffer.alloc(arenaBytes))
  const tree = new MemoryTree({ arena })
  const owner = { userId: 0, groupId: 0 }
  const filesystem = new PoolFilesystem(tree, owner, { allowOther: false, startedMs: 0, arena })
  const { id } = tree.addVolume('v', FILE_BYTES)
  const handle = filesystem.open(diskNode(id), true, 'fuse')
  return { arena, tree, data: new LibfuseData(filesystem, arena), handle, id }
}

t.test('more calls than there is room for all end, whatever memory there is', async (t) => {
  const calls = fc.array(
    fc.record({
      kind: fc.constantFrom('read' as const, 'write' as const, 'flush' as const),
      slot: fc.nat(7),
      lengthBytes: fc.integer({ min: 1, max: PIECE_BYTES }),
    }),
    { maxLength: 100 },
  )
  const arenaBytes = fc.constantFrom(PIECE_BYTES, 3 * PIECE_BYTES, 64 * PIECE_BYTES)
  await fc.assert(
    fc.asyncProperty(calls, arenaBytes, async (calls, arenaBytes) => {
      const { arena, data, handle } = open(arenaBytes)
      let replies = 0
      const ended = calls.map(({ kind, slot, lengthBytes }) => {
        return new Promise<void>((resolve) => {
          const reply = (result: number): void => {
            t.equal(result, kind === 'flush' ? 0 : lengthBytes)
            replies += 1
            resolve()
          }
          const buffer = Buffer.alloc(lengthBytes, 'x')
          if (kind === 'flush') data.flush(handle, reply)
          else data[kind](handle, buffer, slot * PIECE_BYTES, reply)
        })
      })
      await Promise.all(ended)
      t.equal(replies, calls.length)
      t.equal(data.isIdle, true)
      t.equal(arena.usedBytes, 0)
    }),
    { numRuns: 30 },
  )
})

t.test('calls that found no memory go on when another frees some', async (t) => {
  const { arena, data, handle } = open(PIECE_BYTES)
  const taken = arena.allocate(PIECE_BYTES)
  let result: number | null = null
  const read = new Promise<void>((resolve) => {
    data.read(handle, Buffer.alloc(100), 0, (given) => {
      result = given
      resolve()
    })
  })
  await new Promise((resolve) => setImmediate(resolve))
  t.equal(result, null)
  t.equal(data.isIdle, false)
  arena.free(taken, PIECE_BYTES)
  await read
  t.equal(result, 100)
})

t.test('bytes go to the disk and come back, cut at its end', async (t) => {
  const { data, handle, tree, id } = open(16 * PIECE_BYTES)
  const written = Buffer.from('some bytes')
  const writeResult = await new Promise((resolve) => data.write(handle, written, 5000, resolve))
  t.equal(writeResult, written.length)
  t.equal(tree.disk(id).bytes(5000, 10).toString(), 'some bytes')
  const room = Buffer.alloc(100, '-')
  const offset = FILE_BYTES - 40
  t.equal(await new Promise((resolve) => data.read(handle, room, offset, resolve)), 40)
  t.equal(room.subarray(40).toString(), '-'.repeat(60), 'nothing behind it is touched')
  t.equal(await new Promise((resolve) => data.read(handle, room, FILE_BYTES, resolve)), 0)
  t.equal(await new Promise((resolve) => data.read(handle, room, 4998, resolve)), 100)
  t.equal(room.subarray(0, 14).toString(), '\0\0some bytes\0\0')
})

t.test('an error of the disk is the reply, and the memory comes back', async (t) => {
  const { arena, data, handle, tree, id } = open(16 * PIECE_BYTES)
  tree.disk(id).fault = () => -Errno.EIO
  const room = Buffer.alloc(100, '-')
  t.equal(await new Promise((resolve) => data.read(handle, room, 0, resolve)), -Errno.EIO)
  t.equal(room.toString(), '-'.repeat(100))
  t.equal(await new Promise((resolve) => data.write(handle, room, 0, resolve)), -Errno.EIO)
  t.equal(await new Promise((resolve) => data.flush(handle, resolve)), -Errno.EIO)
  t.equal(arena.usedBytes, 0)
})
