/** An NBD client over a simulated socket: many requests in flight, simple or structured replies. */
import type { Arena } from '../../src/io/arena.ts'
import type { SimPeer } from '../../src/io/sim-socket.ts'
import {
  CHUNK_FLAG_DONE,
  CHUNK_HEADER_BYTES,
  ChunkType,
  Command,
  CommandFlag,
  GREETING_BYTES,
  MAGIC_OPTION_HIGH,
  MAGIC_OPTION_LOW,
  MAGIC_REQUEST,
  MAGIC_SIMPLE_REPLY,
  MAGIC_STRUCTURED_REPLY,
  OPTION_HEADER_BYTES,
  OPTION_REPLY_HEADER_BYTES,
  Option,
  REQUEST_BYTES,
  Reply,
  SIMPLE_REPLY_BYTES,
} from '../../src/export/nbd/constants.ts'
import type { TargetCompletion } from '../../src/export/target.ts'
import { WRITE_FUA, ZERO_NO_HOLE } from '../../src/export/target.ts'
import type { Guest } from './guest.ts'
import { UNANSWERED } from './guest.ts'

const HALF_BYTES = 4096
const HALF: Buffer = Buffer.alloc(HALF_BYTES, 0xdd)
const CLIENT_FLAGS = Buffer.from([0, 0, 0, 3])

interface Pending {
  completion: TargetCompletion
  tag: number
  /** Where a read's data goes in the arena; -1 for others. */
  arenaOffset: number
  offsetBytes: number
  lengthBytes: number
  /** The first error of its chunks. */
  errno: number
}

export class NbdGuest implements Guest {
  readonly volume: string
  readonly #arena: Arena
  readonly #peer: SimPeer
  readonly #isStructured: boolean
  readonly #pending = new Map<number, Pending>()
  /** Requests that wait for the handshake. */
  #waiting: Buffer[] | null = []
  #received: Buffer = Buffer.alloc(0)
  #wanted: { lengthBytes: number; resolve: (bytes: Buffer) => void } | null = null
  #cookieNext = 1
  #isLeaving = false
  isGone = false

  constructor(volume: string, arena: Arena, peer: SimPeer, isStructured: boolean) {
    this.volume = volume
    this.#arena = arena
    this.#peer = peer
    this.#isStructured = isStructured
    void this.#receive()
    void this.#talk()
  }

  read(
    offsetBytes: number,
    lengthBytes: number,
    arenaOffset: number,
    completion: TargetCompletion,
    tag: number,
  ): void {
    const pending = { completion, tag, arenaOffset, offsetBytes, lengthBytes, errno: 0 }
    this.#request(Command.READ, 0, pending)
  }

  write(
    offsetBytes: number,
    lengthBytes: number,
    arenaOffset: number,
    flags: number,
    completion: TargetCompletion,
    tag: number,
  ): void {
    const { memory } = this.#arena
    const data = memory.subarray(arenaOffset, arenaOffset + lengthBytes)
    const pending = { completion, tag, arenaOffset: -1, offsetBytes, lengthBytes, errno: 0 }
    this.#request(Command.WRITE, fuaOf(flags), pending, data)
  }

  flush(completion: TargetCompletion, tag: number): void {
    const pending = { completion, tag, arenaOffset: -1, offsetBytes: 0, lengthBytes: 0, errno: 0 }
    this.#request(Command.FLUSH, 0, pending)
  }

  trim(
    offsetBytes: number,
    lengthBytes: number,
    flags: number,
    completion: TargetCompletion,
    tag: number,
  ): void {
    const pending = { completion, tag, arenaOffset: -1, offsetBytes, lengthBytes, errno: 0 }
    this.#request(Command.TRIM, fuaOf(flags), pending)
  }

  zero(
    offsetBytes: number,
    lengthBytes: number,
    flags: number,
    completion: TargetCompletion,
    tag: number,
  ): void {
    const hole = (flags & ZERO_NO_HOLE) === 0 ? 0 : CommandFlag.NO_HOLE
    const pending = { completion, tag, arenaOffset: -1, offsetBytes, lengthBytes, errno: 0 }
    this.#request(Command.WRITE_ZEROES, fuaOf(flags) | hole, pending)
  }

  die(isAbrupt: boolean): void {
    if (this.isGone) return
    if (isAbrupt) {
      this.#peer.reset()
    } else {
      // A write whose data never comes: nothing of it may ever show.
      const half = encodeRequest(Command.WRITE, 0, 0, 0, 2 * HALF_BYTES)
      if (this.#waiting === null) this.#peer.send(Buffer.concat([half, HALF]))
      this.#peer.close()
    }
    this.#lose()
  }

  async leave(): Promise<void> {
    if (this.isGone) return
    this.#isLeaving = true
    this.#send(encodeRequest(Command.DISC, 0, 0, 0, 0))
    await new Promise<void>((resolve) => {
      this.#onGone = resolve
    })
  }

  #onGone: () => void = () => undefined

  #lose(): void {
    if (this.isGone) return
    this.isGone = true
    const left = [...this.#pending.values()]
    this.#pending.clear()
    for (const { completion, tag } of left) completion.targetComplete(tag, UNANSWERED)
    this.#onGone()
  }

  #request(type: number, flags: number, pending: Pending, data?: Uint8Array): void {
    if (this.isGone) {
      queueMicrotask(() => pending.completion.targetComplete(pending.tag, UNANSWERED))
      return
    }
    const cookie = this.#cookieNext
    this.#cookieNext += 1
    this.#pending.set(cookie, pending)
    const { offsetBytes, lengthBytes } = pending
    const head = encodeRequest(type, flags, cookie, offsetBytes, lengthBytes)
    this.#send(data === undefined ? head : Buffer.concat([head, data]))
  }

  #send(bytes: Buffer): void {
    if (this.#waiting === null) this.#peer.send(bytes)
    else this.#waiting.push(bytes)
  }

  async #receive(): Promise<void> {
    for (;;) {
      const bytes = await this.#peer.receive()
      if (this.isGone) return
      if (bytes.length === 0) {
        if (!this.#isLeaving) this.#peer.close()
        this.#lose()
        return
      }
      this.#received = Buffer.concat([this.#received, bytes])
      this.#serve()
    }
  }

  #take(lengthBytes: number): Promise<Buffer> {
    return new Promise((resolve) => {
      this.#wanted = { lengthBytes, resolve }
      this.#serve()
    })
  }

  #serve(): void {
    const wanted = this.#wanted
    if (wanted === null || this.#received.length < wanted.lengthBytes) return
    this.#wanted = null
    const taken = this.#received.subarray(0, wanted.lengthBytes)
    this.#received = this.#received.subarray(wanted.lengthBytes)
    wanted.resolve(taken)
  }

  async #talk(): Promise<void> {
    await this.#take(GREETING_BYTES)
    this.#peer.send(CLIENT_FLAGS)
    if (this.#isStructured) await this.#option(Option.STRUCTURED_REPLY, Buffer.alloc(0))
    const name = Buffer.from(this.volume)
    const body = Buffer.alloc(4 + name.length + 2)
    body.writeUInt32BE(name.length, 0)
    name.copy(body, 4)
    if (!(await this.#option(Option.GO, body))) {
      this.die(false)
      return
    }
    for (const bytes of this.#waiting ?? []) this.#peer.send(bytes)
    this.#waiting = null
    for (;;) await this.#reply()
  }

  /** Whether it was agreed to. */
  async #option(option: number, body: Buffer): Promise<boolean> {
    const head = Buffer.alloc(OPTION_HEADER_BYTES)
    head.writeUInt32BE(MAGIC_OPTION_HIGH, 0)
    head.writeUInt32BE(MAGIC_OPTION_LOW, 4)
    head.writeUInt32BE(option, 8)
    head.writeUInt32BE(body.length, 12)
    this.#peer.send(Buffer.concat([head, body]))
    for (;;) {
      const reply = await this.#take(OPTION_REPLY_HEADER_BYTES)
      const type = reply.readUInt32BE(12)
      const lengthBytes = reply.readUInt32BE(16)
      if (lengthBytes > 0) await this.#take(lengthBytes)
      if (type === Reply.ACK) return true
      if (type !== Reply.INFO) return false
    }
  }

  async #reply(): Promise<void> {
    const magic = (await this.#take(4)).readUInt32BE(0)
    if (magic === MAGIC_SIMPLE_REPLY) return this.#simpleReply()
    if (magic === MAGIC_STRUCTURED_REPLY && this.#isStructured) return this.#chunk()
    throw new Error(`the NBD server sent a reply without magic: ${magic.toString(16)}`)
  }

  async #simpleReply(): Promise<void> {
    const rest = await this.#take(SIMPLE_REPLY_BYTES - 4)
    const cookie = rest.readUInt32BE(8)
    const pending = this.#mustBePending(cookie)
    pending.errno = rest.readUInt32BE(0)
    if (pending.errno === 0 && pending.arenaOffset >= 0) {
      const data = await this.#take(pending.lengthBytes)
      if (!this.isGone) this.#arena.memory.set(data, pending.arenaOffset)
    }
    this.#finish(cookie, pending)
  }

  async #chunk(): Promise<void> {
    const rest = await this.#take(CHUNK_HEADER_BYTES - 4)
    const flags = rest.readUInt16BE(0)
    const type = rest.readUInt16BE(2)
    const cookie = rest.readUInt32BE(8)
    const lengthBytes = rest.readUInt32BE(12)
    const body = lengthBytes === 0 ? Buffer.alloc(0) : await this.#take(lengthBytes)
    const pending = this.#mustBePending(cookie)
    if (type === ChunkType.OFFSET_DATA) {
      const at = Number(body.readBigUInt64BE(0)) - pending.offsetBytes
      const isInside = at >= 0 && at + body.length - 8 <= pending.lengthBytes
      if (!isInside) throw new Error('the NBD server sent data that nobody asked for')
      this.#arena.memory.set(body.subarray(8), pending.arenaOffset + at)
    } else if (type === ChunkType.ERROR) pending.errno ||= body.readUInt32BE(0)
    else if (type !== ChunkType.NONE) throw new Error(`the NBD server sent a chunk of type ${type}`)
    if ((flags & CHUNK_FLAG_DONE) !== 0) this.#finish(cookie, pending)
  }

  #mustBePending(cookie: number): Pending {
    const pending = this.#pending.get(cookie)
    if (pending === undefined) throw new Error(`the NBD server answered nothing: ${cookie}`)
    return pending
  }

  #finish(cookie: number, { completion, tag, errno }: Pending): void {
    this.#pending.delete(cookie)
    completion.targetComplete(tag, errno === 0 ? 0 : -errno)
  }
}

function fuaOf(flags: number): number {
  return (flags & WRITE_FUA) === 0 ? 0 : CommandFlag.FUA
}

function encodeRequest(
  type: number,
  flags: number,
  cookie: number,
  offsetBytes: number,
  lengthBytes: number,
): Buffer {
  const head = Buffer.alloc(REQUEST_BYTES)
  head.writeUInt32BE(MAGIC_REQUEST, 0)
  head.writeUInt16BE(flags, 4)
  head.writeUInt16BE(type, 6)
  head.writeUInt32BE(cookie, 12)
  head.writeBigUInt64BE(BigInt(offsetBytes), 16)
  head.writeUInt32BE(lengthBytes, 24)
  return head
}
