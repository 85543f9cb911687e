/** FUSE_INIT: what the kernel offers and what we take of it. */
import { setZeros } from '../../base/bytes.ts'
import {
  FUSE_MAJOR,
  FUSE_MINOR,
  FUSE_MINOR_MIN,
  INIT_IN,
  INIT_OUT,
  InitFlag,
  InitFlag2,
} from './abi.ts'
import { BODY_BYTES, SLOT_COUNT } from './slots.ts'

/**
 * Taken where offered. What is not, and why:
 *
 * - WRITEBACK_CACHE: with it the kernel owns the size and time of every file, so that a resize or
 *   a write by another client would never be seen (docs/decisions/2026-11-22-fuse-caching.md).
 * - AUTO_INVAL_DATA: asks for attributes before every cached read after a write. Data is dropped
 *   from the cache when a file is opened instead, and when its size is seen to have changed.
 * - ATOMIC_O_TRUNC: a truncation is a SETATTR like any other.
 * - POSIX_LOCKS, FLOCK_LOCKS: without them the kernel keeps locks itself, which is all that is
 *   needed on one host.
 * - DO_READDIRPLUS: names are looked up afresh at each use, so attributes sent ahead are lost.
 */
const FLAGS_WANTED =
  InitFlag.ASYNC_READ |
  InitFlag.BIG_WRITES |
  InitFlag.ASYNC_DIO |
  InitFlag.PARALLEL_DIROPS |
  InitFlag.HANDLE_KILLPRIV |
  InitFlag.MAX_PAGES |
  // Nothing here has setuid bits or capabilities; so the kernel need not ask before each write.
  InitFlag.HANDLE_KILLPRIV_V2 |
  InitFlag.INIT_EXT
const FLAGS2_WANTED: number = InitFlag2.DIRECT_IO_ALLOW_MMAP

const PAGE_BYTES = 4096
const PAGE_COUNT_MAX = BODY_BYTES / PAGE_BYTES
/** Asynchronous requests; the rest of the slots is left for what someone waits for. */
const BACKGROUND_COUNT_MAX = SLOT_COUNT - 8
const CONGESTION_COUNT = 48
/** Times are kept in milliseconds. */
const TIME_GRANULARITY_NS = 1_000_000

/** Writes the reply's body at `replyAt` and returns its length, or a negative errno. */
export function answerInit(
  view: DataView,
  argumentsAt: number,
  argumentsBytes: number,
  replyAt: number,
): number {
  const EPROTO = 71
  const major = view.getUint32(argumentsAt + INIT_IN.major, true)
  const minor = view.getUint32(argumentsAt + INIT_IN.minor, true)
  if (major !== FUSE_MAJOR || minor < FUSE_MINOR_MIN) return -EPROTO
  const flags = view.getUint32(argumentsAt + INIT_IN.flags, true) & FLAGS_WANTED
  const isExtended = (flags & InitFlag.INIT_EXT) !== 0 && argumentsBytes > INIT_IN.flags2
  const offered2 = isExtended ? view.getUint32(argumentsAt + INIT_IN.flags2, true) : 0
  setZeros(view, replyAt, INIT_OUT.endOffset)
  view.setUint32(replyAt + INIT_OUT.major, FUSE_MAJOR, true)
  view.setUint32(replyAt + INIT_OUT.minor, Math.min(minor, FUSE_MINOR), true)
  const readahead = view.getUint32(argumentsAt + INIT_IN.maxReadahead, true)
  view.setUint32(replyAt + INIT_OUT.maxReadahead, Math.max(readahead, BODY_BYTES), true)
  view.setUint32(replyAt + INIT_OUT.flags, flags >>> 0, true)
  view.setUint16(replyAt + INIT_OUT.maxBackground, BACKGROUND_COUNT_MAX, true)
  view.setUint16(replyAt + INIT_OUT.congestionThreshold, CONGESTION_COUNT, true)
  view.setUint32(replyAt + INIT_OUT.maxWrite, BODY_BYTES, true)
  view.setUint32(replyAt + INIT_OUT.timeGran, TIME_GRANULARITY_NS, true)
  view.setUint16(replyAt + INIT_OUT.maxPages, PAGE_COUNT_MAX, true)
  view.setUint32(replyAt + INIT_OUT.flags2, offered2 & FLAGS2_WANTED, true)
  return INIT_OUT.endOffset
}
