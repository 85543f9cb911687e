/** One HTTP request over a unix socket, and the ways its answer is read. */
import { request as httpRequest } from 'node:http'
import type { ClientRequest, IncomingMessage } from 'node:http'
import { createInterface } from 'node:readline'
import { OperatingError } from '../base/errors.ts'
import { decodeError } from './wire-error.ts'

/** A daemon that has not begun its answer to a look-up by then is not well. */
const ANSWER_TIMEOUT_MS = 30_000

export interface Call {
  method: string
  path: string
  headers: Record<string, string | number>
  /** A JSON text, or bytes that are sent as they come. */
  body: string | AsyncIterable<Uint8Array> | null
  signal?: AbortSignal | undefined
  /** Wait as long as it takes: how long an import or a reclaim needs is nobody's guess. */
  patient: boolean
}

/** Resolves when the head of the answer is there. Rejects `unreachable` or `canceled`. */
export function send(socketPath: string, call: Call): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    if (call.signal?.aborted === true) {
      reject(canceled())
      return
    }
    const request = httpRequest({
      socketPath,
      method: call.method,
      path: call.path,
      headers: { host: 'varve', ...call.headers },
      agent: false,
      ...(call.signal === undefined ? {} : { signal: call.signal }),
    })
    if (!call.patient) {
      request.setTimeout(ANSWER_TIMEOUT_MS, () => {
        request.destroy(new Error(`no answer in ${ANSWER_TIMEOUT_MS / 1000} s`))
      })
    }
    request.on('response', resolve)
    request.on('error', (error) => reject(asUnreachable(socketPath, error, call.signal)))
    if (call.body === null || typeof call.body === 'string') request.end(call.body ?? undefined)
    else upload(request, call.body).catch((error: unknown) => request.destroy(error as Error))
  })
}

/** Stops without a word when the daemon has answered early: its answer says why. */
async function upload(request: ClientRequest, body: AsyncIterable<Uint8Array>): Promise<void> {
  let closed = false
  request.on('close', () => {
    closed = true
    request.emit('drain')
  })
  for await (const bytes of body) {
    if (closed) return
    if (!request.write(bytes)) {
      await new Promise<void>((resolve) => request.once('drain', resolve))
    }
  }
  if (!closed) request.end()
}

export function canceled(): OperatingError {
  return new OperatingError('canceled', 'canceled')
}

export function asUnreachable(
  socketPath: string,
  error: unknown,
  signal: AbortSignal | undefined,
): Error {
  if (signal?.aborted === true) return canceled()
  if (error instanceof OperatingError) return error
  const reason = error instanceof Error ? error.message : String(error)
  return new OperatingError(
    'unreachable',
    `the daemon at ${socketPath} does not answer: ${reason}`,
    {
      hint: 'See the log of `varve serve`; end it and start it again if it hangs.',
      cause: error,
    },
  )
}

/** The whole answer as JSON; an error status rejects with the error it carries. */
export async function readJson(answer: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = []
  for await (const chunk of answer) chunks.push(chunk as Buffer)
  const text = Buffer.concat(chunks).toString()
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    throw decodeError(null)
  }
  if (answer.statusCode !== 200) throw decodeError((value as { error?: unknown } | null)?.error)
  return value
}

/** The answer's lines, each one JSON value. */
export async function* readJsonLines(answer: IncomingMessage): AsyncGenerator {
  const lines = createInterface({ input: answer, crlfDelay: Infinity })
  let failure: unknown = null
  answer.on('error', (error) => {
    failure = error
    lines.close()
  })
  for await (const line of lines) {
    if (line !== '') yield JSON.parse(line) as unknown
  }
  if (failure !== null) throw failure as Error
}
