/**
 * VHDX of Hyper-V (Microsoft, [MS-VHDX]). Little-endian.
 *
 *     0        "vhdxfile"
 *     64 KiB   two headers, 64 KiB apart: "head"  8 sequence u64  48 log GUID
 *     192 KiB  two region tables: "regi"  8 entries u32, then from 16 on 32 bytes each:
 *              GUID, offset u64, length u32, required u32
 *     metadata region: "metadata"  10 entries u16, then from 32 on 32 bytes each:
 *              GUID, offset within the region u32, length u32, flags u32
 *     block table: u64 each, state in bits 0 to 2, offset in MiB from bit 20
 */
import { imageCorrupt, mustHold, mustRead, readTable, sizeAt, truncated } from '../image-bytes.ts'
import type { ImageBytes } from '../image-bytes.ts'
import { needsParent, unsupportedImage } from './facts.ts'
import type { BlockMap, ImageFacts } from './facts.ts'

const HEADER_OFFSETS = [65536, 131072]
const REGION_TABLE_OFFSETS = [196608, 262144]
const REGION_TABLE_BYTES = 65536
const REGION_COUNT_MAX = 2047
const METADATA_TABLE_BYTES = 65536
const METADATA_COUNT_MAX = 2047
const ENTRY_BYTES = 32

/** As they lie in the file. */
const GUID_BLOCK_TABLE = '6677c22d23f600429d64115e9bfd4a08'
const GUID_METADATA = '06a27c8b90479a4bb8fe575f050f886e'
const GUID_FILE_PARAMETERS = '3767a1ca36fa434db3b633f0aa44e76b'
const GUID_DISK_SIZE = '2442a52f1bcd7648b2115dbed83bf4b8'
const GUID_PARENT_LOCATOR = '2d5fd3a80bb34d45abf7d3d84834ab0c'
const GUID_SECTOR_SIZE = '1dbf41816fa90947ba47f233a8faab5f'

const FLAG_HAS_PARENT = 2
const STATE_FULLY_PRESENT = 6n
const STATE_PARTIALLY_PRESENT = 7n
const BLOCK_BYTES_MIN = 1048576
const BLOCK_BYTES_MAX = 268435456
/** Sectors that one sector bitmap block describes. */
const SECTORS_PER_BITMAP = 8388608

interface Region {
  offsetBytes: number
  lengthBytes: number
}

interface Metadata {
  blockBytes: number
  sectorBytes: number
  virtualSizeBytes: number
}

export async function inspectVhdx(bytes: ImageBytes): Promise<ImageFacts> {
  const signature = await mustRead(bytes, 0, 8, 'its signature')
  if (signature.toString('latin1') !== 'vhdxfile') throw imageCorrupt('this is not a VHDX image')
  await verifyLog(bytes)
  const regions = await readRegions(bytes)
  const metadata = await readMetadata(bytes, mustHave(regions, GUID_METADATA, 'metadata'))
  const table = mustHave(regions, GUID_BLOCK_TABLE, 'block table')
  const blocks = await readBlocks(bytes, table, metadata)
  return { virtualSizeBytes: metadata.virtualSizeBytes, references: [], extents: null, blocks }
}

/** The header with the higher sequence number counts. */
async function verifyLog(bytes: ImageBytes): Promise<void> {
  let newest: Buffer | null = null
  for (const offset of HEADER_OFFSETS) {
    const header = await mustRead(bytes, offset, 80, 'its header')
    if (header.toString('latin1', 0, 4) !== 'head') continue
    if (newest === null || header.readBigUInt64LE(8) > newest.readBigUInt64LE(8)) newest = header
  }
  if (newest === null) throw imageCorrupt('the VHDX image has no header')
  if (newest.subarray(48, 64).every((byte) => byte === 0)) return
  throw unsupportedImage(
    'the VHDX image was not closed: its log holds changes that are not in it yet',
    'Shut down what uses it, or write the log into it: qemu-img check -r all FILE',
  )
}

async function readRegions(bytes: ImageBytes): Promise<Map<string, Region>> {
  for (const offset of REGION_TABLE_OFFSETS) {
    const table = await mustRead(bytes, offset, REGION_TABLE_BYTES, 'the region table')
    if (table.toString('latin1', 0, 4) !== 'regi') continue
    const count = table.readUInt32LE(8)
    if (count > REGION_COUNT_MAX) throw imageCorrupt(`${count} regions are too many`)
    const regions = new Map<string, Region>()
    for (let at = 16; at < 16 + count * ENTRY_BYTES; at += ENTRY_BYTES) {
      regions.set(guidAt(table, at), {
        offsetBytes: sizeAt(table, at + 16, 'little'),
        lengthBytes: table.readUInt32LE(at + 24),
      })
    }
    return regions
  }
  throw imageCorrupt('the VHDX image has no region table')
}

function guidAt(buffer: Buffer, offset: number): string {
  return buffer.toString('hex', offset, offset + 16)
}

function mustHave<T>(found: ReadonlyMap<string, T>, guid: string, what: string): T {
  const value = found.get(guid)
  if (value === undefined) throw imageCorrupt(`the VHDX image has no ${what}`)
  return value
}

async function readMetadata(bytes: ImageBytes, region: Region): Promise<Metadata> {
  const { offsetBytes } = region
  const table = await mustRead(bytes, offsetBytes, METADATA_TABLE_BYTES, 'the metadata')
  if (table.toString('latin1', 0, 8) !== 'metadata') {
    throw imageCorrupt('the VHDX image has no metadata')
  }
  const count = table.readUInt16LE(10)
  if (count > METADATA_COUNT_MAX) throw imageCorrupt(`${count} entries of metadata are too many`)
  const items = new Map<string, number>()
  for (let at = 32; at < 32 + count * ENTRY_BYTES; at += ENTRY_BYTES) {
    items.set(guidAt(table, at), offsetBytes + table.readUInt32LE(at + 16))
  }
  if (items.has(GUID_PARENT_LOCATOR)) throw needsParent('VHDX')
  const parametersOffset = mustHave(items, GUID_FILE_PARAMETERS, 'block size')
  const parameters = await mustRead(bytes, parametersOffset, 8, 'the block size')
  if ((parameters.readUInt32LE(4) & FLAG_HAS_PARENT) !== 0) throw needsParent('VHDX')
  const sizeOffset = mustHave(items, GUID_DISK_SIZE, 'disk size')
  const sectorOffset = mustHave(items, GUID_SECTOR_SIZE, 'sector size')
  const sectorBytes = (await mustRead(bytes, sectorOffset, 4, 'the sector size')).readUInt32LE(0)
  const size = await mustRead(bytes, sizeOffset, 8, 'the disk size')
  const blockBytes = parameters.readUInt32LE(0)
  const isBlockSize = blockBytes >= BLOCK_BYTES_MIN && blockBytes <= BLOCK_BYTES_MAX
  if (!isBlockSize || (blockBytes & (blockBytes - 1)) !== 0) {
    throw imageCorrupt(`a VHDX block cannot have ${blockBytes} bytes`)
  }
  if (sectorBytes !== 512 && sectorBytes !== 4096) {
    throw imageCorrupt(`a VHDX sector cannot have ${sectorBytes} bytes`)
  }
  return { blockBytes, sectorBytes, virtualSizeBytes: sizeAt(size, 0, 'little') }
}

async function readBlocks(
  bytes: ImageBytes,
  region: Region,
  metadata: Metadata,
): Promise<BlockMap> {
  const { blockBytes, sectorBytes, virtualSizeBytes } = metadata
  const chunkRatio = (SECTORS_PER_BITMAP * sectorBytes) / blockBytes
  const blockCount = Math.ceil(virtualSizeBytes / blockBytes)
  const entryCount = blockCount + Math.floor(Math.max(0, blockCount - 1) / chunkRatio)
  if (entryCount * 8 > region.lengthBytes) {
    throw imageCorrupt('the block table is too small for the size that the header claims')
  }
  const entries = readTable(bytes, region.offsetBytes, entryCount * 8, 'the block table')
  mustHold(bytes, region.offsetBytes, entryCount * 8, 'the block table')
  const bits = new Uint8Array(Math.ceil(blockCount / 8))
  let index = 0
  let block = 0
  for await (const table of entries) {
    for (let at = 0; at < table.length; at += 8, index += 1) {
      if (index % (chunkRatio + 1) === chunkRatio) continue
      const entry = table.readBigUInt64LE(at)
      const state = entry & 7n
      block += 1
      if (state === STATE_PARTIALLY_PRESENT) throw needsParent('VHDX')
      if (state !== STATE_FULLY_PRESENT) continue
      bits[(block - 1) >>> 3] |= 1 << ((block - 1) & 7)
      const endBytes = Number(entry >> 20n) * 1048576 + blockBytes
      if (endBytes > bytes.sizeBytes) throw truncated('a block of data', endBytes, bytes)
    }
  }
  return { blockBytes, bits }
}
