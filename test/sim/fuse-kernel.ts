/**
 * A kernel with one FUSE mount, over a simulated device: requests out, replies in, in any order.
 * On the other side are the protocol's core and the filesystem over the pool, as `serve` has them.
 */
import { assert, must } from '../../src/base/assert.ts'
import { setUint53 } from '../../src/base/bytes.ts'
import { OperatingError } from '../../src/base/errors.ts'
import type { OperatingCode } from '../../src/base/errors.ts'
import { PoolTree } from '../../src/daemon/pool-tree.ts'
import {
  FUSE_MAJOR,
  FUSE_MINOR,
  IN,
  INIT_IN,
  IN_BYTES,
  OUT,
  OUT_BYTES,
  Opcode,
} from '../../src/export/fuse/abi.ts'
import { PoolFilesystem } from '../../src/export/fuse/filesystem.ts'
import { KernelSession } from '../../src/export/fuse/kernel-session.ts'
import type { SessionOwner } from '../../src/export/fuse/kernel-session.ts'
import { Slots } from '../../src/export/fuse/slots.ts'
import type { MessageDevice, MessageOwner } from '../../src/io/messages.ts'
import type { SimIo } from '../../src/io/sim-io.ts'
import type { SimMessagePeer } from '../../src/io/sim-messages.ts'
import type { PoolFiles } from '../../src/pool/pool-files.ts'
import { UNANSWERED } from './guest.ts'

/** What the pool's errors are told as, backwards. */
const CODES: ReadonlyMap<number, OperatingCode> = new Map<number, OperatingCode>([
  [2, 'not-found'],
  [5, 'io'],
  [16, 'busy'],
  [17, 'exists'],
  [22, 'usage'],
  [27, 'out-of-range'],
  [28, 'no-space'],
  [30, 'read-only'],
  [95, 'unsupported'],
  [-UNANSWERED, 'unreachable'],
])

/** A reply: -errno or 0, and what follows its head. */
export type ReplyListener = (error: number, body: Buffer) => void

/** The server's side: what `kernel-mount.ts` is where there is a kernel. */
class Mount implements MessageOwner, SessionOwner {
  readonly #slots: Slots
  readonly #session: KernelSession
  device: MessageDevice | null = null
  onOver: () => void = () => undefined

  constructor(slots: Slots, filesystem: PoolFilesystem) {
    this.#slots = slots
    this.#session = new KernelSession(slots, filesystem, this)
  }

  takeSlot(): number {
    return this.#slots.take()
  }

  returnSlot(slot: number): void {
    this.#slots.giveBack(slot)
  }

  describeSlot(slot: number, pairs: Uint32Array): void {
    this.#slots.describe(slot, pairs)
  }

  message(slot: number, lengthBytes: number): void {
    this.#session.message(slot, lengthBytes)
  }

  sent(slot: number, result: number): void {
    this.#session.replied(slot, result)
  }

  reply(slot: number, pairs: Uint32Array, count: number): void {
    must(this.device, 'the device').send(pairs, count, slot)
  }

  slotFreed(slot: number): void {
    this.#slots.giveBack(slot)
    this.device?.resume()
  }

  initialized(errno: number): void {
    assert(errno === 0, 'the kernel and the server come to terms')
  }

  failed(error: unknown): void {
    // As an unhandled rejection it ends the run with its seed.
    void Promise.reject(error instanceof Error ? error : new Error(String(error)))
  }

  ended(): void {
    this.device = null
    void this.#session.end().then(() => {
      this.#slots.close()
      this.onOver()
    })
  }
}

export class SimKernel {
  readonly #peer: SimMessagePeer
  readonly #waiting = new Map<number, ReplyListener>()
  readonly #over: Promise<void>
  #uniqueNext = 2
  #isAborted = false

  /** Mounts the pool's filesystem; null when the arena has no room for its slots. */
  static tryMount(io: SimIo, files: PoolFiles): SimKernel | null {
    const slots = Slots.tryOpen(io.arena)
    return slots === null ? null : new SimKernel(io, files, slots)
  }

  private constructor(io: SimIo, files: PoolFiles, slots: Slots) {
    const filesystem = new PoolFilesystem(
      new PoolTree({ files }),
      { userId: 0, groupId: 0 },
      { allowOther: false, startedMs: 0, arena: io.arena },
    )
    const mount = new Mount(slots, filesystem)
    const [device, peer] = io.openKernel(mount)
    mount.device = device
    this.#peer = peer
    this.#over = new Promise((resolve) => (mount.onOver = resolve))
    peer.onReply = (message) => this.#take(message)
    this.#initialize()
  }

  get isAborted(): boolean {
    return this.#isAborted
  }

  ask(opcode: number, node: number, args: Uint8Array, listener: ReplyListener): void {
    if (this.#isAborted) {
      queueMicrotask(() => listener(UNANSWERED, Buffer.alloc(0)))
      return
    }
    const unique = this.#uniqueNext
    this.#uniqueNext += 2
    const head = Buffer.alloc(IN_BYTES)
    const view = new DataView(head.buffer, head.byteOffset, head.length)
    view.setUint32(IN.len, IN_BYTES + args.length, true)
    view.setUint32(IN.opcode, opcode, true)
    view.setUint32(IN.unique, unique, true)
    setUint53(view, IN.nodeid, node)
    this.#waiting.set(unique, listener)
    this.#peer.send(Buffer.concat([head, args]))
  }

  /** Rejects with an OperatingError of the code that the errno stands for. */
  call(opcode: number, node: number, args: Uint8Array): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      this.ask(opcode, node, args, (error, body) => {
        if (error === 0) resolve(body)
        else reject(failureOf(-error))
      })
    })
  }

  /** The mount is torn down; resolves when nothing of it is left. */
  abort(): Promise<void> {
    if (this.#isAborted) return this.#over
    this.#isAborted = true
    this.#peer.abort()
    const left = [...this.#waiting.values()]
    this.#waiting.clear()
    for (const listener of left) listener(UNANSWERED, Buffer.alloc(0))
    return this.#over
  }

  #initialize(): void {
    const args = Buffer.alloc(INIT_IN.endOffset)
    args.writeUInt32LE(FUSE_MAJOR, INIT_IN.major)
    args.writeUInt32LE(FUSE_MINOR, INIT_IN.minor)
    args.writeUInt32LE(0xffffffff, INIT_IN.flags)
    this.ask(Opcode.INIT, 0, args, () => undefined)
  }

  #take(message: Buffer): void {
    assert(message.readUInt32LE(OUT.len) === message.length, 'a reply says how long it is')
    const unique = message.readUInt32LE(OUT.unique)
    const listener = this.#waiting.get(unique)
    if (this.#isAborted) return
    assert(listener !== undefined, 'a reply answers a request, once')
    this.#waiting.delete(unique)
    const error = message.readInt32LE(OUT.error)
    assert(error === 0 || message.length === OUT_BYTES, 'an error comes alone')
    listener(error, message.subarray(OUT_BYTES))
  }
}

function failureOf(errno: number): OperatingError {
  const code = CODES.get(errno)
  if (code === undefined) throw new Error(`an errno that nobody expects: ${errno}`)
  return new OperatingError(code, `the filesystem says errno ${errno}`, { errno })
}
