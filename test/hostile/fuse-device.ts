/**
 * A kernel that may say anything: it writes requests into slots as /dev/fuse would, keeps to
 * nothing else, and holds every reply against the request it answers.
 */
import { assert, must } from '../../src/base/assert.ts'
import {
  ATTR_OUT,
  DIRENT,
  ENTRY_OUT,
  IN,
  IN_BYTES,
  LSEEK_OUT,
  OPEN_OUT,
  OUT,
  OUT_BYTES,
  Opcode,
  RANGE_IN,
  STATFS_OUT,
  STATX_OUT,
  WRITE_OUT,
} from '../../src/export/fuse/abi.ts'
import { PoolFilesystem } from '../../src/export/fuse/filesystem.ts'
import { KernelSession } from '../../src/export/fuse/kernel-session.ts'
import { REQUEST_HEADER_BYTES, Slots } from '../../src/export/fuse/slots.ts'
import { BuddyArena } from '../../src/io/buddy-arena.ts'
import { MemoryTree } from '../support/memory-tree.ts'

const ENOENT = 2
const ERRNO_MAX = 511
const UNANSWERED: readonly number[] = [Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT]
/** Lengths of replies that are fixed. */
const REPLY_BYTES: ReadonlyMap<number, number> = new Map([
  [Opcode.LOOKUP, ENTRY_OUT.endOffset],
  [Opcode.MKNOD, ENTRY_OUT.endOffset],
  [Opcode.MKDIR, ENTRY_OUT.endOffset],
  [Opcode.GETATTR, ATTR_OUT.endOffset],
  [Opcode.SETATTR, ATTR_OUT.endOffset],
  [Opcode.OPEN, OPEN_OUT.endOffset],
  [Opcode.OPENDIR, OPEN_OUT.endOffset],
  [Opcode.CREATE, ENTRY_OUT.endOffset + OPEN_OUT.endOffset],
  [Opcode.STATFS, STATFS_OUT.endOffset],
  [Opcode.STATX, STATX_OUT.endOffset],
  [Opcode.LSEEK, LSEEK_OUT.endOffset],
  [Opcode.WRITE, WRITE_OUT.endOffset],
  [Opcode.COPY_FILE_RANGE, WRITE_OUT.endOffset],
  ...[Opcode.FSYNC, Opcode.UNLINK, Opcode.RMDIR, Opcode.RENAME, Opcode.RELEASE].map(
    (opcode): [number, number] => [opcode, 0],
  ),
])

export interface FuseReply {
  error: number
  body: Buffer
}

interface Waiting {
  opcode: number
  unique: bigint
  /** Of READ and READDIR: what there was room for. */
  roomBytes: number
  resolve: (reply: FuseReply | null) => void
}

export interface DeviceOptions {
  memory: Buffer
  /** Whether the process that asked is gone when the reply comes. */
  isForgotten: () => boolean
}

export class FuseDevice {
  readonly arena: BuddyArena
  readonly tree: MemoryTree
  readonly slots: Slots
  readonly session: KernelSession
  readonly #memory: Buffer
  readonly #waiting = new Map<number, Waiting>()
  readonly #idleBytes: number
  #unique = 1n
  failure: unknown = null
  readonly #isForgotten: () => boolean

  constructor(options: DeviceOptions) {
    const { memory } = options
    this.#memory = memory
    this.#isForgotten = options.isForgotten
    this.arena = new BuddyArena(memory)
    this.#idleBytes = this.arena.usedBytes
    this.tree = new MemoryTree({ arena: this.arena, capacityBytes: 1 << 24 })
    this.slots = must(Slots.tryOpen(this.arena), 'slots')
    const appearance = { allowOther: false, startedMs: 1000, arena: this.arena }
    const filesystem = new PoolFilesystem(this.tree, { userId: 0, groupId: 0 }, appearance)
    this.session = new KernelSession(this.slots, filesystem, {
      reply: (slot, pairs, count) => this.#take(slot, pairs, count),
      slotFreed: (slot) => {
        this.slots.giveBack(slot)
        this.#tell(slot, null)
      },
      initialized: () => undefined,
      failed: (error) => (this.failure ??= error),
    })
  }

  /**
   * Puts a message of these bytes, whatever they are, before the session. `claimBytes`: what the
   * device says how long it is. Resolves to the reply, null where none is due.
   */
  ask(message: Buffer, claimBytes: number = message.length): Promise<FuseReply | null> {
    const slot = this.slots.take()
    assert(slot >= 0, 'a slot is free')
    this.#unique += 2n
    if (message.length >= IN.unique + 8) message.writeBigUInt64LE(this.#unique, IN.unique)
    const head = this.slots.requestOffset(slot)
    this.#memory.set(message.subarray(0, REQUEST_HEADER_BYTES), head)
    this.#memory.set(message.subarray(REQUEST_HEADER_BYTES), this.slots.bodyOffset(slot))
    const opcode = this.#memory.readUInt32LE(head + IN.opcode)
    const unique = this.#memory.readBigUInt64LE(head + IN.unique)
    const isLong = message.length >= IN_BYTES + RANGE_IN.size + 4
    const roomBytes = isLong ? message.readUInt32LE(IN_BYTES + RANGE_IN.size) : 0
    return new Promise((resolve) => {
      this.#waiting.set(slot, { opcode, unique, roomBytes, resolve })
      this.session.message(slot, claimBytes)
    })
  }

  /** What the disks and the tree keep for other tests to look at would grow for ever. */
  forgetRecords(): void {
    this.tree.calls.length = 0
    for (const { id } of this.tree.volumes()) this.tree.disk(id).recorded.length = 0
  }

  /** Ends the mount; every file is closed and every byte comes back. */
  async end(): Promise<void> {
    await this.session.end()
    assert(this.slots.isIdle, 'every slot is back')
    this.slots.close()
    for (const { id } of this.tree.volumes()) {
      assert(this.tree.users(id).length === 0, 'nobody has a file open any more')
    }
    assert(this.arena.usedBytes === this.#idleBytes, 'every byte of the arena is back')
    assert(this.failure === null, `no error of our own: ${String(this.failure)}`)
  }

  #take(slot: number, pairs: Uint32Array, count: number): void {
    const pieces: Buffer[] = []
    for (let index = 0; index < count; index += 1) {
      const at = pairs[2 * index]
      pieces.push(this.#memory.subarray(at, at + pairs[2 * index + 1]))
    }
    const whole = Buffer.concat(pieces)
    const waiting = must(this.#waiting.get(slot), 'a request to be answered')
    const error = whole.readInt32LE(OUT.error)
    assert(whole.readUInt32LE(OUT.len) === whole.length, 'a reply says how long it is')
    assert(whole.readBigUInt64LE(OUT.unique) === waiting.unique, 'a reply to this request')
    assert(error <= 0 && error >= -ERRNO_MAX, 'an error is a negative errno')
    assert(error === 0 || whole.length === OUT_BYTES, 'an error comes alone')
    assert(!UNANSWERED.includes(waiting.opcode) || error !== 0, 'nothing answers a FORGET')
    const body = whole.subarray(OUT_BYTES)
    if (error === 0) verifyBody(waiting, body)
    this.#tell(slot, { error, body })
    const result = this.#isForgotten() ? -ENOENT : whole.length
    setImmediate(() => this.session.replied(slot, result))
  }

  #tell(slot: number, reply: FuseReply | null): void {
    const waiting = this.#waiting.get(slot)
    this.#waiting.delete(slot)
    waiting?.resolve(reply)
  }
}

function verifyBody({ opcode, roomBytes }: Waiting, body: Buffer): void {
  const wanted = REPLY_BYTES.get(opcode)
  assert(wanted === undefined || wanted === body.length, `${body.length} bytes to ${opcode}`)
  if (opcode !== Opcode.READ && opcode !== Opcode.READDIR) return
  assert(body.length <= roomBytes, 'no more than there is room for')
  if (opcode === Opcode.READ) return
  let at = 0
  while (at < body.length) {
    const nameBytes = body.readUInt32LE(at + DIRENT.namelen)
    assert(nameBytes > 0 && nameBytes <= 255, 'a name of a length that names have')
    const name = body.subarray(at + DIRENT.endOffset, at + DIRENT.endOffset + nameBytes)
    assert(!name.includes(0) && !name.includes(0x2f), 'a name without NUL or slash')
    at += Math.ceil((DIRENT.endOffset + nameBytes) / 8) * 8
  }
  assert(at === body.length, 'whole entries')
}
