/**
 * The HTTP contract, one table. Every operation is `/v1/NAME` on the control socket; requests and
 * answers are JSON.
 *
 * | kind     | request                              | answer                                     |
 * |----------|--------------------------------------|--------------------------------------------|
 * | unary    | JSON body (none for GET)             | JSON, or an error with its status          |
 * | stream   | JSON body                            | JSON Lines of events                       |
 * | upload   | JSON in the query's `request`, bytes | JSON Lines of events                       |
 * | download | JSON body                            | frames (`frames.ts`): bytes, holes, events |
 *
 * An event is `{"progress": …}`, `{"items": […]}`, and last, exactly one of `{"result": …}` and
 * `{"error": …}`: an answer that ends without either was cut off.
 */
import type { z } from 'zod'
import type * as shape from './shapes.ts'
import * as device from './device-schemas.ts'
import * as schema from './schemas.ts'

export const API_PREFIX = '/v1'
/** A request of 65,536 names of usual length fits; nothing sensible is larger. */
export const JSON_BODY_BYTES_MAX = 8388608

export interface Unary<Q, R> {
  readonly kind: 'unary'
  readonly method: 'GET' | 'POST'
  /** Whether it may take as long as it takes, as what waits for a device does. */
  readonly isPatient: boolean
  readonly request: z.ZodType<Q>
  readonly result: z.ZodType<R>
}

export interface Streaming<K extends 'stream' | 'upload' | 'download', Q, P, R> {
  readonly kind: K
  readonly method: 'POST'
  readonly request: z.ZodType<Q>
  /** Of a `progress` event; of an `items` event for `diff`. */
  readonly progress: z.ZodType<P>
  readonly result: z.ZodType<R>
}

type Empty = Record<string, never>

export interface UnaryOperations {
  readonly status: Unary<Empty, shape.ServeStatus>
  readonly info: Unary<Empty, shape.PoolInfo>
  readonly volumes: Unary<Empty, shape.VolumeInfo[]>
  readonly volume: Unary<{ name: string }, shape.VolumeInfo>
  readonly create: Unary<shape.CreateVolume, shape.VolumeInfo>
  readonly snapshot: Unary<{ names: string[] }, shape.SnapshotInfo[]>
  readonly clone: Unary<{ source: string; names: string[] }, shape.VolumeInfo[]>
  readonly restore: Unary<{ name: string }, shape.VolumeInfo>
  readonly remove: Unary<shape.RemoveRequest, shape.RemoveReport>
  readonly rename: Unary<{ from: string; to: string }, null>
  readonly upkeep: Unary<{ isPaused: boolean | null }, shape.UpkeepStatus>
  readonly scrubStatus: Unary<Empty, shape.ScrubStatus>
  readonly resize: Unary<shape.ResizeRequest, shape.VolumeInfo>
  readonly hold: Unary<{ name: string; tag: string }, null>
  readonly release: Unary<{ name: string; tag: string }, null>
  readonly attach: Unary<shape.AttachRequest, shape.DeviceInfo>
  readonly detach: Unary<{ target: string }, shape.DeviceInfo[]>
  readonly devices: Unary<Empty, shape.DeviceInfo[]>
  readonly mount: Unary<shape.MountRequest, shape.MountInfo>
  readonly umount: Unary<{ target: string }, shape.MountInfo[]>
  readonly mkfs: Unary<shape.MkfsRequest, shape.MkfsReport>
  readonly fuseMount: Unary<shape.FuseRequest, shape.MountedFilesystem>
  readonly fuseUnmount: Unary<{ path: string; force: boolean }, null>
  readonly exportSocket: Unary<shape.SocketRequest, shape.ExportSocket>
  readonly withdrawSocket: Unary<{ name: string }, shape.ExportSocket[]>
}

export interface StreamingOperations {
  readonly diff: Streaming<'stream', { from: string | null; to: string }, shape.DiffExtent[], null>
  readonly reclaim: Streaming<'stream', Empty, shape.ReclaimProgress, shape.ReclaimReport>
  readonly settle: Streaming<
    'stream',
    shape.SettleRequest,
    shape.ReclaimProgress,
    shape.ReclaimReport
  >
  readonly scrub: Streaming<'stream', shape.ScrubRequest, shape.ScrubProgress, shape.ScrubReport>
  readonly usage: Streaming<'stream', shape.UsageRequest, shape.UsageProgress, shape.UsageReport>
  readonly planRemoval: Streaming<
    'stream',
    shape.PlanRemoval,
    shape.UsageProgress,
    shape.RemoveReport
  >
  readonly import: Streaming<'upload', shape.ImportRequest, shape.CopyProgress, shape.ImportReport>
  readonly export: Streaming<
    'download',
    shape.ExportRequest,
    shape.CopyProgress,
    shape.ExportReport
  >
}

export type UnaryRequest<K extends keyof UnaryOperations> = z.output<UnaryOperations[K]['request']>
export type UnaryResult<K extends keyof UnaryOperations> = z.output<UnaryOperations[K]['result']>

function ask<Q, R>(request: z.ZodType<Q>, result: z.ZodType<R>): Unary<Q, R> {
  return { kind: 'unary', method: 'POST', isPatient: false, request, result }
}

function wait<Q, R>(request: z.ZodType<Q>, result: z.ZodType<R>): Unary<Q, R> {
  return { ...ask(request, result), isPatient: true }
}

function look<R>(result: z.ZodType<R>): Unary<Empty, R> {
  const request = schema.emptySchema
  return { kind: 'unary', method: 'GET', isPatient: false, request, result }
}

function long<K extends 'stream' | 'upload' | 'download', Q, P, R>(
  kind: K,
  request: z.ZodType<Q>,
  progress: z.ZodType<P>,
  result: z.ZodType<R>,
): Streaming<K, Q, P, R> {
  return { kind, method: 'POST', request, progress, result }
}

export const UNARY_OPERATIONS: UnaryOperations = {
  status: look(schema.serveStatusSchema),
  info: look(schema.poolInfoSchema),
  volumes: look(schema.volumeInfoSchema.array()),
  volume: ask(schema.nameSchema, schema.volumeInfoSchema),
  create: ask(schema.createVolumeSchema, schema.volumeInfoSchema),
  snapshot: ask(schema.namesSchema, schema.snapshotInfoSchema.array()),
  clone: ask(schema.cloneSchema, schema.volumeInfoSchema.array()),
  restore: ask(schema.nameSchema, schema.volumeInfoSchema),
  remove: ask(schema.removeRequestSchema, schema.removeReportSchema),
  rename: ask(schema.renameSchema, schema.nothingSchema),
  upkeep: ask(schema.upkeepRequestSchema, schema.upkeepStatusSchema),
  scrubStatus: look(schema.scrubStatusSchema),
  resize: ask(schema.resizeSchema, schema.volumeInfoSchema),
  hold: ask(schema.holdSchema, schema.nothingSchema),
  release: ask(schema.holdSchema, schema.nothingSchema),
  attach: wait(device.attachRequestSchema, device.deviceInfoSchema),
  detach: wait(device.targetSchema, device.deviceInfoSchema.array()),
  devices: look(device.deviceInfoSchema.array()),
  mount: wait(device.mountRequestSchema, device.mountInfoSchema),
  umount: wait(device.targetSchema, device.mountInfoSchema.array()),
  mkfs: wait(device.mkfsRequestSchema, device.mkfsReportSchema),
  fuseMount: ask(schema.fuseRequestSchema, schema.mountedFilesystemSchema),
  fuseUnmount: ask(schema.fuseUnmountSchema, schema.nothingSchema),
  exportSocket: ask(schema.socketRequestSchema, schema.exportSocketSchema),
  withdrawSocket: ask(schema.nameSchema, schema.exportSocketSchema.array()),
}

export const STREAMING_OPERATIONS: StreamingOperations = {
  diff: long('stream', schema.diffRequestSchema, schema.diffExtentsSchema, schema.nothingSchema),
  reclaim: long(
    'stream',
    schema.emptySchema,
    schema.reclaimProgressSchema,
    schema.reclaimReportSchema,
  ),
  settle: long(
    'stream',
    schema.settleRequestSchema,
    schema.reclaimProgressSchema,
    schema.reclaimReportSchema,
  ),
  scrub: long(
    'stream',
    schema.scrubRequestSchema,
    schema.scrubProgressSchema,
    schema.scrubReportSchema,
  ),
  usage: long(
    'stream',
    schema.usageRequestSchema,
    schema.usageProgressSchema,
    schema.usageReportSchema,
  ),
  planRemoval: long(
    'stream',
    schema.planRemovalSchema,
    schema.usageProgressSchema,
    schema.removeReportSchema,
  ),
  import: long(
    'upload',
    schema.importRequestSchema,
    schema.copyProgressSchema,
    schema.importReportSchema,
  ),
  export: long(
    'download',
    schema.exportRequestSchema,
    schema.copyProgressSchema,
    schema.exportReportSchema,
  ),
}
