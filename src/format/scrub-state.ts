/**
 * The file `scrub`: how far the reading of everything has come, and how the last one ended. One
 * page, written aside and renamed. It may be removed at any time: then the next run begins at the
 * beginning.
 *
 *      0   8  magic "VARVSCR1"
 *      8   4  format version
 *     12   4  run under way: first segment not dealt with yet; 0: none is under way
 *     16  16  pool id
 *     32   8  run under way: began, milliseconds since 1970
 *     40   8  … bytes read
 *     48   4  … findings
 *     52   4  … of them healed
 *     56   4  … of them lost
 *     60   4  zero
 *     64   8  last whole run: began
 *     72   8  … bytes read
 *     80   4  … findings
 *     84   4  … of them healed
 *     88   4  … of them lost
 *     92   4  zero
 *     96   8  … ended; 0: there was none
 *   4088   8  checksum
 */
import { assert } from '../base/assert.ts'
import { setUint53, tryUint53 } from '../base/bytes.ts'
import type { Checksum } from '../base/checksum.ts'
import { layout } from '../base/layout.ts'
import {
  FORMAT_VERSION,
  PAGE_SIZE_BYTES,
  bytesEqual,
  copyBytes,
  hasMagic,
  isPageSound,
  pageView,
  sealPage,
  writeMagic,
} from './page.ts'

export const SCRUB_FILE = 'scrub'
const SCRUB_MAGIC = 'VARVSCR1'

const FIELD = layout({
  magic: 8,
  formatVersion: 4,
  nextSegment: 4,
  poolId: 16,
  running: 32,
  last: 32,
  lastEndedMs: 8,
})
assert(FIELD.endOffset === 104, 'the page is as drawn')

/** What a run has done; each count is of findings. */
export interface ScrubTotals {
  startedMs: number
  readBytes: number
  foundCount: number
  healedCount: number
  lostCount: number
}

export interface ScrubState {
  /** Null: no run is under way. */
  running: (ScrubTotals & { nextSegment: number }) | null
  /** Null: none was ever brought to its end. */
  last: (ScrubTotals & { endedMs: number }) | null
}

export function encodeScrubState(
  state: ScrubState,
  poolId: Uint8Array,
  memory: Uint8Array,
  offsetBytes: number,
  checksum: Checksum,
): void {
  memory.fill(0, offsetBytes, offsetBytes + PAGE_SIZE_BYTES)
  const view = pageView(memory, offsetBytes)
  writeMagic(view, SCRUB_MAGIC)
  view.setUint32(FIELD.formatVersion, FORMAT_VERSION, true)
  copyBytes(poolId, view, FIELD.poolId)
  if (state.running !== null) {
    view.setUint32(FIELD.nextSegment, state.running.nextSegment, true)
    encodeTotals(state.running, view, FIELD.running)
  }
  if (state.last !== null) {
    encodeTotals(state.last, view, FIELD.last)
    setUint53(view, FIELD.lastEndedMs, state.last.endedMs)
  }
  sealPage(memory, offsetBytes, checksum)
}

/** Null when the page is not the sound state of this pool's scrubs. */
export function tryDecodeScrubState(
  memory: Uint8Array,
  offsetBytes: number,
  poolId: Uint8Array,
  checksum: Checksum,
): ScrubState | null {
  const view = pageView(memory, offsetBytes)
  if (!hasMagic(view, SCRUB_MAGIC) || !isPageSound(memory, offsetBytes, checksum)) return null
  if (view.getUint32(FIELD.formatVersion, true) !== FORMAT_VERSION) return null
  if (!bytesEqual(poolId, view, FIELD.poolId)) return null
  const nextSegment = view.getUint32(FIELD.nextSegment, true)
  const running = tryDecodeTotals(view, FIELD.running)
  const last = tryDecodeTotals(view, FIELD.last)
  const endedMs = tryUint53(view, FIELD.lastEndedMs)
  if (running === null || last === null || endedMs === null) return null
  return {
    running: nextSegment === 0 ? null : { ...running, nextSegment },
    last: endedMs === 0 ? null : { ...last, endedMs },
  }
}

function encodeTotals(totals: ScrubTotals, view: DataView, at: number): void {
  setUint53(view, at, totals.startedMs)
  setUint53(view, at + 8, totals.readBytes)
  view.setUint32(at + 16, totals.foundCount, true)
  view.setUint32(at + 20, totals.healedCount, true)
  view.setUint32(at + 24, totals.lostCount, true)
}

function tryDecodeTotals(view: DataView, at: number): ScrubTotals | null {
  const startedMs = tryUint53(view, at)
  const readBytes = tryUint53(view, at + 8)
  if (startedMs === null || readBytes === null) return null
  return {
    startedMs,
    readBytes,
    foundCount: view.getUint32(at + 16, true),
    healedCount: view.getUint32(at + 20, true),
    lostCount: view.getUint32(at + 24, true),
  }
}
