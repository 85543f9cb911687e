/** A hostile client's end of a real connection; the judge sees what the kernel delivers. */
import { once } from 'node:events'
import { connect } from 'node:net'
import type { NetConnectOpts, Socket } from 'node:net'
import type { ClientEnd } from './nbd-session.ts'

export class NetEnd implements ClientEnd {
  readonly #socket: Socket
  #parts: Buffer[] = []
  #isOver = false
  /** The connection was torn down: what was still on its way may be lost. */
  isReset = false
  #wake: () => void = () => undefined

  private constructor(socket: Socket) {
    this.#socket = socket
    socket.on('data', (part: Buffer) => {
      this.#parts.push(part)
      this.#wake()
    })
    socket.on('error', () => (this.isReset = true))
    const over = (): void => {
      this.#isOver = true
      this.#wake()
    }
    socket.on('end', over)
    socket.on('close', over)
  }

  static async connect(options: NetConnectOpts): Promise<NetEnd> {
    const socket = connect({ ...options, allowHalfOpen: true, noDelay: true })
    await once(socket, 'connect')
    return new NetEnd(socket)
  }

  send(bytes: Uint8Array): void {
    if (bytes.length > 0 && this.#socket.writable) this.#socket.write(bytes)
  }

  async receive(): Promise<Uint8Array> {
    while (this.#parts.length === 0 && !this.#isOver) {
      await new Promise<void>((resolve) => (this.#wake = resolve))
    }
    const parts = this.#parts
    this.#parts = []
    return Buffer.concat(parts)
  }

  end(): void {
    if (this.#socket.writable) this.#socket.end()
  }

  close(): void {
    this.#socket.destroy()
  }
}
