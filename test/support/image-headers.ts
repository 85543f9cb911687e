/**
 * The smallest images of each format that are whole, written field by field from the formats'
 * specifications: what the judges of headers are tried and fuzzed with.
 */
import type { ImageBytes } from '../../src/image/image-bytes.ts'

export class MemoryBytes implements ImageBytes {
  readonly content: Buffer
  /** Of all reads; what a hostile header can make us do. */
  readBytes = 0

  constructor(content: Buffer) {
    this.content = content
  }

  get sizeBytes(): number {
    return this.content.length
  }

  read(offsetBytes: number, lengthBytes: number): Promise<Buffer> {
    if (!Number.isSafeInteger(offsetBytes) || offsetBytes < 0) throw new Error('a wild offset')
    this.readBytes += lengthBytes
    return Promise.resolve(
      Buffer.from(this.content.subarray(offsetBytes, offsetBytes + lengthBytes)),
    )
  }
}

export interface Qcow2Options {
  version?: 2 | 3
  sizeBytes?: bigint
  backing?: string
  backingFormat?: string
  dataFile?: string
  encryption?: number
  incompatible?: bigint
}

const CLUSTER_BYTES = 65536

/** Header, L1, one L2 and one cluster of data, a cluster each. */
export function qcow2Image(options: Qcow2Options = {}): Buffer {
  const image = Buffer.alloc(4 * CLUSTER_BYTES)
  const version = options.version ?? 3
  image.write('QFI\xfb', 0, 'latin1')
  image.writeUInt32BE(version, 4)
  image.writeUInt32BE(16, 20)
  image.writeBigUInt64BE(options.sizeBytes ?? 1048576n, 24)
  image.writeUInt32BE(options.encryption ?? 0, 32)
  image.writeUInt32BE(1, 36)
  image.writeBigUInt64BE(BigInt(CLUSTER_BYTES), 40)
  let at = 72
  if (version === 3) {
    const dataFile = options.dataFile === undefined ? 0n : 4n
    image.writeBigUInt64BE((options.incompatible ?? 0n) | dataFile, 72)
    image.writeUInt32BE(104, 100)
    at = 104
  }
  at = extension(image, at, 0xe2792aca, options.backingFormat)
  at = extension(image, at, 0x44415441, options.dataFile)
  if (options.backing !== undefined) {
    image.writeBigUInt64BE(BigInt(at + 8), 8)
    image.writeUInt32BE(options.backing.length, 16)
    image.write(options.backing, at + 8)
  }
  image.writeBigUInt64BE(BigInt(2 * CLUSTER_BYTES) | (1n << 63n), CLUSTER_BYTES)
  image.writeBigUInt64BE(BigInt(3 * CLUSTER_BYTES) | (1n << 63n), 2 * CLUSTER_BYTES)
  return image
}

function extension(image: Buffer, at: number, type: number, text: string | undefined): number {
  if (text === undefined) return at
  image.writeUInt32BE(type, at)
  image.writeUInt32BE(text.length, at + 4)
  image.write(text, at + 8)
  return at + 8 + Math.ceil(text.length / 8) * 8
}

/** Two blocks, the second allocated. `type`: 1 dynamic, 4 differencing. */
export function vdiImage(type = 1): Buffer {
  const image = Buffer.alloc(1024 + 1048576)
  image.writeUInt32LE(0xbeda107f, 64)
  image.writeUInt32LE(type, 76)
  image.writeUInt32LE(512, 340)
  image.writeUInt32LE(1024, 344)
  image.writeBigUInt64LE(2097152n, 368)
  image.writeUInt32LE(1048576, 376)
  image.writeUInt32LE(2, 384)
  image.writeUInt32LE(0xffffffff, 512)
  image.writeUInt32LE(0, 516)
  return image
}

/** One block of 4 KiB, allocated. `type`: 3 dynamic, 4 differencing. */
export function vhdImage(type = 3): Buffer {
  const image = Buffer.alloc(2048 + 512 + 4096 + 512)
  for (const at of [0, image.length - 512]) {
    image.write('conectix', at, 'latin1')
    image.writeBigUInt64BE(512n, at + 16)
    image.writeBigUInt64BE(4096n, at + 48)
    image.writeUInt32BE(type, at + 60)
  }
  image.write('cxsparse', 512, 'latin1')
  image.writeBigUInt64BE(1536n, 512 + 16)
  image.writeUInt32BE(1, 512 + 28)
  image.writeUInt32BE(4096, 512 + 32)
  image.writeUInt32BE(4, 1536)
  return image
}

/** A sparse extent of 128 sectors, its one grain allocated; `descriptor` embedded. */
export function vmdkImage(descriptor = 'CID=12345678\nparentCID=ffffffff\n'): Buffer {
  const image = Buffer.alloc(24 * 512 + 65536)
  image.write('KDMV', 0, 'latin1')
  image.writeUInt32LE(1, 4)
  image.writeBigUInt64LE(128n, 12)
  image.writeBigUInt64LE(128n, 20)
  image.writeBigUInt64LE(1n, 28)
  image.writeBigUInt64LE(2n, 36)
  image.writeUInt32LE(4, 44)
  image.writeBigUInt64LE(22n, 56)
  image.write(`# Disk DescriptorFile\n${descriptor}`, 512, 'latin1')
  image.writeUInt32LE(23, 22 * 512)
  image.writeUInt32LE(24, 23 * 512)
  return image
}

const GUIDS = {
  blockTable: '6677c22d23f600429d64115e9bfd4a08',
  metadata: '06a27c8b90479a4bb8fe575f050f886e',
  parameters: '3767a1ca36fa434db3b633f0aa44e76b',
  diskSize: '2442a52f1bcd7648b2115dbed83bf4b8',
  sectorSize: '1dbf41816fa90947ba47f233a8faab5f',
}

/** Three blocks of a megabyte, the second allocated. */
export function vhdxImage(options: { hasLog?: boolean; hasParent?: boolean } = {}): Buffer {
  const image = Buffer.alloc(3 * 1048576)
  image.write('vhdxfile', 0, 'latin1')
  for (const [index, at] of [65536, 131072].entries()) {
    image.write('head', at, 'latin1')
    image.writeBigUInt64LE(BigInt(index + 1), at + 8)
    if (options.hasLog === true && index === 1) image.fill(7, at + 48, at + 64)
  }
  image.write('regi', 196608, 'latin1')
  image.writeUInt32LE(2, 196608 + 8)
  for (const [index, guid] of [GUIDS.blockTable, GUIDS.metadata].entries()) {
    const at = 196608 + 16 + 32 * index
    image.write(guid, at, 'hex')
    image.writeBigUInt64LE(index === 0 ? 1048576n : 327680n, at + 16)
    image.writeUInt32LE(65536, at + 24)
  }
  const metadata = 327680
  image.write('metadata', metadata, 'latin1')
  image.writeUInt16LE(3, metadata + 10)
  for (const [index, guid] of [GUIDS.parameters, GUIDS.diskSize, GUIDS.sectorSize].entries()) {
    image.write(guid, metadata + 32 + 32 * index, 'hex')
    image.writeUInt32LE(65536 + 16 * index, metadata + 32 + 32 * index + 16)
  }
  image.writeUInt32LE(1048576, metadata + 65536)
  image.writeUInt32LE(options.hasParent === true ? 2 : 0, metadata + 65536 + 4)
  image.writeBigUInt64LE(3145728n, metadata + 65536 + 16)
  image.writeUInt32LE(512, metadata + 65536 + 32)
  image.writeBigUInt64LE(6n | (2n << 20n), 1048576 + 8)
  return image
}
