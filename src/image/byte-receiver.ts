/** Bytes of a socket into the memory of whoever waits for them: copied once, never queued. */
import { connect } from 'node:net'
import type { Socket } from 'node:net'
import { OperatingError } from '../base/errors.ts'

const RECEIVE_BYTES = 262144

export class ByteReceiver {
  readonly #socket: Socket
  /** Received and not yet taken; a view of the one receive buffer, while the socket is paused. */
  #rest: Uint8Array = new Uint8Array(0)
  #wanted: Uint8Array | null = null
  #filledBytes = 0
  #settle: { resolve: () => void; reject: (error: Error) => void } | null = null
  #failure: Error | null = null

  constructor(path: string, opened: (error: Error | null) => void) {
    this.#socket = connect({
      path,
      onread: {
        buffer: Buffer.allocUnsafeSlow(RECEIVE_BYTES),
        callback: (lengthBytes, buffer) => this.#received(buffer.subarray(0, lengthBytes)),
      },
    })
    this.#socket.on('connect', () => opened(null))
    this.#socket.on('error', (error) => {
      opened(error)
      this.#fail(new OperatingError('io', `the connection to QEMU broke: ${error.message}`))
    })
    this.#socket.on('close', () => this.#fail(new OperatingError('io', 'QEMU hung up')))
  }

  /** Resolves when `target` is full. One at a time. */
  fill(target: Uint8Array): Promise<void> {
    if (this.#failure !== null) return Promise.reject(this.#failure)
    this.#wanted = target
    this.#filledBytes = 0
    return new Promise((resolve, reject) => {
      this.#settle = { resolve, reject }
      const rest = this.#rest
      this.#rest = new Uint8Array(0)
      if (rest.length === 0 || this.#received(rest)) this.#socket.resume()
    })
  }

  async take(lengthBytes: number): Promise<Buffer> {
    const buffer = Buffer.alloc(lengthBytes)
    if (lengthBytes > 0) await this.fill(buffer)
    return buffer
  }

  send(bytes: Uint8Array): void {
    if (this.#failure === null) this.#socket.write(bytes)
  }

  destroy(): void {
    this.#socket.destroy()
  }

  #fail(error: Error): void {
    this.#failure ??= error
    this.#settle?.reject(this.#failure)
    this.#settle = null
  }

  /** False: no more until somebody wants it, and then this buffer first. */
  #received(bytes: Uint8Array): boolean {
    const wanted = this.#wanted
    if (wanted === null) {
      this.#rest = bytes
      this.#socket.pause()
      return false
    }
    const step = Math.min(bytes.length, wanted.length - this.#filledBytes)
    wanted.set(bytes.subarray(0, step), this.#filledBytes)
    this.#filledBytes += step
    if (this.#filledBytes < wanted.length) return true
    this.#wanted = null
    const settle = this.#settle
    this.#settle = null
    settle?.resolve()
    if (step === bytes.length) return true
    return this.#received(bytes.subarray(step))
  }
}
