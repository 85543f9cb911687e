/**
 * The files that one mount has open, and what of each is in flight. The kernel releases a file when
 * nothing of it is in flight any more; should it ever not, the file is closed only then all the
 * same, because its disk must not be used after that.
 */
import { assert } from '../../base/assert.ts'
import type { FileOperations, HandleNumber } from './operations.ts'

export class OpenFile {
  readonly handle: HandleNumber
  inFlightCount = 0
  isReleased = false

  constructor(handle: HandleNumber) {
    this.handle = handle
  }
}

export class OpenFiles {
  readonly #operations: Pick<FileOperations, 'close'>
  readonly #files: Map<HandleNumber, OpenFile> = new Map()

  constructor(operations: Pick<FileOperations, 'close'>) {
    this.#operations = operations
  }

  add(handle: HandleNumber): void {
    assert(!this.#files.has(handle), 'a handle that was just given out is new')
    this.#files.set(handle, new OpenFile(handle))
  }

  /** Keeps the file open until {@link done}; null when it is not open. `handle`: null is none. */
  tryUse(handle: HandleNumber | null): OpenFile | null {
    const file = handle === null ? undefined : this.#files.get(handle)
    if (file === undefined || file.isReleased) return null
    file.inFlightCount += 1
    return file
  }

  done(file: OpenFile): void {
    file.inFlightCount -= 1
    assert(file.inFlightCount >= 0, 'what ends was in flight')
    if (file.isReleased) this.#closeIfIdle(file)
  }

  /** The kernel forgets the handle; one that it does not have is none of our business. */
  release(handle: HandleNumber): void {
    const file = this.#files.get(handle)
    if (file === undefined) return
    file.isReleased = true
    this.#closeIfIdle(file)
  }

  /** Closes what was left open. Nothing is in flight. */
  closeAll(): void {
    for (const file of [...this.#files.values()]) {
      assert(file.inFlightCount === 0, 'nothing is in flight at the end')
      this.#closeIfIdle(file)
    }
  }

  #closeIfIdle(file: OpenFile): void {
    if (file.inFlightCount > 0) return
    this.#files.delete(file.handle)
    this.#operations.close(file.handle)
  }
}
