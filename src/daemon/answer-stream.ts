/** The answer of a long operation, written as it happens: JSON Lines, or frames. */
import type { ServerResponse } from 'node:http'
import type { ByteOutput } from '../api/service.ts'
import {
  FRAME_DATA,
  FRAME_PAYLOAD_BYTES_MAX,
  encodeFrameHeader,
  encodeJsonFrame,
} from '../api/frames.ts'
import { OperatingError } from '../base/errors.ts'

/** Ten lines a second are enough for any progress bar. */
const PROGRESS_INTERVAL_MS = 100

export class AnswerStream {
  readonly #response: ServerResponse
  readonly #framed: boolean
  readonly #abort = new AbortController()
  #lastProgressMs = -Infinity

  constructor(response: ServerResponse, framed: boolean) {
    this.#response = response
    this.#framed = framed
    response.on('close', () => {
      if (!response.writableFinished) this.#abort.abort()
    })
    const type = framed ? 'application/vnd.varve.frames' : 'application/jsonl'
    response.writeHead(200, { 'content-type': type, 'cache-control': 'no-store' })
    response.flushHeaders()
  }

  /** Aborted when the client goes away before the answer is whole. */
  get signal(): AbortSignal {
    return this.#abort.signal
  }

  async event(event: unknown): Promise<void> {
    await this.#write(this.#framed ? encodeJsonFrame(event) : `${JSON.stringify(event)}\n`)
  }

  /** Tells the newest progress, not every one; never waits. */
  progress(progress: unknown): void {
    const nowMs = performance.now()
    const soon = nowMs - this.#lastProgressMs < PROGRESS_INTERVAL_MS
    if (soon || this.#response.writableNeedDrain || this.#response.destroyed) return
    this.#lastProgressMs = nowMs
    const event = { progress }
    this.#response.write(this.#framed ? encodeJsonFrame(event) : `${JSON.stringify(event)}\n`)
  }

  /** The image's bytes as frames. */
  output(): ByteOutput {
    return {
      data: async (bytes) => {
        for (let at = 0; at < bytes.length; at += FRAME_PAYLOAD_BYTES_MAX) {
          const part = bytes.subarray(at, at + FRAME_PAYLOAD_BYTES_MAX)
          this.#response.write(encodeFrameHeader(FRAME_DATA, part.length))
          await this.#writeOut(part)
        }
      },
      zeros: (lengthBytes) => this.#write(encodeJsonFrame({ zeros: lengthBytes })),
    }
  }

  end(): Promise<void> {
    return new Promise((resolve) => {
      if (this.#response.destroyed) resolve()
      else this.#response.end(resolve)
    })
  }

  /** Returns early while the socket takes it; waits for room otherwise. */
  async #write(bytes: string | Buffer): Promise<void> {
    this.#throwIfGone()
    if (this.#response.write(bytes)) return
    await new Promise<void>((resolve) => {
      const done = (): void => {
        this.#response.off('drain', done)
        this.#response.off('close', done)
        resolve()
      }
      this.#response.on('drain', done)
      this.#response.on('close', done)
    })
    this.#throwIfGone()
  }

  /** Resolves when the bytes have left: their memory belongs to the caller. */
  async #writeOut(bytes: Uint8Array): Promise<void> {
    this.#throwIfGone()
    const failure = await new Promise<Error | null | undefined>((resolve) => {
      this.#response.write(bytes, resolve)
    })
    if (failure !== null && failure !== undefined) throw this.#gone()
  }

  #throwIfGone(): void {
    if (this.#response.destroyed || this.#abort.signal.aborted) throw this.#gone()
  }

  #gone(): OperatingError {
    return new OperatingError('canceled', 'the client went away')
  }
}
