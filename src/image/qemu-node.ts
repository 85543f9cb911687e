/**
 * What QEMU is told to open, written out in full: every layer with its driver, every file as a
 * descriptor that we have opened and looked at, and no backing file but those. Nothing is left for
 * QEMU to choose from what an image says.
 */
import type { ContainerFormat } from './image-format.ts'

export interface QemuNode {
  driver: string
  file: { driver: 'file'; filename: string; locking?: 'off' }
  backing?: QemuNode | null
  'data-file'?: { driver: 'file'; filename: string }
}

/** QEMU's names for its drivers. */
const DRIVERS: Record<ContainerFormat | 'raw', string> = {
  raw: 'raw',
  qcow2: 'qcow2',
  vmdk: 'vmdk',
  vhd: 'vpc',
  vhdx: 'vhdx',
  vdi: 'vdi',
  parallels: 'parallels',
  bochs: 'bochs',
  cloop: 'cloop',
  dmg: 'dmg',
}

/** Formats that could name a file below them; for the others QEMU knows no such option. */
const MAY_HAVE_BACKING: ReadonlySet<string> = new Set(['qcow2', 'vmdk'])

export function driverOf(format: ContainerFormat | 'raw'): string {
  return DRIVERS[format]
}

/** `descriptor` is its number in the child. */
export function fileNode(format: ContainerFormat | 'raw', descriptor: number): QemuNode {
  const file = { driver: 'file', filename: descriptorPath(descriptor) } as const
  const node: QemuNode = { driver: DRIVERS[format], file }
  if (MAY_HAVE_BACKING.has(format)) node.backing = null
  return node
}

export function descriptorPath(descriptor: number): string {
  return `/dev/fd/${descriptor}`
}

/** The file name that QEMU takes as a description. */
export function nodeName(node: object): string {
  return `json:${JSON.stringify(node)}`
}
