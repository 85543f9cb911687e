/**
 * What the control socket's clients may take. They are the owner's and so trusted to mean well,
 * but not to be free of mistakes: a loop that asks without waiting must not take the memory that
 * guests are served from.
 */
import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import { OperatingError } from '../base/errors.ts'

/** Further ones are disconnected at once. */
const CONNECTION_COUNT_MAX = 256
/** Begun and not yet answered, however many connections they came on. */
export const REQUEST_COUNT_MAX = 64
/** From the first byte to the end of the head. */
const HEADERS_TIMEOUT_MS = 10_000
const HEADERS_CHECK_INTERVAL_MS = 2000
/** For a body of JSON to arrive; an image that is uploaded takes as long as it takes. */
const BODY_TIMEOUT_MS = 30_000

/** For `createServer`. */
export const SERVER_OPTIONS: { connectionsCheckingInterval: number } = {
  connectionsCheckingInterval: HEADERS_CHECK_INTERVAL_MS,
}

export class ControlLimits {
  readonly #headersTimeoutMs: number
  readonly #bodyTimeoutMs: number
  #requestCount = 0

  constructor(
    headersTimeoutMs: number = HEADERS_TIMEOUT_MS,
    bodyTimeoutMs: number = BODY_TIMEOUT_MS,
  ) {
    this.#headersTimeoutMs = headersTimeoutMs
    this.#bodyTimeoutMs = bodyTimeoutMs
  }

  /** `onTrouble` is told what went wrong while accepting: the process may be out of descriptors. */
  guard(server: Server, onTrouble: (error: Error) => void): void {
    server.maxConnections = CONNECTION_COUNT_MAX
    // An import takes as long as it takes; bodies of other requests are timed by `tryAdmit`.
    server.requestTimeout = 0
    server.headersTimeout = this.#headersTimeoutMs
    server.on('error', onTrouble)
  }

  /** Counts a request until its answer is over; returns why it is refused, or null. */
  tryAdmit(
    incoming: IncomingMessage,
    outgoing: ServerResponse,
    isUpload: boolean,
  ): OperatingError | null {
    if (this.#requestCount >= REQUEST_COUNT_MAX) {
      return new OperatingError('busy', `${REQUEST_COUNT_MAX} requests are being answered`, {
        hint: 'Wait for answers before asking more.',
      })
    }
    this.#requestCount += 1
    outgoing.once('close', () => {
      this.#requestCount -= 1
    })
    if (!isUpload) this.#timeBody(incoming, outgoing)
    return null
  }

  #timeBody(incoming: IncomingMessage, outgoing: ServerResponse): void {
    if (incoming.complete) return
    const timer = setTimeout(() => {
      if (!incoming.complete) incoming.destroy()
    }, this.#bodyTimeoutMs)
    timer.unref()
    outgoing.once('close', () => clearTimeout(timer))
  }
}
