/**
 * A disk in memory for tests of exports. Operations complete in order, after the call, when
 * `schedule` says so; they are recorded, can be made to fail, and can be held back.
 */
import { assert, must } from '../../src/base/assert.ts'
import { Errno } from '../../src/base/errors.ts'
import { ARENA_PIECE_BYTES_MAX } from '../../src/io/arena.ts'
import type { Arena } from '../../src/io/arena.ts'
import type {
  ExportDirectory,
  ExportEntry,
  ExportTarget,
  ExtentContext,
  ExtentList,
  TargetCompletion,
} from '../../src/export/target.ts'
import { EXTENT_CHANGED, EXTENT_HOLE, EXTENT_ZERO } from '../../src/export/target.ts'
import type { CompletionSchedule } from './completion-queue.ts'
import { CompletionQueue } from './completion-queue.ts'

const BLOCK_BYTES = 4096
const MAPPED = 1
const CHANGED = 2

export interface Recorded {
  kind: 'read' | 'write' | 'flush' | 'trim' | 'zero' | 'extents'
  offsetBytes: number
  lengthBytes: number
  flags: number
}

export interface MemoryTargetOptions {
  arena: Arena
  name?: string
  sizeBytes?: number
  readOnly?: boolean
  /** Every block written from now on is changed since each of them. */
  snapshots?: string[]
  /** Called when completions are due; runs its argument later. Default: setImmediate. */
  schedule?: CompletionSchedule
  /** Record operations (default); off for load tests. */
  isRecording?: boolean
}

export class MemoryTarget implements ExportTarget {
  readonly name: string
  readonly readOnly: boolean
  readonly sizeBytes: number
  readonly blockSizes: ExportTarget['blockSizes'] = {
    minimum: 1,
    preferred: BLOCK_BYTES,
    maximum: ARENA_PIECE_BYTES_MAX,
  }
  readonly data: Buffer
  readonly recorded: Recorded[] = []
  closeCount = 0
  /** Returns the negative errno an operation fails with, or 0. */
  fault: (operation: Recorded) => number = () => 0
  readonly #arena: Arena
  readonly #snapshots: string[]
  readonly #completions: CompletionQueue
  readonly #isRecording: boolean
  readonly #blocks: Uint8Array

  constructor(options: MemoryTargetOptions) {
    this.name = options.name ?? 'disk'
    this.readOnly = options.readOnly ?? false
    this.sizeBytes = options.sizeBytes ?? 1 << 20
    this.data = Buffer.alloc(this.sizeBytes)
    this.#arena = options.arena
    this.#snapshots = options.snapshots ?? []
    this.#completions = new CompletionQueue(options.schedule)
    this.#isRecording = options.isRecording ?? true
    this.#blocks = new Uint8Array(Math.ceil(this.sizeBytes / BLOCK_BYTES))
  }

  get inFlightCount(): number {
    return this.#completions.count
  }

  /** While true nothing completes. */
  get isHeld(): boolean {
    return this.#completions.isHeld
  }

  set isHeld(isHeld: boolean) {
    this.#completions.isHeld = isHeld
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
    if (result === 0) {
      this.data.copy(this.#arena.memory, arenaOffset, offsetBytes, offsetBytes + lengthBytes)
    }
    this.#completions.push(completion, tag, result)
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
    const result = this.#record('write', offsetBytes, lengthBytes, flags)
    if (result === 0) {
      this.#arena.memory.copy(this.data, offsetBytes, arenaOffset, arenaOffset + lengthBytes)
      this.#mark(offsetBytes, lengthBytes, MAPPED | CHANGED)
    }
    this.#completions.push(completion, tag, result)
  }

  flush(completion: TargetCompletion, tag: number): void {
    this.#completions.push(completion, tag, this.#record('flush', 0, 0, 0))
  }

  trim(
    offsetBytes: number,
    lengthBytes: number,
    flags: number,
    completion: TargetCompletion,
    tag: number,
  ): void {
    this.#clear('trim', offsetBytes, lengthBytes, flags, completion, tag)
  }

  zero(
    offsetBytes: number,
    lengthBytes: number,
    flags: number,
    completion: TargetCompletion,
    tag: number,
  ): void {
    this.#clear('zero', offsetBytes, lengthBytes, flags, completion, tag)
  }

  extents(
    offsetBytes: number,
    lengthBytes: number,
    context: ExtentContext,
    out: ExtentList,
    completion: TargetCompletion,
    tag: number,
  ): void {
    const result = this.#record('extents', offsetBytes, lengthBytes, 0)
    out.count = 0
    let at = offsetBytes
    while (result === 0 && at < offsetBytes + lengthBytes) {
      const block = Math.floor(at / BLOCK_BYTES)
      const end = Math.min((block + 1) * BLOCK_BYTES, this.sizeBytes)
      const flags = this.#flagsOf(block, context)
      if (out.count === 0 || out.flags[out.count - 1] !== flags) {
        if (out.count === out.lengths.length) break
        out.lengths[out.count] = 0
        out.flags[out.count] = flags
        out.count += 1
      }
      out.lengths[out.count - 1] += end - at
      at = end
    }
    this.#completions.push(completion, tag, result)
  }

  snapshots(): readonly string[] {
    return this.#snapshots
  }

  close(): void {
    this.closeCount += 1
  }

  /** Completes what is due, now. */
  completeAll(): void {
    this.#completions.completeAll()
  }

  /** Lets what was held complete. */
  resume(): void {
    this.#completions.resume()
  }

  #clear(
    kind: 'trim' | 'zero',
    offsetBytes: number,
    lengthBytes: number,
    flags: number,
    completion: TargetCompletion,
    tag: number,
  ): void {
    const result = this.#record(kind, offsetBytes, lengthBytes, flags)
    if (result === 0) {
      this.data.fill(0, offsetBytes, offsetBytes + lengthBytes)
      this.#mark(offsetBytes, lengthBytes, CHANGED)
    }
    this.#completions.push(completion, tag, result)
  }

  #record(kind: Recorded['kind'], offsetBytes: number, lengthBytes: number, flags: number): number {
    const operation = { kind, offsetBytes, lengthBytes, flags }
    if (this.#isRecording) this.recorded.push(operation)
    if (offsetBytes + lengthBytes > this.sizeBytes) return -Errno.EINVAL
    return this.fault(operation)
  }

  #mark(offsetBytes: number, lengthBytes: number, state: number): void {
    const first = Math.floor(offsetBytes / BLOCK_BYTES)
    this.#blocks.fill(state, first, Math.ceil((offsetBytes + lengthBytes) / BLOCK_BYTES))
  }

  #flagsOf(block: number, context: ExtentContext): number {
    const state = this.#blocks[block]
    if (context.kind === 'changed-since') return (state & CHANGED) === 0 ? 0 : EXTENT_CHANGED
    return (state & MAPPED) === 0 ? EXTENT_HOLE | EXTENT_ZERO : 0
  }
}

interface Waiting {
  completion: TargetCompletion
  tag: number
}

/** One client's view of such a disk, which sees that the rules of closing are kept. */
export class OpenedTarget implements ExportTarget, TargetCompletion {
  readonly #target: ExportTarget
  readonly #waiting = new Map<number, Waiting>()
  #nextKey = 0
  #isClosed = false

  constructor(target: ExportTarget) {
    this.#target = target
  }

  get name(): string {
    return this.#target.name
  }

  get readOnly(): boolean {
    return this.#target.readOnly
  }

  get sizeBytes(): number {
    return this.#target.sizeBytes
  }

  get blockSizes(): ExportTarget['blockSizes'] {
    return this.#target.blockSizes
  }

  read(offset: number, length: number, at: number, done: TargetCompletion, tag: number): void {
    this.#target.read(offset, length, at, this, this.#begin(done, tag))
  }

  write(
    offset: number,
    length: number,
    at: number,
    flags: number,
    done: TargetCompletion,
    tag: number,
  ): void {
    this.#target.write(offset, length, at, flags, this, this.#begin(done, tag))
  }

  flush(done: TargetCompletion, tag: number): void {
    this.#target.flush(this, this.#begin(done, tag))
  }

  trim(offset: number, length: number, flags: number, done: TargetCompletion, tag: number): void {
    this.#target.trim(offset, length, flags, this, this.#begin(done, tag))
  }

  zero(offset: number, length: number, flags: number, done: TargetCompletion, tag: number): void {
    this.#target.zero(offset, length, flags, this, this.#begin(done, tag))
  }

  extents(
    offset: number,
    length: number,
    context: ExtentContext,
    out: ExtentList,
    done: TargetCompletion,
    tag: number,
  ): void {
    this.#target.extents(offset, length, context, out, this, this.#begin(done, tag))
  }

  snapshots(): readonly string[] {
    return this.#target.snapshots()
  }

  close(): void {
    assert(this.#waiting.size === 0, 'no operation is in flight when a disk is closed')
    assert(!this.#isClosed, 'a disk is closed once')
    this.#isClosed = true
    this.#target.close()
  }

  targetComplete(key: number, result: number): void {
    const { completion, tag } = must(this.#waiting.get(key), 'an operation that completes')
    this.#waiting.delete(key)
    completion.targetComplete(tag, result)
  }

  #begin(completion: TargetCompletion, tag: number): number {
    assert(!this.#isClosed, 'a closed disk is not used')
    for (const other of this.#waiting.values()) {
      const isSame = other.completion === completion && other.tag === tag
      assert(!isSame, 'a tag names one operation of its owner at a time')
    }
    const key = this.#nextKey
    this.#nextKey += 1
    this.#waiting.set(key, { completion, tag })
    return key
  }
}

/** A directory of such disks; all clients of a name share one. */
export function directoryOf(...targets: MemoryTarget[]): ExportDirectory {
  return {
    list: (): ExportEntry[] =>
      targets.map(({ name, sizeBytes, readOnly }) => ({ name, sizeBytes, readOnly })),
    open: (name) => {
      const target = targets.find((candidate) => candidate.name === name)
      return target === undefined ? null : new OpenedTarget(target)
    },
  }
}
