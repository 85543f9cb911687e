/**
 * The device: takes requests from the rings, has the disk carry them out, and puts the answers
 * back. At the end of every turn in which something happened it shows the guest what is done, wakes
 * it once a ring, and begins some of what it offers: not all at once, so that the guest is at work
 * on the first answers while we are at work on the rest.
 *
 * Payload goes through the arena: for a write it is copied out of guest memory first, so that what
 * is hashed is what is stored, whatever the guest does to its buffer meanwhile; for a read it is
 * checked there and then copied in, so that the guest can neither see unchecked data nor make good
 * data look damaged.
 */
import { assert, must } from '../../base/assert.ts'
import type { Arena } from '../../io/arena.ts'
import { ARENA_PIECE_BYTES_MAX } from '../../io/arena.ts'
import type { DescriptorIo } from '../../io/descriptors.ts'
import type { Io, TurnHook } from '../../io/io.ts'
import type { ExportTarget, TargetCompletion } from '../target.ts'
import { WRITE_FUA, ZERO_NO_HOLE } from '../target.ts'
import type { BlockRange, BlockRequest } from './block-request.ts'
import {
  BlockRequestPool,
  BlockStatus,
  BlockType,
  HEADER_BYTES,
  ID_BYTES,
  RANGE_BYTES,
  beginRequest,
  decodeRange,
  isRequest,
} from './block-request.ts'
import type { DeviceMemory } from './device-memory.ts'
import { DeviceQueue } from './device-queue.ts'
import { DiskOperations } from './disk-operation.ts'
import type { DiskOperation } from './disk-operation.ts'
import { GuestCopies } from './guest-copies.ts'
import {
  OPERATION_COUNT_MAX,
  REQUEST_COUNT_MAX,
  SMALL_PAGE_BYTES,
  TURN_BYTES_MIN,
  TURN_REQUEST_COUNT_MAX,
} from './limits.ts'
import { MemoryMap } from './memory-map.ts'
import type { Virtqueue } from './virtqueue.ts'

/** In the small page: headers of the requests that a turn begins, then each status there is. */
const STATUSES_AT: number = HEADER_BYTES * TURN_REQUEST_COUNT_MAX
const RANGE_AT: number = STATUSES_AT + 16
const ID_AT: number = RANGE_AT + RANGE_BYTES
assert(ID_AT + ID_BYTES <= SMALL_PAGE_BYTES, 'small things fit their page')

export interface DeviceOwner {
  /** A ring is broken: the connection is of no use any more. */
  deviceFailed(reason: string): void
  /** The device is paused and nothing of it is at work; or abandoned, and less of it is. */
  deviceQuiet(): void
}

export class BlockDevice implements TurnHook, TargetCompletion {
  readonly #io: Io
  readonly #memory: DeviceMemory
  readonly #target: ExportTarget
  readonly #owner: DeviceOwner
  readonly #queues: DeviceQueue[] = []
  readonly #requests: BlockRequestPool = new BlockRequestPool(REQUEST_COUNT_MAX)
  readonly #operations: DiskOperations = new DiskOperations(OPERATION_COUNT_MAX)
  /** Requests that wait for memory or an operation, oldest first. */
  #blocked: BlockRequest[] = []
  /** Over, and not answered yet. */
  readonly #completed: DiskOperation[] = []
  /** Writes whose data is being copied, that the disk has not been told of. */
  readonly #writes: DiskOperation[] = []
  /** Requests that this turn begins, and where the header of each comes. */
  readonly #taken: BlockRequest[] = []
  readonly #headers: DataView[] = []
  readonly #fromGuest: GuestCopies
  readonly #toGuest: GuestCopies
  readonly #rangeView: DataView
  readonly #range: BlockRange = { offsetBytes: 0, lengthBytes: 0, mayUnmap: false }
  #map: MemoryMap = new MemoryMap([])
  #isPaused = false
  #isAbandoned = false
  /** Writes are durable when they are answered. */
  isWriteThrough = false

  constructor(
    io: Io,
    descriptors: DescriptorIo,
    memory: DeviceMemory,
    target: ExportTarget,
    queueCount: number,
    owner: DeviceOwner,
  ) {
    this.#io = io
    this.#memory = memory
    this.#target = target
    this.#owner = owner
    this.#fromGuest = new GuestCopies('from guest', io.arena.memory)
    this.#toGuest = new GuestCopies('to guest', io.arena.memory)
    const { smallPage } = memory
    for (let index = 0; index < TURN_REQUEST_COUNT_MAX; index += 1) {
      this.#headers.push(viewOf(io.arena, smallPage + HEADER_BYTES * index, HEADER_BYTES))
    }
    this.#rangeView = viewOf(io.arena, smallPage + RANGE_AT, RANGE_BYTES)
    for (const status of Object.values(BlockStatus)) {
      io.arena.memory[smallPage + STATUSES_AT + status] = status
    }
    for (let index = 0; index < queueCount; index += 1) {
      this.#queues.push(new DeviceQueue(io, descriptors, this))
    }
  }

  get isQuiet(): boolean {
    return this.#requests.usedCount === 0
  }

  /** Nothing of it is in flight, waits for kicks included. */
  get isGone(): boolean {
    return this.isQuiet && this.#queues.every(({ isWaiting }) => !isWaiting)
  }

  queueAt(index: number): DeviceQueue {
    return must(this.#queues[index], 'a queue')
  }

  /** Takes no more requests; `deviceQuiet` when those taken are answered. */
  pause(): void {
    this.#isPaused = true
    this.#io.atTurnEnd(this)
  }

  resume(): void {
    this.#isPaused = false
    this.#io.atTurnEnd(this)
  }

  /** Memory of another shape: the device is quiet, and its rings are set anew. */
  setMap(map: MemoryMap): void {
    assert(this.isQuiet, 'memory changes while nothing is at work')
    this.#map = map
  }

  setRing(index: number, ring: Virtqueue | null): void {
    assert(this.isQuiet, 'a ring changes while nothing is at work')
    this.queueAt(index).setRing(ring)
    this.#io.atTurnEnd(this)
  }

  /** The front end is gone: nothing of its memory is touched from here on. */
  abandon(): void {
    if (this.#isAbandoned) return
    this.#isAbandoned = true
    for (const queue of this.#queues) queue.close()
    const blocked = this.#blocked
    this.#blocked = []
    for (const request of blocked) {
      request.fail(BlockStatus.IOERR)
      if (request.pendingCount === 0) this.#requests.release(request)
    }
  }

  turnEnd(): void {
    this.#answer()
    if (this.#isAbandoned) {
      this.#owner.deviceQuiet()
      return
    }
    // Before anything is begun: what is submitted first is done first.
    this.#publish()
    this.#retryBlocked()
    const failure = this.#isPaused ? null : this.#beginSome()
    this.#startWrites()
    this.#toGuest.run()
    this.#publish()
    if (failure !== null) this.#owner.deviceFailed(failure)
    else if (this.#isPaused && this.isQuiet) this.#owner.deviceQuiet()
  }

  targetComplete(tag: number, result: number): void {
    const operation = this.#operations.at(tag)
    operation.result = result
    this.#completed.push(operation)
    this.#io.atTurnEnd(this)
  }

  /** Puts what the disk has done into the guest's memory and the rings. */
  #answer(): void {
    const completed = this.#completed
    for (const operation of completed) {
      const request = must(operation.request, 'the request of an operation')
      request.pendingCount -= 1
      if (operation.result < 0 || this.#isAbandoned) request.fail(BlockStatus.IOERR)
      else if (request.type === BlockType.IN) this.#fill(operation, request)
      if (request.isComplete) this.#finish(request)
    }
    this.#toGuest.run()
    for (const operation of completed) this.#release(operation)
    completed.length = 0
  }

  #fill({ piece, dataOffset, lengthBytes }: DiskOperation, { chain }: BlockRequest): void {
    chain.seek(chain.readableBytes + dataOffset)
    chain.copy(this.#map, this.#toGuest, piece.arenaOffset, lengthBytes)
  }

  /** Null, or which ring is broken, and how. */
  #beginSome(): string | null {
    for (const [index, queue] of this.#queues.entries()) {
      const failure = this.#take(index, queue)
      this.#fromGuest.run()
      for (const [place, request] of this.#taken.entries()) {
        this.#begin(request, this.#headers[place])
      }
      this.#taken.length = 0
      if (failure !== null) return `ring ${index}: ${failure}`
    }
    return null
  }

  /** Takes as many requests as a turn begins, and has their headers copied. */
  #take(index: number, queue: DeviceQueue): string | null {
    const { ring } = queue
    if (ring === null || !queue.isEnabled) return null
    let takenBytes = 0
    while (this.#taken.length < TURN_REQUEST_COUNT_MAX && takenBytes < TURN_BYTES_MIN) {
      // Who waits for memory is served first: nobody passes.
      const request = this.#blocked.length > 0 ? null : this.#requests.peek()
      if (request === null) return null
      const { chain } = request
      const found = ring.next(chain)
      if (found === 'broken') {
        queue.signalError()
        return ring.failure ?? 'broken'
      }
      if (found === 'nothing') {
        if (this.#taken.length > 0) break
        if (!queue.sleep()) return null
        continue
      }
      if (!isRequest(chain)) return 'a request without header or status'
      this.#requests.take()
      queue.noteTaken()
      request.queue = index
      chain.seek(0)
      const headerAt = this.#memory.smallPage + HEADER_BYTES * this.#taken.length
      chain.copy(this.#map, this.#fromGuest, headerAt, HEADER_BYTES)
      this.#taken.push(request)
      takenBytes += chain.readableBytes + chain.writableBytes
    }
    // There may be more, or will be by then: the guest need not wake us to have us look.
    this.#io.atTurnEnd(this)
    return null
  }

  #begin(request: BlockRequest, header: DataView): void {
    if (beginRequest(request, header, this.#target) === 'done') this.#finish(request)
    else if (this.#blocked.length > 0 || !this.#issue(request)) this.#blocked.push(request)
  }

  #retryBlocked(): void {
    let count = 0
    while (count < this.#blocked.length) {
      const request = this.#blocked[count]
      // One that failed in part is over, and nothing more of it is begun.
      if (!request.isComplete && !this.#issue(request)) break
      count += 1
    }
    if (count > 0) this.#blocked.splice(0, count)
  }

  /** Hands the disk what can be handed to it. False: there is more, and nothing to do it with. */
  #issue(request: BlockRequest): boolean {
    switch (request.type) {
      case BlockType.IN:
      case BlockType.OUT:
        return this.#transfer(request)
      case BlockType.FLUSH:
        return this.#flush(request)
      case BlockType.GET_ID:
        this.#giveId(request)
        return true
      default:
        return this.#changeRanges(request)
    }
  }

  #transfer(request: BlockRequest): boolean {
    const isRead = request.type === BlockType.IN
    while (request.issued < request.dataBytes) {
      const operation = this.#operations.tryTake(request)
      if (operation === null) return false
      const wantedBytes = Math.min(request.dataBytes - request.issued, ARENA_PIECE_BYTES_MAX)
      if (!this.#memory.tryTake(operation.piece, wantedBytes)) {
        this.#operations.release(operation)
        return false
      }
      const { arenaOffset, capacityBytes } = operation.piece
      const lengthBytes = Math.min(wantedBytes, capacityBytes)
      const offsetBytes = request.offsetBytes + request.issued
      operation.dataOffset = request.issued
      operation.lengthBytes = lengthBytes
      request.issued += lengthBytes
      request.pendingCount += 1
      if (isRead) {
        this.#target.read(offsetBytes, lengthBytes, arenaOffset, this, operation.tag)
      } else {
        request.chain.seek(HEADER_BYTES + operation.dataOffset)
        request.chain.copy(this.#map, this.#fromGuest, arenaOffset, lengthBytes)
        this.#writes.push(operation)
      }
    }
    return true
  }

  /** Copies what is to be written and hands it to the disk. */
  #startWrites(): void {
    this.#fromGuest.run()
    const flags = this.isWriteThrough ? WRITE_FUA : 0
    for (const { request, piece, dataOffset, lengthBytes, tag } of this.#writes) {
      const offsetBytes = must(request, 'the request of a write').offsetBytes + dataOffset
      this.#target.write(offsetBytes, lengthBytes, piece.arenaOffset, flags, this, tag)
    }
    this.#writes.length = 0
  }

  #flush(request: BlockRequest): boolean {
    const operation = this.#operations.tryTake(request)
    if (operation === null) return false
    request.issued = request.dataBytes
    request.pendingCount += 1
    this.#target.flush(this, operation.tag)
    return true
  }

  /** The name of the disk, cut to what a driver can show. */
  #giveId(request: BlockRequest): void {
    const at = this.#memory.smallPage + ID_AT
    const { memory } = this.#io.arena
    memory.fill(0, at, at + ID_BYTES)
    memory.write(this.#target.name, at, ID_BYTES)
    request.chain.seek(request.chain.readableBytes)
    request.chain.copy(this.#map, this.#toGuest, at, request.dataBytes)
    request.issued = request.dataBytes
    this.#finish(request)
  }

  #changeRanges(request: BlockRequest): boolean {
    while (request.issued < request.dataBytes) {
      const operation = this.#operations.tryTake(request)
      if (operation === null) return false
      const { chain } = request
      chain.seek(HEADER_BYTES + request.issued)
      chain.copy(this.#map, this.#fromGuest, this.#memory.smallPage + RANGE_AT, RANGE_BYTES)
      this.#fromGuest.run()
      const range = this.#range
      const status = decodeRange(request.type, this.#rangeView, this.#target, range)
      request.issued += RANGE_BYTES
      if (status !== BlockStatus.OK) {
        request.fail(status)
        this.#operations.release(operation)
        break
      }
      request.pendingCount += 1
      const { offsetBytes, lengthBytes } = range
      const fua = this.isWriteThrough ? WRITE_FUA : 0
      if (request.type === BlockType.DISCARD) {
        this.#target.trim(offsetBytes, lengthBytes, fua, this, operation.tag)
      } else {
        const flags = fua | (range.mayUnmap ? 0 : ZERO_NO_HOLE)
        this.#target.zero(offsetBytes, lengthBytes, flags, this, operation.tag)
      }
    }
    if (request.isComplete) this.#finish(request)
    return true
  }

  #finish(request: BlockRequest): void {
    const { chain, queue } = request
    if (!this.#isAbandoned) {
      const statusAt = this.#memory.smallPage + STATUSES_AT + request.status
      chain.copyLastByte(this.#map, this.#toGuest, statusAt)
      const ring = must(this.queueAt(queue).ring, 'the ring of a request')
      ring.push(chain, request.writtenBytes)
      this.queueAt(queue).hasNews = true
    }
    this.#requests.release(request)
  }

  /** Shows the guest what is done, and wakes it where it wants that. */
  #publish(): void {
    for (const queue of this.#queues) {
      if (!queue.hasNews) continue
      queue.hasNews = false
      if (queue.ring?.publish() === true) queue.call()
    }
  }

  #release(operation: DiskOperation): void {
    this.#memory.giveBack(operation.piece)
    this.#operations.release(operation)
  }
}

function viewOf({ memory }: Arena, offset: number, lengthBytes: number): DataView {
  return new DataView(memory.buffer, memory.byteOffset + offset, lengthBytes)
}
