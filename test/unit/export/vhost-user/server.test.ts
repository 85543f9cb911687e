/** The whole device over real sockets, shared memory and eventfds, with a front end of our own. */
import { createHash } from 'node:crypto'
import {
  closeSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  readdirSync,
  rmSync,
  unlinkSync,
  writeSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import t from 'tap'
import type { Test } from 'tap'
import { must } from '../../../../src/base/assert.ts'
import { Chain } from '../../../../src/export/vhost-user/chain.ts'
import { BlockType } from '../../../../src/export/vhost-user/block-request.ts'
import { F_VERSION_1 } from '../../../../src/export/vhost-user/features.ts'
import { TURN_REQUEST_COUNT_MAX } from '../../../../src/export/vhost-user/limits.ts'
import { MemoryMap } from '../../../../src/export/vhost-user/memory-map.ts'
import { Request, encodeRequest, encodeUint64 } from '../../../../src/export/vhost-user/message.ts'
import { VhostUserServer } from '../../../../src/export/vhost-user/server.ts'
import type { Io } from '../../../../src/io/io.ts'
import { openIo } from '../../../../src/io/open-io.ts'
import { tryLoadBinding } from '../../../../src/native/binding.ts'
import { MemoryTarget } from '../../../support/memory-target.ts'
import { copyIn, copyOut } from './ring-bench.ts'
import { FrontEnd } from '../../../support/vhost-front-end.ts'
import type { FrontEndOptions } from '../../../support/vhost-front-end.ts'

const MIB = 1 << 20
const GIB = 2 ** 30
const OK = 0
const IOERR = 1
const UNSUPP = 2

const probe = await openIo()
const skip = probe.kind === 'ring' ? false : 'takes io_uring'
await probe.shutdown()

interface Rig {
  io: Io
  target: MemoryTarget
  server: VhostUserServer
  reasons: string[]
  connect: (options?: FrontEndOptions) => Promise<FrontEnd>
  path: string
}

async function rig(
  t: Test,
  options: { readOnly?: boolean; sizeBytes?: number; closeCount?: number } = {},
): Promise<Rig> {
  const folder = mkdtempSync(join(tmpdir(), 'varve-vhost-'))
  const path = join(folder, 'disk.sock')
  const io = await openIo({ kind: 'ring', arenaBytes: 16 * MIB })
  const target = new MemoryTarget({ arena: io.arena, name: 'disk', sizeBytes: 8 * MIB, ...options })
  const reasons: string[] = []
  const server = new VhostUserServer(io, {
    mode: 0o600,
    directoryOf: () => ({ list: () => [], open: () => target }),
    onDisconnect: (_peer, _name, reason) => reasons.push(reason),
  })
  await server.open('disk', path)
  const frontEnds: FrontEnd[] = []
  t.teardown(async () => {
    for (const frontEnd of frontEnds) frontEnd.close()
    await server.close(1000)
    await io.shutdown()
    rmSync(folder, { recursive: true, force: true })
    const closeCount = options.closeCount ?? frontEnds.length
    if (target.closeCount !== closeCount) throw new Error('a client has not closed the disk')
  })
  const connect: Rig['connect'] = async (wishes = {}) => {
    const frontEnd = await FrontEnd.connect(path, wishes)
    frontEnds.push(frontEnd)
    return frontEnd
  }
  return { io, target, server, reasons, connect, path }
}

async function until(isSo: () => boolean): Promise<void> {
  for (let wait = 0; !isSo(); wait += 1) {
    if (wait > 1000) throw new Error('it does not come to that')
    await delay(5)
  }
}

for (const isPacked of [false, true]) {
  for (const isIndirect of [false, true]) {
    const kind = `${isPacked ? 'packed' : 'split'}${isIndirect ? ', tables' : ''}`
    t.test(`${kind}: what is written is read back, over many queues`, { skip }, async (t) => {
      const { connect, target } = await rig(t)
      const options = { isPacked, isIndirect, queueCount: 4, queueSize: 32 }
      const frontEnd = await connect(options)
      const model = Buffer.alloc(8 * MIB)
      let seed = 1
      const random = (below: number): number => {
        seed = (seed * 1103515245 + 12345) & 0x7fffffff
        return seed % below
      }
      const work = async (queue: number): Promise<void> => {
        // Each has a part of the disk, so that the order among them does not matter.
        for (let step = 0; step < 60; step += 1) {
          const count = 512 * (1 + random(100))
          const at = queue * 2 * MIB + 512 * random((2 * MIB - count) / 512)
          if (random(2) === 0) {
            const data = Buffer.alloc(count, random(256))
            data.copy(model, at)
            t.equal((await frontEnd.write(at, data, queue)).status, OK)
          } else {
            const { status, data, writtenBytes } = await frontEnd.read(at, count, queue)
            t.equal(status, OK)
            t.equal(writtenBytes, count + 1)
            t.ok(data.equals(model.subarray(at, at + count)), 'what was written')
          }
        }
      }
      await Promise.all([0, 1, 2, 3].flatMap((queue) => [work(queue)]))
      t.ok(target.data.equals(model))
    })
  }
}

t.test('every kind of request, and those that cannot be', { skip }, async (t) => {
  const { connect, target } = await rig(t)
  const frontEnd = await connect()
  const range = (sector: number, count: number, flags: number): Buffer => {
    const bytes = Buffer.alloc(16)
    bytes.writeBigUInt64LE(BigInt(sector))
    bytes.writeUInt32LE(count, 8)
    bytes.writeUInt32LE(flags, 12)
    return bytes
  }
  await frontEnd.write(0, Buffer.alloc(65536, 1))
  t.equal((await frontEnd.flush()).status, OK)
  const two = Buffer.concat([range(8, 8, 0), range(32, 8, 0)])
  t.equal((await frontEnd.request(BlockType.DISCARD, 0, two)).status, OK)
  t.equal((await frontEnd.request(BlockType.WRITE_ZEROES, 0, range(64, 8, 1))).status, OK)
  t.same(
    target.recorded.slice(1).map(({ kind, offsetBytes, flags }) => [kind, offsetBytes, flags]),
    [
      ['flush', 0, 0],
      ['trim', 4096, 0],
      ['trim', 16384, 0],
      ['zero', 32768, 0],
    ],
  )
  await frontEnd.request(BlockType.WRITE_ZEROES, 0, range(0, 1, 0))
  t.equal(target.recorded.at(-1)?.flags, 2, 'kept allocated unless told otherwise')
  const id = await frontEnd.request(BlockType.GET_ID, 0, undefined, 20)
  t.equal(id.data.toString().replace(/\0+$/, ''), 'disk')
  t.equal((await frontEnd.request(99, 0)).status, UNSUPP)
  const workedCount = target.recorded.length
  t.equal((await frontEnd.request(BlockType.DISCARD, 0, range(0, 8, 1))).status, UNSUPP)
  t.equal((await frontEnd.request(BlockType.DISCARD, 0, range(16380, 8, 0))).status, IOERR)
  t.equal((await frontEnd.request(BlockType.DISCARD, 0, Buffer.alloc(15))).status, IOERR)
  t.equal((await frontEnd.request(BlockType.WRITE_ZEROES, 0, range(0, 8, 2))).status, UNSUPP)
  t.equal((await frontEnd.read(8 * MIB, 512)).status, IOERR)
  t.equal((await frontEnd.read(8 * MIB - 512, 1024)).status, IOERR)
  t.equal((await frontEnd.read(0, 100)).status, IOERR, 'not whole sectors')
  t.equal((await frontEnd.request(BlockType.IN, 2 ** 52, undefined, 512)).status, IOERR)
  t.equal(target.recorded.length, workedCount, 'what is refused never comes to the disk')
  target.fault = () => -5
  t.equal((await frontEnd.read(0, 512)).status, IOERR)
  t.equal((await frontEnd.flush()).status, IOERR)
})

t.test(
  'without a flush to ask for, writes are durable when they are answered',
  { skip },
  async (t) => {
    const { connect, target } = await rig(t)
    const frontEnd = await connect()
    await frontEnd.write(0, Buffer.alloc(512))
    t.equal(target.recorded.at(-1)?.flags, 0)
    const payload = new Uint8Array(13)
    new DataView(payload.buffer).setUint32(0, 32, true)
    new DataView(payload.buffer).setUint32(4, 1, true)
    frontEnd.send(Request.SET_CONFIG, payload)
    t.equal((await frontEnd.config()).getUint8(32), 0)
    await frontEnd.write(0, Buffer.alloc(512))
    t.equal(target.recorded.at(-1)?.flags, 1, 'write-through')
  },
)

// A server that died had shown its guest an answer and not woken it: the guest waited for ever.
t.test('a guest is woken when its ring starts, however it is set up', { skip }, async (t) => {
  const { connect } = await rig(t)
  const frontEnd = await connect({ queueCount: 2 })
  for (const { call } of frontEnd.queues) {
    const counter = Buffer.alloc(8)
    await until(() => {
      try {
        return readSync(call, counter) === 8
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return false
        throw error
      }
    })
    t.ok(counter.readBigUInt64LE() > 0n)
  }
})

t.test('a snapshot says that it is read-only, and is', { skip }, async (t) => {
  const { connect } = await rig(t, { readOnly: true })
  const frontEnd = await connect()
  t.not(frontEnd.features & (1n << 5n), 0n)
  t.equal((await frontEnd.write(0, Buffer.alloc(512))).status, IOERR)
  t.equal((await frontEnd.request(BlockType.DISCARD, 0, Buffer.alloc(16))).status, IOERR)
  t.equal((await frontEnd.read(0, 512)).status, OK)
})

t.test('a drive has one user at a time', { skip }, async (t) => {
  const { connect, path, reasons } = await rig(t)
  const first = await connect()
  const binding = must(tryLoadBinding(), 'the addon')
  const fd = binding.connectUnix(path)
  await until(() => reasons.length === 1)
  t.match(reasons[0], /another/)
  binding.closeFd(fd)
  t.equal((await first.flush()).status, OK, 'who was there stays')
})

t.test('more than fits the memory at once is carried out in turn', { skip }, async (t) => {
  const { connect, target } = await rig(t, { sizeBytes: 64 * MIB })
  const slotBytes = 4 * MIB
  const frontEnd = await connect({ slotBytes, queueSize: 32, isIndirect: true })
  const sum = createHash('sha256')
  await Promise.all(
    Array.from({ length: 16 }, async (_, index) => {
      const words = Uint32Array.from({ length: slotBytes / 4 }, (_, at) => at * 16 + index)
      const data = Buffer.from(words.buffer)
      t.equal((await frontEnd.write(index * slotBytes, data)).status, OK)
      const back = await frontEnd.read(index * slotBytes, slotBytes)
      t.ok(back.data.equals(data))
    }),
  )
  t.ok(sum.update(target.data).digest('hex'))
})

t.test('what one turn does not begin is begun without another kick', { skip }, async (t) => {
  const { connect, target } = await rig(t)
  const frontEnd = await connect({ queueSize: 128, isIndirect: true, slotBytes: 262144 })
  const counts = [TURN_REQUEST_COUNT_MAX + 1, 2 * TURN_REQUEST_COUNT_MAX + 3]
  for (const count of counts) {
    // Offered in one stretch: only the first one kicks.
    const small = Array.from({ length: count }, (_, index) =>
      frontEnd.write(512 * index, Buffer.alloc(512, index + count)),
    )
    for (const answer of await Promise.all(small)) t.equal(answer.status, OK)
    t.equal(target.data[512 * (count - 1)], 2 * count - 1)
  }
  const large = Array.from({ length: 16 }, (_, index) => frontEnd.read(262144 * index, 262144))
  for (const [index, { status, data }] of (await Promise.all(large)).entries()) {
    t.equal(status, OK)
    t.ok(data.equals(target.data.subarray(262144 * index, 262144 * (index + 1))))
  }
})

t.test('a new size is told to the guest', { skip }, async (t) => {
  const { connect, target } = await rig(t)
  const frontEnd = await connect()
  t.equal((await frontEnd.config()).getUint32(0, true), (8 * MIB) / 512)
  Object.assign(target, { sizeBytes: 16 * MIB })
  const message = await frontEnd.receive(frontEnd.backendSocket)
  t.equal(message?.request, 2)
  t.equal((await frontEnd.config()).getUint32(0, true), (16 * MIB) / 512)
})

t.test('stopping a ring waits for what is at work', { skip }, async (t) => {
  const { connect, target } = await rig(t)
  const frontEnd = await connect()
  target.isHeld = true
  const write = frontEnd.write(0, Buffer.alloc(512, 9))
  await until(() => target.inFlightCount === 1)
  let base: number | null = null
  const stopped = frontEnd.stop(0).then((value) => (base = value))
  await delay(30)
  t.equal(base, null)
  target.resume()
  t.equal((await write).status, OK)
  await stopped
  t.equal(base, 1)
  frontEnd.startQueue(0, 1)
  t.equal((await frontEnd.read(0, 512)).data[0], 9, 'it goes on where it stood')
})

t.test('memory is shared anew while rings are at work', { skip }, async (t) => {
  for (const isPacked of [false, true]) {
    const { connect } = await rig(t)
    const frontEnd = await connect({ isPacked, inflight: 'new' })
    for (let round = 0; round < 100; round += 1) {
      const write = frontEnd.write(512 * round, Buffer.alloc(512, round))
      if (round % 10 === 0) {
        frontEnd.send(Request.SET_MEM_TABLE, frontEnd.memoryTable(), [frontEnd.memory])
      }
      t.equal((await write).status, OK)
      t.equal((await frontEnd.read(512 * round, 512)).data[511], round)
    }
  }
})

t.test('a region can be added, not twice, and taken away', { skip }, async (t) => {
  const { connect, reasons } = await rig(t)
  const frontEnd = await connect()
  const region = (guestAddress: bigint): Uint8Array => {
    const view = new DataView(new ArrayBuffer(40))
    view.setBigUint64(8, guestAddress, true)
    view.setBigUint64(16, 65536n, true)
    view.setBigUint64(24, guestAddress, true)
    return new Uint8Array(view.buffer)
  }
  const fd = frontEnd.binding.sharedCreate(65536)
  frontEnd.send(Request.ADD_MEM_REG, region(0n), [fd])
  t.equal((await frontEnd.flush()).status, OK)
  frontEnd.send(Request.REM_MEM_REG, region(0n))
  frontEnd.send(Request.ADD_MEM_REG, region(0n), [fd])
  t.equal((await frontEnd.flush()).status, OK)
  frontEnd.send(Request.ADD_MEM_REG, region(0n), [fd])
  await until(() => reasons.length === 1)
  t.match(reasons[0], /overlap/)
})

for (const isPacked of [false, true]) {
  const kind = isPacked ? 'packed' : 'split'
  t.test(
    `${kind}: a driver that starts again is not taken for the old one`,
    { skip },
    async (t) => {
      const { connect } = await rig(t)
      const options = { isPacked, inflight: 'new' } as const
      const frontEnd = await connect(options)
      for (let round = 0; round < 150; round += 1) await frontEnd.flush()
      await frontEnd.stop(0)
      // Its rings are as new; the record of what is in flight is not.
      frontEnd.resetQueue(0)
      frontEnd.startQueue(0)
      t.equal((await frontEnd.flush()).status, OK)
    },
  )
}

for (const isPacked of [false, true]) {
  const kind = isPacked ? 'packed' : 'split'
  t.test(`${kind}: what a dead server had taken, the next one carries out`, { skip }, async (t) => {
    const { connect, target, reasons, path } = await rig(t, { closeCount: 2 })
    const first = await connect({ isPacked, inflight: 'new' })
    await first.write(8192, Buffer.alloc(512, 3))
    target.isHeld = true
    const lost = first.write(4096, Buffer.alloc(512, 7))
    void lost
    await until(() => target.inFlightCount === 1)
    // From here on the server does not touch the memory: to the guest it is dead.
    first.hangUp()
    await delay(20)
    target.data.fill(0)
    target.resume()
    await until(() => reasons.length === 1)
    const written = target.recorded.length
    await first.reconnect(path)
    t.equal((await lost).status, OK)
    t.equal(target.recorded.length, written + 1, 'once, and nothing else')
    t.equal(target.data[4096], 7)
    t.equal(target.data[8192], 0, 'what was answered is not done again')
    t.equal((await first.read(4096, 512)).data[0], 7)
  })
}

t.test('a guest that is woken too often makes nobody wait', { skip }, async (t) => {
  const { connect } = await rig(t)
  const frontEnd = await connect()
  await frontEnd.flush()
  const full = encodeUint64(0xffff_ffff_ffff_fffen)
  readSync(frontEnd.queues[0].call, new Uint8Array(8))
  writeSync(frontEnd.queues[0].call, full)
  for (let count = 0; count < 5; count += 1) t.equal((await frontEnd.flush()).status, OK)
})

t.test('memory that lies ends the connection and nothing else', { skip }, async (t) => {
  const { connect, reasons } = await rig(t)
  const attacks: [string, (frontEnd: FrontEnd) => void, RegExp][] = [
    [
      'beyond the end of its file',
      (frontEnd) => {
        const table = frontEnd.memoryTable()
        new DataView(table.buffer).setBigUint64(16, BigInt(frontEnd.memoryBytes + 4096), true)
        frontEnd.send(Request.SET_MEM_TABLE, table, [frontEnd.memory])
      },
      /beyond the end/,
    ],
    [
      'a file that is no memory',
      (frontEnd) => {
        const fd = openSync(process.execPath, 'r')
        frontEnd.send(Request.SET_MEM_TABLE, frontEnd.memoryTable(), [fd])
        closeSync(fd)
      },
      /tmpfs|neither/,
    ],
    [
      'a kick that is no eventfd',
      (frontEnd) => frontEnd.send(Request.SET_VRING_KICK, encodeUint64(0n), [frontEnd.memory]),
      /no eventfd/,
    ],
    [
      'other features while it runs',
      (frontEnd) => frontEnd.send(Request.SET_FEATURES, encodeUint64(F_VERSION_1)),
      /at work/,
    ],
    [
      'a ring that is broken',
      (frontEnd) => {
        const { layout } = frontEnd.queues[0].driver
        frontEnd.view.setUint16(layout.available + 2, 60000, true)
        frontEnd.kick()
      },
      /requests in a ring/,
    ],
  ]
  for (const [what, attack, says] of attacks) {
    const frontEnd = await connect()
    const before = reasons.length
    attack(frontEnd)
    await until(() => reasons.length > before)
    t.match(reasons.at(-1), says, what)
    t.equal(await frontEnd.receive(), null, 'it is hung up on')
  }
  const honest = await connect()
  t.equal((await honest.flush()).status, OK, 'the next one is served')
})

t.test('memory that is taken away ends the connection and nothing else', { skip }, async (t) => {
  const { connect, reasons } = await rig(t)
  const path = `/dev/shm/varve-vhost-${process.pid}`
  const fd = openSync(path, 'w+')
  ftruncateSync(fd, 16 * MIB)
  const thief = await connect({ memory: fd })
  t.equal((await thief.flush()).status, OK)
  ftruncateSync(fd, 0)
  thief.kick()
  await until(() => reasons.length === 1)
  const honest = await connect()
  t.equal((await honest.flush()).status, OK)
  closeSync(fd)
  unlinkSync(path)
})

t.test('memory of any size is mapped at once, and let go of at once', { skip }, async (t) => {
  const io = await openIo({ kind: 'ring', arenaBytes: 16 * MIB })
  const descriptors = must(io.descriptors?.(), 'descriptors')
  const sizeBytes = 64 * GIB
  const fd = descriptors.createMemory(sizeBytes)
  const mappedCount = (): number => readFileSync('/proc/self/maps', 'utf8').split('memfd:').length
  const startMs = performance.now()
  const mapping = descriptors.map(fd, 0, sizeBytes)
  if (typeof mapping === 'number') throw new Error(`errno ${-mapping}`)
  const region = { guestAddress: 4096, userAddress: 8192, fileOffset: 0, sizeBytes }
  const map = new MemoryMap([{ ...region, mapping }])
  for (const place of [3 * GIB - 3, 4 * GIB - 3, sizeBytes - 8]) {
    const chain = new Chain()
    chain.clear()
    t.equal(chain.add(map, 4096 + place, 8, false), null)
    copyIn(chain, map, 0, Buffer.from('01234567'))
    const back = Buffer.alloc(6)
    copyOut(chain, map, 2, back)
    t.equal(back.toString('latin1'), '234567')
    const ring = must(map.tryRange(8192 + place, 8), 'a ring')
    t.equal(Buffer.from(ring.buffer, ring.byteOffset, 8).toString(), '01234567')
  }
  t.equal(map.regionOf(4096 + sizeBytes), -1)
  t.throws(() => mapping.read(sizeBytes - 4, Buffer.alloc(8), 0, 8), RangeError)
  const mine = Buffer.alloc(16, 9)
  mapping.writePieces(Float64Array.of(0, 0, 16), 1, mine)
  const leaving: [string, number[]][] = [
    ['its end', [sizeBytes - 4, 0, 8]],
    ['its beginning', [-1, 0, 8]],
    ['the end of ours', [0, 12, 8]],
    ['the beginning of ours', [0, -8, 8]],
    ['all numbers', [Number.NaN, 0, 8]],
    ['all memory', [0, 0, Infinity]],
    ['what is positive', [8, 8, -8]],
  ]
  for (const [what, piece] of leaving) {
    // The first would be copied, and nothing is.
    const pieces = Float64Array.of(0, 0, 8, ...piece)
    const copy = Buffer.alloc(16, 1)
    t.throws(() => mapping.readPieces(pieces, 2, copy), RangeError, `leaves ${what}`)
    t.ok(copy.equals(Buffer.alloc(16, 1)), `leaves ${what}: nothing is read`)
    t.throws(() => mapping.writePieces(pieces, 2, copy), RangeError, `leaves ${what}`)
    mapping.read(0, copy, 0, 16)
    t.ok(copy.equals(mine), `leaves ${what}: nothing is written`)
    t.throws(() => mapping.readPieces(pieces, 3, copy), RangeError, 'more than there are')
  }
  // Shown to JavaScript as a whole it took seconds, in which nobody was served.
  t.ok(performance.now() - startMs < 1000)
  const mapped = mappedCount()
  mapping.close()
  t.ok(mappedCount() < mapped, 'it goes at once')
  t.throws(() => mapping.read(0, Buffer.alloc(8), 0, 8), RangeError, 'nothing is there')
  descriptors.closeDescriptor(fd)
  await io.shutdown()
})

t.test('whatever front ends do, no descriptor and no memory stays', { skip }, async (t) => {
  const { connect, reasons, path } = await rig(t, { closeCount: 31 })
  const binding = must(tryLoadBinding(), 'the addon')
  const openCount = (): number => readdirSync('/proc/self/fd').length
  const mappedCount = (): number => readFileSync('/proc/self/maps', 'utf8').split('memfd:').length
  const honest = await connect({ inflight: 'new' })
  await honest.write(0, Buffer.alloc(4096))
  honest.hangUp()
  await until(() => reasons.length === 1)
  const before = [openCount(), mappedCount()]
  for (let round = 0; round < 30; round += 1) {
    const fd = binding.connectUnix(path)
    const event = binding.eventCreate()
    const memory = binding.sharedCreate(MIB)
    const fds = Int32Array.of(...(round % 2 === 0 ? [event, memory] : [memory]))
    // Cut off in the middle, or whole and wrong.
    const message = encodeRequest(
      round % 3 === 0 ? Request.SET_MEM_TABLE : Request.SET_VRING_CALL,
      round % 3 === 1 ? encodeUint64(99n) : honest.memoryTable(),
    )
    const length = round % 5 === 0 ? 20 : message.length
    binding.descriptorsSend(fd, message, 0, length, fds)
    await delay(2)
    for (const one of [fd, event, memory]) binding.closeFd(one)
    await until(() => reasons.length === round + 2)
  }
  t.equal(openCount(), before[0])
  // What earlier front ends of this process had mapped may have been collected meanwhile.
  t.ok(mappedCount() <= before[1], `${mappedCount()} mapped, ${before[1]} before`)
})
