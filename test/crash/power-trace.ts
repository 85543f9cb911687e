/**
 * What a process did to its files, in order, with the moments its clients sent requests and had
 * them answered: everything needed to say what a power cut at any moment may leave. Plain data, so
 * that a trace that showed a fault can be kept and judged again.
 */
import type { IoFile } from '../../src/io/io.ts'
import type { IoOperation, IoTap } from './tapped-io.ts'

/** Paths are relative to the folder traced, '' being itself. A file is a number. */
export type TracedChange =
  | { kind: 'create'; file: number; path: string }
  | { kind: 'mkdir'; path: string }
  | { kind: 'rename'; path: string; to: string }
  | { kind: 'remove'; path: string }
  | { kind: 'write'; file: number; offsetBytes: number; bytes: Uint8Array }
  | { kind: 'punch'; file: number; offsetBytes: number; lengthBytes: number }
  | { kind: 'allocate'; file: number; offsetBytes: number; lengthBytes: number }

export type TracedSync = { kind: 'sync'; file: number } | { kind: 'syncdir'; path: string }

/** `mark`: something that a client sent or heard. */
export type TraceEntry =
  | { kind: 'begin'; what: TracedChange | TracedSync }
  | { kind: 'end'; of: number; isDone: boolean }
  | { kind: 'mark' }

/** Files that are there when the trace begins, by path. */
export type FileNumbers = ReadonlyMap<string, number>

export class PowerTrace implements IoTap {
  readonly entries: TraceEntry[] = []
  readonly #root: string
  readonly #byPath: Map<string, number>
  readonly #byFile: WeakMap<IoFile, number> = new WeakMap()
  readonly #begun: Map<IoOperation, number> = new Map()
  #nextFile: number

  /** `root`: the folder; what is done elsewhere is not recorded. */
  constructor(root: string, files: FileNumbers = new Map()) {
    this.#root = root
    this.#byPath = new Map(files)
    this.#nextFile = Math.max(0, ...files.values()) + 1
  }

  /** Notes that a client did something now; returns the moment. */
  mark(): number {
    return this.entries.push({ kind: 'mark' }) - 1
  }

  before(operation: IoOperation): void {
    const what = this.#describe(operation)
    if (what === null) return
    this.#begun.set(operation, this.entries.push({ kind: 'begin', what }) - 1)
  }

  after(operation: IoOperation, isDone: boolean): void {
    if (isDone) this.#follow(operation)
    const of = this.#begun.get(operation)
    if (of === undefined) return
    this.#begun.delete(operation)
    this.entries.push({ kind: 'end', of, isDone })
  }

  #describe(operation: IoOperation): TracedChange | TracedSync | null {
    const { kind, offsetBytes = 0, lengthBytes = 0 } = operation
    const path = this.#relative(operation.path)
    if (path === null || kind === 'open') return null
    if (kind === 'truncate')
      throw new Error('the pool truncates nothing; the cut has no rule for it')
    if (kind === 'create') {
      this.#nextFile += 1
      return { kind, file: this.#nextFile, path }
    }
    if (kind === 'mkdir' || kind === 'remove' || kind === 'syncdir') return { kind, path }
    if (kind === 'rename') return { kind, path, to: this.#mustBeInside(operation.to) }
    const file = this.#numberOf(operation)
    if (kind === 'sync') return { kind, file }
    if (kind === 'write') return { kind, file, offsetBytes, bytes: joined(operation) }
    return { kind, file, offsetBytes, lengthBytes }
  }

  /** Keeps track of which file has which name and handle. */
  #follow(operation: IoOperation): void {
    const path = this.#relative(operation.path)
    if (path === null) return
    const { kind, file } = operation
    const number = this.#byPath.get(path)
    if (kind === 'create') {
      const begun = this.#entryOf(operation)
      if (begun.kind !== 'create' || file === undefined) throw new Error('a file was made')
      this.#byPath.set(path, begun.file)
      this.#byFile.set(file, begun.file)
    } else if (kind === 'open') {
      if (number === undefined || file === undefined) throw new Error(`${path} was never made`)
      this.#byFile.set(file, number)
    } else if (kind === 'remove') {
      this.#byPath.delete(path)
    } else if (kind === 'rename' && number !== undefined) {
      this.#byPath.delete(path)
      this.#byPath.set(this.#mustBeInside(operation.to), number)
    }
  }

  #entryOf(operation: IoOperation): TracedChange | TracedSync {
    const entry = this.entries[this.#begun.get(operation) ?? -1]
    if (entry?.kind !== 'begin') throw new Error('what ends has begun')
    return entry.what
  }

  #numberOf(operation: IoOperation): number {
    const number = operation.file && this.#byFile.get(operation.file)
    if (number === undefined) throw new Error(`${operation.path} was not opened here`)
    return number
  }

  #relative(path: string): string | null {
    if (path === this.#root) return ''
    return path.startsWith(`${this.#root}/`) ? path.slice(this.#root.length + 1) : null
  }

  #mustBeInside(path: string | undefined): string {
    const relative = path === undefined ? null : this.#relative(path)
    if (relative === null) throw new Error('a rename stays in the folder')
    return relative
  }
}

function joined({ pieces = [] }: IoOperation): Uint8Array {
  return new Uint8Array(Buffer.concat(pieces))
}
