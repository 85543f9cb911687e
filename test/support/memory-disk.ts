/**
 * A sparse disk of any size in memory, up to 256 TiB: blocks that were written, and runs of blocks
 * that are data or explicit zeros; what is in no run is a hole. Operations complete as those of
 * `memory-target.ts` do.
 */
import { assert, must } from '../../src/base/assert.ts'
import { Errno } from '../../src/base/errors.ts'
import type {
  ExportTarget,
  ExtentContext,
  ExtentList,
  TargetCompletion,
} from '../../src/export/target.ts'
import { EXTENT_HOLE, EXTENT_ZERO, ZERO_NO_HOLE } from '../../src/export/target.ts'
import type { Arena } from '../../src/io/arena.ts'
import { ARENA_PIECE_BYTES_MAX } from '../../src/io/arena.ts'
import type { CompletionSchedule } from './completion-queue.ts'
import { CompletionQueue } from './completion-queue.ts'
import type { Recorded } from './memory-target.ts'

export const BLOCK_BYTES = 4096

type RunKind = 'data' | 'zero'

/** Blocks from `start` to before `end`. */
interface Run {
  start: number
  end: number
  kind: RunKind
}

export interface MemoryDiskOptions {
  arena: Arena
  name: string
  sizeBytes: number
  readOnly: boolean
  schedule?: CompletionSchedule
  /** Bytes that blocks may still take; a write of more fails with ENOSPC. */
  freeBytes?: () => number
  /** Called when bytes have changed. */
  onChange?: () => void
}

export class MemoryDisk implements ExportTarget {
  name: string
  readonly readOnly: boolean
  readonly blockSizes: ExportTarget['blockSizes'] = {
    minimum: 1,
    preferred: BLOCK_BYTES,
    maximum: ARENA_PIECE_BYTES_MAX,
  }
  readonly recorded: Recorded[] = []
  readonly completions: CompletionQueue
  /** Returns the negative errno an operation fails with, or 0. */
  fault: (operation: Recorded) => number = () => 0
  readonly #options: MemoryDiskOptions
  readonly #blocks = new Map<number, Buffer>()
  /** In order; neighbours of one kind are one. */
  #runs: Run[] = []
  #sizeBytes: number

  constructor(options: MemoryDiskOptions) {
    this.#options = options
    this.name = options.name
    this.readOnly = options.readOnly
    this.#sizeBytes = options.sizeBytes
    this.completions = new CompletionQueue(options.schedule)
  }

  get sizeBytes(): number {
    return this.#sizeBytes
  }

  get mappedBytes(): number {
    return this.#blocks.size * BLOCK_BYTES
  }

  read(
    offsetBytes: number,
    lengthBytes: number,
    arenaOffset: number,
    completion: TargetCompletion,
    tag: number,
  ): void {
    assert(lengthBytes <= ARENA_PIECE_BYTES_MAX, 'a read fits a piece')
    const result = this.#record('read', offsetBytes, lengthBytes, 0)
    if (result === 0) this.bytes(offsetBytes, lengthBytes).copy(this.#memory, arenaOffset)
    this.completions.push(completion, tag, result)
  }

  write(
    offsetBytes: number,
    lengthBytes: number,
    arenaOffset: number,
    flags: number,
    completion: TargetCompletion,
    tag: number,
  ): void {
    assert(lengthBytes <= ARENA_PIECE_BYTES_MAX, 'a write fits a piece')
    const result = this.#recordChange('write', offsetBytes, lengthBytes, flags)
    if (result !== 0) {
      this.completions.push(completion, tag, result)
      return
    }
    const bytes = this.#memory.subarray(arenaOffset, arenaOffset + lengthBytes)
    const isPut = this.tryPut(offsetBytes, bytes)
    this.completions.push(completion, tag, isPut ? 0 : -Errno.ENOSPC)
  }

  flush(completion: TargetCompletion, tag: number): void {
    this.completions.push(completion, tag, this.#record('flush', 0, 0, 0))
  }

  trim(
    offsetBytes: number,
    lengthBytes: number,
    flags: number,
    completion: TargetCompletion,
    tag: number,
  ): void {
    const result = this.#recordChange('trim', offsetBytes, lengthBytes, flags)
    if (result === 0) this.#clear(offsetBytes, lengthBytes, null)
    this.completions.push(completion, tag, result)
  }

  zero(
    offsetBytes: number,
    lengthBytes: number,
    flags: number,
    completion: TargetCompletion,
    tag: number,
  ): void {
    const result = this.#recordChange('zero', offsetBytes, lengthBytes, flags)
    const kind = (flags & ZERO_NO_HOLE) === 0 ? null : 'zero'
    if (result === 0) this.#clear(offsetBytes, lengthBytes, kind)
    this.completions.push(completion, tag, result)
  }

  extents(
    offsetBytes: number,
    lengthBytes: number,
    context: ExtentContext,
    out: ExtentList,
    completion: TargetCompletion,
    tag: number,
  ): void {
    assert(context.kind === 'allocation', 'this disk knows of no snapshots')
    const result = this.#record('extents', offsetBytes, lengthBytes, 0)
    const end = offsetBytes + lengthBytes
    out.count = 0
    let at = offsetBytes
    while (result === 0 && at < end && out.count < out.lengths.length) {
      const { kind, endBytes } = this.#runAt(at)
      out.lengths[out.count] = Math.min(endBytes, end) - at
      out.flags[out.count] = kind === 'data' ? 0 : kind === 'zero' ? EXTENT_ZERO : HOLE
      out.count += 1
      at = endBytes
    }
    this.completions.push(completion, tag, result)
  }

  snapshots(): readonly string[] {
    return []
  }

  close(): void {
    // The tree counts who has it open.
  }

  /** What lies behind a new end is lost. */
  resize(sizeBytes: number): void {
    if (sizeBytes < this.#sizeBytes) {
      this.#clear(sizeBytes, this.#sizeBytes - sizeBytes, null)
      this.#setRun(Math.ceil(sizeBytes / BLOCK_BYTES), Number.MAX_SAFE_INTEGER, null)
      for (const block of this.#blocks.keys()) {
        if (block * BLOCK_BYTES >= sizeBytes) this.#blocks.delete(block)
      }
    }
    this.#sizeBytes = sizeBytes
    this.#options.onChange?.()
  }

  /** A copy of a range. */
  bytes(offsetBytes: number, lengthBytes: number): Buffer {
    const copy = Buffer.alloc(lengthBytes)
    for (const part of partsOf(offsetBytes, lengthBytes)) {
      this.#blocks.get(part.block)?.copy(copy, part.at, part.start, part.end)
    }
    return copy
  }

  /** Puts bytes there; false when they do not fit. */
  tryPut(offsetBytes: number, bytes: Buffer): boolean {
    if (bytes.length === 0) return true
    const parts = partsOf(offsetBytes, bytes.length)
    const newCount = parts.filter(({ block }) => !this.#blocks.has(block)).length
    const freeBytes = this.#options.freeBytes?.() ?? Infinity
    if (newCount * BLOCK_BYTES > freeBytes) return false
    for (const part of parts) {
      const block = this.#blocks.get(part.block) ?? Buffer.alloc(BLOCK_BYTES)
      bytes.copy(block, part.start, part.at, part.at + part.end - part.start)
      this.#blocks.set(part.block, block)
    }
    this.#setRun(parts[0].block, must(parts.at(-1), 'a last part').block + 1, 'data')
    this.#options.onChange?.()
    return true
  }

  /** Whole blocks of another disk become this one's; false when they do not fit. */
  tryShare(from: MemoryDisk, fromBytes: number, toBytes: number, lengthBytes: number): boolean {
    const shift = (toBytes - fromBytes) / BLOCK_BYTES
    const first = fromBytes / BLOCK_BYTES
    const last = first + lengthBytes / BLOCK_BYTES
    const copied = [...from.#blocks].filter(([block]) => block >= first && block < last)
    const runs = from.#runs.filter(({ start, end }) => end > first && start < last)
    const freeBytes = this.#options.freeBytes?.() ?? Infinity
    if (copied.length * BLOCK_BYTES > freeBytes) return false
    this.#clear(toBytes, lengthBytes, null)
    for (const [block, bytes] of copied) this.#blocks.set(block + shift, Buffer.from(bytes))
    for (const { start, end, kind } of runs) {
      this.#setRun(Math.max(start, first) + shift, Math.min(end, last) + shift, kind)
    }
    return true
  }

  /** Makes an empty disk of this size equal to this one. */
  copyTo(other: MemoryDisk): void {
    for (const [block, bytes] of this.#blocks) other.#blocks.set(block, Buffer.from(bytes))
    other.#runs = this.#runs.map((run) => ({ ...run }))
  }

  get #memory(): Buffer {
    return this.#options.arena.memory
  }

  #recordChange(
    kind: Recorded['kind'],
    offsetBytes: number,
    lengthBytes: number,
    flags: number,
  ): number {
    if (this.readOnly) return -Errno.EROFS
    return this.#record(kind, offsetBytes, lengthBytes, flags)
  }

  #record(kind: Recorded['kind'], offsetBytes: number, lengthBytes: number, flags: number): number {
    const operation = { kind, offsetBytes, lengthBytes, flags }
    this.recorded.push(operation)
    if (offsetBytes < 0 || lengthBytes < 0) return -Errno.EINVAL
    if (offsetBytes + lengthBytes > this.#sizeBytes) return -Errno.EINVAL
    return this.fault(operation)
  }

  /** Whole blocks become `kind` or a hole; of partial ones that have bytes, some become zero. */
  #clear(offsetBytes: number, lengthBytes: number, kind: RunKind | null): void {
    const end = offsetBytes + lengthBytes
    const first = Math.ceil(offsetBytes / BLOCK_BYTES)
    const last = Math.floor(end / BLOCK_BYTES)
    for (const [block, bytes] of this.#blocks) {
      const blockStart = block * BLOCK_BYTES
      if (block >= first && block < last) this.#blocks.delete(block)
      else if (blockStart < end && blockStart + BLOCK_BYTES > offsetBytes) {
        bytes.fill(
          0,
          Math.max(0, offsetBytes - blockStart),
          Math.min(BLOCK_BYTES, end - blockStart),
        )
      }
    }
    if (first < last) this.#setRun(first, last, kind)
    this.#options.onChange?.()
  }

  #runAt(offsetBytes: number): { kind: RunKind | null; endBytes: number } {
    const block = Math.floor(offsetBytes / BLOCK_BYTES)
    const run = this.#runs.find(({ end }) => end > block)
    if (run === undefined) return { kind: null, endBytes: this.#sizeBytes }
    const isInside = run.start <= block
    const endBlock = isInside ? run.end : run.start
    const endBytes = Math.min(endBlock * BLOCK_BYTES, this.#sizeBytes)
    return { kind: isInside ? run.kind : null, endBytes }
  }

  #setRun(start: number, end: number, kind: RunKind | null): void {
    const runs: Run[] = []
    for (const run of this.#runs) {
      if (run.start < start) runs.push({ ...run, end: Math.min(run.end, start) })
      if (run.end > end) runs.push({ ...run, start: Math.max(run.start, end) })
    }
    if (kind !== null) runs.push({ start, end, kind })
    runs.sort((a, b) => a.start - b.start)
    this.#runs = []
    for (const run of runs) {
      const last = this.#runs.at(-1)
      if (last?.end === run.start && last.kind === run.kind) last.end = run.end
      else this.#runs.push(run)
    }
  }
}

const HOLE = EXTENT_HOLE | EXTENT_ZERO

/** The part of a range that lies in one block: from `start` to before `end` in it. */
interface BlockPart {
  block: number
  start: number
  end: number
  /** Where the part begins in the range. */
  at: number
}

function partsOf(offsetBytes: number, lengthBytes: number): BlockPart[] {
  const parts: BlockPart[] = []
  let at = 0
  while (at < lengthBytes) {
    const block = Math.floor((offsetBytes + at) / BLOCK_BYTES)
    const start = offsetBytes + at - block * BLOCK_BYTES
    const end = Math.min(BLOCK_BYTES, start + lengthBytes - at)
    parts.push({ block, start, end, at })
    at += end - start
  }
  return parts
}
