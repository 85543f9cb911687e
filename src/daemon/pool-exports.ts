/** What the servers offer of a pool: every volume and snapshot by name, as they come and go. */
import { Errno } from '../base/errors.ts'
import type {
  ExportDirectory,
  ExportEntry,
  ExportTarget,
  ExtentContext,
  ExtentList,
  TargetCompletion,
} from '../export/target.ts'
import type { OpenPool } from './local-service.ts'

export class PoolExports implements ExportDirectory {
  readonly #pool: Pick<OpenPool, 'list' | 'openTarget'>
  readonly #readOnlyNames: ReadonlySet<string>

  /** `readOnlyNames`: volumes that clients may only read, whether they exist yet or not. */
  constructor(pool: Pick<OpenPool, 'list' | 'openTarget'>, readOnlyNames: Iterable<string>) {
    this.#pool = pool
    this.#readOnlyNames = new Set(readOnlyNames)
  }

  list(): ExportEntry[] {
    return this.#pool.list().map((entry) => {
      return this.#readOnlyNames.has(entry.name) ? { ...entry, readOnly: true } : entry
    })
  }

  open(name: string, client: string): ExportTarget | null {
    const target = this.#pool.openTarget(name, client)
    if (target === null || target.readOnly || !this.#readOnlyNames.has(name)) return target
    return new ReadOnlyTarget(target)
  }
}

/** Passes reads on and answers every change with EROFS. */
class ReadOnlyTarget implements ExportTarget {
  readonly readOnly = true
  readonly #inner: ExportTarget

  constructor(inner: ExportTarget) {
    this.#inner = inner
  }

  get name(): string {
    return this.#inner.name
  }
  get sizeBytes(): number {
    return this.#inner.sizeBytes
  }
  get blockSizes(): ExportTarget['blockSizes'] {
    return this.#inner.blockSizes
  }

  read(offset: number, length: number, at: number, done: TargetCompletion, tag: number): void {
    this.#inner.read(offset, length, at, done, tag)
  }
  write(
    _offset: number,
    _length: number,
    _at: number,
    _flags: number,
    done: TargetCompletion,
    tag: number,
  ): void {
    refuse(done, tag)
  }
  flush(done: TargetCompletion, tag: number): void {
    this.#inner.flush(done, tag)
  }
  trim(
    _offset: number,
    _length: number,
    _flags: number,
    done: TargetCompletion,
    tag: number,
  ): void {
    refuse(done, tag)
  }
  zero(
    _offset: number,
    _length: number,
    _flags: number,
    done: TargetCompletion,
    tag: number,
  ): void {
    refuse(done, tag)
  }
  extents(
    offset: number,
    length: number,
    context: ExtentContext,
    out: ExtentList,
    done: TargetCompletion,
    tag: number,
  ): void {
    this.#inner.extents(offset, length, context, out, done, tag)
  }
  snapshots(): readonly string[] {
    return this.#inner.snapshots()
  }
  close(): void {
    this.#inner.close()
  }
}

/** Never inside the call that started it. */
function refuse(done: TargetCompletion, tag: number): void {
  queueMicrotask(() => done.targetComplete(tag, -Errno.EROFS))
}
