/**
 * VHD of Virtual PC (Microsoft, "Virtual Hard Disk Image Format Specification"). Big-endian.
 *
 *     footer, 512 bytes at the end, and of a dynamic image a copy at the start:
 *     0 "conectix"  16 offset of the dynamic header  48 size  56 cylinders, heads, sectors  60 type
 *     dynamic header: 0 "cxsparse"  16 block table: offset  28 its entries  32 block size
 */
import { imageCorrupt, mustHold, mustRead, readTable, sizeAt, truncated } from '../image-bytes.ts'
import type { ImageBytes } from '../image-bytes.ts'
import { needsParent, unsupportedImage } from './facts.ts'
import type { ImageFacts } from './facts.ts'

const FOOTER_BYTES = 512
const DYNAMIC_HEADER_BYTES = 1024
const SECTOR_BYTES = 512
const TYPE_FIXED = 2
const TYPE_DYNAMIC = 3
const TYPE_DIFFERENCING = 4
const UNUSED = 0xffffffff

export async function inspectVhd(bytes: ImageBytes): Promise<ImageFacts> {
  const start = await mustRead(bytes, 0, FOOTER_BYTES, 'its footer')
  const end = await mustRead(bytes, bytes.sizeBytes - FOOTER_BYTES, FOOTER_BYTES, 'its footer')
  const hasStart = isFooter(start)
  if (!isFooter(end)) {
    throw imageCorrupt(
      hasStart ? 'the image is cut off: a VHD ends with a footer' : 'this is not a VHD image',
    )
  }
  const footer = hasStart ? start : end
  const type = footer.readUInt32BE(60)
  if (type === TYPE_DIFFERENCING) throw needsParent('VHD')
  const virtualSizeBytes = sizeAt(footer, 48, 'big')
  if (type === TYPE_FIXED && !hasStart) {
    mustHold(bytes, virtualSizeBytes, FOOTER_BYTES, 'the disk')
  } else if (type === TYPE_DYNAMIC && hasStart) {
    await verifyBlocks(bytes, sizeAt(footer, 16, 'big'), virtualSizeBytes)
  } else {
    throw unsupportedImage(`VHD images of type ${type} are not known`, 'Convert it where it is.')
  }
  return { virtualSizeBytes, references: [], extents: null, blocks: null }
}

function isFooter(bytes: Buffer): boolean {
  return bytes.toString('latin1', 0, 8) === 'conectix'
}

async function verifyBlocks(
  bytes: ImageBytes,
  headerOffset: number,
  virtualSizeBytes: number,
): Promise<void> {
  const header = await mustRead(bytes, headerOffset, DYNAMIC_HEADER_BYTES, 'the dynamic header')
  if (header.toString('latin1', 0, 8) !== 'cxsparse') {
    throw imageCorrupt('the VHD image has no dynamic header')
  }
  const blockBytes = header.readUInt32BE(32)
  const entryCount = header.readUInt32BE(28)
  if (blockBytes < SECTOR_BYTES || (blockBytes & (blockBytes - 1)) !== 0) {
    throw imageCorrupt(`a VHD block cannot have ${blockBytes} bytes`)
  }
  if (virtualSizeBytes > entryCount * blockBytes) {
    throw imageCorrupt('the block table is too small for the size that the header claims')
  }
  const bitmapBytes = Math.ceil(blockBytes / SECTOR_BYTES / 8 / SECTOR_BYTES) * SECTOR_BYTES
  const usedCount = Math.ceil(virtualSizeBytes / blockBytes)
  const tableOffset = sizeAt(header, 16, 'big')
  for await (const table of readTable(bytes, tableOffset, usedCount * 4, 'the block table')) {
    for (let at = 0; at < table.length; at += 4) {
      const sector = table.readUInt32BE(at)
      if (sector === UNUSED) continue
      const endBytes = sector * SECTOR_BYTES + bitmapBytes + blockBytes
      if (endBytes > bytes.sizeBytes) throw truncated('a block of data', endBytes, bytes)
    }
  }
}
