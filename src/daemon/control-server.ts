/**
 * The API on a unix socket that only its owner may use, and root: whoever can use it reads and
 * writes files as the daemon. Requests are validated whole before any
 * of them is carried out; see `api/operations.ts` for the contract.
 */
import { rm } from 'node:fs/promises'
import type { IncomingMessage, Server } from 'node:http'
import type { Socket } from 'node:net'
import { createAdaptorServer } from '@hono/node-server'
import type { HttpBindings } from '@hono/node-server'
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response'
import { Hono } from 'hono'
import type { Context } from 'hono'
import { bodyLimit } from 'hono/body-limit'
import type { ContentfulStatusCode } from 'hono/utils/http-status'
import type { z } from 'zod'
import {
  API_PREFIX,
  JSON_BODY_BYTES_MAX,
  STREAMING_OPERATIONS,
  UNARY_OPERATIONS,
} from '../api/operations.ts'
import type {
  StreamingOperations,
  UnaryOperations,
  UnaryRequest,
  UnaryResult,
} from '../api/operations.ts'
import type { PoolService } from '../api/service.ts'
import type { DiffExtent, UsageProgress } from '../api/shapes.ts'
import { encodeError, statusOf } from '../api/wire-error.ts'
import { OperatingError } from '../base/errors.ts'
import { describePeer, identityOfStream } from '../io/peer-identity.ts'
import { bindForOwner, setSocketMode } from '../io/socket-mode.ts'
import { tryLoadBinding } from '../native/binding.ts'
import { isOwner } from './access-rules.ts'
import { AnswerStream } from './answer-stream.ts'
import { ControlLimits, SERVER_OPTIONS } from './control-limits.ts'

/** sun_path of a unix socket address, less its NUL. */
const SOCKET_PATH_BYTES_MAX = 107
/** Of extents in one line of a diff. */
const DIFF_BATCH_COUNT = 256

/** Streaming operations whose request is a JSON body. */
const JSON_STREAMS = [
  'diff',
  'reclaim',
  'settle',
  'scrub',
  'usage',
  'planRemoval',
  'export',
] as const

type Env = { Bindings: HttpBindings }

/** What the server needs of a logger; pino is one. */
export interface ControlLog {
  info(fields: Record<string, unknown>, message: string): void
  warn(fields: Record<string, unknown>, message: string): void
  error(fields: Record<string, unknown>, message: string): void
}

type UnaryHandlers = {
  readonly [K in keyof UnaryOperations]: (
    service: PoolService,
    request: UnaryRequest<K>,
  ) => Promise<UnaryResult<K>>
}

async function nothing(done: Promise<void>): Promise<null> {
  await done
  return null
}

const UNARY: UnaryHandlers = {
  status: (service) => service.status(),
  info: (service) => service.info(),
  volumes: (service) => service.volumes(),
  volume: (service, { name }) => service.volume(name),
  create: (service, request) => service.create(request),
  snapshot: (service, { names }) => service.snapshot(names),
  clone: (service, { source, names }) => service.clone(source, names),
  restore: (service, { name }) => service.restore(name),
  remove: (service, request) => service.remove(request),
  rename: (service, { from, to }) => nothing(service.rename(from, to)),
  scrubStatus: (service) => service.scrubStatus(),
  upkeep: (service, { isPaused }) => service.upkeep(isPaused),
  resize: (service, request) => service.resize(request),
  hold: (service, { name, tag }) => nothing(service.hold(name, tag)),
  release: (service, { name, tag }) => nothing(service.release(name, tag)),
  attach: (service, request) => service.attach(request),
  detach: (service, { target }) => service.detach(target),
  devices: (service) => service.devices(),
  mount: (service, request) => service.mount(request),
  umount: (service, { target }) => service.umount(target),
  mkfs: (service, request) => service.mkfs(request),
  fuseMount: (service, request) => service.fuseMount(request),
  fuseUnmount: (service, { path, force }) => nothing(service.fuseUnmount(path, force)),
  exportSocket: (service, request) => service.exportSocket(request),
  withdrawSocket: (service, { name }) => service.withdrawSocket(name),
}

type StreamingHandlers = {
  readonly [K in keyof StreamingOperations]: (
    service: PoolService,
    request: z.output<StreamingOperations[K]['request']>,
    answer: AnswerStream,
    signal: AbortSignal,
    incoming: IncomingMessage,
  ) => Promise<z.output<StreamingOperations[K]['result']>>
}

const STREAMING: StreamingHandlers = {
  diff: async (service, { from, to }, answer, signal) => {
    let items: DiffExtent[] = []
    for await (const extent of service.diff(from, to, signal)) {
      items.push(extent)
      if (items.length < DIFF_BATCH_COUNT) continue
      await answer.event({ items })
      items = []
    }
    if (items.length > 0) await answer.event({ items })
    return null
  },
  reclaim: (service, _request, answer, signal) =>
    service.reclaim({ signal, progress: (progress) => answer.progress(progress) }),
  settle: (service, request, answer, signal) =>
    service.settle(request, { signal, progress: (progress) => answer.progress(progress) }),
  scrub: (service, request, answer, signal) =>
    service.scrub(request, { signal, progress: (progress) => answer.progress(progress) }),
  usage: (service, request, answer, signal) =>
    service.usage(request, { signal, progress: (progress) => answer.progress(progress) }),
  planRemoval: (service, request, answer, signal) => {
    const progress = (made: UsageProgress): void => answer.progress(made)
    return service.remove({ ...request, dryRun: true }, { signal, progress })
  },
  import: (service, request, answer, signal, incoming) =>
    service.importImage(request, {
      signal,
      progress: (progress) => answer.progress(progress),
      // Ending early must not end the connection: the answer still has to go through it.
      input: incoming.iterator({ destroyOnReturn: false }) as AsyncIterable<Uint8Array>,
    }),
  export: (service, request, answer, signal) =>
    service.exportImage(request, {
      signal,
      progress: (progress) => answer.progress(progress),
      output: answer.output(),
    }),
}

function validate<T>(schema: z.ZodType<T>, value: unknown): T {
  const parsed = schema.safeParse(value)
  if (parsed.success) return parsed.data
  const [issue] = parsed.error.issues
  const where = issue.path.length === 0 ? 'the request' : issue.path.join('.')
  throw new OperatingError('usage', `${where}: ${issue.message}`, {
    hint: 'Check that `varve` and the running daemon are of the same version.',
  })
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (error) {
    throw new OperatingError('usage', 'the request is not JSON', { cause: error })
  }
}

/**
 * Lets what the client is still sending run to nowhere until it has read its answer and stops:
 * closing the connection first could take the answer away from it.
 */
function drained(incoming: IncomingMessage): Promise<void> {
  return new Promise((resolve) => {
    if (incoming.readableEnded || incoming.destroyed) {
      resolve()
      return
    }
    incoming.on('end', resolve)
    incoming.on('close', resolve)
    incoming.resume()
  })
}

export class ControlServer {
  readonly #service: PoolService
  readonly #log: ControlLog
  readonly #path: string
  readonly #server: Server
  readonly #stopping = new AbortController()
  readonly #running = new Set<Promise<unknown>>()
  readonly #limits: ControlLimits

  /** `path` is the socket's; whoever holds the pool's lock may take it from a dead daemon. */
  static async start(
    path: string,
    service: PoolService,
    log: ControlLog,
    limits: ControlLimits = new ControlLimits(),
  ): Promise<ControlServer> {
    if (Buffer.byteLength(path) > SOCKET_PATH_BYTES_MAX) {
      throw new OperatingError('unsupported', `a socket path may have 107 bytes: ${path}`, {
        hint: 'Use a pool whose path is shorter, or reach it through a symbolic link.',
      })
    }
    await rm(path, { force: true })
    const server = new ControlServer(path, service, log, limits)
    await server.#listen()
    return server
  }

  private constructor(path: string, service: PoolService, log: ControlLog, limits: ControlLimits) {
    this.#path = path
    this.#service = service
    this.#log = log
    this.#limits = limits
    const app = this.#routes()
    this.#server = createAdaptorServer({
      fetch: app.fetch,
      serverOptions: SERVER_OPTIONS,
    }) as Server
    // Before anything that it sends is looked at.
    this.#server.prependListener('connection', (socket: Socket) => this.#meet(socket))
    limits.guard(this.#server, ({ message }) => {
      log.warn({ reason: message }, 'the control socket could not accept a client')
    })
  }

  /** Takes no more requests, cancels the long ones, and waits for all of them. Idempotent. */
  async close(): Promise<void> {
    this.#stopping.abort()
    const closed = new Promise<void>((resolve) => {
      this.#server.close(() => resolve())
    })
    while (this.#running.size > 0) await Promise.allSettled(this.#running)
    this.#server.closeAllConnections()
    await closed
    await rm(this.#path, { force: true })
  }

  async #listen(): Promise<void> {
    try {
      await new Promise<void>((resolve, reject) => {
        this.#server.once('error', reject)
        bindForOwner(() => this.#server.listen(this.#path, resolve))
      })
    } catch (error) {
      throw new OperatingError('io', `cannot listen on ${this.#path}`, { cause: error })
    }
    await setSocketMode(this.#path, 0o600)
  }

  /** The mode of the socket keeps others out; should somebody widen it, this does. */
  #meet(socket: Socket): void {
    const peer = identityOfStream(socket, tryLoadBinding())
    if (isOwner(peer)) return
    socket.destroy()
    this.#log.warn({ peer: describePeer(peer) }, 'refused: only the owner and root may control')
  }

  #routes(): Hono<Env> {
    const app = new Hono<Env>()
    app.use(async (c, next): Promise<Response | undefined> => {
      const { incoming, outgoing } = c.env
      const isUpload = c.req.path === `${API_PREFIX}/import`
      const refusal = this.#limits.tryAdmit(incoming, outgoing, isUpload)
      if (refusal === null) {
        await next()
        return undefined
      }
      // Without a word in the log: there could be thousands.
      const wire = encodeError(refusal)
      return c.json({ error: wire }, statusOf(wire) as ContentfulStatusCode)
    })
    const limit = bodyLimit({
      maxSize: JSON_BODY_BYTES_MAX,
      onError: (c: Context<Env>) =>
        this.#refuse(c, new OperatingError('usage', 'the request is too large')),
    })
    for (const name of Object.keys(UNARY_OPERATIONS) as (keyof UnaryOperations)[]) {
      const { method } = UNARY_OPERATIONS[name]
      app.on(method, `${API_PREFIX}/${name}`, limit, (c) => this.#track(this.#unary(c, name)))
    }
    for (const name of JSON_STREAMS) {
      app.post(`${API_PREFIX}/${name}`, limit, async (c) => {
        return this.#track(this.#streaming(c, name, () => c.req.text()))
      })
    }
    app.post(`${API_PREFIX}/import`, (c) => {
      const request = c.req.query('request') ?? ''
      return this.#track(this.#streaming(c, 'import', () => Promise.resolve(request)))
    })
    app.notFound((c) => {
      return this.#refuse(
        c,
        new OperatingError('usage', `there is no ${c.req.method} ${c.req.path}`),
      )
    })
    app.onError((error, c) => this.#refuse(c, error))
    return app
  }

  #track(answer: Promise<Response>): Promise<Response> {
    this.#running.add(answer)
    const done = (): void => {
      this.#running.delete(answer)
    }
    answer.then(done, done)
    return answer
  }

  async #unary<K extends keyof UnaryOperations>(c: Context<Env>, name: K): Promise<Response> {
    try {
      this.#throwIfStopping()
      const operation = UNARY_OPERATIONS[name]
      const value = operation.method === 'GET' ? {} : parseJson(await c.req.text())
      const request = validate(operation.request as z.ZodType<UnaryRequest<K>>, value)
      const result = await UNARY[name](this.#service, request)
      this.#log.info({ operation: name, request }, 'done')
      return c.json(result as object | null)
    } catch (error) {
      return this.#refuse(c, error)
    }
  }

  async #streaming<K extends keyof StreamingOperations>(
    c: Context<Env>,
    name: K,
    readRequest: () => Promise<string>,
  ): Promise<Response> {
    type Request = z.output<StreamingOperations[K]['request']>
    const operation = STREAMING_OPERATIONS[name]
    let request: Request
    try {
      this.#throwIfStopping()
      const value = parseJson(await readRequest())
      request = validate(operation.request as z.ZodType<Request>, value)
    } catch (error) {
      return this.#refuse(c, error)
    }
    const { incoming, outgoing } = c.env
    const answer = new AnswerStream(outgoing, operation.kind === 'download')
    const signal = AbortSignal.any([answer.signal, this.#stopping.signal])
    try {
      const result = await STREAMING[name](this.#service, request, answer, signal, incoming)
      this.#log.info({ operation: name, request }, 'done')
      await answer.event({ result })
    } catch (error) {
      this.#logFailure(name, error)
      if (!answer.signal.aborted) await answer.event({ error: encodeError(error) })
    } finally {
      if (operation.kind === 'upload') await drained(incoming)
      await answer.end()
    }
    return RESPONSE_ALREADY_SENT
  }

  #throwIfStopping(): void {
    if (!this.#stopping.signal.aborted) return
    throw new OperatingError('unreachable', 'the daemon is stopping', {
      hint: 'Run the command again when it has ended.',
    })
  }

  #refuse(c: Context<Env>, error: unknown): Response {
    this.#logFailure(c.req.path, error)
    const wire = encodeError(error)
    return c.json({ error: wire }, statusOf(wire) as ContentfulStatusCode)
  }

  /** The message goes to the client; the stack of what should not happen only to the log. */
  #logFailure(operation: string, error: unknown): void {
    const wire = encodeError(error)
    const stack = wire.code === 'internal' && error instanceof Error ? { stack: error.stack } : {}
    this.#log.error({ operation, code: wire.code, reason: wire.message, ...stack }, 'refused')
  }
}
