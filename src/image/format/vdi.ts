/**
 * VDI of VirtualBox. Little-endian.
 *
 *     64 signature  68 version  76 type  340 block map: offset  344 data: offset
 *     368 disk size u64  376 block size  380 extra bytes a block  384 blocks
 *     424 link, 440 parent: UUIDs that are not zero where there is another image below
 */
import { imageCorrupt, mustRead, readTable, sizeAt, truncated } from '../image-bytes.ts'
import type { ImageBytes } from '../image-bytes.ts'
import { needsParent, unsupportedImage } from './facts.ts'
import type { ImageFacts } from './facts.ts'

const HEADER_BYTES = 512
const SIGNATURE = 0xbeda107f
const TYPE_DYNAMIC = 1
const TYPE_STATIC = 2
const TYPE_UNDO = 3
const TYPE_DIFFERENCING = 4
/** And 0xffffffff: not allocated, or given back. */
const DISCARDED = 0xfffffffe

export async function inspectVdi(bytes: ImageBytes): Promise<ImageFacts> {
  const header = await mustRead(bytes, 0, HEADER_BYTES, 'its header')
  if (header.readUInt32LE(64) !== SIGNATURE) throw imageCorrupt('this is not a VDI image')
  const type = header.readUInt32LE(76)
  if (type === TYPE_UNDO || type === TYPE_DIFFERENCING) throw needsParent('VDI')
  if (type !== TYPE_DYNAMIC && type !== TYPE_STATIC) {
    throw unsupportedImage(`VDI images of type ${type} are not known`, 'Clone it to a new VDI.')
  }
  if (header.subarray(424, 456).some((byte) => byte !== 0)) throw needsParent('VDI')
  const virtualSizeBytes = sizeAt(header, 368, 'little')
  const blockBytes = header.readUInt32LE(376) + header.readUInt32LE(380)
  const blockCount = header.readUInt32LE(384)
  if (virtualSizeBytes > blockCount * header.readUInt32LE(376)) {
    throw imageCorrupt('the block map is too small for the size that the header claims')
  }
  const dataOffset = header.readUInt32LE(344)
  const map = readTable(bytes, header.readUInt32LE(340), blockCount * 4, 'the block map')
  for await (const table of map) {
    for (let at = 0; at < table.length; at += 4) {
      const entry = table.readUInt32LE(at)
      if (entry >= DISCARDED) continue
      const endBytes = dataOffset + (entry + 1) * blockBytes
      if (endBytes > bytes.sizeBytes) throw truncated('a block of data', endBytes, bytes)
    }
  }
  return { virtualSizeBytes, references: [], extents: null, blocks: null }
}
