/**
 * An io_uring as a queue of operations. JavaScript writes operations into typed arrays, the addon
 * turns them into submissions once a turn, and hands completions back in another typed array:
 *
 *     header       queued, pairs, hooks, scheduled
 *     operations   8 words each: kind, fd, slot, arena offset, length, first pair, pairs, -
 *     fileOffsets  one float64 an operation
 *     pairs        (arena offset, length), the pieces of sends and messages
 *     done         (slot, result)
 *
 * A *slot* remembers who is to be told. Slots are free-listed in typed arrays, so an operation
 * allocates nothing.
 *
 * Between bursts the process sleeps in Node's event loop and is woken by an eventfd. Waiting in
 * the ring instead was tried with one small request at a time: with a time limit it took half as
 * much kernel time again (perhaps because arming a timer is dear in a virtual machine), without
 * one its gain was within the noise, and it shut everything else out.
 */
import { assert, assertSafe } from '../base/assert.ts'
import { Errno } from '../base/errors.ts'
import type { Binding, RingArrays, RingHandle } from '../native/binding.ts'
import type { Arena } from './arena.ts'
import type { IoCompletion, IoVector, TurnHook } from './io.ts'
import { TurnHooks } from './turn-hooks.ts'

const HEADER_QUEUED = 0
const HEADER_PAIRS = 1
const HEADER_HOOKS = 2
const HEADER_SCHEDULED = 3
const HEADER_WORDS = 4

const OPERATION_WORDS = 8

const KIND_NOP = 1
const KIND_READ = 2
const KIND_SYNC = 3
const KIND_RECEIVE = 4
const KIND_SEND = 5
const KIND_ACCEPT = 6
const KIND_CANCEL = 7
const KIND_AWAIT = 8
const KIND_PUT = 9

/** Queued in one turn before an early submission; a power of two, the size of the ring. */
const OPERATIONS_MAX = 512
const PAIRS_MAX = 8192
const DONE_MAX = 1024
const SLOTS_START = 1024
/** IOV_MAX of Linux: the most pieces that one send or write takes. */
export const PIECES_PER_CALL_MAX = 1024
/** Turns run back to back before Node's other events get a round of the loop. */
const BURST_TURNS_MAX = 32

const EINTR = 4
const NO_SLOT = -1

/** What `read` must know to go on after a short read, and `post` to answer. */
interface SlotArrays {
  kind: Uint8Array
  /** Next free slot while free. */
  next: Int32Array
  tag: Float64Array
  fd: Int32Array
  fileOffset: Float64Array
  arenaOffset: Float64Array
  lengthBytes: Float64Array
  doneBytes: Float64Array
}

function slotArrays(count: number): SlotArrays {
  return {
    kind: new Uint8Array(count),
    next: new Int32Array(count),
    tag: new Float64Array(count),
    fd: new Int32Array(count),
    fileOffset: new Float64Array(count),
    arenaOffset: new Float64Array(count),
    lengthBytes: new Float64Array(count),
    doneBytes: new Float64Array(count),
  }
}

export class Ring {
  readonly #binding: Binding
  readonly arena: Arena
  readonly #handle: RingHandle
  readonly #header = new Int32Array(HEADER_WORDS)
  readonly #operations = new Int32Array(OPERATIONS_MAX * OPERATION_WORDS)
  readonly #fileOffsets = new Float64Array(OPERATIONS_MAX)
  readonly #pairs = new Uint32Array(PAIRS_MAX * 2)
  readonly #done = new Int32Array(DONE_MAX * 2)
  readonly #hooks = new TurnHooks()
  #slots: SlotArrays = slotArrays(0)
  readonly #completions: (IoCompletion | null)[] = []
  #freeSlot = NO_SLOT
  #inFlight = 0
  #canceling = 0
  #isClosed = false

  private constructor(binding: Binding, arena: Arena, handle: (ring: Ring) => RingHandle) {
    this.#binding = binding
    this.arena = arena
    this.#growSlots(SLOTS_START)
    this.#handle = handle(this)
  }

  /** Null where the kernel allows no io_uring, or an old one; `refused` is told the errno. */
  static tryOpen(binding: Binding, arena: Arena, refused: (errno: number) => void): Ring | null {
    let errno = 0
    const ring = new Ring(binding, arena, (self) => {
      const handle = binding.ringCreate(arena.memory, self.#arrays(), self.#turn, BURST_TURNS_MAX)
      if (typeof handle !== 'number') return handle
      errno = -handle
      return {} as RingHandle
    })
    if (errno === 0) return ring
    refused(errno)
    return null
  }

  /** Resolves when every cancellation has completed: that may be a turn after what it canceled. */
  async drained(): Promise<void> {
    while (this.#canceling > 0) await new Promise((resolve) => setImmediate(resolve))
  }

  /** Returns what `cancel` takes. */
  read(
    fd: number,
    fileOffset: number,
    arenaOffset: number,
    lengthBytes: number,
    completion: IoCompletion,
    tag: number,
  ): number {
    assertSafe(fileOffset, 'read offset')
    this.#assertInArena(arenaOffset, lengthBytes)
    const slot = this.#takeSlot(KIND_READ, completion, tag)
    const slots = this.#slots
    slots.fd[slot] = fd
    slots.fileOffset[slot] = fileOffset
    slots.arenaOffset[slot] = arenaOffset
    slots.lengthBytes[slot] = lengthBytes
    slots.doneBytes[slot] = 0
    this.#queueRead(slot)
    return slot
  }

  sync(fd: number, completion: IoCompletion, tag: number): void {
    const slot = this.#takeSlot(KIND_SYNC, completion, tag)
    this.#queue(KIND_SYNC, fd, slot, 0, 0)
  }

  receive(
    fd: number,
    arenaOffset: number,
    lengthBytes: number,
    completion: IoCompletion,
    tag: number,
  ): void {
    this.#assertInArena(arenaOffset, lengthBytes)
    const slot = this.#takeSlot(KIND_RECEIVE, completion, tag)
    this.#queue(KIND_RECEIVE, fd, slot, arenaOffset, lengthBytes)
  }

  /** Sends `count` pieces from `first` on, {@link PIECES_PER_CALL_MAX} at most; may be short. */
  send(
    fd: number,
    pairs: Uint32Array,
    first: number,
    count: number,
    completion: IoCompletion,
    tag: number,
  ): void {
    this.#queueVectored(KIND_SEND, fd, pairs, first, count, completion, tag)
  }

  #queueVectored(
    kind: number,
    fd: number,
    pairs: Uint32Array,
    first: number,
    count: number,
    completion: IoCompletion,
    tag: number,
  ): number {
    assert(count > 0 && count <= PIECES_PER_CALL_MAX, 'an operation has 1 to 1024 pieces')
    const header = this.#header
    const isFull =
      header[HEADER_QUEUED] === OPERATIONS_MAX || header[HEADER_PAIRS] + count > PAIRS_MAX
    if (isFull) this.#submitNow()
    const start = header[HEADER_PAIRS]
    for (let index = 0; index < count; index++) {
      const offset = pairs[2 * (first + index)]
      const lengthBytes = pairs[2 * (first + index) + 1]
      this.#assertInArena(offset, lengthBytes)
      this.#pairs[2 * (start + index)] = offset
      this.#pairs[2 * (start + index) + 1] = lengthBytes
    }
    const slot = this.#takeSlot(kind, completion, tag)
    const at = this.#queue(kind, fd, slot, 0, 0)
    this.#operations[at + 5] = start
    this.#operations[at + 6] = count
    header[HEADER_PAIRS] += count
    return slot
  }

  /** Completes when the device can be read, or has ended. Returns what `cancel` takes. */
  awaitReadable(fd: number, completion: IoCompletion, tag: number): number {
    const slot = this.#takeSlot(KIND_AWAIT, completion, tag)
    this.#queue(KIND_AWAIT, fd, slot, 0, 0)
    return slot
  }

  /** Takes what messages there are, at once; see `ringTake`. Two pieces of `pairs` a message. */
  take(fd: number, pairs: Uint32Array, count: number, results: Int32Array): number {
    for (let piece = 0; piece < 2 * count; piece++) {
      this.#assertInArena(pairs[2 * piece], pairs[2 * piece + 1])
    }
    return this.#binding.ringTake(this.#handle, fd, pairs, count, results)
  }

  /** Writes one message of `count` pieces to a device. Returns what `cancel` takes. */
  put(
    fd: number,
    pairs: Uint32Array,
    count: number,
    completion: IoCompletion,
    tag: number,
  ): number {
    return this.#queueVectored(KIND_PUT, fd, pairs, 0, count, completion, tag)
  }

  /** Completes with the new descriptor, or -errno. Returns what `cancel` takes. */
  accept(fd: number, completion: IoCompletion, tag: number): number {
    const slot = this.#takeSlot(KIND_ACCEPT, completion, tag)
    this.#queue(KIND_ACCEPT, fd, slot, 0, 0)
    return slot
  }

  /** Makes the operation complete soon, with -ECANCELED if it has not yet. */
  cancel(slot: number): void {
    const own = this.#takeSlot(KIND_CANCEL, this.#canceled, 0)
    this.#canceling += 1
    this.#queue(KIND_CANCEL, -1, own, 0, slot)
  }

  /** Completes an operation whose result is known already, through the ring like any other. */
  post(completion: IoCompletion, tag: number, result: number): void {
    const slot = this.#takeSlot(KIND_NOP, completion, tag)
    this.#slots.doneBytes[slot] = result
    this.#queue(KIND_NOP, -1, slot, 0, 0)
  }

  atTurnEnd(hook: TurnHook): void {
    this.#hooks.add(hook)
    this.#header[HEADER_HOOKS] = 1
    this.#schedule()
  }

  /** One pwritev; may be short. Bytes, or -errno. */
  write(
    fd: number,
    offsetBytes: number,
    vector: IoVector,
    pairIndex: number,
    skipBytes: number,
  ): number {
    const count = vector.count - pairIndex
    const { pairs } = vector
    return this.#binding.ringWrite(
      this.#handle,
      fd,
      offsetBytes,
      pairs,
      pairIndex,
      count,
      skipBytes,
    )
  }

  close(): void {
    assert(!this.#isClosed, 'a ring is closed once')
    assert(this.#inFlight === 0, `nothing is in flight when a ring is closed: ${this.#inFlight}`)
    this.#isClosed = true
    this.#binding.ringClose(this.#handle)
  }

  #arrays(): RingArrays {
    return {
      header: this.#header,
      operations: this.#operations,
      fileOffsets: this.#fileOffsets,
      pairs: this.#pairs,
      done: this.#done,
    }
  }

  #assertInArena(arenaOffset: number, lengthBytes: number): void {
    assert(
      arenaOffset >= 0 && lengthBytes >= 0 && arenaOffset + lengthBytes <= this.arena.sizeBytes,
      'an operation stays inside the arena',
    )
  }

  #growSlots(count: number): void {
    const old = this.#slots
    const start = old.kind.length
    const slots = slotArrays(count)
    for (const name of Object.keys(slots) as (keyof SlotArrays)[]) slots[name].set(old[name])
    // In ascending order: else it would be an array with holes, and slower.
    while (this.#completions.length < count) this.#completions.push(null)
    for (let slot = count - 1; slot >= start; slot--) {
      slots.next[slot] = this.#freeSlot
      this.#freeSlot = slot
    }
    this.#slots = slots
  }

  #takeSlot(kind: number, completion: IoCompletion, tag: number): number {
    if (this.#freeSlot === NO_SLOT) this.#growSlots(this.#slots.kind.length * 2)
    const slot = this.#freeSlot
    this.#freeSlot = this.#slots.next[slot]
    this.#slots.kind[slot] = kind
    this.#slots.tag[slot] = tag
    this.#completions[slot] = completion
    this.#inFlight += 1
    return slot
  }

  #queueRead(slot: number): void {
    const slots = this.#slots
    const done = slots.doneBytes[slot]
    const fd = slots.fd[slot]
    const arenaOffset = slots.arenaOffset[slot] + done
    const at = this.#queue(KIND_READ, fd, slot, arenaOffset, slots.lengthBytes[slot] - done)
    this.#fileOffsets[at / OPERATION_WORDS] = slots.fileOffset[slot] + done
  }

  /** Returns where the operation's words begin. */
  #queue(kind: number, fd: number, slot: number, arenaOffset: number, lengthBytes: number): number {
    const header = this.#header
    if (header[HEADER_QUEUED] === OPERATIONS_MAX) this.#submitNow()
    const operations = this.#operations
    const at = header[HEADER_QUEUED] * OPERATION_WORDS
    header[HEADER_QUEUED] += 1
    operations[at] = kind
    operations[at + 1] = fd
    operations[at + 2] = slot
    operations[at + 3] = arenaOffset
    operations[at + 4] = lengthBytes
    this.#schedule()
    return at
  }

  #schedule(): void {
    if (this.#header[HEADER_SCHEDULED] !== 0) return
    this.#header[HEADER_SCHEDULED] = 1
    this.#binding.ringSchedule(this.#handle)
  }

  /** More was queued in one turn than fits. What completes is dispatched in the next one. */
  #submitNow(): void {
    this.#binding.ringSubmit(this.#handle)
    assert(this.#header[HEADER_QUEUED] === 0, 'the kernel takes operations')
  }

  /** Nobody asks how a cancellation itself went: what it cancels completes on its own. */
  readonly #canceled: IoCompletion = {
    ioComplete: (_tag, result) => {
      assert(result !== -Errno.EINVAL, 'the kernel knows cancellation')
      this.#canceling -= 1
    },
  }

  readonly #turn = (count: number): void => {
    const done = this.#done
    for (let index = 0; index < count; index++) this.#complete(done[2 * index], done[2 * index + 1])
    const header = this.#header
    header[HEADER_HOOKS] = 0
    if (!this.#hooks.isEmpty) this.#hooks.run()
    header[HEADER_HOOKS] = this.#hooks.isEmpty ? 0 : 1
  }

  #complete(slot: number, result: number): void {
    const slots = this.#slots
    const kind = slots.kind[slot]
    let answer = result
    if (kind === KIND_READ) {
      if (result > 0) slots.doneBytes[slot] += result
      const done = slots.doneBytes[slot]
      // Only a read of nothing proves the end of the file.
      if (result === -EINTR || (result > 0 && done < slots.lengthBytes[slot])) {
        this.#queueRead(slot)
        return
      }
      if (result >= 0) answer = done
    } else if (kind === KIND_NOP) {
      answer = slots.doneBytes[slot]
    }
    const completion = this.#completions[slot]
    const tag = slots.tag[slot]
    assert(completion !== null, 'a completion belongs to an operation')
    this.#completions[slot] = null
    slots.next[slot] = this.#freeSlot
    this.#freeSlot = slot
    this.#inFlight -= 1
    completion.ioComplete(tag, answer)
  }
}
