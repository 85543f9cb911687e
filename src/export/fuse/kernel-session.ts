/**
 * The kernel protocol's core: requests in, calls of the filesystem, replies out. It knows no
 * descriptor: it is told of a request that lies in a slot, and hands over the pieces of its reply.
 *
 * Reads, writes and syncs go straight to the filesystem and allocate nothing. Everything else is a
 * function of `kernel-calls.ts`. Requests are begun in the order they came and answered in the
 * order they complete. INTERRUPT is not obeyed: nothing here waits for anything but the disk. Nor
 * are lookups counted: a node's number means the same for ever (`nodes.ts`), so FORGET frees
 * nothing.
 */
import { assert, must } from '../../base/assert.ts'
import { tryUint53 } from '../../base/bytes.ts'
import { Errno } from '../../base/errors.ts'
import type { TargetCompletion } from '../target.ts'
import {
  ENTRY_OUT,
  FSYNC_IN,
  IN,
  IN_BYTES,
  OPEN_OUT,
  OUT,
  OUT_BYTES,
  Opcode,
  RANGE_IN,
  WRITE_OUT,
} from './abi.ts'
import { errnoOf } from './errors.ts'
import type { Call, CallKind, OpenTable } from './kernel-calls.ts'
import { CALLS } from './kernel-calls.ts'
import { answerInit } from './kernel-init.ts'
import { OpenFiles } from './open-files.ts'
import type { OpenFile } from './open-files.ts'
import type { FileOperations } from './operations.ts'
import type { Slots } from './slots.ts'
import { BODY_BYTES, REPLY_BODY_BYTES_MAX, REQUEST_HEADER_BYTES, SLOT_COUNT } from './slots.ts'

export interface SessionOwner {
  /** Gives the kernel the reply of `slot`; `replied` tells when it has it. */
  reply(slot: number, pairs: Uint32Array, count: number): void
  /** The slot is free. */
  slotFreed(slot: number): void
  /** INIT is answered: with 0, or with the errno it was refused with. */
  initialized(errno: number): void
  /** An error that is our bug. */
  failed(error: unknown): void
}

export class KernelSession implements TargetCompletion {
  readonly #slots: Slots
  readonly #view: DataView
  readonly #operations: FileOperations
  readonly #owner: SessionOwner
  readonly #open: OpenTable
  readonly #pairs = new Uint32Array(4)
  /** By slot: the opcode, and the length asked for. */
  readonly #opcodes = new Int32Array(SLOT_COUNT)
  readonly #lengths = new Uint32Array(SLOT_COUNT)
  /** By slot: the file that data is being moved of. */
  readonly #files: (OpenFile | null)[] = new Array<OpenFile | null>(SLOT_COUNT).fill(null)
  #isInitialized = false
  #isEnded = false
  #busyCount = 0
  #onQuiet: (() => void) | null = null

  constructor(slots: Slots, operations: FileOperations, owner: SessionOwner) {
    this.#slots = slots
    this.#view = slots.view
    this.#operations = operations
    this.#owner = owner
    this.#open = { files: new OpenFiles(operations), listings: new Map() }
  }

  /** A request of `lengthBytes` lies in `slot`. */
  message(slot: number, lengthBytes: number): void {
    const at = this.#slots.requestOffset(slot)
    const opcode = this.#view.getUint32(at + IN.opcode, true)
    this.#opcodes[slot] = opcode
    this.#busyCount += 1
    if (lengthBytes < IN_BYTES || this.#view.getUint32(at + IN.len, true) !== lengthBytes) {
      this.#replyError(slot, Errno.EIO)
      return
    }
    const argumentBytes = lengthBytes - IN_BYTES
    if (opcode === Opcode.READ) this.#read(slot, at, argumentBytes)
    else if (opcode === Opcode.WRITE) this.#write(slot, at, argumentBytes)
    else if (opcode === Opcode.FSYNC) this.#sync(slot, at, argumentBytes)
    else if (opcode === Opcode.INIT) this.#initialize(slot, at, argumentBytes)
    else if (isUnanswered(opcode)) this.#free(slot)
    else this.#call(slot, at, opcode, argumentBytes)
  }

  /** The kernel has the reply, or (-errno) nobody waits for it any more. */
  replied(slot: number, result: number): void {
    // The kernel says EINVAL to a reply that makes no sense, and someone would wait for ever.
    assert(result !== -Errno.EINVAL, 'the kernel understands our replies')
    if (result < 0) this.#forgetOpened(slot)
    this.#free(slot)
  }

  /**
   * The kernel takes no more replies. Resolves when nothing is in flight; what was open is closed.
   */
  async end(): Promise<void> {
    this.#isEnded = true
    if (this.#busyCount > 0) {
      await new Promise<void>((resolve) => {
        this.#onQuiet = resolve
      })
    }
    this.#open.files.closeAll()
    this.#open.listings.clear()
  }

  targetComplete(slot: number, result: number): void {
    this.#open.files.done(must(this.#files[slot], 'the file of a slot'))
    this.#files[slot] = null
    if (result < 0) {
      this.#replyError(slot, -result)
      return
    }
    const opcode = this.#opcodes[slot]
    if (opcode === Opcode.READ) {
      this.#reply(slot, 0, this.#lengths[slot])
    } else if (opcode === Opcode.WRITE) {
      const body = this.#slots.replyOffset(slot) + OUT_BYTES
      this.#view.setUint32(body + WRITE_OUT.size, this.#lengths[slot], true)
      this.#view.setUint32(body + WRITE_OUT.padding, 0, true)
      this.#reply(slot, WRITE_OUT.endOffset, 0)
    } else {
      this.#reply(slot, 0, 0)
    }
  }

  #read(slot: number, at: number, argumentBytes: number): void {
    const range = at + IN_BYTES
    if (argumentBytes < RANGE_IN.endOffset) {
      this.#replyError(slot, Errno.EIO)
      return
    }
    const handle = tryUint53(this.#view, range + RANGE_IN.fh)
    const offsetBytes = tryUint53(this.#view, range + RANGE_IN.offset)
    const wanted = Math.min(this.#view.getUint32(range + RANGE_IN.size, true), BODY_BYTES)
    const file = this.#open.files.tryUse(handle)
    if (file === null) {
      this.#replyError(slot, Errno.EBADF)
      return
    }
    const operations = this.#operations
    const lengthBytes =
      offsetBytes === null ? 0 : operations.readableBytes(file.handle, offsetBytes, wanted)
    this.#lengths[slot] = lengthBytes
    if (lengthBytes === 0 || offsetBytes === null) {
      this.#open.files.done(file)
      this.#reply(slot, 0, 0)
    } else {
      this.#files[slot] = file
      const body = this.#slots.bodyOffset(slot)
      operations.read(file.handle, offsetBytes, lengthBytes, body, this, slot)
    }
  }

  #write(slot: number, at: number, argumentBytes: number): void {
    const range = at + IN_BYTES
    const lengthBytes = argumentBytes - RANGE_IN.endOffset
    if (lengthBytes < 0 || lengthBytes !== this.#view.getUint32(range + RANGE_IN.size, true)) {
      this.#replyError(slot, Errno.EIO)
      return
    }
    const handle = tryUint53(this.#view, range + RANGE_IN.fh)
    const offsetBytes = tryUint53(this.#view, range + RANGE_IN.offset)
    const file = offsetBytes === null ? null : this.#open.files.tryUse(handle)
    if (offsetBytes === null) {
      this.#replyError(slot, Errno.EFBIG)
    } else if (file === null) {
      this.#replyError(slot, Errno.EBADF)
    } else {
      this.#lengths[slot] = lengthBytes
      this.#files[slot] = file
      const body = this.#slots.bodyOffset(slot)
      this.#operations.write(file.handle, offsetBytes, lengthBytes, body, this, slot)
    }
  }

  #sync(slot: number, at: number, argumentBytes: number): void {
    const handle =
      argumentBytes < FSYNC_IN.endOffset ? null : tryUint53(this.#view, at + IN_BYTES + FSYNC_IN.fh)
    const file = this.#open.files.tryUse(handle)
    if (file === null) {
      this.#replyError(slot, Errno.EBADF)
    } else {
      this.#files[slot] = file
      this.#operations.flush(file.handle, this, slot)
    }
  }

  #initialize(slot: number, at: number, argumentBytes: number): void {
    const reply = this.#slots.replyOffset(slot) + OUT_BYTES
    const result = this.#isInitialized
      ? -Errno.EIO
      : answerInit(this.#view, at + IN_BYTES, argumentBytes, reply)
    if (result < 0) this.#replyError(slot, -result)
    else this.#reply(slot, result, 0)
    this.#isInitialized = true
    this.#owner.initialized(Math.max(0, -result))
  }

  #call(slot: number, at: number, opcode: number, argumentBytes: number): void {
    const kind = CALLS.get(opcode)
    if (kind === undefined) {
      this.#replyError(slot, Errno.ENOSYS)
      return
    }
    if (argumentBytes < kind.argumentBytes) {
      this.#replyError(slot, Errno.EIO)
      return
    }
    this.#run(slot, kind, this.#callOf(slot, at, argumentBytes)).catch((error: unknown) => {
      this.#owner.failed(error)
    })
  }

  async #run(slot: number, kind: CallKind, call: Call): Promise<void> {
    let shortBytes: number
    try {
      shortBytes = await kind.handle(call)
    } catch (error) {
      this.#replyError(slot, errnoOf(error))
      return
    } finally {
      for (const file of call.used) this.#open.files.done(file)
    }
    assert(shortBytes <= REPLY_BODY_BYTES_MAX, 'a short reply fits its room')
    this.#reply(slot, shortBytes, call.bodyBytes)
  }

  #callOf(slot: number, at: number, argumentBytes: number): Call {
    const slots = this.#slots
    const bodyAt = slots.bodyOffset(slot)
    const inHeaderBytes = Math.min(argumentBytes, REQUEST_HEADER_BYTES - IN_BYTES)
    const header = slots.memory.subarray(at + IN_BYTES, at + IN_BYTES + inHeaderBytes)
    // Copied where it came in two pieces: the reply may be written over the second.
    const rest = slots.memory.subarray(bodyAt, bodyAt + argumentBytes - inHeaderBytes)
    const args = rest.length === 0 ? header : Buffer.concat([header, rest])
    return {
      operations: this.#operations,
      open: this.#open,
      used: [],
      // A number beyond 2^53 is no node's; 0 is none's either.
      node: tryUint53(this.#view, at + IN.nodeid) ?? 0,
      processId: this.#view.getUint32(at + IN.pid, true),
      args,
      view: new DataView(args.buffer, args.byteOffset, args.byteLength),
      replyView: this.#view,
      replyAt: slots.replyOffset(slot) + OUT_BYTES,
      memory: slots.memory,
      bodyAt,
      bodyRoomBytes: BODY_BYTES,
      bodyBytes: 0,
    }
  }

  #replyError(slot: number, errno: number): void {
    this.#send(slot, -errno, 0, 0)
  }

  /** `shortBytes` lie behind the reply's head, `bodyBytes` in the slot's body. */
  #reply(slot: number, shortBytes: number, bodyBytes: number): void {
    this.#send(slot, 0, shortBytes, bodyBytes)
  }

  #send(slot: number, error: number, shortBytes: number, bodyBytes: number): void {
    if (this.#isEnded) {
      this.#free(slot)
      return
    }
    const view = this.#view
    const request = this.#slots.requestOffset(slot)
    const head = this.#slots.replyOffset(slot)
    const headBytes = OUT_BYTES + shortBytes
    view.setUint32(head + OUT.len, headBytes + bodyBytes, true)
    view.setInt32(head + OUT.error, error, true)
    view.setUint32(head + OUT.unique, view.getUint32(request + IN.unique, true), true)
    view.setUint32(head + OUT.unique + 4, view.getUint32(request + IN.unique + 4, true), true)
    const pairs = this.#pairs
    pairs[0] = head
    pairs[1] = headBytes
    pairs[2] = this.#slots.bodyOffset(slot)
    pairs[3] = bodyBytes
    this.#owner.reply(slot, pairs, bodyBytes === 0 ? 1 : 2)
  }

  /** Whoever opened it was killed meanwhile: the kernel will not release what it never heard of. */
  #forgetOpened(slot: number): void {
    const head = this.#slots.replyOffset(slot)
    const opcode = this.#opcodes[slot]
    if (this.#view.getInt32(head + OUT.error, true) !== 0) return
    if (opcode !== Opcode.OPEN && opcode !== Opcode.CREATE && opcode !== Opcode.OPENDIR) return
    const entryBytes = opcode === Opcode.CREATE ? ENTRY_OUT.endOffset : 0
    const handle = tryUint53(this.#view, head + OUT_BYTES + entryBytes + OPEN_OUT.fh)
    assert(handle !== null, 'we sent a handle')
    if (opcode === Opcode.OPENDIR) this.#open.listings.delete(handle)
    else this.#open.files.release(handle)
  }

  #free(slot: number): void {
    this.#busyCount -= 1
    this.#owner.slotFreed(slot)
    if (this.#busyCount === 0) this.#onQuiet?.()
  }
}

function isUnanswered(opcode: number): boolean {
  return opcode === Opcode.FORGET || opcode === Opcode.BATCH_FORGET || opcode === Opcode.INTERRUPT
}
