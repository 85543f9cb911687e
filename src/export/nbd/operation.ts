/** One operation of a target, or one chunk of a reply, with the memory it holds. */
import { must } from '../../base/assert.ts'
import type { InputChunk } from './input.ts'
import { SharePiece } from '../../io/arena-share.ts'
import type { Request } from './request.ts'

/** Reused through an {@link OperationPool}; `tag` is how the target names it when it completes. */
export class Operation {
  readonly tag: number
  readonly piece: SharePiece = new SharePiece()
  request: Request | null = null
  /** Received bytes it writes from, pinned. */
  chunk: InputChunk | null = null
  /** Range on the disk; of a BLOCK_STATUS chunk the length is that of its payload. */
  offsetBytes = 0
  lengthBytes = 0
  /** Of a BLOCK_STATUS chunk: no other follows. */
  isFinal = false
  next: Operation | null = null

  constructor(tag: number) {
    this.tag = tag
  }
}

export class OperationPool {
  readonly #all: Operation[] = []
  #free: Operation | null = null

  constructor(count: number) {
    for (let tag = count - 1; tag >= 0; tag -= 1) {
      const operation = new Operation(tag)
      operation.next = this.#free
      this.#free = operation
      this.#all[tag] = operation
    }
  }

  get isEmpty(): boolean {
    return this.#free === null
  }

  at(tag: number): Operation {
    return must(this.#all[tag], 'the operation of a tag')
  }

  tryTake(request: Request): Operation | null {
    const operation = this.#free
    if (operation === null) return null
    this.#free = operation.next
    operation.next = null
    operation.request = request
    operation.isFinal = false
    return operation
  }

  /** Its piece and its pin have been given back. */
  release(operation: Operation): void {
    operation.request = null
    operation.next = this.#free
    this.#free = operation
  }
}
