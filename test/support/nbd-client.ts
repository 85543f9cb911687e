/**
 * A small NBD client over a unix socket, for tests that must know exactly when each request was
 * answered. Fixed newstyle, simple replies, many requests in flight.
 */
import { connect } from 'node:net'
import type { Socket } from 'node:net'

const OPTION_GO = 7
const REPLY_ACK = 1
const REPLY_ERROR = 0x80000000
const SIMPLE_REPLY_MAGIC = 0x67446698
const REQUEST_MAGIC = 0x25609513
export const FLAG_FUA = 1

const COMMAND = { read: 0, write: 1, disconnect: 2, flush: 3, trim: 4 } as const

interface Pending {
  lengthBytes: number
  resolve: (data: Buffer) => void
  reject: (error: Error) => void
}

export class NbdClient {
  readonly #socket: Socket
  readonly #pending: Map<number, Pending> = new Map()
  #received: Buffer[] = []
  #receivedBytes = 0
  #wanted: (Pick<Pending, 'reject' | 'resolve'> & { lengthBytes: number }) | null = null
  #nextCookie = 1
  #failure: Error | null = null

  private constructor(socket: Socket) {
    this.#socket = socket
    socket.on('data', (bytes: Buffer) => {
      this.#received.push(bytes)
      this.#receivedBytes += bytes.length
      this.#serve()
    })
    socket.on('error', (error) => this.#fail(error))
    socket.on('close', () => this.#fail(new Error('the server hung up')))
  }

  static async connect(socketPath: string, exportName: string): Promise<NbdClient> {
    const socket = connect(socketPath)
    await new Promise((resolve, reject) => {
      socket.once('connect', resolve)
      socket.once('error', reject)
    })
    const client = new NbdClient(socket)
    await client.#handshake(exportName)
    void client.#receiveReplies().catch((error: unknown) => client.#fail(error as Error))
    return client
  }

  read(offsetBytes: number, lengthBytes: number): Promise<Buffer> {
    return this.#request(COMMAND.read, 0, offsetBytes, lengthBytes, null)
  }

  async write(offsetBytes: number, data: Buffer, flags = 0): Promise<void> {
    await this.#request(COMMAND.write, flags, offsetBytes, data.length, data)
  }

  async trim(offsetBytes: number, lengthBytes: number, flags = 0): Promise<void> {
    await this.#request(COMMAND.trim, flags, offsetBytes, lengthBytes, null)
  }

  async flush(): Promise<void> {
    await this.#request(COMMAND.flush, 0, 0, 0, null)
  }

  close(): void {
    this.#socket.destroy()
  }

  async #handshake(exportName: string): Promise<void> {
    await this.#take(18)
    const flags = Buffer.alloc(4)
    flags.writeUInt32BE(3)
    this.#socket.write(flags)
    const name = Buffer.from(exportName)
    const option = Buffer.alloc(16 + 4 + name.length + 2)
    option.write('IHAVEOPT', 0, 'latin1')
    option.writeUInt32BE(OPTION_GO, 8)
    option.writeUInt32BE(4 + name.length + 2, 12)
    option.writeUInt32BE(name.length, 16)
    name.copy(option, 20)
    this.#socket.write(option)
    for (;;) {
      const reply = await this.#take(20)
      const type = reply.readUInt32BE(12)
      const data = await this.#take(reply.readUInt32BE(16))
      if (type === REPLY_ACK) return
      if (type >= REPLY_ERROR)
        throw new Error(`the server refuses ${exportName}: ${data.toString()}`)
    }
  }

  #request(
    command: number,
    flags: number,
    offsetBytes: number,
    lengthBytes: number,
    data: Buffer | null,
  ): Promise<Buffer> {
    if (this.#failure !== null) return Promise.reject(this.#failure)
    const cookie = this.#nextCookie
    this.#nextCookie += 1
    const header = Buffer.alloc(28)
    header.writeUInt32BE(REQUEST_MAGIC, 0)
    header.writeUInt16BE(flags, 4)
    header.writeUInt16BE(command, 6)
    header.writeUInt32BE(cookie, 12)
    header.writeBigUInt64BE(BigInt(offsetBytes), 16)
    header.writeUInt32BE(lengthBytes, 24)
    this.#socket.write(data === null ? header : Buffer.concat([header, data]))
    return new Promise((resolve, reject) => {
      const replyBytes = command === COMMAND.read ? lengthBytes : 0
      this.#pending.set(cookie, { lengthBytes: replyBytes, resolve, reject })
    })
  }

  async #receiveReplies(): Promise<void> {
    for (;;) {
      const reply = await this.#take(16)
      if (reply.readUInt32BE(0) !== SIMPLE_REPLY_MAGIC) throw new Error('a reply without magic')
      const cookie = reply.readUInt32BE(12)
      const pending = this.#pending.get(cookie)
      if (pending === undefined) throw new Error(`a reply to nothing: ${cookie}`)
      this.#pending.delete(cookie)
      const errno = reply.readUInt32BE(4)
      if (errno !== 0) pending.reject(new Error(`NBD error ${errno}`))
      else pending.resolve(await this.#take(pending.lengthBytes))
    }
  }

  #take(lengthBytes: number): Promise<Buffer> {
    if (this.#failure !== null) return Promise.reject(this.#failure)
    return new Promise((resolve, reject) => {
      this.#wanted = { lengthBytes, resolve, reject }
      this.#serve()
    })
  }

  #serve(): void {
    const wanted = this.#wanted
    if (wanted === null || this.#receivedBytes < wanted.lengthBytes) return
    const all = Buffer.concat(this.#received)
    this.#wanted = null
    this.#received = [all.subarray(wanted.lengthBytes)]
    this.#receivedBytes = all.length - wanted.lengthBytes
    wanted.resolve(all.subarray(0, wanted.lengthBytes))
  }

  #fail(error: Error): void {
    this.#failure ??= error
    this.#wanted?.reject(this.#failure)
    this.#wanted = null
    for (const pending of this.#pending.values()) pending.reject(this.#failure)
    this.#pending.clear()
  }
}
