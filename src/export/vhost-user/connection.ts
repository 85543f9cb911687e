/**
 * One front end: a socket whose messages drive the session, and the device that it talks about. It
 * maps memory, keeps what is in flight and holds descriptors on the session's behalf. When it ends,
 * for whatever reason, the disk is closed once nothing of the device is at work, and only then the
 * memory is let go of.
 */
import { Errno } from '../../base/errors.ts'
import type { DescriptorIo, DescriptorSocket, SharedMapping } from '../../io/descriptors.ts'
import type { Io, IoCompletion, TurnHook } from '../../io/io.ts'
import type { ExportTarget } from '../target.ts'
import { WRITEBACK_AT, encodeConfig } from './config.ts'
import type { DeviceMemory } from './device-memory.ts'
import type { DeviceOwner } from './device.ts'
import { BlockDevice } from './device.ts'
import { BLK_F_CONFIG_WCE, BLK_F_FLUSH, P_BACKEND_REQ, deviceFeatures } from './features.ts'
import { GuestMemory, whyNotMapped } from './guest-memory.ts'
import { inflightQueueBytes, judgeInflight } from './inflight.ts'
import { MESSAGE_DESCRIPTOR_COUNT_MAX } from './limits.ts'
import type { InflightRequest, Message, Region } from './message.ts'
import { BackendRequest, MessageReader, encodeRequest } from './message.ts'
import { openRing } from './open-ring.ts'
import type { RingEvent, RingSetup, SessionHost } from './session.ts'
import { Session } from './session.ts'

const NO_DESCRIPTORS = new Int32Array(0)
const NO_PAYLOAD = new Uint8Array(0)
const PAGE_BYTES = 4096

export interface ConnectionOptions {
  readonly queueCount: number
  /** Called once, when nothing of the connection is left. `reason`: why it ended. */
  readonly onClosed: (connection: Connection, reason: string) => void
}

interface Inflight {
  readonly mapping: SharedMapping
  readonly queueCount: number
  readonly queueSize: number
}

export class Connection implements IoCompletion, TurnHook, SessionHost, DeviceOwner {
  readonly peer: string
  readonly #io: Io
  readonly #descriptors: DescriptorIo
  readonly #socket: DescriptorSocket
  readonly #memory: DeviceMemory
  readonly #target: ExportTarget
  readonly #options: ConnectionOptions
  readonly #reader: MessageReader = new MessageReader()
  readonly #received = new Int32Array(1 + MESSAGE_DESCRIPTOR_COUNT_MAX)
  readonly #session: Session
  readonly #device: BlockDevice
  readonly #guest: GuestMemory
  /** Rings that have been started, to be opened again when memory changes. */
  readonly #setups: (RingSetup | null)[]
  #inflight: Inflight | null = null
  #backend: DescriptorSocket | null = null
  #isWriteback = true
  #toldSizeBytes: number
  /** A message that waits until the device is quiet. */
  #pending: Message | null = null
  #isWaiting = false
  #ending: string | null = null
  #isClosed = false

  constructor(
    io: Io,
    descriptors: DescriptorIo,
    socket: DescriptorSocket,
    memory: DeviceMemory,
    target: ExportTarget,
    options: ConnectionOptions,
  ) {
    this.peer = socket.peer
    this.#io = io
    this.#descriptors = descriptors
    this.#socket = socket
    this.#memory = memory
    this.#target = target
    this.#options = options
    this.#toldSizeBytes = target.sizeBytes
    this.#guest = new GuestMemory(descriptors)
    this.#setups = Array.from({ length: options.queueCount }, () => null)
    this.#device = new BlockDevice(io, descriptors, memory, target, options.queueCount, this)
    this.#session = new Session(this, {
      features: deviceFeatures(target.readOnly),
      queueCountMax: options.queueCount,
    })
    this.#await()
  }

  get exportName(): string {
    return this.#target.name
  }

  /** Takes no more requests, answers those taken, then disconnects. */
  drain(): void {
    this.#dropPending()
    this.#ending ??= 'the server is shutting down'
    this.#device.pause()
  }

  /** Disconnects now; what the disk is doing still completes. */
  cut(reason: string): void {
    this.#ending ??= reason
    this.#device.abandon()
    this.#socket.close()
    this.#backend?.close()
    this.#io.atTurnEnd(this)
  }

  /** Tells the guest when the disk has another size, and looks whether its memory is there. */
  tick(): void {
    if (this.#guest.isBroken || this.#inflight?.mapping.isBroken === true) {
      this.cut('memory was taken away')
    }
    const { sizeBytes } = this.#target
    if (sizeBytes === this.#toldSizeBytes || this.#ending !== null) return
    this.#toldSizeBytes = sizeBytes
    const message = encodeRequest(BackendRequest.CONFIG_CHANGE_MSG, NO_PAYLOAD)
    if (!this.#session.hasProtocolFeature(P_BACKEND_REQ)) return
    if (this.#backend?.send(message, NO_DESCRIPTORS)) this.cut('the back end channel broke')
  }

  ioComplete(): void {
    this.#isWaiting = false
    if (this.#ending === null) this.#receive()
    this.#io.atTurnEnd(this)
  }

  turnEnd(): void {
    if (this.#isClosed) return
    if (this.#ending === null) this.#await()
    else this.#finish()
  }

  deviceFailed(reason: string): void {
    this.cut(reason)
  }

  deviceQuiet(): void {
    if (this.#ending !== null) {
      this.cut(this.#ending)
      return
    }
    const message = this.#pending
    this.#pending = null
    this.#device.resume()
    if (message !== null && this.#handle(message)) this.#receive()
    this.#io.atTurnEnd(this)
  }

  send(message: Uint8Array, descriptors: readonly number[]): string | null {
    const result = this.#socket.send(message, Int32Array.from(descriptors))
    return result === 0 ? null : `an answer is not taken (errno ${-result})`
  }

  closeDescriptors(descriptors: readonly number[]): void {
    for (const fd of descriptors) this.#descriptors.closeDescriptor(fd)
  }

  setRegions(regions: readonly Region[], descriptors: readonly number[]): string | null {
    return this.#remapped(() => this.#guest.replace(regions, descriptors))
  }

  addRegion(region: Region, descriptor: number): string | null {
    return this.#remapped(() => this.#guest.add(region, descriptor))
  }

  removeRegion(region: Region): string | null {
    return this.#remapped(() => this.#guest.remove(region))
  }

  setEvent(queue: number, event: RingEvent, descriptor: number | null): string | null {
    if (descriptor !== null && !this.#descriptors.isEvent(descriptor)) {
      this.#descriptors.closeDescriptor(descriptor)
      return 'something that is no eventfd'
    }
    const one = this.#device.queueAt(queue)
    if (event === 'kick') one.setKick(descriptor)
    else if (event === 'call') one.setCall(descriptor)
    else one.setError(descriptor)
    return null
  }

  startRing(queue: number, setup: RingSetup): string | null {
    this.#device.isWriteThrough = !this.#mayCache()
    this.#setups[queue] = setup
    return this.#open(queue, setup)
  }

  stopRing(queue: number): number {
    const one = this.#device.queueAt(queue)
    const base = one.ring?.base ?? 0
    one.ring?.finish()
    this.#setups[queue] = null
    this.#device.setRing(queue, null)
    one.setKick(null)
    return base
  }

  enableRing(queue: number, isEnabled: boolean): void {
    this.#device.queueAt(queue).isEnabled = isEnabled
  }

  get config(): Uint8Array {
    const { sizeBytes } = this.#target
    const { queueCount } = this.#options
    return encodeConfig({ sizeBytes, queueCount, isWriteback: this.#isWriteback })
  }

  writeConfig(offset: number, bytes: Uint8Array): boolean {
    if (offset !== WRITEBACK_AT || bytes.length !== 1 || this.#target.readOnly) return false
    this.#isWriteback = bytes[0] !== 0
    this.#device.isWriteThrough = !this.#mayCache()
    return true
  }

  setBackendChannel(descriptor: number): string | null {
    this.#backend?.close()
    this.#backend = this.#descriptors.adoptSocket(descriptor)
    return null
  }

  createInflight(request: InflightRequest): { sizeBytes: number; descriptor: number } | string {
    const failure = judgeInflight(request)
    if (failure !== null) return failure
    const sizeBytes = request.queueCount * inflightQueueBytes(request.queueSize)
    const descriptor = this.#descriptors.createMemory(sizeBytes)
    return descriptor < 0 ? whyNotMapped(descriptor) : { sizeBytes, descriptor }
  }

  setInflight(request: InflightRequest, descriptor: number): string | null {
    const failure = judgeInflight(request)
    const { queueCount, queueSize, fileOffset } = request
    const sizeBytes = queueCount * inflightQueueBytes(queueSize)
    const mapping =
      failure === null && fileOffset % PAGE_BYTES === 0 && sizeBytes <= request.sizeBytes
        ? this.#descriptors.map(descriptor, fileOffset, sizeBytes)
        : -Errno.EINVAL
    this.#descriptors.closeDescriptor(descriptor)
    if (failure !== null) return failure
    if (typeof mapping === 'number') return whyNotMapped(mapping)
    if (this.#setups.some((setup) => setup !== null)) {
      mapping.close()
      return 'while a ring is at work'
    }
    this.#inflight?.mapping.close()
    this.#inflight = { mapping, queueCount, queueSize }
    return null
  }

  reset(): void {
    this.#isWriteback = true
  }

  /** Without a flush to ask for, or asked to, the disk answers only what is durable. */
  #mayCache(): boolean {
    if (!this.#session.hasFeature(BLK_F_FLUSH)) return false
    return !this.#session.hasFeature(BLK_F_CONFIG_WCE) || this.#isWriteback
  }

  #await(): void {
    if (this.#isWaiting || this.#pending !== null) return
    this.#isWaiting = true
    this.#socket.awaitReadable(this, 0)
  }

  /** Takes messages until there are none, or one has to wait. */
  #receive(): void {
    while (this.#ending === null) {
      const reader = this.#reader
      const wantedBytes = reader.wantedBytes
      const fds = this.#received
      const result = this.#socket.receive(reader.buffer, reader.filledBytes, wantedBytes, fds)
      if (result === -Errno.EAGAIN) return
      if (result <= 0) {
        this.cut(result === 0 ? 'disconnected' : `the connection broke (errno ${-result})`)
        return
      }
      const message = reader.received(result, fds.subarray(1, 1 + fds[0]))
      if (typeof message === 'string') this.cut(message)
      else if (message !== null && !this.#take(message)) return
    }
  }

  /** False: nothing more is received for now. */
  #take(message: Message): boolean {
    if (!this.#session.needsQuiet(message)) return this.#handle(message)
    this.#pending = message
    this.#device.pause()
    return false
  }

  #dropPending(): void {
    if (this.#pending !== null) this.closeDescriptors(this.#pending.descriptors)
    this.#pending = null
  }

  #handle(message: Message): boolean {
    const failure = this.#session.handle(message)
    if (failure !== null) this.cut(failure)
    return failure === null
  }

  #remapped(change: () => string | null): string | null {
    const bases = this.#setups.map((_, queue) => this.#device.queueAt(queue).ring?.base ?? 0)
    for (const queue of this.#setups.keys()) this.#device.setRing(queue, null)
    const failure = change()
    this.#device.setMap(this.#guest.map)
    if (failure !== null) return failure
    for (const [queue, setup] of this.#setups.entries()) {
      if (setup === null) continue
      const fault = this.#open(queue, { ...setup, base: bases[queue] })
      if (fault !== null) return fault
    }
    return null
  }

  #open(queue: number, setup: RingSetup): string | null {
    const tracked = this.#inflightOf(queue, setup.size)
    if (typeof tracked === 'string') return tracked
    const ring = openRing(this.#guest.map, setup, this.#session.features, tracked)
    if (typeof ring === 'string') return ring
    this.#device.setRing(queue, ring)
    return null
  }

  #inflightOf(queue: number, size: number): DataView | string | null {
    if (this.#inflight === null) return null
    const { mapping, queueCount, queueSize } = this.#inflight
    if (queue >= queueCount || size > queueSize) return 'a ring that its record does not hold'
    const bytes = inflightQueueBytes(queueSize)
    return mapping.view(queue * bytes, bytes)
  }

  /** Lets go of everything as soon as neither the disk nor the kernel uses it. */
  #finish(): void {
    if (!this.#device.isGone || this.#isWaiting) return
    this.#isClosed = true
    this.closeDescriptors(this.#reader.abandon())
    this.#dropPending()
    this.#backend?.close()
    this.#guest.close()
    this.#inflight?.mapping.close()
    this.#memory.close()
    this.#target.close()
    this.#options.onClosed(this, this.#ending ?? 'closed')
  }
}
