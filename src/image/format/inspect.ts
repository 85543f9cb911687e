/** The one who judges an image of each format before QEMU may open it. */
import { imageCorrupt } from '../image-bytes.ts'
import type { ImageBytes } from '../image-bytes.ts'
import type { ContainerFormat } from '../image-format.ts'
import type { ImageFacts } from './facts.ts'
import { inspectQcow2 } from './qcow2.ts'
import { inspectVdi } from './vdi.ts'
import { inspectVhd } from './vhd.ts'
import { inspectVhdx } from './vhdx.ts'
import { inspectVmdk } from './vmdk.ts'

type Inspect = (bytes: ImageBytes) => Promise<ImageFacts>

/** Formats whose QEMU drivers open no other file: only that it is one is looked at. */
function ofMagic(name: string, offset: number, magics: readonly string[]): Inspect {
  return async (bytes) => {
    const at = offset < 0 ? bytes.sizeBytes + offset : offset
    const start = (await bytes.read(Math.max(0, at), 32)).toString('latin1')
    if (!magics.some((magic) => start.startsWith(magic))) {
      throw imageCorrupt(`this is not a ${name} image`)
    }
    return { virtualSizeBytes: null, references: [], extents: null, blocks: null }
  }
}

const INSPECT: Record<ContainerFormat, Inspect> = {
  qcow2: inspectQcow2,
  vmdk: inspectVmdk,
  vhd: inspectVhd,
  vhdx: inspectVhdx,
  vdi: inspectVdi,
  parallels: ofMagic('Parallels', 0, ['WithoutFreeSpace', 'WithouFreSpacExt']),
  bochs: ofMagic('Bochs', 0, ['Bochs Virtual HD Image']),
  cloop: ofMagic('cloop', 0, ['#!/bin/sh\n#V2.0 Format']),
  dmg: ofMagic('DMG', -512, ['koly']),
}

/**
 * Rejects `unsupported` for what needs another file than those it tells of, `image-corrupt` for
 * what is cut off or contradicts itself.
 */
export function inspectImage(format: ContainerFormat, bytes: ImageBytes): Promise<ImageFacts> {
  return INSPECT[format](bytes)
}
