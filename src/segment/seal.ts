import { must } from '../base/assert.ts'
import { BLOCK_SIZE_BYTES } from '../base/units.ts'
import { PAGE_SIZE_BYTES } from '../format/page.ts'
import { TABLE_PAGE_COUNT, TABLE_SLOT, encodeSegmentFooter } from '../format/segment.ts'
import type { Io } from '../io/io.ts'
import type { SegmentState } from './segment-state.ts'
import type { SegmentStore } from './segment-store.ts'

/** Table pages and the footer page, which lie one after the other. */
export const SEAL_BYTES: number = (TABLE_PAGE_COUNT + 1) * PAGE_SIZE_BYTES

/**
 * Writes the checksum table and the footer of a filled segment, using SEAL_BYTES of arena memory
 * at `staging`. Table and footer may become durable in any order: the footer carries the
 * checksums of the table pages, and a footer that is not whole means "not sealed". Returns a
 * byte count or -errno.
 */
export function sealSegment(
  io: Io,
  store: SegmentStore,
  state: SegmentState,
  usedSlotCount: number,
  staging: number,
): number {
  const { memory } = io.arena
  for (let i = 0; i < TABLE_PAGE_COUNT; i += 1) {
    const page = must(state.pages[i], 'the table of an open segment')
    const bytes = new Uint8Array(page.buffer, page.byteOffset, PAGE_SIZE_BYTES)
    memory.set(bytes, staging + i * PAGE_SIZE_BYTES)
  }
  const footer = {
    segment: state.id,
    kind: must(state.kind, 'the kind of an open segment'),
    usedSlotCount,
    tableChecksums: new Uint32Array(2 * TABLE_PAGE_COUNT),
  }
  store.checksum.hashBlocks(memory, staging, TABLE_PAGE_COUNT, footer.tableChecksums, 0)
  const footerOffset = staging + TABLE_PAGE_COUNT * PAGE_SIZE_BYTES
  encodeSegmentFooter(footer, store.poolId, memory, footerOffset, store.checksum)
  const file = must(state.file, 'the open segment file')
  const vector = { pairs: Uint32Array.of(staging, SEAL_BYTES), count: 1 }
  const result = io.writeSync(file, TABLE_SLOT * BLOCK_SIZE_BYTES, vector)
  if (result >= 0) state.footer = footer
  return result
}
