/** A disk as a client sees it that may not do everything with it. */
import { Errno } from '../base/errors.ts'
import type { ExportTarget, ExtentContext, ExtentList, TargetCompletion } from '../export/target.ts'

export interface TargetLimits {
  readOnly: boolean
  /** Which of its snapshots may be known of, by their names without the volume's. */
  showsSnapshot: (name: string) => boolean
}

/** Passes reads on; answers every change of a read-only one with EROFS. */
export class LimitedTarget implements ExportTarget {
  readonly readOnly: boolean
  readonly #inner: ExportTarget
  readonly #limits: TargetLimits

  constructor(inner: ExportTarget, limits: TargetLimits) {
    this.#inner = inner
    this.#limits = limits
    this.readOnly = limits.readOnly || inner.readOnly
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
    offset: number,
    length: number,
    at: number,
    flags: number,
    done: TargetCompletion,
    tag: number,
  ): void {
    if (this.readOnly) refuse(done, tag)
    else this.#inner.write(offset, length, at, flags, done, tag)
  }
  flush(done: TargetCompletion, tag: number): void {
    this.#inner.flush(done, tag)
  }
  trim(offset: number, length: number, flags: number, done: TargetCompletion, tag: number): void {
    if (this.readOnly) refuse(done, tag)
    else this.#inner.trim(offset, length, flags, done, tag)
  }
  zero(offset: number, length: number, flags: number, done: TargetCompletion, tag: number): void {
    if (this.readOnly) refuse(done, tag)
    else this.#inner.zero(offset, length, flags, done, tag)
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
    return this.#inner.snapshots().filter(this.#limits.showsSnapshot)
  }
  close(): void {
    this.#inner.close()
  }
}

/** Never inside the call that started it. */
function refuse(done: TargetCompletion, tag: number): void {
  queueMicrotask(() => done.targetComplete(tag, -Errno.EROFS))
}
