/** The shapes as zod schemas: what either end of the control socket accepts from the other. */
import { z } from 'zod'
import { IMAGE_FORMATS, WRITTEN_FORMATS } from './image-formats.ts'
import type * as shape from './shapes.ts'

const bytes = z.int().nonnegative()
const count = z.int().nonnegative()
/** Times come from the wall clock and may have fractions. */
const timeMs = z.number()
/** The pool judges names; here only what no name can be is kept out. */
const diskName = z.string().min(1).max(512)
const labels = z.record(z.string().max(256), z.string().max(4096))
/** No NUL: the system would see a different file from the one that was checked. */
const absolutePath = z
  .string()
  .max(4096)
  .regex(/^\/[^\0]*$/, 'must be an absolute path')

export const emptySchema: z.ZodType<Record<string, never>> = z.strictObject({})
export const nothingSchema: z.ZodType<null> = z.null()

export const snapshotInfoSchema: z.ZodType<shape.SnapshotInfo> = z.object({
  name: diskName,
  volume: diskName,
  snapshot: diskName,
  sizeBytes: bytes,
  mappedBytes: bytes,
  createdMs: timeMs,
  modifiedMs: timeMs,
  holds: z.array(z.string()),
})

export const volumeInfoSchema: z.ZodType<shape.VolumeInfo> = z.object({
  name: diskName,
  id: count,
  sizeBytes: bytes,
  mappedBytes: bytes,
  createdMs: timeMs,
  modifiedMs: timeMs,
  origin: diskName.nullable(),
  labels,
  holds: z.array(z.string()),
  clients: z.array(z.string()),
  snapshots: z.array(snapshotInfoSchema),
})

const percent = z.number().min(0).max(100)

export const fillSchema: z.ZodType<shape.Fill> = z.object({
  state: z.enum(['ok', 'warn', 'full']),
  percent,
  warnPercent: percent,
})

export const poolInfoSchema: z.ZodType<shape.PoolInfo> = z.object({
  id: z.string(),
  path: z.string(),
  formatVersion: count,
  createdMs: timeMs,
  logicalBytes: bytes,
  mappedBytes: bytes,
  physicalBytes: bytes,
  capacityBytes: bytes,
  freeBytes: bytes,
  fill: fillSchema,
  volumeCount: count,
  snapshotCount: count,
  segmentCount: count,
  failure: z.string().nullable(),
})

export const createVolumeSchema: z.ZodType<shape.CreateVolume> = z.strictObject({
  name: diskName,
  sizeBytes: bytes,
  labels: labels.exactOptional(),
})

const nameList = z.array(diskName).min(1).max(65536)

export const nameSchema: z.ZodType<{ name: string }> = z.strictObject({ name: diskName })
export const namesSchema: z.ZodType<{ names: string[] }> = z.strictObject({ names: nameList })
export const cloneSchema: z.ZodType<{ source: string; names: string[] }> = z.strictObject({
  source: diskName,
  names: nameList,
})
export const renameSchema: z.ZodType<{ from: string; to: string }> = z.strictObject({
  from: diskName,
  to: diskName,
})
export const holdSchema: z.ZodType<{ name: string; tag: string }> = z.strictObject({
  name: diskName,
  tag: z.string().min(1).max(256),
})
export const resizeSchema: z.ZodType<shape.ResizeRequest> = z.strictObject({
  name: diskName,
  sizeBytes: bytes,
  allowShrink: z.boolean(),
})
export const removeRequestSchema: z.ZodType<shape.RemoveRequest> = z.strictObject({
  names: nameList,
  recursive: z.boolean(),
  dryRun: z.boolean(),
})
export const removeReportSchema: z.ZodType<shape.RemoveReport> = z.object({
  removed: z.array(diskName),
  freedBytes: bytes.nullable(),
})
const RECLAIM_PHASES = ['order', 'checkpoint', 'mark', 'sweep', 'settle'] as const
export const reclaimReportSchema: z.ZodType<shape.ReclaimReport> = z.object({
  liveBytes: bytes,
  orderedBytes: bytes,
  deletedSegmentCount: count,
  punchedBytes: bytes,
  settledSegmentCount: count,
  skippedSegmentCount: count,
  zeroBytes: bytes,
  duplicateBytes: bytes,
  droppedBytes: bytes,
  encodedFromBytes: bytes,
  encodedToBytes: bytes,
  physicalBeforeBytes: bytes,
  physicalAfterBytes: bytes,
})
export const reclaimProgressSchema: z.ZodType<shape.ReclaimProgress> = z.object({
  phase: z.enum(RECLAIM_PHASES),
  done: z.number().nonnegative(),
  total: z.number().nonnegative(),
})
export const upkeepRequestSchema: z.ZodType<{ isPaused: boolean | null }> = z.strictObject({
  isPaused: z.boolean().nullable(),
})
export const upkeepStatusSchema: z.ZodType<shape.UpkeepStatus> = z.object({
  idle: z.enum(['off', 'lz4', 'zstd']).nullable(),
  isPaused: z.boolean(),
  phase: z.enum(RECLAIM_PHASES).nullable(),
  done: z.number().nonnegative(),
  total: z.number().nonnegative(),
})
const scrubTotals = {
  startedMs: z.number().nonnegative(),
  readBytes: bytes,
  foundCount: count,
  healedCount: count,
  lostCount: count,
}
const scrubPhase = z.enum(['maps', 'segments', 'heal'])
export const scrubRequestSchema: z.ZodType<shape.ScrubRequest> = z.strictObject({
  rateBytes: z.number().int().positive().nullable(),
})
export const scrubProgressSchema: z.ZodType<shape.ScrubProgress> = z.object({
  phase: scrubPhase,
  done: count,
  total: count,
})
export const scrubReportSchema: z.ZodType<shape.ScrubReport> = z.object({
  ...scrubTotals,
  endedMs: z.number().nonnegative(),
  isResumed: z.boolean(),
  findings: z.array(
    z.object({
      code: z.enum([
        'superblock-torn',
        'fingerprints-corrupt',
        'scrub-state-corrupt',
        'segment-unreadable',
        'segment-header-corrupt',
        'segment-footer-corrupt',
        'segment-table-corrupt',
        'record-corrupt',
        'padding-corrupt',
        'node-corrupt',
        'frame-corrupt',
        'block-corrupt',
      ]),
      message: z.string(),
      where: z.string(),
      outcome: z.enum(['healed', 'lost', 'unused']),
      affected: z.array(z.object({ disk: z.string(), offsetBytes: bytes, lengthBytes: bytes })),
    }),
  ),
  suppressedCount: count,
})
export const scrubStatusSchema: z.ZodType<shape.ScrubStatus> = z.object({
  phase: scrubPhase.nullable(),
  done: count,
  total: count,
  isPaused: z.boolean(),
  everyDays: z.number().positive().nullable(),
  running: z.object(scrubTotals).nullable(),
  last: z.object({ ...scrubTotals, endedMs: z.number().nonnegative() }).nullable(),
})
export const settleRequestSchema: z.ZodType<shape.SettleRequest> = z.strictObject({
  compression: z.enum(['off', 'lz4', 'zstd']),
})
export const usageRequestSchema: z.ZodType<shape.UsageRequest> = z.strictObject({
  by: z.string().min(1).max(300),
})
export const usageProgressSchema: z.ZodType<shape.UsageProgress> = z.object({
  phase: z.enum(['checkpoint', 'maps', 'segments']),
  done: count,
  total: count,
})
const usage = {
  logicalBytes: bytes,
  mappedBytes: bytes,
  referencedBytes: bytes,
  storedBytes: bytes,
  exclusiveBytes: bytes,
  sharedBytes: bytes,
  amortisedBytes: bytes,
  metadataBytes: bytes,
  thinBytes: bytes,
  zeroBytes: bytes,
  cloneBytes: bytes,
  dedupBytes: bytes,
  compressionBytes: bytes,
}
const diskCounts = { volumeCount: count, snapshotCount: count }
export const usageReportSchema: z.ZodType<shape.UsageReport> = z.object({
  by: z.string(),
  rows: z.array(z.object({ name: z.string().nullable(), ...diskCounts, ...usage })),
  pool: z.object({
    ...diskCounts,
    ...usage,
    internalBytes: bytes,
    overheadBytes: z.int(),
    physicalBytes: bytes,
    reserveBytes: bytes,
  }),
})
export const planRemovalSchema: z.ZodType<shape.PlanRemoval> = z.strictObject({
  names: nameList,
  recursive: z.boolean(),
})
export const diffRequestSchema: z.ZodType<{ from: string | null; to: string }> = z.strictObject({
  from: diskName.nullable(),
  to: diskName,
})
export const diffExtentsSchema: z.ZodType<shape.DiffExtent[]> = z.array(
  z.object({ offsetBytes: bytes, lengthBytes: bytes, kind: z.enum(['data', 'zero']) }),
)
const rootfsRequestSchema: z.ZodType<shape.RootfsRequest> = z.strictObject({
  fs: z.literal('ext4'),
  platform: z.string().min(1).max(256).nullable(),
  tag: z.string().min(1).max(256).nullable(),
})
const timeoutMs = z.number().positive().max(2147483647)
export const importRequestSchema: z.ZodType<shape.ImportRequest> = z.strictObject({
  name: diskName,
  rootfs: rootfsRequestSchema.optional(),
  path: absolutePath.nullable(),
  sizeBytes: bytes.nullable(),
  labels,
  format: z.enum(IMAGE_FORMATS).exactOptional(),
  allowBacking: absolutePath.exactOptional(),
  sizeBytesMax: bytes.exactOptional(),
  timeoutMs: timeoutMs.exactOptional(),
})
export const importReportSchema: z.ZodType<shape.ImportReport> = z.object({
  volume: volumeInfoSchema,
  imageBytes: bytes,
  dataBytes: bytes,
  warnings: z.array(z.string()).optional(),
})
export const exportRequestSchema: z.ZodType<shape.ExportRequest> = z.strictObject({
  name: diskName,
  path: absolutePath.nullable(),
  overwrite: z.boolean(),
  format: z.enum(WRITTEN_FORMATS).exactOptional(),
  isCompressed: z.boolean().exactOptional(),
  timeoutMs: timeoutMs.exactOptional(),
})
export const exportReportSchema: z.ZodType<shape.ExportReport> = z.object({
  name: diskName,
  imageBytes: bytes,
  dataBytes: bytes,
})
export const copyProgressSchema: z.ZodType<shape.CopyProgress> = z.object({
  doneBytes: bytes,
  totalBytes: bytes,
})
export const fuseRequestSchema: z.ZodType<shape.FuseRequest> = z.strictObject({
  path: absolutePath,
  allowOther: z.boolean(),
  transport: z.enum(['auto', 'native', 'fuse-native']),
})
export const fuseUnmountSchema: z.ZodType<{ path: string; force: boolean }> = z.strictObject({
  path: absolutePath,
  force: z.boolean(),
})
export const socketRequestSchema: z.ZodType<shape.SocketRequest> = z.strictObject({
  name: diskName,
  path: absolutePath.nullable(),
  readOnly: z.boolean(),
})
export const exportSocketSchema: z.ZodType<shape.ExportSocket> = z.object({
  name: diskName,
  path: absolutePath,
  readOnly: z.boolean(),
})
export const mountedFilesystemSchema: z.ZodType<shape.MountedFilesystem> = z.object({
  path: absolutePath,
  transport: z.enum(['native', 'fuse-native']),
  allowOther: z.boolean(),
  isOwn: z.boolean(),
})
export const serveStatusSchema: z.ZodType<shape.ServeStatus> = z.object({
  mode: z.enum(['embedded', 'daemon']),
  processId: count,
  version: z.string(),
  startedMs: timeMs,
  exports: z.array(
    z.object({ name: diskName, uri: z.string(), sizeBytes: bytes, readOnly: z.boolean() }),
  ),
  connections: z.array(z.object({ peer: z.string(), export: z.string().nullable() })),
  mounts: z.array(mountedFilesystemSchema),
  fill: fillSchema,
})

export const zerosFrameSchema: z.ZodType<{ zeros: number }> = z.object({ zeros: bytes })
