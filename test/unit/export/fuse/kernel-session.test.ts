/** The kernel protocol's core without a kernel: requests are written into slots by hand. */
import { constants } from 'node:fs'
import t from 'tap'
import fc from 'fast-check'
import { setUint53 } from '../../../../src/base/bytes.ts'
import { Errno } from '../../../../src/base/errors.ts'
import { MIB } from '../../../../src/base/units.ts'
import {
  ATTR,
  CREATE_IN,
  ENTRY_OUT,
  FUSE_MAJOR,
  FUSE_MINOR,
  FUSE_MINOR_MIN,
  IN,
  INIT_IN,
  INIT_OUT,
  IN_BYTES,
  InitFlag,
  LSEEK_IN,
  OPEN_OUT,
  OUT,
  OUT_BYTES,
  Opcode,
  RANGE_IN,
  WRITE_OUT,
} from '../../../../src/export/fuse/abi.ts'
import { PoolFilesystem } from '../../../../src/export/fuse/filesystem.ts'
import { KernelSession } from '../../../../src/export/fuse/kernel-session.ts'
import { VOLUMES_NODE } from '../../../../src/export/fuse/nodes.ts'
import { ROOT_NODE, SEEK_HOLE } from '../../../../src/export/fuse/operations.ts'
import {
  BODY_BYTES,
  REQUEST_HEADER_BYTES,
  SLOT_COUNT,
  Slots,
} from '../../../../src/export/fuse/slots.ts'
import { assert, must } from '../../../../src/base/assert.ts'
import { BuddyArena } from '../../../../src/io/buddy-arena.ts'
import { MemoryTree } from '../../../support/memory-tree.ts'

const memory = Buffer.alloc(96 * MIB)
const UNANSWERED: readonly number[] = [Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT]
/** What the kernel takes for an errno. */
const ERRNO_MAX = 511

interface Reply {
  error: number
  unique: string
  body: Buffer
}

/** A kernel of one mount. */
class FakeKernel {
  readonly arena = new BuddyArena(memory)
  readonly tree = new MemoryTree({ arena: this.arena })
  readonly slots = must(Slots.tryOpen(this.arena), 'slots')
  readonly session: KernelSession
  initErrno: number | null = null
  #uniqueCount = 0
  readonly #waiting = new Map<number, (reply: Reply | null) => void>()

  constructor() {
    const filesystem = new PoolFilesystem(
      this.tree,
      { userId: 7, groupId: 8 },
      { allowOther: false, startedMs: 1000, arena: this.arena },
    )
    this.session = new KernelSession(this.slots, filesystem, {
      reply: (slot, pairs, count) => this.#take(slot, pairs, count),
      slotFreed: (slot) => {
        this.slots.giveBack(slot)
        // A request without a reply ends so.
        this.#tell(slot, null)
      },
      initialized: (errno) => (this.initErrno = errno),
      failed: (error) => {
        throw error
      },
    })
  }

  /** Resolves to the reply, or null when there is none. */
  ask(
    opcode: number,
    node: number,
    args: Uint8Array,
    lengthClaimed?: number,
  ): Promise<Reply | null> {
    const slot = this.slots.take()
    assert(slot >= 0, 'a slot is free')
    const message = Buffer.alloc(IN_BYTES + args.length)
    const view = new DataView(message.buffer, message.byteOffset, message.length)
    view.setUint32(IN.len, lengthClaimed ?? message.length, true)
    view.setUint32(IN.opcode, opcode, true)
    // Beyond what a number of JavaScript can tell apart.
    view.setUint32(IN.unique, (this.#uniqueCount += 2), true)
    view.setUint32(IN.unique + 4, 0xfedcba98, true)
    setUint53(view, IN.nodeid, node)
    message.set(args, IN_BYTES)
    memory.set(message.subarray(0, REQUEST_HEADER_BYTES), this.slots.requestOffset(slot))
    memory.set(message.subarray(REQUEST_HEADER_BYTES), this.slots.bodyOffset(slot))
    const answer = new Promise<Reply | null>((resolve) => this.#waiting.set(slot, resolve))
    this.session.message(slot, message.length)
    return answer
  }

  async mustAsk(opcode: number, node: number, args: Uint8Array): Promise<Reply> {
    return must(await this.ask(opcode, node, args), 'a reply')
  }

  #take(slot: number, pairs: Uint32Array, count: number): void {
    const pieces: Buffer[] = []
    for (let index = 0; index < count; index++) {
      const at = pairs[2 * index]
      pieces.push(Buffer.from(memory.subarray(at, at + pairs[2 * index + 1])))
    }
    const whole = Buffer.concat(pieces)
    assert(whole.readUInt32LE(OUT.len) === whole.length, 'a reply says how long it is')
    const error = whole.readInt32LE(OUT.error)
    assert(error <= 0 && error >= -ERRNO_MAX, 'an error is a negative errno')
    assert(error === 0 || whole.length === OUT_BYTES, 'an error comes alone')
    const unique = whole.toString('hex', OUT.unique, OUT.unique + 8)
    this.#tell(slot, { error, unique, body: whole.subarray(OUT_BYTES) })
    setImmediate(() => this.session.replied(slot, whole.length))
  }

  #tell(slot: number, reply: Reply | null): void {
    const tell = this.#waiting.get(slot)
    this.#waiting.delete(slot)
    tell?.(reply)
  }
}

function nameBytes(name: string, before = 0): Buffer {
  return Buffer.concat([Buffer.alloc(before), Buffer.from(`${name}\0`)])
}

function range(handle: number, offsetBytes: number, lengthBytes: number): Buffer {
  const args = Buffer.alloc(RANGE_IN.endOffset)
  const view = new DataView(args.buffer, args.byteOffset, args.length)
  setUint53(view, RANGE_IN.fh, handle)
  setUint53(view, RANGE_IN.offset, offsetBytes)
  view.setUint32(RANGE_IN.size, lengthBytes, true)
  return args
}

function initArgs(major: number, minor: number, flags: number): Buffer {
  const args = Buffer.alloc(INIT_IN.endOffset)
  args.writeUInt32LE(major, INIT_IN.major)
  args.writeUInt32LE(minor, INIT_IN.minor)
  args.writeUInt32LE(0x20000, INIT_IN.maxReadahead)
  args.writeUInt32LE(flags, INIT_IN.flags)
  args.writeUInt32LE(0xffffffff, INIT_IN.flags2)
  return args
}

const pause = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

/** Creates and opens a volume by the protocol; its handle. */
async function create(kernel: FakeKernel, name: string): Promise<number> {
  const args = Buffer.concat([Buffer.from([2, 0, 0, 0]), Buffer.alloc(12), nameBytes(name)])
  const { error, body } = await kernel.mustAsk(Opcode.CREATE, VOLUMES_NODE, args)
  assert(error === 0, `${name} is created`)
  return Number(body.readBigUInt64LE(ENTRY_OUT.endOffset + OPEN_OUT.fh))
}

t.test('INIT takes of what is offered only what is wanted, and whole requests', async (t) => {
  const kernel = new FakeKernel()
  const { error, body } = await kernel.mustAsk(
    Opcode.INIT,
    0,
    initArgs(FUSE_MAJOR, FUSE_MINOR + 5, 0xffffffff),
  )
  t.equal(error, 0)
  t.equal(body.length, INIT_OUT.endOffset)
  t.equal(body.readUInt32LE(INIT_OUT.minor), FUSE_MINOR, 'never newer than we know')
  t.equal(body.readUInt32LE(INIT_OUT.maxWrite), BODY_BYTES)
  const flags = body.readUInt32LE(INIT_OUT.flags)
  t.not(flags & InitFlag.MAX_PAGES, 0)
  t.equal(flags & 0x10000, 0, 'no write-back cache')
  t.equal(kernel.initErrno, 0)
  t.equal((await kernel.mustAsk(Opcode.INIT, 0, initArgs(7, 38, 0))).error, -Errno.EIO, 'once')
})

t.test('a kernel too old, or of another protocol, is refused', async (t) => {
  for (const [major, minor] of [
    [FUSE_MAJOR, FUSE_MINOR_MIN - 1],
    [FUSE_MAJOR + 1, 0],
    [6, 99],
  ]) {
    const kernel = new FakeKernel()
    const { error } = await kernel.mustAsk(Opcode.INIT, 0, initArgs(major, minor, 0))
    t.ok(error < 0)
    t.ok(must(kernel.initErrno, 'an errno') > 0)
  }
})

t.test('a create that comes second opens what is there, emptied if asked to', async (t) => {
  const kernel = new FakeKernel()
  await create(kernel, 'v')
  const { id } = must(kernel.tree.tryVolume('v'), 'the volume')
  await kernel.tree.resize(id, 5000)
  for (const [flags, sizeBytes] of [
    [constants.O_RDWR | constants.O_CREAT, 5000],
    [constants.O_RDWR | constants.O_CREAT | constants.O_TRUNC, 0],
  ]) {
    const args = Buffer.concat([Buffer.alloc(CREATE_IN.endOffset), nameBytes('v')])
    args.writeUInt32LE(flags, CREATE_IN.flags)
    const { error, body } = await kernel.mustAsk(Opcode.CREATE, VOLUMES_NODE, args)
    t.equal(error, 0)
    t.equal(Number(body.readBigUInt64LE(ENTRY_OUT.attr + ATTR.size)), sizeBytes)
    t.equal(kernel.tree.tryDisk(id)?.sizeBytes, sizeBytes)
  }
  const args = Buffer.concat([Buffer.alloc(CREATE_IN.endOffset), nameBytes('v')])
  args.writeUInt32LE(constants.O_CREAT | constants.O_EXCL, CREATE_IN.flags)
  t.equal((await kernel.mustAsk(Opcode.CREATE, VOLUMES_NODE, args)).error, -Errno.EEXIST)
})

t.test('no offset beyond what a number holds is in a file', async (t) => {
  const kernel = new FakeKernel()
  const handle = await create(kernel, 'v')
  const args = Buffer.alloc(LSEEK_IN.endOffset)
  args.writeUInt32LE(handle, LSEEK_IN.fh)
  args.writeUInt32LE(SEEK_HOLE, LSEEK_IN.whence)
  args.writeBigInt64LE(-1n, LSEEK_IN.offset)
  t.equal((await kernel.mustAsk(Opcode.LSEEK, VOLUMES_NODE, args)).error, -Errno.ENXIO)
})

t.test('the unique of a request comes back bit for bit', async (t) => {
  const kernel = new FakeKernel()
  const { unique } = await kernel.mustAsk(Opcode.GETATTR, ROOT_NODE, Buffer.alloc(16))
  t.equal(unique, '0200000098badcfe')
})

t.test('names that pass the first piece arrive whole', async (t) => {
  const kernel = new FakeKernel()
  const long = 'n'.repeat(200)
  await create(kernel, long)
  const { error, body } = await kernel.mustAsk(Opcode.LOOKUP, VOLUMES_NODE, nameBytes(long))
  t.equal(error, 0)
  t.equal(body.readUInt32LE(ENTRY_OUT.attr + ATTR.uid), 7)
  const renamed = Buffer.concat([Buffer.alloc(8), nameBytes(long), nameBytes('short')])
  renamed.writeUInt32LE(VOLUMES_NODE, 0)
  t.equal(kernel.tree.volumes()[0].name, long)
  // Open files are not renamed; that the names were understood shows in the errno.
  t.equal((await kernel.mustAsk(Opcode.RENAME, VOLUMES_NODE, renamed)).error, -Errno.EBUSY)
})

t.test('what is written is read, up to the largest request', async (t) => {
  const kernel = new FakeKernel()
  const handle = await create(kernel, 'a')
  const data = Buffer.alloc(BODY_BYTES, 'varve')
  const args = Buffer.concat([range(handle, 4096, data.length), data])
  const written = await kernel.mustAsk(Opcode.WRITE, 20, args)
  t.equal(written.error, 0)
  t.equal(written.body.readUInt32LE(WRITE_OUT.size), BODY_BYTES)
  const read = await kernel.mustAsk(Opcode.READ, 20, range(handle, 4096, BODY_BYTES))
  t.ok(read.body.equals(data))
  const tail = await kernel.mustAsk(Opcode.READ, 20, range(handle, BODY_BYTES, BODY_BYTES))
  t.equal(tail.body.length, 4096, 'cut at the end')
  const beyond = await kernel.mustAsk(Opcode.READ, 20, range(handle, 2 ** 40, 4096))
  t.equal(beyond.error, 0)
  t.equal(beyond.body.length, 0)
})

t.test('a handle that is not open, or a length that lies, is an error and no more', async (t) => {
  const kernel = new FakeKernel()
  const handle = await create(kernel, 'a')
  t.equal((await kernel.mustAsk(Opcode.READ, 20, range(99, 0, 10))).error, -Errno.EBADF)
  t.equal((await kernel.mustAsk(Opcode.FSYNC, 20, range(99, 0, 0))).error, -Errno.EBADF)
  const lying = Buffer.concat([range(handle, 0, 4096), Buffer.alloc(100)])
  t.equal((await kernel.mustAsk(Opcode.WRITE, 20, lying)).error, -Errno.EIO)
  const claimed = await kernel.ask(Opcode.GETATTR, ROOT_NODE, Buffer.alloc(16), 4)
  t.equal(claimed?.error, -Errno.EIO)
})

t.test('whatever comes, each request is answered once and each slot comes back', async () => {
  const kernel = new FakeKernel()
  await create(kernel, 'a')
  // The kernel releases a file when nothing of it is in flight.
  const skipped: readonly number[] = [Opcode.INIT, Opcode.RELEASE]
  const known = Object.values(Opcode).filter((code) => !skipped.includes(code))
  const opcodes = [...known, 7, 49, 4096]
  const request = fc.record({
    opcode: fc.constantFrom(...opcodes),
    node: fc.oneof(fc.nat(40), fc.maxSafeNat()),
    args: fc.oneof(
      fc.uint8Array({ maxLength: 120 }),
      fc.string({ maxLength: 300 }).map((text) => nameBytes(text)),
      fc.string({ maxLength: 40 }).map((text) => nameBytes(text, 16)),
      fc.tuple(fc.nat(3), fc.nat(10_000), fc.nat(3 * MIB)).map((numbers) => range(...numbers)),
    ),
  })
  await fc.assert(
    fc.asyncProperty(
      fc.array(request, { minLength: 1, maxLength: SLOT_COUNT - 1 }),
      async (all) => {
        const replies = await Promise.all(
          all.map(({ opcode, node, args }) => kernel.ask(opcode, node, args)),
        )
        replies.forEach((reply, index) => {
          const { opcode } = all[index]
          assert((reply === null) === UNANSWERED.includes(opcode), `opcode ${opcode} is answered`)
        })
        await pause()
        await pause()
        return kernel.slots.isIdle
      },
    ),
    { numRuns: 150 },
  )
})

t.test('the end waits for what is in flight, answers nothing and closes every file', async (t) => {
  const kernel = new FakeKernel()
  const handle = await create(kernel, 'a')
  const data = Buffer.alloc(8192, 1)
  const writing = kernel.ask(Opcode.WRITE, 20, Buffer.concat([range(handle, 0, data.length), data]))
  const over = kernel.session.end()
  t.equal(await writing, null, 'nobody is there to be answered')
  await over
  t.ok(kernel.slots.isIdle)
  await kernel.tree.remove(kernel.tree.volumes()[0].id)
  t.equal(kernel.tree.volumes().length, 0, 'so nobody used it any more')
  kernel.slots.close()
  t.equal(kernel.arena.usedBytes, 0)
})
