import { createHash } from 'node:crypto'
import fc from 'fast-check'
import t from 'tap'
import { Errno } from '../../../src/base/errors.ts'
import { selectContexts } from '../../../src/export/nbd/contexts.ts'
import { nbdErrorOf } from '../../../src/export/nbd/errors.ts'
import { encodeExtents } from '../../../src/export/nbd/extents.ts'
import { Input } from '../../../src/export/nbd/input.ts'
import { ConnectionMemory } from '../../../src/export/nbd/memory.ts'
import { ArenaShare } from '../../../src/io/arena-share.ts'
import { Transmission } from '../../../src/export/nbd/transmission.ts'
import { BuddyArena } from '../../../src/io/buddy-arena.ts'
import type { MemoryTargetOptions, Recorded } from '../../support/memory-target.ts'
import { MemoryTarget } from '../../support/memory-target.ts'
import type { RequestFields, TransmissionReply } from './nbd-codec.ts'
import { decodeExtents, decodeReplies, request } from './nbd-codec.ts'

const MIB = 1 << 20
const READ = 0
const WRITE = 1
const DISC = 2
const FLUSH = 3
const TRIM = 4
const CACHE = 5
const ZEROES = 6
const STATUS = 7
const FUA = 1
const NO_HOLE = 2
const DF = 4
const REQ_ONE = 8
const FAST_ZERO = 16

const arena = new BuddyArena(Buffer.alloc(64 * MIB))

interface RigOptions extends Omit<MemoryTargetOptions, 'arena'> {
  isStructured?: boolean
  contexts?: string[]
  shareBytes?: number
}

/** The core with a disk behind it and a client in front of it, moved by hand. */
class Rig {
  readonly target: MemoryTarget
  readonly core: Transmission
  readonly share: ArenaShare
  output: Buffer[] = []
  readonly #usedBefore = arena.usedBytes
  readonly #memory: ConnectionMemory
  readonly #input: Input
  readonly #vector = { pairs: new Uint32Array(1024), count: 0 }

  constructor(options: RigOptions = {}) {
    const { isStructured = false, contexts = [], shareBytes = 32 * MIB, ...rest } = options
    this.target = new MemoryTarget({ arena, schedule: () => undefined, ...rest })
    this.share = new ArenaShare(arena, shareBytes)
    const memory = ConnectionMemory.tryOpen(this.share)
    if (memory === null) throw new Error('no memory')
    this.#memory = memory
    this.#input = new Input(memory)
    const selected = selectContexts(this.target, contexts)
    const agreement = { target: this.target, isStructured, contexts: selected }
    const owner = { transmissionChanged: (): void => undefined }
    this.core = new Transmission(memory, this.#input, agreement, owner)
  }

  /** Lets everything happen that can; false when nothing could. */
  turn(): boolean {
    this.core.resume()
    const bytes = this.core.gather(this.#vector)
    if (bytes > 0) {
      for (let i = 0; i < this.#vector.count; i += 1) {
        const at = this.#vector.pairs[2 * i] ?? 0
        const end = at + (this.#vector.pairs[2 * i + 1] ?? 0)
        this.output.push(Buffer.from(arena.memory.subarray(at, end)))
      }
      this.core.sent()
    }
    const hadWork = this.target.inFlightCount > 0 && !this.target.isHeld
    if (hadWork) this.target.completeAll()
    return bytes > 0 || hadWork
  }

  settle(): void {
    while (this.turn()) {
      // Until nothing moves.
    }
  }

  /** Hands over what the core takes now; returns how much that was. */
  offer(bytes: Buffer): number {
    let at = 0
    while (at < bytes.length && this.core.tryReceive()) {
      const count = Math.min(bytes.length - at, this.core.receiveBytes)
      bytes.copy(arena.memory, this.core.receiveOffset, at, at + count)
      at += count
      this.core.received(count)
    }
    return at
  }

  feed(bytes: Buffer): void {
    let at = 0
    for (;;) {
      at += this.offer(bytes.subarray(at))
      if (at === bytes.length || (!this.turn() && !this.core.tryReceive())) break
    }
    this.settle()
  }

  /** Everything said so far, decoded; forgets it. */
  replies(reads: readonly RequestFields[] = []): TransmissionReply[] {
    const simple = new Map<bigint, number>()
    for (const { type, cookie, length } of reads) if (type === READ) simple.set(cookie, length ?? 0)
    const replies = decodeReplies(Buffer.concat(this.output), simple)
    this.output = []
    return replies
  }

  /** Sends requests and returns the replies. */
  ask(...requests: RequestFields[]): TransmissionReply[] {
    this.feed(Buffer.concat(requests.map(request)))
    return this.replies(requests)
  }

  /** The client goes away; true when every byte of the arena has come back. */
  end(): boolean {
    this.core.abandon()
    this.target.isHeld = false
    while (this.target.inFlightCount > 0) this.target.completeAll()
    if (!this.core.isQuiet) return false
    this.#input.close()
    this.#memory.close()
    return arena.usedBytes === this.#usedBefore && this.share.usedBytes === 0
  }
}

function pattern(lengthBytes: number, seed = 1): Buffer {
  const bytes = Buffer.alloc(lengthBytes)
  for (let i = 0; i < lengthBytes; i += 1) bytes[i] = (i * 7 + (i >> 8) * 13 + seed) & 0xff
  return bytes
}

/** What a client makes of the replies to one read: data in place, or an error. */
function assemble(replies: TransmissionReply[], offset: number, length: number): Buffer | number {
  const error = replies.find((reply) => reply.error !== 0)?.error
  if (error !== undefined) return error
  const data = Buffer.alloc(length, 0xee)
  let covered = 0
  for (const reply of replies) {
    const at = reply.type === 'simple' ? 0 : reply.offset - offset
    if (reply.type === 1 || reply.type === 'simple') {
      reply.data.copy(data, at)
      covered += reply.data.length
    }
  }
  if (covered !== length) throw new Error(`${covered} of ${length} bytes`)
  if (replies.map(({ isDone }) => isDone).lastIndexOf(true) !== replies.length - 1) {
    throw new Error('the last chunk says so')
  }
  if (replies.filter(({ isDone }) => isDone).length !== 1) throw new Error('only the last is done')
  return data
}

t.test('what is written is read back, simple and structured, at any size', async (t) => {
  for (const isStructured of [false, true]) {
    const rig = new Rig({ isStructured, sizeBytes: 40 * MIB })
    let cookie = 0xffff_ffff_ffff_0000n
    for (const length of [
      1,
      511,
      4096,
      65536,
      65537,
      200_000,
      MIB,
      MIB + 1,
      3 * MIB + 5,
      32 * MIB,
    ]) {
      for (const offset of length > 4 * MIB ? [4095] : [0, 4095, 40 * MIB - length]) {
        cookie += 1n
        const payload = pattern(length, length + offset)
        const written = rig.ask({ type: WRITE, cookie, offset, payload })
        t.equal(written.length, 1)
        t.strictSame([written[0]?.cookie, written[0]?.error], [cookie, 0])
        for (const flags of isStructured ? [0, DF] : [0]) {
          const replies = rig.ask({ type: READ, cookie, offset, length, flags })
          const data = assemble(replies, offset, length)
          t.ok(typeof data !== 'number' && data.equals(payload), `${length} at ${offset}`)
          const chunkCount = replies.filter(({ type }) => type === 1).length
          if (flags === DF) t.equal(chunkCount, 1, 'not fragmented')
          else if (isStructured) t.ok(chunkCount - Math.ceil(length / MIB) < 2, 'a chunk a piece')
        }
      }
    }
    t.ok(rig.end(), 'all memory came back')
  }
})

t.test('flags reach the disk: FUA, NO_HOLE, FAST_ZERO', async (t) => {
  const rig = new Rig({ sizeBytes: 4 * MIB })
  const replies = rig.ask(
    { type: WRITE, cookie: 1n, flags: FUA, payload: pattern(10) },
    { type: TRIM, cookie: 2n, offset: 4096, length: 5000, flags: FUA },
    { type: ZEROES, cookie: 3n, offset: 1, length: 2, flags: NO_HOLE | FAST_ZERO },
    { type: ZEROES, cookie: 4n, offset: 0, length: 4 * MIB, flags: FUA | NO_HOLE },
    { type: FLUSH, cookie: 5n },
    { type: WRITE, cookie: 6n, flags: FUA, payload: pattern(2 * MIB) },
  )
  t.ok(replies.every(({ error }) => error === 0))
  t.equal(replies.length, 6)
  t.strictSame(
    rig.target.recorded.map(({ kind, flags }) => `${kind} ${flags}`),
    ['write 1', 'trim 1', 'zero 2', 'zero 3', 'flush 0', 'write 1', 'write 1'],
  )
  t.ok(rig.end())
})

t.test('a request that is not right gets the error the protocol names', async (t) => {
  const sizeBytes = 100_000
  const huge = 0xffff_ffff_ffff_f000n
  const rig = new Rig({ isStructured: true, sizeBytes })
  const readOnly = new Rig({ sizeBytes, readOnly: true })
  const simple = new Rig({ sizeBytes })
  const byte = Buffer.alloc(1)
  const cases: [Rig, Omit<RequestFields, 'cookie'>, number][] = [
    [rig, { type: 9, length: 1 }, 22],
    [rig, { type: 65535 }, 22],
    [rig, { type: READ, offset: sizeBytes - 1, length: 2 }, 22],
    [rig, { type: READ, offset: huge, length: 1 }, 22],
    [rig, { type: READ, offset: sizeBytes, length: 0 }, 22],
    [rig, { type: READ, length: 32 * MIB + 1 }, 22],
    [rig, { type: READ, length: 32 * MIB + 1, flags: DF }, 75],
    [rig, { type: READ, length: 1, flags: NO_HOLE }, 22],
    [rig, { type: READ, length: 1, flags: 1 << 15 }, 22],
    [rig, { type: WRITE, offset: sizeBytes, payload: byte }, 28],
    [rig, { type: WRITE, offset: huge, payload: byte }, 28],
    [rig, { type: WRITE, payload: byte, flags: DF }, 22],
    [rig, { type: WRITE }, 22],
    [rig, { type: WRITE, payload: Buffer.alloc(33 * MIB) }, 22],
    [rig, { type: TRIM, offset: 1, length: sizeBytes }, 22],
    [rig, { type: TRIM }, 22],
    [rig, { type: CACHE, offset: huge, length: 1 }, 22],
    [rig, { type: ZEROES, offset: 1, length: 0xffffffff }, 28],
    [rig, { type: ZEROES, length: 1, flags: REQ_ONE }, 22],
    [rig, { type: FLUSH, length: 1 }, 22],
    [rig, { type: FLUSH, offset: 1 }, 22],
    [rig, { type: STATUS, length: 1 }, 22],
    [readOnly, { type: WRITE, payload: pattern(70_000) }, 1],
    [readOnly, { type: TRIM, length: 1 }, 1],
    [readOnly, { type: ZEROES, length: 1 }, 1],
    [simple, { type: READ, length: 1, flags: DF }, 22],
    [simple, { type: READ, offset: sizeBytes, length: 1 }, 22],
  ]
  let cookie = 0n
  for (const [on, fields, error] of cases) {
    cookie += 1n
    const replies = on.ask({ ...fields, cookie })
    t.equal(replies.length, 1)
    t.strictSame(
      [replies[0]?.cookie, replies[0]?.error],
      [cookie, error],
      `${fields.type} at ${fields.offset ?? 0} with ${fields.length ?? 0}`,
    )
    t.equal(replies[0]?.type, on === rig ? 0x8001 : 'simple')
  }
  for (const on of [simple, readOnly, rig]) {
    t.strictSame(on.target.recorded, [], 'none reached the disk')
    t.equal(on.ask({ type: READ, cookie: 1n, length: 5 }).length, 1, 'and the next one is served')
    t.equal(on.core.failure, null)
    t.ok(on.end())
  }
})

t.test('a wrong magic or an absurd payload cuts the client off', async (t) => {
  const rig = new Rig()
  rig.feed(Buffer.alloc(28))
  t.match(rig.core.failure, /magic/)
  t.notOk(rig.core.tryReceive())
  t.ok(rig.end())
  const absurd = new Rig()
  absurd.feed(request({ type: WRITE, cookie: 1n, length: 0xffffffff }))
  t.match(absurd.core.failure, /4294967295 bytes/)
  t.ok(absurd.end())
})

t.test('an error of the disk is told, whole or in part', async (t) => {
  for (const isStructured of [false, true]) {
    const rig = new Rig({ isStructured, sizeBytes: 8 * MIB })
    const failing = (at: number) => (operation: Recorded) =>
      operation.offsetBytes === at ? -Errno.ENOSPC : 0
    rig.target.fault = failing(2 * MIB)
    const write = rig.ask({ type: WRITE, cookie: 1n, payload: pattern(4 * MIB) })
    t.strictSame(
      write.map(({ error }) => error),
      [28],
      'a write fails once',
    )
    const zero = rig.ask({ type: ZEROES, cookie: 2n, offset: 2 * MIB, length: 5 })
    t.strictSame(
      zero.map(({ error }) => error),
      [28],
    )
    const cache = rig.ask({ type: CACHE, cookie: 2n, length: 4 * MIB })
    t.strictSame(
      cache.map(({ error }) => error),
      [28],
    )
    rig.target.fault = failing(0)
    t.equal(assemble(rig.ask({ type: READ, cookie: 3n, length: 10 }), 0, 10), 28)
    t.equal(assemble(rig.ask({ type: READ, cookie: 4n, length: 3 * MIB }), 0, 3 * MIB), 28)
    t.equal(rig.core.failure, null)
    rig.target.fault = failing(MIB)
    if (isStructured) {
      const parts = rig.ask({ type: READ, cookie: 5n, length: 3 * MIB })
      t.equal(assemble(parts, 0, 3 * MIB), 28)
      t.equal(parts.filter(({ isDone }) => isDone).length, 1)
      const whole = rig.ask({ type: READ, cookie: 6n, length: 3 * MIB, flags: DF })
      t.strictSame(
        whole.map(({ type, isDone }) => [type, isDone]),
        [
          [1, false],
          [0x8001, true],
        ],
      )
      t.equal(whole[0]?.data.length, 3 * MIB, 'the announced length is sent')
    } else {
      rig.feed(request({ type: READ, cookie: 5n, length: 3 * MIB }))
      t.match(rig.core.failure, /after its reply had begun/)
      t.ok(Buffer.concat(rig.output).length < 2 * MIB, 'nothing follows the failure')
    }
    t.ok(rig.end())
  }
})

t.test('errno values of the disk become the few the protocol has', async (t) => {
  const table = [
    [0, 0],
    [5, 0],
    [-Errno.EROFS, 1],
    [-Errno.EPERM, 1],
    [-Errno.EIO, 5],
    [-Errno.ENOMEM, 12],
    [-Errno.EINVAL, 22],
    [-Errno.EOPNOTSUPP, 22],
    [-Errno.EOVERFLOW, 22],
    [-Errno.ENOSPC, 28],
    [-Errno.EFBIG, 28],
    [-Errno.ESHUTDOWN, 108],
    [-Errno.ECANCELED, 5],
    [-12345, 5],
  ] as const
  for (const [result, error] of table) t.equal(nbdErrorOf(result), error)
})

t.test('BLOCK_STATUS describes every chosen context once', async (t) => {
  const contexts = ['base:allocation', 'varve:changed-since:mon']
  const rig = new Rig({ isStructured: true, contexts, snapshots: ['mon'], sizeBytes: 40 * MIB })
  rig.ask(
    { type: WRITE, cookie: 1n, offset: 8192, payload: pattern(4096) },
    { type: ZEROES, cookie: 2n, offset: 12288, length: 4096 },
  )
  const replies = rig.ask({ type: STATUS, cookie: 3n, offset: 4096, length: 1 << 20 })
  t.strictSame(
    replies.map(({ type, isDone }) => [type, isDone]),
    [
      [5, false],
      [5, true],
    ],
  )
  t.strictSame(
    replies.map(({ data }) => decodeExtents(data)),
    [
      {
        id: 1,
        extents: [
          [4096, 3],
          [4096, 0],
          [MIB - 8192, 3],
        ],
      },
      {
        id: 2,
        extents: [
          [4096, 0],
          [8192, 1],
          [MIB - 12288, 0],
        ],
      },
    ],
  )
  const one = rig.ask({ type: STATUS, cookie: 4n, offset: 8192, length: 100, flags: REQ_ONE })
  t.strictSame(
    one.map(({ data }) => decodeExtents(data).extents),
    [[[100, 0]], [[100, 1]]],
  )
  rig.target.fault = ({ kind }) => (kind === 'extents' ? -Errno.EIO : 0)
  const failed = rig.ask({ type: STATUS, cookie: 5n, length: 4096 })
  t.strictSame(
    failed.map(({ error, isDone }) => [error, isDone]),
    [[5, true]],
  )
  rig.target.fault = () => 0
  const many = Array.from({ length: 5000 }, (_, i) => ({
    type: WRITE,
    cookie: BigInt(i),
    offset: i * 8192,
    payload: Buffer.alloc(1),
  }))
  rig.ask(...many)
  const long = rig.ask({ type: STATUS, cookie: 6n, length: 40 * MIB })
  t.equal(decodeExtents(long[0]?.data ?? Buffer.alloc(4)).extents.length, 4095, 'bounded')
  t.ok(rig.end())
})

t.test('extents merge, stay in 32 bits, and only the last passes the request', async (t) => {
  const view = new DataView(new ArrayBuffer(4096))
  /** Extents as text: `length:flags`, in order. */
  const encode = (text: string, length: number, isOne = false): string => {
    const extents = text.split(' ').map((extent) => extent.split(':').map(Number))
    const list = {
      lengths: Float64Array.from(extents, ([bytes]) => bytes ?? 0),
      flags: Uint32Array.from(extents, ([, flags]) => flags ?? 0),
      count: text === '' ? 0 : extents.length,
    }
    const bytes = encodeExtents(view, 8, 7, list, length, isOne)
    const decoded = decodeExtents(Buffer.from(view.buffer, 8, bytes))
    t.equal(decoded.id, 7)
    return decoded.extents.map((extent) => extent.join(':')).join(' ')
  }
  const [huge, clipped] = [2 ** 40, 2 ** 32 - 4096]
  t.equal(encode('10:1 20:1 5:0 0:3 7:0', 100), '30:1 5:0 7:0')
  t.equal(encode(`10:1 ${huge}:0`, 100), `10:1 ${clipped}:0`)
  t.equal(encode(`${huge}:0 5:1`, 2 ** 32 - 1), `${clipped}:0`)
  t.equal(encode('100:1 5:0', 100), '100:1', 'nothing begins past the request')
  t.equal(encode(`${huge}:2`, 512, true), '512:2')
  t.equal(encode('10:1 20:0', 512, true), '10:1')
  t.throws(() => encode('', 5), 'a target describes something')
})

t.test('CACHE reads its range up to a bound and sends nothing', async (t) => {
  const rig = new Rig({ isStructured: true, sizeBytes: 48 * MIB })
  const replies = rig.ask({ type: CACHE, cookie: 1n, offset: 3, length: 48 * MIB - 3 })
  t.strictSame(
    replies.map(({ type, error }) => [type, error]),
    [['simple', 0]],
  )
  const bytes = rig.target.recorded.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0)
  t.equal(bytes, 32 * MIB)
  t.ok(rig.end())
})

/** A mix of everything, answered without regard to order. */
function script(isStructured: boolean): RequestFields[] {
  return [
    { type: WRITE, cookie: 1n, offset: 5, payload: pattern(9000) },
    { type: READ, cookie: 2n, offset: 0, length: 10_000 },
    { type: WRITE, cookie: 3n, offset: 900_000, payload: pattern(70_000) },
    { type: WRITE, cookie: 4n, offset: 2 * MIB - 1, payload: pattern(3) },
    { type: 77, cookie: 5n },
    { type: FLUSH, cookie: 6n },
    { type: ZEROES, cookie: 7n, offset: 100, length: 50 },
    { type: READ, cookie: 8n, offset: 0, length: 2 * MIB, flags: isStructured ? DF : 0 },
    { type: TRIM, cookie: 9n, offset: 950_000, length: 500_000 },
    { type: READ, cookie: 10n, offset: 7, length: 2 * MIB - 7 },
  ]
}

/** Replies by cookie, as comparable text. */
function digest(replies: TransmissionReply[]): string {
  const lines = replies.map((r) => {
    const digest = createHash('sha1').update(r.data).digest('hex')
    return `${r.cookie} ${r.type} ${r.isDone} ${r.error} ${r.offset} ${digest}`
  })
  return lines.sort((a, b) => (a < b ? -1 : 1)).join('\n')
}

t.test('input cut anywhere gives the same replies', async (t) => {
  for (const isStructured of [false, true]) {
    const requests = script(isStructured)
    const bytes = Buffer.concat(requests.map(request))
    const run = (parts: Buffer[]): string => {
      const rig = new Rig({ isStructured, sizeBytes: 2 * MIB })
      for (const part of parts) rig.feed(part)
      const result = digest(rig.replies(requests))
      if (!rig.core.isDrained || !rig.end()) t.fail('memory or requests are left')
      return result
    }
    // In one piece a read may overtake a write, so the base is a request at a time.
    const whole = run(requests.map(request))
    const edges = new Set<number>()
    let start = 0
    for (const fields of requests) {
      const length = request(fields).length
      for (let i = 0; i < 30; i += isStructured ? 1 : 5) edges.add(start + i)
      for (const back of [1, 2, 4095, 4096]) edges.add(start + Math.max(length - back, 0))
      start += length
    }
    const boundaries = requests.map(
      (_, i) => Buffer.concat(requests.slice(0, i).map(request)).length,
    )
    for (const cut of edges) {
      if (cut === 0 || cut >= bytes.length) continue
      const cuts = [...new Set([...boundaries, cut, bytes.length])].sort((a, b) => a - b)
      const parts = cuts.slice(1).map((end, i) => bytes.subarray(cuts[i], end))
      if (run(parts) !== whole) t.fail(`cut at ${cut}`)
    }
    t.pass(`${edges.size} cuts`)
  }
})

t.test('writes in flight keep their bytes while more arrives', async (t) => {
  const rig = new Rig({ sizeBytes: 16 * MIB })
  rig.target.isHeld = true
  const requests = Array.from({ length: 200 }, (_, i) => ({
    type: WRITE,
    cookie: BigInt(i),
    offset: i * 50_000,
    payload: pattern(1 + ((i * 7919) % 50_000), i),
  }))
  const bytes = Buffer.concat(requests.map(request))
  t.equal(rig.offer(bytes), bytes.length, 'all are taken while none completes')
  t.equal(rig.target.recorded.length, 200)
  // The target copied at once; a real one reads the arena only now.
  rig.target.isHeld = false
  rig.settle()
  t.equal(rig.replies().length, 200)
  for (const { offset, payload } of requests) {
    if (!rig.target.data.subarray(offset, offset + payload.length).equals(payload)) t.fail('lost')
  }
  t.ok(rig.end())
})

t.test('without shared memory everything is still served, in the reserve', async (t) => {
  for (const isStructured of [false, true]) {
    const contexts = isStructured ? ['base:allocation'] : []
    const rig = new Rig({ isStructured, contexts, sizeBytes: 8 * MIB, shareBytes: 0 })
    const data = pattern(5 * MIB)
    t.equal(rig.ask({ type: WRITE, cookie: 1n, offset: 9, payload: data })[0]?.error, 0)
    const requests = [0, 1, 2, 3].map((i) => ({
      type: READ,
      cookie: BigInt(i),
      offset: 9 + i * MIB,
      length: MIB + 10,
    }))
    const replies = rig.ask(...requests)
    for (const { cookie, offset, length } of requests) {
      const own = replies.filter((reply) => reply.cookie === cookie)
      const read = assemble(own, offset, length)
      t.ok(typeof read !== 'number' && read.equals(data.subarray(offset - 9, offset - 9 + length)))
    }
    const small = Array.from({ length: 300 }, (_, i) => ({
      type: i % 2,
      cookie: BigInt(i),
      offset: i,
      ...(i % 2 === WRITE ? { payload: pattern(3000) } : { length: 3000 }),
    }))
    t.equal(rig.ask(...small).length, 300)
    if (isStructured) t.equal(rig.ask({ type: STATUS, cookie: 1n, length: MIB }).length, 1)
    t.equal(rig.share.usedBytes, 0)
    t.ok(rig.end())
  }
})

t.test('a client cannot make the server hold more than its bounds', async (t) => {
  const rig = new Rig({ isStructured: true, sizeBytes: 40 * MIB, shareBytes: 64 * MIB })
  rig.target.isHeld = true
  const reads = Array.from({ length: 600 }, (_, i) => ({
    type: READ,
    cookie: BigInt(i),
    length: 4096,
  }))
  rig.offer(Buffer.concat(reads.map(request)))
  t.equal(rig.target.inFlightCount, 256, 'requests')
  t.ok(rig.end())
  const big = new Rig({ isStructured: true, sizeBytes: 40 * MIB, shareBytes: 64 * MIB })
  big.target.isHeld = true
  const long = Array.from({ length: 9 }, (_, i) => ({
    type: READ,
    cookie: BigInt(i),
    length: 32 * MIB,
  }))
  big.offer(Buffer.concat(long.map(request)))
  t.ok(big.share.usedBytes <= 16 * MIB, 'bytes')
  t.notOk(big.core.tryReceive(), 'and is not listened to meanwhile')
  t.ok(big.end())
})

t.test('a client that dies anywhere leaves nothing behind', async (t) => {
  const requests = [...script(true), { type: WRITE, cookie: 11n, payload: pattern(3 * MIB) }]
  requests.push(
    { type: STATUS, cookie: 12n, length: MIB },
    { type: CACHE, cookie: 1n, length: MIB },
  )
  const bytes = Buffer.concat(requests.map(request))
  fc.assert(
    fc.property(
      fc.nat(bytes.length),
      fc.boolean(),
      fc.boolean(),
      fc.nat(12),
      fc.boolean(),
      (cut, isStructured, isHeld, turns, isScarce) => {
        const contexts = isStructured ? ['base:allocation'] : []
        const shareBytes = isScarce ? 0 : 32 * MIB
        const rig = new Rig({ isStructured, contexts, sizeBytes: 4 * MIB, shareBytes })
        rig.target.isHeld = isHeld
        rig.offer(bytes.subarray(0, cut))
        for (let i = 0; i < turns; i += 1) rig.turn()
        rig.core.tryReceive()
        return rig.end()
      },
    ),
    { numRuns: 200 },
  )
  t.pass('all memory came back')
})

t.test('after DISC or the end of input everything begun is answered, and no more', async (t) => {
  const rig = new Rig({ sizeBytes: 4 * MIB })
  const last = Buffer.concat([
    request({ type: WRITE, cookie: 1n, payload: pattern(5) }),
    request({ type: READ, cookie: 2n, length: 3 * MIB }),
    request({ type: DISC, cookie: 3n }),
    request({ type: FLUSH, cookie: 4n }),
  ])
  rig.feed(last)
  const replies = rig.replies([{ type: READ, cookie: 2n, length: 3 * MIB }])
  t.strictSame(replies.map(({ cookie }) => cookie).sort(), [1n, 2n])
  t.ok(rig.core.isDrained && rig.core.isInputClosed)
  t.ok(rig.end())
  const cut = new Rig({ sizeBytes: 4 * MIB })
  cut.feed(request({ type: WRITE, cookie: 1n, payload: pattern(3 * MIB) }).subarray(0, 2 * MIB))
  cut.core.closeInput()
  cut.settle()
  t.strictSame(
    cut.replies().map(({ error }) => error),
    [108],
    'half a payload is refused',
  )
  t.ok(cut.core.isDrained)
  t.ok(cut.end())
})

t.test('garbage never throws and never costs more than the bounds', async (t) => {
  const sane = fc
    .record({
      type: fc.integer({ min: 0, max: 9 }),
      flags: fc.oneof(fc.constant(0), fc.nat(65535)),
      cookie: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
      offset: fc.oneof(fc.nat(2 * MIB), fc.bigInt({ min: 0n, max: 2n ** 64n - 1n })),
      length: fc.oneof(fc.nat(200_000), fc.nat(0xffffffff)),
      payload: fc.nat(100_000).map((length) => Buffer.alloc(length, 3)),
    })
    .map(request)
  const noise = fc.uint8Array({ maxLength: 100 }).map((bytes) => Buffer.from(bytes))
  const parts = fc.array(fc.oneof({ weight: 9, arbitrary: sane }, noise), { maxLength: 8 })
  fc.assert(
    fc.property(parts, fc.boolean(), fc.constantFrom(0, 32 * MIB), (list, isStructured, share) => {
      const contexts = isStructured ? ['base:allocation'] : []
      const rig = new Rig({ isStructured, contexts, sizeBytes: 2 * MIB, shareBytes: share })
      for (const part of list) rig.feed(part)
      return rig.share.usedBytes <= 16 * MIB && rig.end()
    }),
    { numRuns: 200 },
  )
  t.pass('no exception')
})
