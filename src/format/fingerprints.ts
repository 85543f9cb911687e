/**
 * The file `fingerprints`: the dedup index as it was when the pool was closed. It saves reading
 * every segment's table at the next open, and is no more than that: a file that is missing, of
 * another pool or of another checkpoint is ignored, and so is a page that is damaged.
 *
 *   page 0      head
 *   page 1 …    entries, ENTRIES_PER_PAGE a page, the last page filled with zeros
 *
 * Head page                                     Entry page
 *    0   8  magic "VARVFPH1"                       0   8  magic "VARVFPE1"
 *    8   4  format version                         8   …  entries, 12 bytes each:
 *   12   4  sample bits                                   0  4  segment, 0: no entry
 *   16  16  pool id                                       4  4  tag: low word of the XXH64
 *   32   8  generation of the superblock                  8  2  low half of its high word
 *   40   4  number of entry pages                        10  2  slot
 * 4088   8  checksum                            4088   8  checksum
 */
import type { Checksum } from '../base/checksum.ts'
import { setUint53, tryUint53 } from '../base/bytes.ts'
import { layout } from '../base/layout.ts'
import {
  FORMAT_VERSION,
  PAGE_CHECKSUM_OFFSET,
  PAGE_SIZE_BYTES,
  bytesEqual,
  copyBytes,
  hasMagic,
  isPageSound,
  pageView,
  sealPage,
  writeMagic,
} from './page.ts'

export const FINGERPRINT_FILE = 'fingerprints'
const HEAD_MAGIC = 'VARVFPH1'
const ENTRY_MAGIC = 'VARVFPE1'

const HEAD = layout({
  magic: 8,
  formatVersion: 4,
  sampleBits: 4,
  poolId: 16,
  generation: 8,
  pageCount: 4,
})
const ENTRY_FIRST_OFFSET = 8
const ENTRY_BYTES = 12

export const ENTRIES_PER_PAGE: number = Math.floor(
  (PAGE_CHECKSUM_OFFSET - ENTRY_FIRST_OFFSET) / ENTRY_BYTES,
)

export interface FingerprintHead {
  generation: number
  sampleBits: number
  pageCount: number
}

export interface FingerprintEntry {
  segment: number
  slot: number
  tag: number
  extra: number
}

export function encodeFingerprintHead(
  head: FingerprintHead,
  poolId: Uint8Array,
  memory: Uint8Array,
  offsetBytes: number,
  checksum: Checksum,
): void {
  memory.fill(0, offsetBytes, offsetBytes + PAGE_SIZE_BYTES)
  const view = pageView(memory, offsetBytes)
  writeMagic(view, HEAD_MAGIC)
  view.setUint32(HEAD.formatVersion, FORMAT_VERSION, true)
  view.setUint32(HEAD.sampleBits, head.sampleBits, true)
  copyBytes(poolId, view, HEAD.poolId)
  setUint53(view, HEAD.generation, head.generation)
  view.setUint32(HEAD.pageCount, head.pageCount, true)
  sealPage(memory, offsetBytes, checksum)
}

/** Null when the page is not the sound head of this pool's file. */
export function tryDecodeFingerprintHead(
  memory: Uint8Array,
  offsetBytes: number,
  poolId: Uint8Array,
  checksum: Checksum,
): FingerprintHead | null {
  const view = pageView(memory, offsetBytes)
  if (!hasMagic(view, HEAD_MAGIC) || !isPageSound(memory, offsetBytes, checksum)) return null
  if (view.getUint32(HEAD.formatVersion, true) !== FORMAT_VERSION) return null
  if (!bytesEqual(poolId, view, HEAD.poolId)) return null
  const generation = tryUint53(view, HEAD.generation)
  if (generation === null) return null
  return {
    generation,
    sampleBits: view.getUint32(HEAD.sampleBits, true),
    pageCount: view.getUint32(HEAD.pageCount, true),
  }
}

/** Writes up to ENTRIES_PER_PAGE entries, of which `entryAt` gives each. */
export function encodeFingerprintPage(
  count: number,
  entryAt: (index: number) => FingerprintEntry,
  memory: Uint8Array,
  offsetBytes: number,
  checksum: Checksum,
): void {
  memory.fill(0, offsetBytes, offsetBytes + PAGE_SIZE_BYTES)
  const view = pageView(memory, offsetBytes)
  writeMagic(view, ENTRY_MAGIC)
  for (let i = 0; i < count; i += 1) {
    const at = ENTRY_FIRST_OFFSET + i * ENTRY_BYTES
    const { segment, slot, tag, extra } = entryAt(i)
    view.setUint32(at, segment, true)
    view.setUint32(at + 4, tag, true)
    view.setUint16(at + 8, extra, true)
    view.setUint16(at + 10, slot, true)
  }
  sealPage(memory, offsetBytes, checksum)
}

/** Calls `visit` with each entry; false, and nothing visited, when the page is not sound. */
export function decodeFingerprintPage(
  memory: Uint8Array,
  offsetBytes: number,
  checksum: Checksum,
  visit: (segment: number, slot: number, tag: number, extra: number) => void,
): boolean {
  const view = pageView(memory, offsetBytes)
  if (!hasMagic(view, ENTRY_MAGIC) || !isPageSound(memory, offsetBytes, checksum)) return false
  for (let i = 0; i < ENTRIES_PER_PAGE; i += 1) {
    const at = ENTRY_FIRST_OFFSET + i * ENTRY_BYTES
    const segment = view.getUint32(at, true)
    if (segment === 0) break
    visit(
      segment,
      view.getUint16(at + 10, true),
      view.getUint32(at + 4, true),
      view.getUint16(at + 8, true),
    )
  }
  return true
}
