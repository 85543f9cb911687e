/** The shapes of devices and mounts as zod schemas. */
import { z } from 'zod'
import type * as shape from './device-shapes.ts'

const bytes = z.int().nonnegative()
const diskName = z.string().min(1).max(512)
/** No NUL and no line end: both would end a word of the tables of the kernel. */
const path = z
  .string()
  .max(4096)
  .regex(/^\/[^\0\n]*$/, 'must be an absolute path')
const partition = z.int().min(1).max(1024)
const via = z.enum(['auto', 'loop', 'nbd'])
const mkfsType = z.enum(['ext4', 'xfs', 'btrfs'])
/** One of a list that commas separate. */
const mountOption = z
  .string()
  .min(1)
  .max(1024)
  .regex(/^[^\0\n,]*$/, 'must be one option')

export const attachRequestSchema: z.ZodType<shape.AttachRequest> = z.strictObject({
  name: diskName,
  readOnly: z.boolean(),
  via,
  sectorSizeBytes: z.literal([512, 4096]),
})
export const mountRequestSchema: z.ZodType<shape.MountRequest> = z.strictObject({
  name: diskName,
  directory: path,
  partition: partition.nullable(),
  readOnly: z.boolean(),
  options: z.array(mountOption).max(64),
  via,
})
export const mkfsRequestSchema: z.ZodType<shape.MkfsRequest> = z.strictObject({
  name: diskName,
  type: mkfsType,
  // Not to be taken for an option of the tool; filesystems take far fewer bytes.
  label: z
    .string()
    .max(255)
    .regex(/^[^\0\n-][^\0\n]*$/, 'must not begin with a dash')
    .nullable(),
  force: z.boolean(),
})
/** A disk, a device or a mount point. */
export const targetSchema: z.ZodType<{ target: string }> = z.strictObject({
  target: z.union([diskName, path]),
})
export const mkfsReportSchema: z.ZodType<shape.MkfsReport> = z.object({
  name: diskName,
  type: mkfsType,
  sizeBytes: bytes,
})
export const mountInfoSchema: z.ZodType<shape.MountInfo> = z.object({
  name: diskName.nullable(),
  directory: path,
  device: path,
  partition: partition.nullable(),
  type: z.string(),
  readOnly: z.boolean(),
})
export const deviceInfoSchema: z.ZodType<shape.DeviceInfo> = z.object({
  name: diskName.nullable(),
  device: path,
  kind: z.enum(['loop', 'nbd']),
  partition: partition.nullable(),
  sizeBytes: bytes,
  sectorSizeBytes: bytes,
  readOnly: z.boolean(),
  directIo: z.boolean(),
  isKept: z.boolean(),
  isDraining: z.boolean(),
  mounts: z.array(path),
})
