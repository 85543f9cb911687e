/**
 * VMDK (VMware, "Virtual Disk Format 5.0"). A sparse extent, little-endian, offsets in sectors:
 *
 *     0 "KDMV"  4 version  8 flags  12 capacity u64  20 grain u64  28 descriptor: offset u64
 *     36 its length u64  44 entries of a grain table  56 grain directory u64
 *
 * and a descriptor, text, within it or as a file of its own, whose extents are other files. A
 * sparse extent without a capacity makes QEMU look for such a descriptor: it is refused.
 */
import { imageCorrupt, mustHold, mustRead, readTable, sizeAt, truncated } from '../image-bytes.ts'
import type { ImageBytes } from '../image-bytes.ts'
import { needsParent, unsupportedImage } from './facts.ts'
import type { ImageFacts, VmdkExtent } from './facts.ts'

const SECTOR_BYTES = 512
const HEADER_BYTES = 512
const DESCRIPTOR_BYTES_MAX = 1048576
const TABLE_ENTRIES_MAX = 512
/** As QEMU: 128 MiB of directory. */
const DIRECTORY_ENTRIES_MAX = 33554432
const GRAIN_SECTORS_MAX = 2097152
/** The directory is said to be in the footer, before the last sector. */
const AT_END = 0xffff_ffff_ffff_ffffn
const FOOTER_FROM_END_BYTES = 1024
/** Grain table entry: zeros. */
const ZERO_GRAIN = 1
const EXTENT_COUNT_MAX = 1024

export async function inspectVmdk(bytes: ImageBytes): Promise<ImageFacts> {
  const magic = (await bytes.read(0, 4)).toString('latin1')
  if (magic === 'KDMV') return inspectSparse(bytes)
  if (magic === 'COWD' || magic === '\xbe\xba\xfe\xca') {
    throw unsupportedImage(
      'extents of ESX servers are not read',
      'Export the disk as OVF, which makes it streamOptimized.',
    )
  }
  if (bytes.sizeBytes > DESCRIPTOR_BYTES_MAX) throw imageCorrupt('this is not a VMDK image')
  const text = (await mustRead(bytes, 0, bytes.sizeBytes, 'its descriptor')).toString('latin1')
  if (!text.startsWith('# Disk DescriptorFile')) throw imageCorrupt('this is not a VMDK image')
  verifyNoParent(text)
  const extents = parseExtents(text)
  const virtualSizeBytes = extents.reduce((sum, extent) => sum + extent.sizeBytes, 0)
  return { virtualSizeBytes, references: [], extents, blocks: null }
}

async function inspectSparse(bytes: ImageBytes): Promise<ImageFacts> {
  const first = await mustRead(bytes, 0, HEADER_BYTES, 'its header')
  if (sizeAt(first, 12, 'little') === 0) throw imageCorrupt('the VMDK image has no capacity')
  await verifyDescriptor(bytes, first)
  let header = first
  if (first.readBigUInt64LE(56) === AT_END) {
    const offset = Math.max(0, bytes.sizeBytes - FOOTER_FROM_END_BYTES)
    header = await mustRead(bytes, offset, HEADER_BYTES, 'its footer')
    if (header.toString('latin1', 0, 4) !== 'KDMV') {
      throw imageCorrupt('the image is cut off: its footer is missing')
    }
    // QEMU goes by the footer once it has read it.
    if (sizeAt(header, 12, 'little') === 0) throw imageCorrupt('the VMDK image has no capacity')
    await verifyDescriptor(bytes, header)
  }
  const virtualSizeBytes = sizeAt(header, 12, 'little') * SECTOR_BYTES
  await verifyGrains(bytes, header)
  return { virtualSizeBytes, references: [], extents: null, blocks: null }
}

async function verifyDescriptor(bytes: ImageBytes, header: Buffer): Promise<void> {
  const offset = sizeAt(header, 28, 'little') * SECTOR_BYTES
  const lengthBytes = sizeAt(header, 36, 'little') * SECTOR_BYTES
  if (offset === 0) return
  if (lengthBytes > DESCRIPTOR_BYTES_MAX) throw imageCorrupt('the VMDK descriptor is too long')
  mustHold(bytes, offset, SECTOR_BYTES, 'the descriptor')
  // QEMU reads a fixed twenty sectors, whatever the length says.
  const read = await bytes.read(offset, Math.max(lengthBytes, 20 * SECTOR_BYTES))
  verifyNoParent(read.toString('latin1'))
}

function verifyNoParent(text: string): void {
  if (text.includes('parentFileNameHint')) throw needsParent('VMDK')
  const parent = /^\s*parentCID\s*=\s*([0-9a-fA-F]+)/m.exec(text)
  if (parent !== null && Number.parseInt(parent[1], 16) !== 0xffffffff) throw needsParent('VMDK')
}

async function verifyGrains(bytes: ImageBytes, header: Buffer): Promise<void> {
  const capacity = sizeAt(header, 12, 'little')
  const grainSectors = sizeAt(header, 20, 'little')
  const tableEntries = header.readUInt32LE(44)
  if (grainSectors < 1 || grainSectors > GRAIN_SECTORS_MAX) {
    throw imageCorrupt(`a grain cannot have ${grainSectors} sectors`)
  }
  if (tableEntries < 1 || tableEntries > TABLE_ENTRIES_MAX) {
    throw imageCorrupt(`a grain table cannot have ${tableEntries} entries`)
  }
  const directoryEntries = Math.ceil(capacity / (tableEntries * grainSectors))
  if (directoryEntries > DIRECTORY_ENTRIES_MAX) throw imageCorrupt('the grain directory is too big')
  const offset = sizeAt(header, 56, 'little') * SECTOR_BYTES
  const seen = new Set<number>()
  const directory = readTable(bytes, offset, directoryEntries * 4, 'the grain directory')
  for await (const part of directory) {
    for (let at = 0; at < part.length; at += 4) {
      const sector = part.readUInt32LE(at)
      if (sector === 0) continue
      if (seen.has(sector)) throw imageCorrupt('a grain table is used twice')
      seen.add(sector)
      await verifyTable(bytes, sector * SECTOR_BYTES, tableEntries)
    }
  }
}

async function verifyTable(bytes: ImageBytes, offset: number, entryCount: number): Promise<void> {
  const table = await mustRead(bytes, offset, entryCount * 4, 'a grain table')
  for (let at = 0; at < table.length; at += 4) {
    const sector = table.readUInt32LE(at)
    if (sector === 0 || sector === ZERO_GRAIN) continue
    const grainOffset = sector * SECTOR_BYTES
    if (grainOffset >= bytes.sizeBytes) throw truncated('a grain of data', grainOffset, bytes)
  }
}

/** `RW 4192256 SPARSE "name.vmdk"`, `RW 8192 FLAT "name-flat.vmdk" 0`, `RW 63 ZERO`. */
function parseExtents(text: string): VmdkExtent[] {
  const extents: VmdkExtent[] = []
  for (const line of text.split('\n')) {
    const match = /^\s*(RW|RDONLY|NOACCESS)\s+(.*)$/.exec(line)
    if (match === null) continue
    if (match[1] === 'NOACCESS') throw unsupportedImage('an extent may not be read', 'Convert it.')
    extents.push(parseExtent(match[2].trim()))
    if (extents.length > EXTENT_COUNT_MAX) throw imageCorrupt('there are too many extents')
  }
  if (extents.length === 0) throw imageCorrupt('the VMDK descriptor names no extents')
  return extents
}

function parseExtent(text: string): VmdkExtent {
  const match = /^(\d{1,15})\s+([A-Z]+)(?:\s+"([^"\n]{1,1023})"(?:\s+(\d{1,15}))?)?$/.exec(text)
  if (match === null) throw imageCorrupt(`an extent is not understood: ${text.slice(0, 80)}`)
  const sizeBytes = Number(match[1]) * SECTOR_BYTES
  const type = match[2] === 'VMFS' ? 'FLAT' : match[2]
  const name = (match[3] as string | undefined) ?? null
  const offsetBytes = Number((match[4] as string | undefined) ?? 0) * SECTOR_BYTES
  if (type === 'ZERO' && name === null) return { sizeBytes, type, name, offsetBytes: 0 }
  if ((type === 'FLAT' || type === 'SPARSE') && name !== null) {
    return { sizeBytes, type, name, offsetBytes }
  }
  throw unsupportedImage(`extents of type ${type} are not read`, 'Convert it to streamOptimized.')
}
