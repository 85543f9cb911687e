/**
 * Messages of the vhost-user protocol (QEMU, docs/interop/vhost-user.rst), little-endian:
 *
 *     0   u32  request
 *     4   u32  flags: 0-1 version (1), 2 reply, 3 reply wanted
 *     8   u32  bytes of payload
 *     12       payload, by request
 *
 * {@link REQUESTS} says of each request what it may carry. Numbers that name no request of ours are
 * not parsed any further.
 */
import { assert } from '../../base/assert.ts'
import { tryUint53 } from '../../base/bytes.ts'
import { PAYLOAD_BYTES_MAX, TABLE_REGION_COUNT_MAX } from './limits.ts'

export const HEADER_BYTES = 12

const VERSION = 1
const VERSION_MASK = 3
const FLAG_REPLY = 4
const FLAG_NEED_REPLY = 8

export const Request = {
  GET_FEATURES: 1,
  SET_FEATURES: 2,
  SET_OWNER: 3,
  RESET_OWNER: 4,
  SET_MEM_TABLE: 5,
  SET_VRING_NUM: 8,
  SET_VRING_ADDR: 9,
  SET_VRING_BASE: 10,
  GET_VRING_BASE: 11,
  SET_VRING_KICK: 12,
  SET_VRING_CALL: 13,
  SET_VRING_ERR: 14,
  GET_PROTOCOL_FEATURES: 15,
  SET_PROTOCOL_FEATURES: 16,
  GET_QUEUE_NUM: 17,
  SET_VRING_ENABLE: 18,
  SET_BACKEND_REQ_FD: 21,
  GET_CONFIG: 24,
  SET_CONFIG: 25,
  GET_INFLIGHT_FD: 31,
  SET_INFLIGHT_FD: 32,
  RESET_DEVICE: 34,
  GET_MAX_MEM_SLOTS: 36,
  ADD_MEM_REG: 37,
  REM_MEM_REG: 38,
  SET_STATUS: 39,
  GET_STATUS: 40,
} as const

/** What we ask of the front end, over the channel that it gave us. */
export const BackendRequest = { CONFIG_CHANGE_MSG: 2 } as const

export interface RequestFact {
  readonly name: string
  /** Bytes of payload, from and to. */
  readonly payload: readonly [number, number]
  /** Descriptors that come with it, from and to. */
  readonly descriptors: readonly [number, number]
  /** It is answered, asked for or not. */
  readonly isAnswered: boolean
  /** It changes what requests at work rely on: it waits until there are none. */
  readonly isQuiet: boolean
}

const U64 = [8, 8] as const
const STATE = [8, 8] as const
const NOTHING = [0, 0] as const
const REGION_BYTES = 32
const TABLE_HEAD_BYTES = 8
const CONFIG_HEAD_BYTES = 12

const NONE = [0, 0] as const
const ONE = [1, 1] as const
const AT_MOST_ONE = [0, 1] as const

function fact(
  name: string,
  payload: readonly [number, number],
  marks: Partial<Pick<RequestFact, 'descriptors' | 'isAnswered' | 'isQuiet'>> = {},
): RequestFact {
  return { name, payload, descriptors: NONE, isAnswered: false, isQuiet: false, ...marks }
}

const answered = { isAnswered: true }
const quiet = { isQuiet: true }

/** By number. */
export const REQUESTS: Readonly<Record<number, RequestFact>> = {
  [Request.GET_FEATURES]: fact('GET_FEATURES', NOTHING, answered),
  [Request.SET_FEATURES]: fact('SET_FEATURES', U64, quiet),
  [Request.SET_OWNER]: fact('SET_OWNER', NOTHING),
  [Request.RESET_OWNER]: fact('RESET_OWNER', NOTHING, quiet),
  [Request.SET_MEM_TABLE]: fact(
    'SET_MEM_TABLE',
    [TABLE_HEAD_BYTES, TABLE_HEAD_BYTES + TABLE_REGION_COUNT_MAX * REGION_BYTES],
    { isQuiet: true, descriptors: [0, TABLE_REGION_COUNT_MAX] },
  ),
  [Request.SET_VRING_NUM]: fact('SET_VRING_NUM', STATE, quiet),
  [Request.SET_VRING_ADDR]: fact('SET_VRING_ADDR', [40, 40], quiet),
  [Request.SET_VRING_BASE]: fact('SET_VRING_BASE', STATE, quiet),
  [Request.GET_VRING_BASE]: fact('GET_VRING_BASE', STATE, { isAnswered: true, isQuiet: true }),
  [Request.SET_VRING_KICK]: fact('SET_VRING_KICK', U64, {
    isQuiet: true,
    descriptors: AT_MOST_ONE,
  }),
  [Request.SET_VRING_CALL]: fact('SET_VRING_CALL', U64, { descriptors: AT_MOST_ONE }),
  [Request.SET_VRING_ERR]: fact('SET_VRING_ERR', U64, { descriptors: AT_MOST_ONE }),
  [Request.GET_PROTOCOL_FEATURES]: fact('GET_PROTOCOL_FEATURES', NOTHING, answered),
  [Request.SET_PROTOCOL_FEATURES]: fact('SET_PROTOCOL_FEATURES', U64),
  [Request.GET_QUEUE_NUM]: fact('GET_QUEUE_NUM', NOTHING, answered),
  [Request.SET_VRING_ENABLE]: fact('SET_VRING_ENABLE', STATE, quiet),
  [Request.SET_BACKEND_REQ_FD]: fact('SET_BACKEND_REQ_FD', NOTHING, { descriptors: ONE }),
  [Request.GET_CONFIG]: fact('GET_CONFIG', [CONFIG_HEAD_BYTES, PAYLOAD_BYTES_MAX], answered),
  [Request.SET_CONFIG]: fact('SET_CONFIG', [CONFIG_HEAD_BYTES, PAYLOAD_BYTES_MAX]),
  // The structure has 20 bytes, and 24 where a compiler rounded it up.
  [Request.GET_INFLIGHT_FD]: fact('GET_INFLIGHT_FD', [20, 24], answered),
  [Request.SET_INFLIGHT_FD]: fact('SET_INFLIGHT_FD', [20, 24], {
    isQuiet: true,
    descriptors: ONE,
  }),
  [Request.RESET_DEVICE]: fact('RESET_DEVICE', NOTHING, quiet),
  [Request.GET_MAX_MEM_SLOTS]: fact('GET_MAX_MEM_SLOTS', NOTHING, answered),
  [Request.ADD_MEM_REG]: fact('ADD_MEM_REG', [40, 40], { isQuiet: true, descriptors: ONE }),
  [Request.REM_MEM_REG]: fact('REM_MEM_REG', [40, 40], {
    isQuiet: true,
    descriptors: AT_MOST_ONE,
  }),
  [Request.SET_STATUS]: fact('SET_STATUS', U64, quiet),
  [Request.GET_STATUS]: fact('GET_STATUS', NOTHING, answered),
}

export interface Message {
  readonly request: number
  readonly needsReply: boolean
  readonly payload: DataView
  /** Whoever takes the message takes these. */
  readonly descriptors: readonly number[]
}

/**
 * Puts messages together from bytes as they come. Read `wantedBytes` at most to `buffer` at
 * `filledBytes`, so that descriptors are never taken for those of the next message.
 */
export class MessageReader {
  readonly buffer: Uint8Array = new Uint8Array(HEADER_BYTES + PAYLOAD_BYTES_MAX)
  readonly #view: DataView = new DataView(this.buffer.buffer)
  #filledBytes = 0
  #neededBytes = HEADER_BYTES
  #descriptors: number[] = []

  get filledBytes(): number {
    return this.#filledBytes
  }

  get wantedBytes(): number {
    return this.#neededBytes - this.#filledBytes
  }

  /** A message when it is whole, null when not, or why the peer is not to be understood. */
  received(lengthBytes: number, descriptors: Iterable<number>): Message | string | null {
    assert(lengthBytes <= this.wantedBytes, 'no more came than was wanted')
    this.#filledBytes += lengthBytes
    this.#descriptors.push(...descriptors)
    if (this.wantedBytes > 0) return null
    const payloadBytes = this.#view.getUint32(8, true)
    if (this.#neededBytes === HEADER_BYTES) {
      const failure = this.#judgeHeader(payloadBytes)
      if (failure !== null) return failure
      this.#neededBytes += payloadBytes
      if (payloadBytes > 0) return null
    }
    return this.#take(payloadBytes)
  }

  /** Descriptors of a message that never became whole. */
  abandon(): number[] {
    const descriptors = this.#descriptors
    this.#descriptors = []
    return descriptors
  }

  #judgeHeader(payloadBytes: number): string | null {
    const flags = this.#view.getUint32(4, true)
    if ((flags & VERSION_MASK) !== VERSION) return `a message of version ${flags & VERSION_MASK}`
    if ((flags & FLAG_REPLY) !== 0) return 'a reply to nothing'
    return payloadBytes > PAYLOAD_BYTES_MAX ? `a message of ${payloadBytes} bytes` : null
  }

  #take(payloadBytes: number): Message | string {
    const request = this.#view.getUint32(0, true)
    const needsReply = (this.#view.getUint32(4, true) & FLAG_NEED_REPLY) !== 0
    const bytes = this.buffer.slice(HEADER_BYTES, HEADER_BYTES + payloadBytes)
    const count = this.#descriptors.length
    const expected = REQUESTS[request] as RequestFact | undefined
    if (expected !== undefined) {
      const { name, payload, descriptors } = expected
      if (payloadBytes < payload[0] || payloadBytes > payload[1]) {
        return `${name} with ${payloadBytes} bytes`
      }
      if (count < descriptors[0] || count > descriptors[1]) {
        return `${name} with ${count} descriptors`
      }
    }
    this.#filledBytes = 0
    this.#neededBytes = HEADER_BYTES
    return { request, needsReply, payload: new DataView(bytes.buffer), descriptors: this.abandon() }
  }
}

function header(bytes: Uint8Array, request: number, flags: number): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset)
  view.setUint32(0, request, true)
  view.setUint32(4, flags, true)
  view.setUint32(8, bytes.length - HEADER_BYTES, true)
}

export function encodeReply(request: number, payload: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES + payload.length)
  header(bytes, request, VERSION | FLAG_REPLY)
  bytes.set(payload, HEADER_BYTES)
  return bytes
}

/** A message that is no reply: of the back end's channel here, of the front end in tests. */
export function encodeRequest(
  request: number,
  payload: Uint8Array,
  needsReply = false,
): Uint8Array {
  const bytes = encodeReply(request, payload)
  header(bytes, request, needsReply ? VERSION | FLAG_NEED_REPLY : VERSION)
  return bytes
}

export function encodeUint64(value: bigint): Uint8Array {
  const bytes = new Uint8Array(8)
  new DataView(bytes.buffer).setBigUint64(0, value, true)
  return bytes
}

/** A region of guest memory as a message describes it; nothing is checked yet but its width. */
export interface Region {
  readonly guestAddress: number
  readonly sizeBytes: number
  /** Where it lies in the front end's own memory: rings are named so. */
  readonly userAddress: number
  /** Where it begins in its file. */
  readonly fileOffset: number
}

/** Null where a number is 2^53 or more: no memory lies there. */
function tryRegion(view: DataView, at: number): Region | null {
  const guestAddress = tryUint53(view, at)
  const sizeBytes = tryUint53(view, at + 8)
  const userAddress = tryUint53(view, at + 16)
  const fileOffset = tryUint53(view, at + 24)
  if (guestAddress === null || sizeBytes === null) return null
  if (userAddress === null || fileOffset === null) return null
  return { guestAddress, sizeBytes, userAddress, fileOffset }
}

/** Of SET_MEM_TABLE. */
export function tryRegions(view: DataView): Region[] | null {
  const count = view.getUint32(0, true)
  if (TABLE_HEAD_BYTES + count * REGION_BYTES !== view.byteLength) return null
  const regions: Region[] = []
  for (let index = 0; index < count; index += 1) {
    const region = tryRegion(view, TABLE_HEAD_BYTES + index * REGION_BYTES)
    if (region === null) return null
    regions.push(region)
  }
  return regions
}

/** Of ADD_MEM_REG and REM_MEM_REG. */
export function tryOneRegion(view: DataView): Region | null {
  return tryRegion(view, TABLE_HEAD_BYTES)
}

/** Where the parts of a ring lie, in the front end's memory. */
export interface RingAddresses {
  readonly descriptors: number
  /** Split: the used ring. Packed: the device's event suppression. */
  readonly used: number
  /** Split: the available ring. Packed: the driver's event suppression. */
  readonly available: number
}

/** Of SET_VRING_ADDR; the flags are about a log of ours, which there is none of. */
export function tryRingAddresses(view: DataView): RingAddresses | null {
  const descriptors = tryUint53(view, 8)
  const used = tryUint53(view, 16)
  const available = tryUint53(view, 24)
  if (descriptors === null || used === null || available === null) return null
  return { descriptors, used, available }
}

/** Of GET_INFLIGHT_FD and SET_INFLIGHT_FD. */
export interface InflightRequest {
  readonly sizeBytes: number
  readonly fileOffset: number
  readonly queueCount: number
  readonly queueSize: number
}

export function tryInflight(view: DataView): InflightRequest | null {
  const sizeBytes = tryUint53(view, 0)
  const fileOffset = tryUint53(view, 8)
  if (sizeBytes === null || fileOffset === null) return null
  const queueCount = view.getUint16(16, true)
  const queueSize = view.getUint16(18, true)
  return { sizeBytes, fileOffset, queueCount, queueSize }
}
