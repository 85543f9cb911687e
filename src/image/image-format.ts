/** The formats an image may have, and how a name and its first bytes tell them. */
import { OperatingError } from '../base/errors.ts'
import type { ImageBytes } from './image-bytes.ts'

export type Compression = 'gz' | 'zst' | 'xz'
export type RawFormat = 'raw' | `raw+${Compression}`
/** Read by QEMU, after its header has been looked at here. */
export type ContainerFormat =
  'qcow2' | 'vmdk' | 'vhd' | 'vhdx' | 'vdi' | 'parallels' | 'bochs' | 'cloop' | 'dmg'
export type ImageFormat = RawFormat | ContainerFormat

interface Kind {
  format: ImageFormat
  /** File names that say so. */
  suffixes: readonly string[]
  /** Bytes that say so; latin1. */
  magic: string
  atBytes: number
  /** The bytes are counted from the end of the file. */
  isAtEnd?: boolean
}

/**
 * What is found without being told: only what both the name and the bytes say. A guest chooses
 * the bytes of a raw image, so they alone must not choose what reads it.
 */
const KINDS: readonly Kind[] = [
  { format: 'qcow2', suffixes: ['.qcow2'], magic: 'QFI\xfb', atBytes: 0 },
  { format: 'vmdk', suffixes: ['.vmdk'], magic: 'KDMV', atBytes: 0 },
  { format: 'vmdk', suffixes: ['.vmdk'], magic: '# Disk DescriptorFile', atBytes: 0 },
  { format: 'vhdx', suffixes: ['.vhdx'], magic: 'vhdxfile', atBytes: 0 },
  { format: 'vhd', suffixes: ['.vhd', '.vpc'], magic: 'conectix', atBytes: 0 },
  { format: 'vhd', suffixes: ['.vhd', '.vpc'], magic: 'conectix', atBytes: 512, isAtEnd: true },
  { format: 'vdi', suffixes: ['.vdi'], magic: '\x7f\x10\xda\xbe', atBytes: 64 },
  { format: 'raw+gz', suffixes: ['.gz'], magic: '\x1f\x8b\x08', atBytes: 0 },
  { format: 'raw+zst', suffixes: ['.zst', '.zstd'], magic: '\x28\xb5\x2f\xfd', atBytes: 0 },
  { format: 'raw+xz', suffixes: ['.xz'], magic: '\xfd7zXZ\0', atBytes: 0 },
]

/** Of the compressed files whose content is something else than a raw image. */
const INNER_SUFFIX = /\.(qcow2?|vmdk|vhdx?|vpc|vdi|tar|ova)\.[a-z]+$/i

export function isContainer(format: ImageFormat): format is ContainerFormat {
  return format !== 'raw' && !format.startsWith('raw+')
}

/** Null: not compressed. */
export function compressionOf(format: ImageFormat): Compression | null {
  return format.startsWith('raw+') ? (format.slice(4) as Compression) : null
}

/**
 * The format of the file `path`. Rejects `usage` where name and bytes disagree: the one who asks
 * has to say which of them is right.
 */
export async function detectFormat(path: string, bytes: ImageBytes): Promise<ImageFormat> {
  const name = path.toLowerCase()
  const byName = KINDS.filter((kind) => kind.suffixes.some((suffix) => name.endsWith(suffix)))
  const byBytes = await saidByBytes(bytes, byName)
  const agreed = byName.find((kind) => byBytes.includes(kind))
  if (agreed === undefined) {
    const [named] = byName
    const [found] = byBytes
    if (named === undefined && found === undefined) return 'raw'
    const fact =
      found === undefined
        ? `${path} is named like ${named.format} but does not begin like it`
        : `${path} begins like ${found.format} but is not named like it`
    throw new OperatingError('usage', fact, {
      hint: `Say what it is: --format ${(found ?? named).format}, or --format raw.`,
      details: { path },
    })
  }
  if (compressionOf(agreed.format) !== null && INNER_SUFFIX.test(path)) {
    throw new OperatingError('usage', `${path} is named like a compressed image that is not raw`, {
      hint: 'Decompress it first, or give --format to import the bytes that are in it as they are.',
      details: { path },
    })
  }
  return agreed.format
}

/** The end of a file is only looked at where its name asks for it. */
async function saidByBytes(bytes: ImageBytes, byName: readonly Kind[]): Promise<Kind[]> {
  const found: Kind[] = []
  for (const kind of KINDS) {
    const isAtEnd = kind.isAtEnd === true
    if (isAtEnd && !byName.includes(kind)) continue
    const at = isAtEnd ? bytes.sizeBytes - kind.atBytes : kind.atBytes
    if (at < 0) continue
    const read = await bytes.read(at, kind.magic.length)
    if (read.toString('latin1') === kind.magic) found.push(kind)
  }
  return found
}
