/**
 * A vhost-user front end of our own: what a virtual machine monitor and the driver of its guest do,
 * over a real socket with shared memory and eventfds. Looks for answers by itself.
 */
import { writeSync } from 'node:fs'
import { setImmediate as turn } from 'node:timers/promises'
import { assert, must } from '../../src/base/assert.ts'
import { BlockType } from '../../src/export/vhost-user/block-request.ts'
import * as feature from '../../src/export/vhost-user/features.ts'
import {
  HEADER_BYTES,
  Request,
  encodeRequest,
  encodeUint64,
} from '../../src/export/vhost-user/message.ts'
import type { Binding } from '../../src/native/binding.ts'
import { tryLoadBinding } from '../../src/native/binding.ts'
import { PackedDriver, SplitDriver, ringBytes } from './vhost-driver.ts'
import type { Driver, DriverBuffer } from './vhost-driver.ts'

const EAGAIN = 11
const REPLY_TIMEOUT_MS = 10_000
/** What the front end says that its memory's addresses are: its own, and the guest's. */
const USER_BASE = 0x7f00_0000_0000
const GUEST_BASE = 0x1_0000_0000
const NOTHING = new Uint8Array(0)
const ONE = encodeUint64(1n)
const SLOT_HEAD_BYTES = 4096

export interface FrontEndOptions {
  readonly isPacked?: boolean
  readonly isIndirect?: boolean
  readonly hasEventIndex?: boolean
  readonly queueCount?: number
  readonly queueSize?: number
  /** Of the payload of each request. */
  readonly slotBytes?: number
  /** Keep a record of what is in flight, new or from an earlier connection. */
  readonly inflight?: 'none' | 'new' | InflightMemory
  /** Memory of an earlier connection, whose rings go on. */
  readonly memory?: number
}

export interface InflightMemory {
  readonly payload: Uint8Array
  readonly fd: number
}

export interface Answer {
  readonly status: number
  readonly writtenBytes: number
  readonly data: Buffer
}

interface Reply {
  readonly request: number
  readonly payload: DataView
  readonly fds: number[]
}

/** One virtqueue with its events and the memory of its requests. */
interface FrontQueue {
  readonly offset: number
  driver: Driver
  readonly kick: number
  readonly call: number
  readonly dataOffset: number
  readonly freeSlots: number[]
  readonly slotOf: Map<number, number>
  readonly waiting: Map<number, (writtenBytes: number) => void>
}

export class FrontEnd {
  readonly binding: Binding
  socket = -1
  readonly memory: number
  readonly memoryBytes: number
  readonly view: DataView
  readonly bytes: Buffer
  readonly queues: FrontQueue[] = []
  /** Requests of the device on its own channel. */
  backendSocket = -1
  readonly #options: Required<FrontEndOptions>
  inflight: InflightMemory | null = null
  features = 0n
  #isPolling = false

  private constructor(options: Required<FrontEndOptions>) {
    this.binding = must(tryLoadBinding(), 'the addon')
    this.#options = options
    const { queueCount, queueSize, slotBytes } = options
    const perQueue = ringBytes(queueSize) + queueSize * (slotBytes + SLOT_HEAD_BYTES)
    this.memoryBytes = Math.ceil((queueCount * perQueue) / 4096) * 4096
    this.memory = options.memory >= 0 ? options.memory : this.binding.sharedCreate(this.memoryBytes)
    const mapping = this.binding.sharedMap(this.memory, 0, this.memoryBytes)
    assert(typeof mapping !== 'number', 'the memory is mapped')
    const window = this.binding.sharedWindow(mapping, 0, this.memoryBytes)
    this.view = new DataView(window)
    this.bytes = Buffer.from(window)
    for (let index = 0; index < queueCount; index += 1) this.#addQueue(index * perQueue)
  }

  static async connect(path: string, options: FrontEndOptions = {}): Promise<FrontEnd> {
    const frontEnd = new FrontEnd({
      isPacked: false,
      isIndirect: false,
      hasEventIndex: true,
      queueCount: 1,
      queueSize: 64,
      slotBytes: 65536,
      inflight: 'none',
      memory: -1,
      ...options,
    })
    await frontEnd.#negotiate(path)
    return frontEnd
  }

  /** Goes on with another server: the same memory, rings, requests out, and record of them. */
  async reconnect(path: string): Promise<void> {
    if (this.backendSocket >= 0) this.binding.closeFd(this.backendSocket)
    await this.#negotiate(path)
  }

  /** Carries out a request; `data` is written, or `readBytes` are read. */
  async request(
    type: number,
    sector: number,
    data: Uint8Array = NOTHING,
    readBytes = 0,
    queueIndex = 0,
  ): Promise<Answer> {
    const queue = this.queues[queueIndex]
    while (queue.freeSlots.length === 0 || queue.driver.freeCount < 8) await turn()
    const slot = must(queue.freeSlots.pop(), 'a free slot')
    const at = this.#slotOffset(queue, slot)
    const dataAt = at + SLOT_HEAD_BYTES
    this.#writeHeader(at, type, sector)
    this.bytes.set(data, dataAt)
    const buffers: DriverBuffer[] = [{ offset: at, lengthBytes: 16, isWritable: false }]
    if (data.length > 0) {
      buffers.push({ offset: dataAt, lengthBytes: data.length, isWritable: false })
    }
    // Cut in two, that more than one piece is filled.
    const half = readBytes >> 1
    if (half > 0) buffers.push({ offset: dataAt, lengthBytes: half, isWritable: true })
    if (readBytes > 0) {
      buffers.push({ offset: dataAt + half, lengthBytes: readBytes - half, isWritable: true })
    }
    buffers.push({ offset: at + 16, lengthBytes: 1, isWritable: true })
    const writtenBytes = await this.#submit(queue, slot, buffers)
    const answer = {
      status: this.bytes[at + 16],
      writtenBytes,
      data: Buffer.from(this.bytes.subarray(dataAt, dataAt + readBytes)),
    }
    queue.freeSlots.push(slot)
    return answer
  }

  read(offsetBytes: number, lengthBytes: number, queue = 0): Promise<Answer> {
    return this.request(BlockType.IN, offsetBytes / 512, NOTHING, lengthBytes, queue)
  }

  write(offsetBytes: number, data: Uint8Array, queue = 0): Promise<Answer> {
    return this.request(BlockType.OUT, offsetBytes / 512, data, 0, queue)
  }

  flush(): Promise<Answer> {
    return this.request(BlockType.FLUSH, 0)
  }

  send(request: number, payload: Uint8Array, fds: readonly number[] = []): void {
    const message = encodeRequest(request, payload)
    const sent = this.binding.descriptorsSend(
      this.socket,
      message,
      0,
      message.length,
      Int32Array.from(fds),
    )
    assert(sent === message.length, `a message is sent: ${sent}`)
  }

  /** Null when the device has hung up. */
  async receive(socket: number = this.socket): Promise<Reply | null> {
    const head = await this.#receiveBytes(socket, HEADER_BYTES)
    if (head === null) return null
    const view = new DataView(head.bytes.buffer)
    const length = view.getUint32(8, true)
    const body = length === 0 ? null : await this.#receiveBytes(socket, length)
    const payload = new DataView(body?.bytes.buffer ?? new ArrayBuffer(0))
    return { request: view.getUint32(0, true), payload, fds: [...head.fds, ...(body?.fds ?? [])] }
  }

  async ask(request: number, payload: Uint8Array = NOTHING): Promise<Reply> {
    this.send(request, payload)
    const reply = must(await this.receive(), `a reply to ${request}`)
    assert(reply.request === request, 'a reply is to what was asked')
    return reply
  }

  async config(): Promise<DataView> {
    const payload = new Uint8Array(12 + 60)
    new DataView(payload.buffer).setUint32(4, 60, true)
    const reply = await this.ask(Request.GET_CONFIG, payload)
    return new DataView(reply.payload.buffer, 12)
  }

  state(index: number, value: number): Uint8Array {
    return new Uint8Array(Uint32Array.of(index, value).buffer)
  }

  /** Stops a ring: where it stood. */
  async stop(index: number): Promise<number> {
    const reply = await this.ask(Request.GET_VRING_BASE, this.state(index, 0))
    return reply.payload.getUint32(4, true)
  }

  /** Loses the connection and keeps everything else. */
  hangUp(): void {
    this.binding.closeFd(this.socket)
    this.socket = -1
  }

  /** Hangs up, as a monitor that ends. */
  close(): void {
    this.#isPolling = false
    if (this.socket >= 0) this.binding.closeFd(this.socket)
    this.socket = -1
    this.binding.closeFd(this.backendSocket)
    for (const { kick, call } of this.queues) {
      this.binding.closeFd(kick)
      this.binding.closeFd(call)
    }
  }

  /** A driver that knows nothing of what was. */
  resetQueue(index: number): void {
    const queue = this.queues[index]
    queue.driver = this.#driverAt(queue.offset)
  }

  #driverAt(offset: number): Driver {
    const { queueSize, isPacked, hasEventIndex, isIndirect } = this.#options
    const options = {
      view: this.view,
      offset,
      size: queueSize,
      guestBase: GUEST_BASE,
      hasEventIndex,
      isIndirect,
    }
    return isPacked ? new PackedDriver(options) : new SplitDriver(options)
  }

  #addQueue(offset: number): void {
    const { queueSize } = this.#options
    this.queues.push({
      offset,
      driver: this.#driverAt(offset),
      kick: this.binding.eventCreate(),
      call: this.binding.eventCreate(),
      dataOffset: offset + ringBytes(queueSize),
      freeSlots: Array.from({ length: queueSize }, (_, index) => index),
      slotOf: new Map(),
      waiting: new Map(),
    })
  }

  async #negotiate(path: string): Promise<void> {
    this.socket = this.binding.connectUnix(path)
    assert(this.socket >= 0, `connects to ${path}: ${this.socket}`)
    const pair = new Int32Array(2)
    this.binding.socketPair(pair)
    this.backendSocket = pair[0]
    const offered = (await this.ask(Request.GET_FEATURES)).payload.getBigUint64(0, true)
    const without =
      (this.#options.isPacked ? 0n : feature.F_RING_PACKED) |
      (this.#options.hasEventIndex ? 0n : feature.RING_F_EVENT_IDX)
    this.features = offered & ~without
    const protocol = (await this.ask(Request.GET_PROTOCOL_FEATURES)).payload.getBigUint64(0, true)
    this.send(Request.SET_PROTOCOL_FEATURES, encodeUint64(protocol))
    this.send(Request.SET_OWNER, NOTHING)
    this.send(Request.SET_BACKEND_REQ_FD, NOTHING, [pair[1]])
    this.binding.closeFd(pair[1])
    await this.#setUpInflight()
    this.send(Request.SET_FEATURES, encodeUint64(this.features))
    this.send(Request.SET_MEM_TABLE, this.memoryTable(), [this.memory])
    for (const index of this.queues.keys()) this.startQueue(index)
  }

  async #setUpInflight(): Promise<void> {
    const { queueCount, queueSize } = this.#options
    const inflight = this.inflight ?? this.#options.inflight
    if (inflight === 'none') return
    if (inflight === 'new') {
      const payload = new Uint8Array(24)
      const view = new DataView(payload.buffer)
      view.setUint16(16, queueCount, true)
      view.setUint16(18, queueSize, true)
      const reply = await this.ask(Request.GET_INFLIGHT_FD, payload)
      this.inflight = { payload: new Uint8Array(reply.payload.buffer), fd: reply.fds[0] }
    } else {
      this.inflight = inflight
    }
    this.send(Request.SET_INFLIGHT_FD, this.inflight.payload, [this.inflight.fd])
  }

  memoryTable(): Uint8Array {
    const table = new DataView(new ArrayBuffer(40))
    table.setUint32(0, 1, true)
    table.setBigUint64(8, BigInt(GUEST_BASE), true)
    table.setBigUint64(16, BigInt(this.memoryBytes), true)
    table.setBigUint64(24, BigInt(USER_BASE), true)
    return new Uint8Array(table.buffer)
  }

  startQueue(index: number, base: number = this.#options.isPacked ? 0x8000_8000 : 0): void {
    const { driver, kick, call } = this.queues[index]
    this.send(Request.SET_VRING_NUM, this.state(index, this.#options.queueSize))
    this.send(Request.SET_VRING_BASE, this.state(index, base))
    const addresses = new DataView(new ArrayBuffer(40))
    addresses.setUint32(0, index, true)
    addresses.setBigUint64(8, BigInt(USER_BASE + driver.layout.descriptors), true)
    addresses.setBigUint64(16, BigInt(USER_BASE + driver.layout.used), true)
    addresses.setBigUint64(24, BigInt(USER_BASE + driver.layout.available), true)
    this.send(Request.SET_VRING_ADDR, new Uint8Array(addresses.buffer))
    this.send(Request.SET_VRING_CALL, encodeUint64(BigInt(index)), [call])
    this.send(Request.SET_VRING_KICK, encodeUint64(BigInt(index)), [kick])
    this.send(Request.SET_VRING_ENABLE, this.state(index, 1))
  }

  #slotOffset(queue: FrontQueue, slot: number): number {
    return queue.dataOffset + slot * (this.#options.slotBytes + SLOT_HEAD_BYTES)
  }

  #writeHeader(at: number, type: number, sector: number): void {
    this.view.setUint32(at, type, true)
    this.view.setUint32(at + 4, 0, true)
    this.view.setBigUint64(at + 8, BigInt(sector), true)
    this.bytes[at + 16] = 0xff
  }

  #submit(queue: FrontQueue, slot: number, buffers: DriverBuffer[]): Promise<number> {
    const id = queue.driver.add(buffers)
    queue.slotOf.set(id, slot)
    if (queue.driver.publish()) this.kick(queue)
    const done = new Promise<number>((resolve) => queue.waiting.set(id, resolve))
    if (!this.#isPolling) void this.#poll()
    return done
  }

  /** Looks for answers while requests are out. */
  async #poll(): Promise<void> {
    this.#isPolling = true
    while (this.#isPolling && this.queues.some(({ waiting }) => waiting.size > 0)) {
      this.harvest()
      await turn()
    }
    this.#isPolling = false
  }

  kick({ kick }: FrontQueue = this.queues[0]): void {
    writeSync(kick, ONE)
  }

  /** Takes what is done, in every queue. */
  harvest(): void {
    for (const { driver, waiting } of this.queues) {
      for (let used = driver.take(); used !== null; used = driver.take()) {
        const resolve = waiting.get(used.id)
        waiting.delete(used.id)
        resolve?.(used.writtenBytes)
      }
      driver.enableCalls()
    }
  }

  async #receiveBytes(
    socket: number,
    count: number,
  ): Promise<{ bytes: Uint8Array; fds: number[] } | null> {
    const bytes = new Uint8Array(count)
    const received = new Int32Array(17)
    const fds: number[] = []
    const deadlineMs = performance.now() + REPLY_TIMEOUT_MS
    let filled = 0
    while (filled < count) {
      const result = this.binding.descriptorsReceive(
        socket,
        bytes,
        filled,
        count - filled,
        received,
      )
      if (result === -EAGAIN) {
        assert(performance.now() < deadlineMs, 'an answer comes')
        await turn()
        continue
      }
      if (result <= 0) return null
      filled += result
      fds.push(...received.subarray(1, 1 + received[0]))
    }
    return { bytes, fds }
  }
}
