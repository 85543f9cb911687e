/** `PoolService` over the control socket of a daemon. */
import type { IncomingMessage } from 'node:http'
import type { z } from 'zod'
import { OperatingError, VarveError } from '../base/errors.ts'
import { decodeFrames, FRAME_DATA } from './frames.ts'
import { API_PREFIX, STREAMING_OPERATIONS, UNARY_OPERATIONS } from './operations.ts'
import type {
  StreamingOperations,
  UnaryOperations,
  UnaryRequest,
  UnaryResult,
} from './operations.ts'
import { zerosFrameSchema } from './schemas.ts'
import type { ExportCall, ImportCall, LongCall, PoolService } from './service.ts'
import type * as shape from './shapes.ts'
import { asUnreachable, readJson, readJsonLines, send } from './transport.ts'
import { decodeError } from './wire-error.ts'

type Event = { progress: unknown } | { items: unknown } | { result: unknown } | { error: unknown }

/** The value itself when it is sound: keys stay in their order, and so does what is printed. */
function parse<T>(schema: z.ZodType<T>, value: unknown): T {
  if (!schema.safeParse(value).success) throw decodeError(null)
  return value as T
}

function cutOff(): OperatingError {
  return new OperatingError('unreachable', 'the daemon went away before it was done', {
    hint: 'See the log of `varve serve`; nothing half-done has been kept.',
  })
}

export class HttpService implements PoolService {
  readonly #socketPath: string

  constructor(socketPath: string) {
    this.#socketPath = socketPath
  }

  status(): Promise<shape.ServeStatus> {
    return this.#ask('status', {})
  }
  info(): Promise<shape.PoolInfo> {
    return this.#ask('info', {})
  }
  volumes(): Promise<shape.VolumeInfo[]> {
    return this.#ask('volumes', {})
  }
  volume(name: string): Promise<shape.VolumeInfo> {
    return this.#ask('volume', { name })
  }
  create(request: shape.CreateVolume): Promise<shape.VolumeInfo> {
    return this.#ask('create', request)
  }
  snapshot(names: string[]): Promise<shape.SnapshotInfo[]> {
    return this.#ask('snapshot', { names })
  }
  clone(source: string, names: string[]): Promise<shape.VolumeInfo[]> {
    return this.#ask('clone', { source, names })
  }
  restore(name: string): Promise<shape.VolumeInfo> {
    return this.#ask('restore', { name })
  }
  async remove(
    request: shape.RemoveRequest,
    call: LongCall<shape.UsageProgress> = {},
  ): Promise<shape.RemoveReport> {
    if (!request.dryRun) return this.#ask('remove', request)
    const { names, recursive } = request
    const answer = await this.#start('planRemoval', { names, recursive }, call.signal)
    return this.#follow('planRemoval', answer, call)
  }
  async rename(from: string, to: string): Promise<void> {
    await this.#ask('rename', { from, to })
  }
  scrubStatus(): Promise<shape.ScrubStatus> {
    return this.#ask('scrubStatus', {})
  }
  upkeep(isPaused: boolean | null): Promise<shape.UpkeepStatus> {
    return this.#ask('upkeep', { isPaused })
  }
  resize(request: shape.ResizeRequest): Promise<shape.VolumeInfo> {
    return this.#ask('resize', request)
  }
  async hold(name: string, tag: string): Promise<void> {
    await this.#ask('hold', { name, tag })
  }
  async release(name: string, tag: string): Promise<void> {
    await this.#ask('release', { name, tag })
  }
  fuseMount(request: shape.FuseRequest): Promise<shape.MountedFilesystem> {
    return this.#ask('fuseMount', request)
  }
  async fuseUnmount(path: string, force: boolean): Promise<void> {
    await this.#ask('fuseUnmount', { path, force })
  }
  exportSocket(request: shape.SocketRequest): Promise<shape.ExportSocket> {
    return this.#ask('exportSocket', request)
  }
  withdrawSocket(name: string): Promise<shape.ExportSocket[]> {
    return this.#ask('withdrawSocket', { name })
  }

  attach(request: shape.AttachRequest): Promise<shape.DeviceInfo> {
    return this.#ask('attach', request)
  }
  detach(target: string): Promise<shape.DeviceInfo[]> {
    return this.#ask('detach', { target })
  }
  devices(): Promise<shape.DeviceInfo[]> {
    return this.#ask('devices', {})
  }
  mount(request: shape.MountRequest): Promise<shape.MountInfo> {
    return this.#ask('mount', request)
  }
  umount(target: string): Promise<shape.MountInfo[]> {
    return this.#ask('umount', { target })
  }
  mkfs(request: shape.MkfsRequest): Promise<shape.MkfsReport> {
    return this.#ask('mkfs', request)
  }

  async *diff(
    from: string | null,
    to: string,
    signal?: AbortSignal,
  ): AsyncGenerator<shape.DiffExtent> {
    const operation = STREAMING_OPERATIONS.diff
    const answer = await this.#start('diff', { from, to }, signal)
    for await (const event of this.#events(answer, signal)) {
      if ('items' in event) yield* parse(operation.progress, event.items)
      else if ('result' in event) return
    }
    throw cutOff()
  }

  async reclaim(call: LongCall<shape.ReclaimProgress>): Promise<shape.ReclaimReport> {
    const answer = await this.#start('reclaim', {}, call.signal)
    return this.#follow('reclaim', answer, call)
  }

  async usage(
    request: shape.UsageRequest,
    call: LongCall<shape.UsageProgress>,
  ): Promise<shape.UsageReport> {
    const answer = await this.#start('usage', request, call.signal)
    return this.#follow('usage', answer, call)
  }

  async scrub(
    request: shape.ScrubRequest,
    call: LongCall<shape.ScrubProgress>,
  ): Promise<shape.ScrubReport> {
    const answer = await this.#start('scrub', request, call.signal)
    return this.#follow('scrub', answer, call)
  }

  async settle(
    request: shape.SettleRequest,
    call: LongCall<shape.ReclaimProgress>,
  ): Promise<shape.ReclaimReport> {
    const answer = await this.#start('settle', request, call.signal)
    return this.#follow('settle', answer, call)
  }

  async importImage(request: shape.ImportRequest, call: ImportCall): Promise<shape.ImportReport> {
    const query = encodeURIComponent(JSON.stringify(request))
    const answer = await send(this.#socketPath, {
      method: 'POST',
      path: `${API_PREFIX}/import?request=${query}`,
      headers: { 'content-type': 'application/octet-stream' },
      body: request.path === null ? (call.input ?? '') : null,
      signal: call.signal,
      patient: true,
    })
    return this.#follow('import', await this.#accepted(answer), call)
  }

  async exportImage(request: shape.ExportRequest, call: ExportCall): Promise<shape.ExportReport> {
    const operation = STREAMING_OPERATIONS.export
    const answer = await this.#start('export', request, call.signal)
    try {
      for await (const frame of decodeFrames(answer)) {
        if (frame.kind === FRAME_DATA) {
          await call.output?.data(frame.payload)
          continue
        }
        const event = JSON.parse(frame.payload.toString()) as Event | { zeros: number }
        if ('zeros' in event) await call.output?.zeros(parse(zerosFrameSchema, event).zeros)
        else if ('error' in event) throw decodeError(event.error)
        else if ('result' in event) return parse(operation.result, event.result)
        else if ('progress' in event) call.progress?.(parse(operation.progress, event.progress))
      }
    } catch (error) {
      throw this.#translate(error, call.signal)
    } finally {
      answer.destroy()
    }
    throw cutOff()
  }

  close(): Promise<void> {
    return Promise.resolve()
  }

  async #ask<K extends keyof UnaryOperations>(
    name: K,
    request: UnaryRequest<K>,
  ): Promise<UnaryResult<K>> {
    const operation = UNARY_OPERATIONS[name]
    const body = operation.method === 'GET' ? null : JSON.stringify(request)
    const answer = await send(this.#socketPath, {
      method: operation.method,
      path: `${API_PREFIX}/${name}`,
      headers: jsonHeaders(body),
      body,
      patient: operation.isPatient,
    })
    let value: unknown
    try {
      value = await readJson(answer)
    } catch (error) {
      throw this.#translate(error, undefined)
    }
    return parse(operation.result as z.ZodType<UnaryResult<K>>, value)
  }

  async #start(
    name: keyof StreamingOperations,
    request: unknown,
    signal: AbortSignal | undefined,
  ): Promise<IncomingMessage> {
    const body = JSON.stringify(request)
    const answer = await send(this.#socketPath, {
      method: 'POST',
      path: `${API_PREFIX}/${name}`,
      headers: jsonHeaders(body),
      body,
      signal,
      patient: true,
    })
    return this.#accepted(answer)
  }

  /** A request refused before its stream began answers like a unary one. */
  async #accepted(answer: IncomingMessage): Promise<IncomingMessage> {
    if (answer.statusCode !== 200) await readJson(answer)
    return answer
  }

  async #follow<K extends 'reclaim' | 'settle' | 'scrub' | 'import' | 'usage' | 'planRemoval'>(
    name: K,
    answer: IncomingMessage,
    call: LongCall<z.output<StreamingOperations[K]['progress']>>,
  ): Promise<z.output<StreamingOperations[K]['result']>> {
    type Result = z.output<StreamingOperations[K]['result']>
    type Progress = z.output<StreamingOperations[K]['progress']>
    const operation = STREAMING_OPERATIONS[name]
    for await (const event of this.#events(answer, call.signal)) {
      if ('result' in event) return parse(operation.result as z.ZodType<Result>, event.result)
      if ('progress' in event) {
        call.progress?.(parse(operation.progress as z.ZodType<Progress>, event.progress))
      }
    }
    throw cutOff()
  }

  /** Throws the error event; lets go of the connection when the consumer stops. */
  async *#events(answer: IncomingMessage, signal: AbortSignal | undefined): AsyncGenerator<Event> {
    try {
      for await (const line of readJsonLines(answer)) {
        const event = line as Event
        if ('error' in event) throw decodeError(event.error)
        yield event
      }
    } catch (error) {
      throw this.#translate(error, signal)
    } finally {
      answer.destroy()
    }
  }

  /** A connection that breaks in the middle is the daemon's end; our own errors stay. */
  #translate(error: unknown, signal: AbortSignal | undefined): unknown {
    if (error instanceof VarveError) return error
    if (error instanceof SyntaxError) return decodeError(null)
    const broken = error instanceof Error && 'code' in error && isNodeCode(error.code)
    return broken ? asUnreachable(this.#socketPath, error, signal) : error
  }
}

/** `ECONNRESET`, `ABORT_ERR`: codes of node are upper case, ours are lower. */
function isNodeCode(code: unknown): boolean {
  return typeof code === 'string' && /^[A-Z0-9_]+$/.test(code)
}

function jsonHeaders(body: string | null): Record<string, string | number> {
  if (body === null) return {}
  return { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) }
}
