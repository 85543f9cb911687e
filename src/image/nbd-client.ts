/**
 * A client of an NBD server that reads an image for us: structured replies, `base:allocation`,
 * many requests in flight. The server has read a hostile file and may have been taken over by it,
 * so every length of its replies is checked against what was asked for.
 *
 * https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
 */
import { assert } from '../base/assert.ts'
import { OperatingError } from '../base/errors.ts'
import { ByteReceiver } from './byte-receiver.ts'

const OPTION_GO = 7
const OPTION_STRUCTURED_REPLY = 8
const OPTION_SET_META_CONTEXT = 10
const OPTION_ACK = 1
const OPTION_INFO = 3
const OPTION_META_CONTEXT = 4
const OPTION_ERROR = 0x80000000
const INFO_EXPORT = 0

const REQUEST_MAGIC = 0x25609513
const SIMPLE_MAGIC = 0x67446698
const STRUCTURED_MAGIC = 0x668e33ef
const COMMAND_READ = 0
const COMMAND_DISCONNECT = 2
const COMMAND_BLOCK_STATUS = 7

const CHUNK_DONE = 1
const CHUNK_NONE = 0
const CHUNK_DATA = 1
const CHUNK_HOLE = 2
const CHUNK_BLOCK_STATUS = 5
const CHUNK_ERROR = 32768

const ALLOCATION_CONTEXT = 'base:allocation'
/** Hole, or reads as zeros. */
const STATUS_ZERO = 2
/** QEMU sends at most 1 MiB of extents. */
const STATUS_BYTES_MAX = 2097152
const OPTION_REPLY_BYTES_MAX = 65536
const ERROR_BYTES_MAX = 8192

export interface ImageExtent {
  lengthBytes: number
  /** Reads as zeros; nothing to read. */
  zero: boolean
}

interface Pending {
  offsetBytes: number
  lengthBytes: number
  /** Null: not a read. */
  target: Uint8Array | null
  missingBytes: number
  extents: ImageExtent[]
  failure: Error | null
  resolve: () => void
  reject: (error: Error) => void
}

export class NbdClient {
  readonly #receiver: ByteReceiver
  readonly #pending: Map<number, Pending> = new Map()
  readonly #head: Buffer = Buffer.alloc(20)
  #nextCookie = 1
  #failure: Error | null = null
  #sizeBytes = 0

  private constructor(receiver: ByteReceiver) {
    this.#receiver = receiver
  }

  /** Null: nobody listens there yet. Rejects `io` when what listens is not understood. */
  static async tryConnect(socketPath: string): Promise<NbdClient | null> {
    const { promise, resolve } = withResolvers<Error | null>()
    const receiver = new ByteReceiver(socketPath, resolve)
    if ((await promise) !== null) {
      receiver.destroy()
      return null
    }
    const client = new NbdClient(receiver)
    try {
      await client.#negotiate()
    } catch (error) {
      receiver.destroy()
      throw error
    }
    void client.#receive().catch((error: unknown) => client.#fail(error as Error))
    return client
  }

  get sizeBytes(): number {
    return this.#sizeBytes
  }

  /** Fills `target` from `offsetBytes`; rejects `io`. */
  async read(offsetBytes: number, target: Uint8Array): Promise<void> {
    assert(offsetBytes + target.length <= this.#sizeBytes, 'a read ends within the image')
    await this.#request(COMMAND_READ, offsetBytes, target.length, target)
  }

  /** At least one extent from `offsetBytes` on, covering at most `lengthBytes`. */
  async extents(offsetBytes: number, lengthBytes: number): Promise<ImageExtent[]> {
    const { extents } = await this.#request(COMMAND_BLOCK_STATUS, offsetBytes, lengthBytes, null)
    if (extents.length === 0) throw notUnderstood('no extents')
    return extents
  }

  /** Says goodbye, on which the server ends. */
  close(): void {
    this.#send(COMMAND_DISCONNECT, 0, 0, 0)
    this.#receiver.destroy()
  }

  async #negotiate(): Promise<void> {
    const receiver = this.#receiver
    const greeting = await receiver.take(18)
    if (greeting.toString('latin1', 0, 16) !== 'NBDMAGICIHAVEOPT') throw notUnderstood('greeting')
    const flags = Buffer.alloc(4)
    flags.writeUInt32BE(3)
    receiver.send(flags)
    await this.#option(OPTION_STRUCTURED_REPLY, Buffer.alloc(0))
    const context = Buffer.from(ALLOCATION_CONTEXT)
    const query = Buffer.alloc(12 + context.length)
    query.writeUInt32BE(1, 4)
    query.writeUInt32BE(context.length, 8)
    context.copy(query, 12)
    const contexts = await this.#option(OPTION_SET_META_CONTEXT, query)
    if (!contexts.some(({ type }) => type === OPTION_META_CONTEXT)) throw notUnderstood('contexts')
    for (const { type, data } of await this.#option(OPTION_GO, Buffer.alloc(6))) {
      if (type !== OPTION_INFO || data.length < 10 || data.readUInt16BE(0) !== INFO_EXPORT) continue
      const sizeBytes = Number(data.readBigUInt64BE(2))
      if (!Number.isSafeInteger(sizeBytes)) throw notUnderstood('a size')
      this.#sizeBytes = sizeBytes
    }
  }

  async #option(option: number, data: Buffer): Promise<{ type: number; data: Buffer }[]> {
    const head = Buffer.alloc(16)
    head.write('IHAVEOPT', 0, 'latin1')
    head.writeUInt32BE(option, 8)
    head.writeUInt32BE(data.length, 12)
    this.#receiver.send(Buffer.concat([head, data]))
    const replies: { type: number; data: Buffer }[] = []
    while (replies.length < 64) {
      const reply = await this.#receiver.take(20)
      const type = reply.readUInt32BE(12)
      const lengthBytes = reply.readUInt32BE(16)
      if (lengthBytes > OPTION_REPLY_BYTES_MAX) throw notUnderstood('the length of a reply')
      const body = await this.#receiver.take(lengthBytes)
      if (type === OPTION_ACK) return replies
      if (type >= OPTION_ERROR) throw notUnderstood(`a refusal of option ${option}`)
      replies.push({ type, data: body })
    }
    throw notUnderstood('replies without end')
  }

  #request(
    command: number,
    offsetBytes: number,
    lengthBytes: number,
    target: Uint8Array | null,
  ): Promise<Pending> {
    if (this.#failure !== null) return Promise.reject(this.#failure)
    const cookie = this.#nextCookie
    this.#nextCookie = (cookie % 0xffffffff) + 1
    const { promise, resolve, reject } = withResolvers<Pending>()
    const missingBytes = target === null ? 0 : lengthBytes
    const pending: Pending = {
      offsetBytes,
      lengthBytes,
      target,
      missingBytes,
      extents: [],
      failure: null,
      resolve: () => resolve(pending),
      reject,
    }
    this.#pending.set(cookie, pending)
    this.#send(command, cookie, offsetBytes, lengthBytes)
    return promise
  }

  #send(command: number, cookie: number, offsetBytes: number, lengthBytes: number): void {
    const header = Buffer.alloc(28)
    header.writeUInt32BE(REQUEST_MAGIC, 0)
    header.writeUInt16BE(command, 6)
    header.writeUInt32BE(cookie, 12)
    header.writeBigUInt64BE(BigInt(offsetBytes), 16)
    header.writeUInt32BE(lengthBytes, 24)
    this.#receiver.send(header)
  }

  async #receive(): Promise<never> {
    const head = this.#head
    for (;;) {
      await this.#receiver.fill(head.subarray(0, 16))
      const magic = head.readUInt32BE(0)
      const isSimple = magic === SIMPLE_MAGIC
      if (!isSimple && magic !== STRUCTURED_MAGIC) throw notUnderstood('a reply')
      const cookie = head.readUInt32BE(12)
      const pending = this.#pending.get(cookie)
      if (pending === undefined) throw notUnderstood('a reply to nothing')
      let isDone = true
      if (isSimple) {
        const errno = head.readUInt32BE(4)
        if (errno === 0) throw notUnderstood('a simple reply')
        pending.failure = failed(pending, errno, '')
      } else {
        await this.#receiver.fill(head.subarray(16, 20))
        isDone = (head.readUInt16BE(4) & CHUNK_DONE) !== 0
        await this.#chunk(pending, head.readUInt16BE(6), head.readUInt32BE(16))
      }
      if (isDone) {
        this.#pending.delete(cookie)
        finish(pending)
      }
    }
  }

  async #chunk(pending: Pending, type: number, lengthBytes: number): Promise<void> {
    if (type === CHUNK_NONE && lengthBytes === 0) return
    if (type === CHUNK_DATA && lengthBytes > 8) {
      const offset = await this.#offset()
      await this.#receiver.fill(rangeOf(pending, offset, lengthBytes - 8))
    } else if (type === CHUNK_HOLE && lengthBytes === 12) {
      const offset = await this.#offset()
      const hole = await this.#receiver.take(4)
      rangeOf(pending, offset, hole.readUInt32BE(0)).fill(0)
    } else if (type === CHUNK_BLOCK_STATUS) {
      await this.#status(pending, lengthBytes)
    } else if (type >= CHUNK_ERROR && lengthBytes >= 6 && lengthBytes <= ERROR_BYTES_MAX) {
      const body = await this.#receiver.take(lengthBytes)
      const textEnd = Math.min(6 + body.readUInt16BE(4), body.length)
      pending.failure = failed(pending, body.readUInt32BE(0), body.toString('latin1', 6, textEnd))
    } else {
      throw notUnderstood(`a chunk of type ${type}`)
    }
  }

  async #offset(): Promise<number> {
    return Number((await this.#receiver.take(8)).readBigUInt64BE(0))
  }

  async #status(pending: Pending, lengthBytes: number): Promise<void> {
    const isFit = pending.target === null && lengthBytes <= STATUS_BYTES_MAX
    if (!isFit || lengthBytes % 8 !== 4) throw notUnderstood('a block status')
    const body = await this.#receiver.take(lengthBytes)
    let left = pending.lengthBytes
    for (let at = 4; at < body.length && left > 0; at += 8) {
      // The last one may reach past what was asked about.
      const step = Math.min(body.readUInt32BE(at), left)
      if (step === 0) throw notUnderstood('an empty extent')
      const zero = (body.readUInt32BE(at + 4) & STATUS_ZERO) !== 0
      left -= step
      const last = pending.extents.at(-1)
      if (last?.zero === zero) last.lengthBytes += step
      else pending.extents.push({ lengthBytes: step, zero })
    }
  }

  #fail(error: Error): void {
    this.#failure ??= error
    for (const pending of this.#pending.values()) pending.reject(this.#failure)
    this.#pending.clear()
    this.#receiver.destroy()
  }
}

function finish(pending: Pending): void {
  if (pending.failure !== null) pending.reject(pending.failure)
  else if (pending.missingBytes > 0) pending.reject(notUnderstood('a short read'))
  else pending.resolve()
}

/** Chunks do not overlap, so that their lengths add up to the read's when all have come. */
function rangeOf(pending: Pending, offsetBytes: number, lengthBytes: number): Uint8Array {
  const start = offsetBytes - pending.offsetBytes
  const { target } = pending
  if (target === null || start < 0 || start + lengthBytes > target.length) {
    throw notUnderstood('data that was not asked for')
  }
  pending.missingBytes -= lengthBytes
  return target.subarray(start, start + lengthBytes)
}

function failed(pending: Pending, errno: number, text: string): OperatingError {
  const said = text === '' ? `error ${errno}` : text.replaceAll(/[^\x20-\x7e]/g, '?')
  return new OperatingError(
    'io',
    `QEMU cannot read the image at ${pending.offsetBytes}: ${said.slice(0, 300)}`,
    { errno, hint: 'The image may be damaged: look at it with `qemu-img check`.' },
  )
}

function notUnderstood(what: string): OperatingError {
  return new OperatingError('io', `QEMU sent what is not understood: ${what}`)
}

function withResolvers<T>(): {
  promise: Promise<T>
  resolve: (value: T) => void
  reject: (error: Error) => void
} {
  let resolve: (value: T) => void = () => undefined
  let reject: (error: Error) => void = () => undefined
  const promise = new Promise<T>((onResolve, onReject) => {
    resolve = onResolve
    reject = onReject
  })
  return { promise, resolve, reject }
}
