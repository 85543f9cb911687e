/**
 * All that an export knows of a disk. The pool implements it for volumes and snapshots; protocol
 * cores are tested against one in memory.
 *
 * Offsets and lengths are bytes and need no alignment; the caller has checked that
 * `offsetBytes + lengthBytes <= sizeBytes` (the target checks again and answers EINVAL).
 * One read or write moves at most ARENA_PIECE_BYTES_MAX bytes, trim and zero any length.
 * The target completes every operation exactly once, never inside the call that started it, and
 * in any order. Result: 0, or a negative errno. Arena memory handed in stays the caller's, must
 * not change and must not be freed until the operation completes.
 */
export interface TargetCompletion {
  targetComplete(tag: number, result: number): void
}

/** One operation as a promise of its result, for control work. */
export function targetResult(
  start: (completion: TargetCompletion, tag: number) => void,
): Promise<number> {
  return new Promise((resolve) => {
    start({ targetComplete: (_tag, result) => resolve(result) }, 0)
  })
}

/** Durable before it completes (Force Unit Access). */
export const WRITE_FUA = 1
/** Zero: keep the range allocated as explicit zeros instead of unmapping it. */
export const ZERO_NO_HOLE = 2

/** Extent flags of the `allocation` context: not mapped / reads as zeros. */
export const EXTENT_HOLE = 1
export const EXTENT_ZERO = 2
/** Extent flag of a `changed-since` context. */
export const EXTENT_CHANGED = 1

/** Extents in order, covering the range asked about from its start: pairs of (length, flags). */
export interface ExtentList {
  /** Lengths may pass 2^32: float64. */
  readonly lengths: Float64Array
  readonly flags: Uint32Array
  count: number
}

/** What a range can be described by. A snapshot is named without its volume. */
export type ExtentContext = { kind: 'allocation' } | { kind: 'changed-since'; snapshot: string }

export interface ExportTarget {
  /** `volume` or `volume@snapshot`. */
  readonly name: string
  readonly readOnly: boolean
  /** Grows and shrinks with `resize`. */
  readonly sizeBytes: number
  /** Smallest, best and largest request in bytes. */
  readonly blockSizes: { minimum: number; preferred: number; maximum: number }

  read(
    offsetBytes: number,
    lengthBytes: number,
    arenaOffset: number,
    completion: TargetCompletion,
    tag: number,
  ): void
  /** `flags`: WRITE_FUA. */
  write(
    offsetBytes: number,
    lengthBytes: number,
    arenaOffset: number,
    flags: number,
    completion: TargetCompletion,
    tag: number,
  ): void
  /** Everything completed before this call is durable when it completes. */
  flush(completion: TargetCompletion, tag: number): void
  /**
   * Unmaps whole blocks and zeroes the unaligned ends: the range reads as zeros. `flags`:
   * WRITE_FUA.
   */
  trim(
    offsetBytes: number,
    lengthBytes: number,
    flags: number,
    completion: TargetCompletion,
    tag: number,
  ): void
  /**
   * The range reads as zeros. Always fast: no data is written. `flags`: WRITE_FUA, ZERO_NO_HOLE.
   */
  zero(
    offsetBytes: number,
    lengthBytes: number,
    flags: number,
    completion: TargetCompletion,
    tag: number,
  ): void
  /**
   * Describes the range from its start in at most `out.lengths.length` extents; may cover less
   * than asked but at least one extent; the last one may reach past the range's end.
   */
  extents(
    offsetBytes: number,
    lengthBytes: number,
    context: ExtentContext,
    out: ExtentList,
    completion: TargetCompletion,
    tag: number,
  ): void
  /** Names of the snapshots that `changed-since` can be asked about, oldest first. */
  snapshots(): readonly string[]
  /** The client is gone. No operation may be in flight. Idempotent. */
  close(): void
}

export interface ExportEntry {
  name: string
  sizeBytes: number
  readOnly: boolean
}

/** What a server offers. */
export interface ExportDirectory {
  list(): ExportEntry[]
  /**
   * Opens for one client; `client` is shown to whoever asks who is using the disk. Null: no such
   * export.
   */
  open(name: string, client: string): ExportTarget | null
}
