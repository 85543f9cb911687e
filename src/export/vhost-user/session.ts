/**
 * What a front end and the device say to each other before and beside requests: features, memory,
 * rings, configuration (QEMU, docs/interop/vhost-user.rst). A core without descriptors, sockets or
 * memory: messages come in, `SessionHost` is told what they mean. Descriptors are tokens that it
 * hands on; whoever is handed one owns it.
 *
 * Whatever a front end says wrong ends its connection: `handle` returns why.
 */
import { must } from '../../base/assert.ts'
import { F_PROTOCOL_FEATURES, PROTOCOL_FEATURES, P_REPLY_ACK } from './features.ts'
import { CONFIG_BYTES_MAX, QUEUE_SIZE_MAX, REGION_COUNT_MAX } from './limits.ts'
import type { InflightRequest, Message, Region, RequestFact, RingAddresses } from './message.ts'
import {
  REQUESTS,
  Request,
  encodeReply,
  encodeUint64,
  tryInflight,
  tryOneRegion,
  tryRegions,
  tryRingAddresses,
} from './message.ts'

/** What is known of a ring when it starts. */
export interface RingSetup {
  readonly size: number
  readonly addresses: RingAddresses
  readonly base: number
}

export type RingEvent = 'kick' | 'call' | 'error'

/** Each returns null, or why it could not be done. */
export interface SessionHost {
  send(message: Uint8Array, descriptors: readonly number[]): string | null
  closeDescriptors(descriptors: readonly number[]): void
  /** These are the guest's memory from now on, each with its descriptor. */
  setRegions(regions: readonly Region[], descriptors: readonly number[]): string | null
  addRegion(region: Region, descriptor: number): string | null
  removeRegion(region: Region): string | null
  /** `descriptor` null: there is none, the front end looks by itself. */
  setEvent(queue: number, event: RingEvent, descriptor: number | null): string | null
  startRing(queue: number, setup: RingSetup): string | null
  /** Where it stands; no request of it is at work. */
  stopRing(queue: number): number
  enableRing(queue: number, isEnabled: boolean): void
  readonly config: Uint8Array
  /** False: may not be written. */
  writeConfig(offset: number, bytes: Uint8Array): boolean
  setBackendChannel(descriptor: number): string | null
  /** New memory for what is in flight: its size and a descriptor, or why not. */
  createInflight(request: InflightRequest): { sizeBytes: number; descriptor: number } | string
  setInflight(request: InflightRequest, descriptor: number): string | null
  /** The driver begins anew. */
  reset(): void
}

export interface SessionOptions {
  /** What the device offers. */
  readonly features: bigint
  readonly queueCountMax: number
}

/** What has been said of a ring so far. */
class RingState {
  size = 0
  addresses: RingAddresses | null = null
  base = 0
  isStarted = false
}

const NO_DESCRIPTOR = 0x100
const INDEX_MASK = 0xff
const NOTHING = new Uint8Array(0)

type Handler = (session: Session, message: Message) => string | null

export class Session {
  readonly #host: SessionHost
  readonly #options: SessionOptions
  readonly #rings: RingState[] = []
  #features = 0n
  #protocolFeatures = 0n
  #status = 0n

  constructor(host: SessionHost, options: SessionOptions) {
    this.#host = host
    this.#options = options
    for (let index = 0; index < options.queueCountMax; index += 1) this.#rings.push(new RingState())
  }

  /** What the driver accepted. */
  get features(): bigint {
    return this.#features
  }

  hasFeature(feature: bigint): boolean {
    return (this.#features & feature) !== 0n
  }

  hasProtocolFeature(feature: bigint): boolean {
    return (this.#protocolFeatures & feature) !== 0n
  }

  /** Whether a message has to wait until no request is at work. */
  needsQuiet(message: Message): boolean {
    const fact = REQUESTS[message.request] as RequestFact | undefined
    return fact?.isQuiet === true
  }

  /** Takes a message with its descriptors. Null, or why the connection ends. */
  handle(message: Message): string | null {
    const fact = REQUESTS[message.request] as RequestFact | undefined
    const handler = HANDLERS[message.request] as Handler | undefined
    if (fact === undefined || handler === undefined) return this.#refuse(message)
    const failure = handler(this, message)
    const isAcknowledged =
      message.needsReply && !fact.isAnswered && this.hasProtocolFeature(P_REPLY_ACK)
    if (isAcknowledged) {
      const sent = this.#reply(message, encodeUint64(failure === null ? 0n : 1n))
      if (failure === null) return sent
    }
    return failure === null ? null : `${fact.name}: ${failure}`
  }

  #refuse({ request, needsReply, descriptors }: Message): string | null {
    this.#host.closeDescriptors(descriptors)
    // Who is told that there is no such thing can do without it.
    if (needsReply && this.hasProtocolFeature(P_REPLY_ACK)) {
      return this.#host.send(encodeReply(request, encodeUint64(1n)), [])
    }
    return `message ${request}, which this device does not know`
  }

  #reply({ request }: Message, payload: Uint8Array, descriptors: number[] = []): string | null {
    return this.#host.send(encodeReply(request, payload), descriptors)
  }

  replyNumber(message: Message, value: bigint): string | null {
    return this.#reply(message, encodeUint64(value))
  }

  getFeatures(message: Message): string | null {
    return this.replyNumber(message, this.#options.features)
  }

  setFeatures({ payload }: Message): string | null {
    const features = payload.getBigUint64(0, true)
    if ((features & ~this.#options.features) !== 0n) return 'a feature that was not offered'
    if (features !== this.#features && this.#rings.some(({ isStarted }) => isStarted)) {
      return 'other features while a ring is at work'
    }
    this.#features = features
    return null
  }

  setProtocolFeatures({ payload }: Message): string | null {
    const features = payload.getBigUint64(0, true)
    if ((features & ~PROTOCOL_FEATURES) !== 0n) return 'a feature that was not offered'
    this.#protocolFeatures = features
    return null
  }

  getQueueNum(message: Message): string | null {
    return this.replyNumber(message, BigInt(this.#options.queueCountMax))
  }

  setMemTable({ payload, descriptors }: Message): string | null {
    const regions = tryRegions(payload)
    if (regions?.length !== descriptors.length) {
      this.#host.closeDescriptors(descriptors)
      return 'regions and descriptors that do not belong together'
    }
    return this.#host.setRegions(regions, descriptors)
  }

  addMemRegion({ payload, descriptors }: Message): string | null {
    const region = tryOneRegion(payload)
    if (region !== null) return this.#host.addRegion(region, descriptors[0])
    this.#host.closeDescriptors(descriptors)
    return 'a region beyond all memory'
  }

  removeMemRegion({ payload, descriptors }: Message): string | null {
    // Some front ends send the descriptor again.
    this.#host.closeDescriptors(descriptors)
    const region = tryOneRegion(payload)
    return region === null ? 'a region beyond all memory' : this.#host.removeRegion(region)
  }

  setVringNum({ payload }: Message): string | null {
    const ring = this.#ringOf(payload)
    if (ring === null) return 'a ring that there is not'
    const size = payload.getUint32(4, true)
    if (size === 0 || size > QUEUE_SIZE_MAX) return `a ring of ${size} descriptors`
    if (ring.isStarted && size !== ring.size) return 'another size while the ring is at work'
    ring.size = size
    return null
  }

  setVringAddress({ payload }: Message): string | null {
    const ring = this.#ringOf(payload)
    if (ring === null) return 'a ring that there is not'
    const addresses = tryRingAddresses(payload)
    if (addresses === null) return 'a ring beyond all memory'
    if (ring.isStarted && !isSame(addresses, must(ring.addresses, 'the addresses of a ring'))) {
      return 'other addresses while the ring is at work'
    }
    ring.addresses = addresses
    return null
  }

  setVringBase({ payload }: Message): string | null {
    const ring = this.#ringOf(payload)
    if (ring === null) return 'a ring that there is not'
    if (ring.isStarted) return 'another position while the ring is at work'
    ring.base = payload.getUint32(4, true)
    return null
  }

  getVringBase(message: Message): string | null {
    const index = message.payload.getUint32(0, true)
    const ring = this.#ringOf(message.payload)
    if (ring === null) return 'a ring that there is not'
    if (ring.isStarted) ring.base = this.#host.stopRing(index)
    ring.isStarted = false
    const payload = new Uint8Array(8)
    const view = new DataView(payload.buffer)
    view.setUint32(0, index, true)
    view.setUint32(4, ring.base, true)
    return this.#reply(message, payload)
  }

  setVringEvent(message: Message, event: RingEvent): string | null {
    const { payload, descriptors } = message
    const index = payload.getUint32(0, true) & INDEX_MASK
    const isNone = (payload.getUint32(0, true) & NO_DESCRIPTOR) !== 0
    if (index >= this.#rings.length || isNone !== (descriptors.length === 0)) {
      this.#host.closeDescriptors(descriptors)
      return 'a ring that there is not, or an event without its descriptor'
    }
    if (isNone && event === 'kick') return 'a ring without kicks'
    const failure = this.#host.setEvent(index, event, isNone ? null : descriptors[0])
    return failure ?? (event === 'kick' ? this.#start(index) : null)
  }

  /** A ring with a kick is at work. */
  #start(index: number): string | null {
    const ring = this.#rings[index]
    const { size, addresses, base } = ring
    if (ring.isStarted) return null
    if (size === 0 || addresses === null) return 'a ring of which too little is known'
    const failure = this.#host.startRing(index, { size, addresses, base })
    if (failure !== null) return failure
    ring.isStarted = true
    // Without the protocol's own features nobody can enable it.
    if (!this.hasFeature(F_PROTOCOL_FEATURES)) this.#host.enableRing(index, true)
    return null
  }

  setVringEnable({ payload }: Message): string | null {
    if (this.#ringOf(payload) === null) return 'a ring that there is not'
    this.#host.enableRing(payload.getUint32(0, true), payload.getUint32(4, true) !== 0)
    return null
  }

  /** An answer without bytes says that it cannot be read. */
  getConfig(message: Message): string | null {
    const { payload } = message
    const offset = payload.getUint32(0, true)
    const size = payload.getUint32(4, true)
    const isOutside = offset > CONFIG_BYTES_MAX || size > CONFIG_BYTES_MAX - offset
    if (isOutside || size === 0) return this.#reply(message, NOTHING)
    const head = new Uint8Array(payload.buffer, payload.byteOffset, 12)
    const bytes = this.#host.config.subarray(offset, offset + size)
    return this.#reply(message, Buffer.concat([head, bytes]))
  }

  setConfig({ payload }: Message): string | null {
    const offset = payload.getUint32(0, true)
    const size = payload.getUint32(4, true)
    if (size !== payload.byteLength - 12) return 'a size that is not what follows'
    const bytes = new Uint8Array(payload.buffer, payload.byteOffset + 12, size)
    return this.#host.writeConfig(offset, bytes) ? null : 'something that cannot be written'
  }

  setBackendChannel({ descriptors }: Message): string | null {
    return this.#host.setBackendChannel(descriptors[0])
  }

  getInflight(message: Message): string | null {
    const { payload } = message
    const request = tryInflight(payload)
    if (request === null) return 'a region beyond all memory'
    const made = this.#host.createInflight(request)
    if (typeof made === 'string') return made
    const reply = new Uint8Array(payload.buffer.slice(0))
    const view = new DataView(reply.buffer)
    view.setBigUint64(0, BigInt(made.sizeBytes), true)
    view.setBigUint64(8, 0n, true)
    const failure = this.#reply(message, reply, [made.descriptor])
    this.#host.closeDescriptors([made.descriptor])
    return failure
  }

  setInflight({ payload, descriptors }: Message): string | null {
    const request = tryInflight(payload)
    if (request !== null) return this.#host.setInflight(request, descriptors[0])
    this.#host.closeDescriptors(descriptors)
    return 'a region beyond all memory'
  }

  setStatus({ payload }: Message): string | null {
    this.#status = payload.getBigUint64(0, true)
    if (this.#status === 0n) this.resetDevice()
    return null
  }

  getStatus(message: Message): string | null {
    return this.replyNumber(message, this.#status)
  }

  resetDevice(): null {
    for (const [index, ring] of this.#rings.entries()) {
      if (ring.isStarted) this.#host.stopRing(index)
      ring.isStarted = false
      ring.base = 0
      this.#host.enableRing(index, false)
    }
    this.#status = 0n
    this.#host.reset()
    return null
  }

  #ringOf(payload: DataView): RingState | null {
    const ring = this.#rings[payload.getUint32(0, true)] as RingState | undefined
    return ring ?? null
  }
}

function isSame(a: RingAddresses, b: RingAddresses): boolean {
  return a.descriptors === b.descriptors && a.used === b.used && a.available === b.available
}

const HANDLERS: Readonly<Record<number, Handler>> = {
  [Request.GET_FEATURES]: (session, message) => session.getFeatures(message),
  [Request.SET_FEATURES]: (session, message) => session.setFeatures(message),
  [Request.SET_OWNER]: () => null,
  [Request.RESET_OWNER]: (session) => session.resetDevice(),
  [Request.SET_MEM_TABLE]: (session, message) => session.setMemTable(message),
  [Request.SET_VRING_NUM]: (session, message) => session.setVringNum(message),
  [Request.SET_VRING_ADDR]: (session, message) => session.setVringAddress(message),
  [Request.SET_VRING_BASE]: (session, message) => session.setVringBase(message),
  [Request.GET_VRING_BASE]: (session, message) => session.getVringBase(message),
  [Request.SET_VRING_KICK]: (session, message) => session.setVringEvent(message, 'kick'),
  [Request.SET_VRING_CALL]: (session, message) => session.setVringEvent(message, 'call'),
  [Request.SET_VRING_ERR]: (session, message) => session.setVringEvent(message, 'error'),
  [Request.GET_PROTOCOL_FEATURES]: (session, message) =>
    session.replyNumber(message, PROTOCOL_FEATURES),
  [Request.SET_PROTOCOL_FEATURES]: (session, message) => session.setProtocolFeatures(message),
  [Request.GET_QUEUE_NUM]: (session, message) => session.getQueueNum(message),
  [Request.SET_VRING_ENABLE]: (session, message) => session.setVringEnable(message),
  [Request.SET_BACKEND_REQ_FD]: (session, message) => session.setBackendChannel(message),
  [Request.GET_CONFIG]: (session, message) => session.getConfig(message),
  [Request.SET_CONFIG]: (session, message) => session.setConfig(message),
  [Request.GET_INFLIGHT_FD]: (session, message) => session.getInflight(message),
  [Request.SET_INFLIGHT_FD]: (session, message) => session.setInflight(message),
  [Request.RESET_DEVICE]: (session) => session.resetDevice(),
  [Request.GET_MAX_MEM_SLOTS]: (session, message) =>
    session.replyNumber(message, BigInt(REGION_COUNT_MAX)),
  [Request.ADD_MEM_REG]: (session, message) => session.addMemRegion(message),
  [Request.REM_MEM_REG]: (session, message) => session.removeMemRegion(message),
  [Request.SET_STATUS]: (session, message) => session.setStatus(message),
  [Request.GET_STATUS]: (session, message) => session.getStatus(message),
}
