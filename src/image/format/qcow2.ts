/**
 * qcow2 (QEMU, docs/interop/qcow2.txt). Big-endian.
 *
 *     0 magic  4 version  8 backing name: offset  16 its length  20 cluster bits  24 size
 *     32 encryption  36 L1 entries  40 L1 offset  72 incompatible features (version 3)
 *     100 header length, where the header extensions begin (version 2: 72)
 *
 * The tables are walked because QEMU reads what lies past the end of the file as zeros: a copy
 * that was cut off would become a disk with holes in it, and nobody would be told.
 */
import { imageCorrupt, mustRead, readTable, sizeAt, truncated } from '../image-bytes.ts'
import type { ImageBytes } from '../image-bytes.ts'
import { unsupportedImage } from './facts.ts'
import type { ImageFacts, Reference } from './facts.ts'

const MAGIC = 0x514649fb
const HEADER_V2_BYTES = 72
const HEADER_V3_BYTES = 104
const CLUSTER_BITS_MIN = 9
const CLUSTER_BITS_MAX = 21
/** QCOW_MAX_L1_SIZE of QEMU. */
const L1_BYTES_MAX = 33554432
const BACKING_NAME_BYTES_MAX = 1023
const EXTENSION_COUNT_MAX = 64

const INCOMPATIBLE_CORRUPT = 2n
const INCOMPATIBLE_DATA_FILE = 4n
const INCOMPATIBLE_EXTENDED_L2 = 16n
/** Dirty, corrupt, data file, compression type, extended L2. */
const INCOMPATIBLE_KNOWN = 31n

const EXTENSION_END = 0
const EXTENSION_BACKING_FORMAT = 0xe2792aca
const EXTENSION_DATA_FILE = 0x44415441

const OFFSET_MASK = 0x00ff_ffff_ffff_fe00n
const COMPRESSED = 1n << 62n

interface Header {
  clusterBits: number
  virtualSizeBytes: number
  l1EntryCount: number
  l1OffsetBytes: number
  l2EntryBytes: number
  hasDataFile: boolean
}

export async function inspectQcow2(bytes: ImageBytes): Promise<ImageFacts> {
  const start = await mustRead(bytes, 0, HEADER_V2_BYTES, 'its header')
  if (start.readUInt32BE(0) !== MAGIC) throw imageCorrupt('this is not a qcow2 image')
  const version = start.readUInt32BE(4)
  if (version !== 2 && version !== 3) {
    throw unsupportedImage(`qcow2 of version ${version} is not known`, 'Use version 2 or 3.')
  }
  if (start.readUInt32BE(32) !== 0) {
    throw unsupportedImage(
      'the qcow2 image is encrypted',
      'Decrypt it with `qemu-img convert` and its secret, and import the result.',
    )
  }
  const full = version === 3 ? await mustRead(bytes, 0, HEADER_V3_BYTES, 'its header') : start
  const incompatible = version === 3 ? full.readBigUInt64BE(72) : 0n
  verifyFeatures(incompatible)
  const header = parseHeader(start, incompatible)
  const references = await readReferences(bytes, full, header)
  await verifyTables(bytes, header)
  return { virtualSizeBytes: header.virtualSizeBytes, references, extents: null, blocks: null }
}

function verifyFeatures(incompatible: bigint): void {
  if ((incompatible & ~INCOMPATIBLE_KNOWN) !== 0n) {
    throw unsupportedImage(
      'the qcow2 image has features that are not known here',
      'Convert it with the QEMU that made it: qemu-img convert -O qcow2 OLD NEW',
    )
  }
  if ((incompatible & INCOMPATIBLE_CORRUPT) !== 0n) {
    throw imageCorrupt('the qcow2 image is marked as corrupt', 'Try `qemu-img check -r all`.')
  }
}

function parseHeader(start: Buffer, incompatible: bigint): Header {
  const clusterBits = start.readUInt32BE(20)
  if (clusterBits < CLUSTER_BITS_MIN || clusterBits > CLUSTER_BITS_MAX) {
    throw imageCorrupt(`a qcow2 cluster cannot have 2^${clusterBits} bytes`)
  }
  const isExtended = (incompatible & INCOMPATIBLE_EXTENDED_L2) !== 0n
  const l1EntryCount = start.readUInt32BE(36)
  if (l1EntryCount * 8 > L1_BYTES_MAX) throw imageCorrupt('the L1 table is larger than any can be')
  return {
    clusterBits,
    virtualSizeBytes: sizeAt(start, 24, 'big'),
    l1EntryCount,
    l1OffsetBytes: sizeAt(start, 40, 'big'),
    l2EntryBytes: isExtended ? 16 : 8,
    hasDataFile: (incompatible & INCOMPATIBLE_DATA_FILE) !== 0n,
  }
}

async function readReferences(
  bytes: ImageBytes,
  full: Buffer,
  header: Header,
): Promise<Reference[]> {
  const extensions = await readExtensions(bytes, full, 2 ** header.clusterBits)
  const references: Reference[] = []
  const nameOffset = sizeAt(full, 8, 'big')
  if (nameOffset !== 0) {
    const nameBytes = full.readUInt32BE(16)
    if (nameBytes > BACKING_NAME_BYTES_MAX) throw imageCorrupt('the backing name is too long')
    const name = (await mustRead(bytes, nameOffset, nameBytes, 'the backing name')).toString()
    const format = extensions.get(EXTENSION_BACKING_FORMAT) ?? null
    references.push({ role: 'backing', name, format })
  }
  if (header.hasDataFile) {
    const name = extensions.get(EXTENSION_DATA_FILE) ?? ''
    references.push({ role: 'data-file', name, format: 'raw' })
  }
  return references
}

/** The two extensions that matter, by type. All lie within the first cluster. */
async function readExtensions(
  bytes: ImageBytes,
  full: Buffer,
  clusterBytes: number,
): Promise<Map<number, string>> {
  const found = new Map<number, string>()
  let at = full.length === HEADER_V2_BYTES ? HEADER_V2_BYTES : full.readUInt32BE(100)
  const isHeaderLength = at === HEADER_V2_BYTES || (at >= HEADER_V3_BYTES && at <= clusterBytes)
  if (!isHeaderLength) throw imageCorrupt(`a qcow2 header cannot have ${at} bytes`)
  const nameOffset = sizeAt(full, 8, 'big')
  const endBytes = Math.min(bytes.sizeBytes, clusterBytes, nameOffset === 0 ? Infinity : nameOffset)
  for (let count = 0; at + 8 <= endBytes; count += 1) {
    if (count === EXTENSION_COUNT_MAX) throw imageCorrupt('the qcow2 header has no end')
    const head = await mustRead(bytes, at, 8, 'a header extension')
    const type = head.readUInt32BE(0)
    const lengthBytes = head.readUInt32BE(4)
    if (type === EXTENSION_END) break
    if (lengthBytes > endBytes - at - 8) throw imageCorrupt('a header extension is too long')
    if (type === EXTENSION_BACKING_FORMAT || type === EXTENSION_DATA_FILE) {
      const text = await mustRead(bytes, at + 8, lengthBytes, 'a header extension')
      found.set(type, text.toString())
    }
    at += 8 + Math.ceil(lengthBytes / 8) * 8
  }
  return found
}

async function verifyTables(bytes: ImageBytes, header: Header): Promise<void> {
  const { clusterBits, l1EntryCount, l1OffsetBytes, l2EntryBytes, virtualSizeBytes } = header
  const clusterBytes = 2 ** clusterBits
  const spanBytes = (clusterBytes / l2EntryBytes) * clusterBytes
  if (virtualSizeBytes > l1EntryCount * spanBytes) {
    throw imageCorrupt('the L1 table is too small for the size that the header claims')
  }
  const seen = new Set<bigint>()
  for await (const table of readTable(bytes, l1OffsetBytes, l1EntryCount * 8, 'the L1 table')) {
    for (let at = 0; at < table.length; at += 8) {
      const offset = table.readBigUInt64BE(at) & OFFSET_MASK
      if (offset === 0n) continue
      // A table that is used twice could make a small file take for ever to be walked.
      if (seen.has(offset)) throw imageCorrupt('an L2 table is used twice')
      seen.add(offset)
      const l2 = readTable(bytes, Number(offset), clusterBytes, 'an L2 table')
      for await (const part of l2) verifyL2(bytes, part, header)
    }
  }
}

/**
 * The last cluster may end past the file, as QEMU leaves it when it wrote only its beginning; one
 * that begins past it is lost. A compressed one that is cut off does not decompress.
 */
function verifyL2(bytes: ImageBytes, table: Buffer, header: Header): void {
  const { clusterBits, l2EntryBytes } = header
  const compressedMask = (1n << BigInt(62 - (clusterBits - 8))) - 1n
  for (let at = 0; at < table.length; at += l2EntryBytes) {
    const high = table.readUInt32BE(at)
    if (high === 0 && table.readUInt32BE(at + 4) === 0) continue
    const entry = table.readBigUInt64BE(at)
    const isCompressed = (entry & COMPRESSED) !== 0n
    if (header.hasDataFile && !isCompressed) continue
    const offset = Number(entry & (isCompressed ? compressedMask : OFFSET_MASK))
    if (offset >= bytes.sizeBytes) throw truncated('a cluster of data', offset, bytes)
  }
}
