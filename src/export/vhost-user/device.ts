/**
 * The device: takes requests from the rings, has the disk carry them out, and puts the answers
 * back. At the end of every turn in which something happened it takes what the guest offers, shows
 * it what is done, and wakes it once a ring.
 *
 * Payload goes through the arena: for a write it is copied out of guest memory first, so that what
 * is hashed is what is stored, whatever the guest does to its buffer meanwhile; for a read it is
 * checked there and then copied in, so that the guest can neither see unchecked data nor make good
 * data look damaged.
 */
import { assert, must } from '../../base/assert.ts'
import { KIB } from '../../base/units.ts'
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
import { OPERATION_COUNT_MAX, REQUEST_COUNT_MAX } from './limits.ts'
import { MemoryMap } from './memory-map.ts'
import type { Virtqueue } from './virtqueue.ts'

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
  readonly #scratch: Buffer = Buffer.alloc(4 * KIB)
  readonly #scratchView: DataView
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
    const { buffer, byteOffset, byteLength } = this.#scratch
    this.#scratchView = new DataView(buffer, byteOffset, byteLength)
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
    if (this.#isAbandoned) {
      this.#owner.deviceQuiet()
      return
    }
    this.#retryBlocked()
    if (!this.#isPaused) {
      for (let index = 0; index < this.#queues.length; index += 1) this.#fetch(index)
    }
    this.#publish()
    if (this.#isPaused && this.isQuiet) this.#owner.deviceQuiet()
  }

  targetComplete(tag: number, result: number): void {
    const operation = this.#operations.at(tag)
    const request = must(operation.request, 'the request of an operation')
    request.pendingCount -= 1
    if (result < 0) request.fail(BlockStatus.IOERR)
    else if (request.type === BlockType.IN && !this.#isAbandoned) this.#copyIn(operation, request)
    this.#release(operation)
    if (this.#isAbandoned) request.fail(BlockStatus.IOERR)
    if (request.isComplete) this.#finish(request)
    this.#io.atTurnEnd(this)
  }

  #fetch(index: number): void {
    const queue = this.#queues[index]
    const ring = queue.ring
    if (ring === null || !queue.isEnabled) return
    for (;;) {
      // Who waits for memory is served first: nobody passes.
      const request = this.#blocked.length > 0 ? null : this.#requests.peek()
      if (request === null) return
      const found = ring.next(request.chain)
      if (found === 'request') {
        if (!this.#begin(index, request)) return
      } else if (found === 'broken') {
        queue.signalError()
        this.#owner.deviceFailed(`ring ${index}: ${ring.failure ?? 'broken'}`)
        return
      } else if (!queue.sleep()) {
        return
      }
    }
  }

  /** False: that was no request, and the connection is over. */
  #begin(index: number, request: BlockRequest): boolean {
    const { chain } = request
    if (!isRequest(chain)) {
      this.#owner.deviceFailed(`ring ${index}: a request without header or status`)
      return false
    }
    this.#requests.take()
    request.queue = index
    this.queueAt(index).noteTaken()
    chain.seek(0)
    chain.copyOut(this.#map, this.#scratch, 0, HEADER_BYTES)
    if (beginRequest(request, this.#scratchView, this.#target) === 'done') this.#finish(request)
    else if (!this.#issue(request)) this.#blocked.push(request)
    return true
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
    const flags = this.isWriteThrough ? WRITE_FUA : 0
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
        request.chain.copyOut(this.#map, this.#io.arena.memory, arenaOffset, lengthBytes)
        this.#target.write(offsetBytes, lengthBytes, arenaOffset, flags, this, operation.tag)
      }
    }
    return true
  }

  #copyIn({ piece, dataOffset, lengthBytes }: DiskOperation, { chain }: BlockRequest): void {
    chain.seek(chain.readableBytes + dataOffset)
    chain.copyIn(this.#map, this.#io.arena.memory, piece.arenaOffset, lengthBytes)
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
    this.#scratch.fill(0, 0, ID_BYTES)
    this.#scratch.write(this.#target.name, 0, ID_BYTES)
    request.chain.seek(request.chain.readableBytes)
    request.chain.copyIn(this.#map, this.#scratch, 0, request.dataBytes)
    request.issued = request.dataBytes
    this.#finish(request)
  }

  #changeRanges(request: BlockRequest): boolean {
    while (request.issued < request.dataBytes) {
      const operation = this.#operations.tryTake(request)
      if (operation === null) return false
      const { chain } = request
      chain.seek(HEADER_BYTES + request.issued)
      chain.copyOut(this.#map, this.#scratch, 0, RANGE_BYTES)
      const range = this.#range
      const status = decodeRange(request.type, this.#scratchView, this.#target, range)
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
      this.#scratch[0] = request.status
      chain.setLastByte(this.#map, this.#scratch)
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
