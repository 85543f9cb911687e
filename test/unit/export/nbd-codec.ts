/** The client's half of the NBD wire format, for tests: from proto.md, not from our server. */
import { strict as assert } from 'node:assert'

const IHAVEOPT = Buffer.from('IHAVEOPT')

export function u16(value: number): Buffer {
  const bytes = Buffer.alloc(2)
  bytes.writeUInt16BE(value)
  return bytes
}

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}

export function u64(value: number | bigint): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64BE(BigInt(value))
  return bytes
}

/** A string behind its length. */
export function string(text: string): Buffer {
  const bytes = Buffer.from(text)
  return Buffer.concat([u32(bytes.length), bytes])
}

export function option(number: number, data: Buffer = Buffer.alloc(0)): Buffer {
  return Buffer.concat([IHAVEOPT, u32(number), u32(data.length), data])
}

/** Data of NBD_OPT_INFO and NBD_OPT_GO. */
export function infoData(exportName: string, infos: number[] = []): Buffer {
  return Buffer.concat([string(exportName), u16(infos.length), ...infos.map(u16)])
}

/** Data of NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT. */
export function contextData(exportName: string, queries: string[]): Buffer {
  return Buffer.concat([string(exportName), u32(queries.length), ...queries.map(string)])
}

export interface OptionReply {
  option: number
  type: number
  data: Buffer
}

/** Decodes a run of option replies; the bytes must be exactly that. */
export function decodeOptionReplies(bytes: Buffer): OptionReply[] {
  const replies: OptionReply[] = []
  let at = 0
  while (at < bytes.length) {
    assert.equal(bytes.readBigUInt64BE(at), 0x3e889045565a9n)
    const length = bytes.readUInt32BE(at + 16)
    assert.ok(at + 20 + length <= bytes.length, 'the reply is complete')
    replies.push({
      option: bytes.readUInt32BE(at + 8),
      type: bytes.readUInt32BE(at + 12),
      data: bytes.subarray(at + 20, at + 20 + length),
    })
    at += 20 + length
  }
  return replies
}

export interface RequestFields {
  type: number
  cookie: bigint
  offset?: number | bigint
  length?: number
  flags?: number
  payload?: Buffer
}

export function request(fields: RequestFields): Buffer {
  const { type, cookie, offset = 0, flags = 0, payload = Buffer.alloc(0) } = fields
  const length = fields.length ?? payload.length
  return Buffer.concat([
    u32(0x25609513),
    u16(flags),
    u16(type),
    u64(cookie),
    u64(offset),
    u32(length),
    payload,
  ])
}

export interface TransmissionReply {
  cookie: bigint
  /** `simple`, or the chunk type. */
  type: 'simple' | number
  isDone: boolean
  error: number
  /** Of a data chunk. */
  offset: number
  data: Buffer
}

/**
 * Decodes a run of replies; the bytes must be exactly that. `simpleReads`: how many bytes follow
 * a successful simple reply to the request of a cookie.
 */
export function decodeReplies(
  bytes: Buffer,
  simpleReads: ReadonlyMap<bigint, number> = new Map(),
): TransmissionReply[] {
  const replies: TransmissionReply[] = []
  let at = 0
  while (at < bytes.length) {
    const magic = bytes.readUInt32BE(at)
    const cookie = bytes.readBigUInt64BE(at + 8)
    if (magic === 0x67446698) {
      const error = bytes.readUInt32BE(at + 4)
      const length = error === 0 ? (simpleReads.get(cookie) ?? 0) : 0
      assert.ok(at + 16 + length <= bytes.length, 'the data is complete')
      const data = bytes.subarray(at + 16, at + 16 + length)
      replies.push({ cookie, type: 'simple', isDone: true, error, offset: 0, data })
      at += 16 + length
      continue
    }
    assert.equal(magic, 0x668e33ef)
    const length = bytes.readUInt32BE(at + 16)
    const payload = bytes.subarray(at + 20, at + 20 + length)
    assert.equal(payload.length, length, 'the chunk is complete')
    replies.push({
      cookie,
      ...decodeChunk(bytes.readUInt16BE(at + 4), bytes.readUInt16BE(at + 6), payload),
    })
    at += 20 + length
  }
  return replies
}

function decodeChunk(
  flags: number,
  type: number,
  payload: Buffer,
): Omit<TransmissionReply, 'cookie'> {
  assert.ok(flags <= 1, 'no flag but DONE')
  const chunk = { type, isDone: flags === 1, error: 0, offset: 0, data: payload }
  if (type === 0) assert.equal(payload.length, 0)
  if (type === 1) {
    chunk.offset = Number(payload.readBigUInt64BE(0))
    chunk.data = payload.subarray(8)
    assert.ok(chunk.data.length > 0, 'a data chunk has data')
  }
  if (type === 0x8001) {
    chunk.error = payload.readUInt32BE(0)
    assert.notEqual(chunk.error, 0)
    assert.equal(payload.length, 6 + payload.readUInt16BE(4))
  }
  return chunk
}

/** Descriptors of a BLOCK_STATUS chunk. */
export function decodeExtents(data: Buffer): { id: number; extents: [number, number][] } {
  const extents: [number, number][] = []
  for (let at = 4; at < data.length; at += 8) {
    extents.push([data.readUInt32BE(at), data.readUInt32BE(at + 4)])
  }
  return { id: data.readUInt32BE(0), extents }
}
