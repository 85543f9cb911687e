/** The formats of images, as they are named on the command line and over the control socket. */
import type { ImageFormat, WrittenFormat } from './shapes.ts'

export const IMAGE_FORMATS: readonly ImageFormat[] = [
  'raw',
  'raw+gz',
  'raw+zst',
  'raw+xz',
  'qcow2',
  'vmdk',
  'vhd',
  'vhdx',
  'vdi',
  'parallels',
  'bochs',
  'cloop',
  'dmg',
]

export const WRITTEN_FORMATS: readonly WrittenFormat[] = [
  'raw',
  'qcow2',
  'vmdk',
  'vhd',
  'vhdx',
  'vdi',
]
