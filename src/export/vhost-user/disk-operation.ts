/** One operation of the disk on behalf of a request. */
import { must } from '../../base/assert.ts'
import type { BlockRequest } from './block-request.ts'
import { SharePiece } from '../../io/arena-share.ts'

/** Reused; `tag` is how the disk names it when it completes. */
export class DiskOperation {
  readonly tag: number
  readonly piece: SharePiece = new SharePiece()
  request: BlockRequest | null = null
  /** Of the request's data: where it begins. */
  dataOffset = 0
  lengthBytes = 0
  /** How it went, once it is over: negative is an errno. */
  result = 0
  next: DiskOperation | null = null

  constructor(tag: number) {
    this.tag = tag
  }
}

export class DiskOperations {
  readonly #all: DiskOperation[] = []
  #free: DiskOperation | null = null

  constructor(count: number) {
    for (let tag = count - 1; tag >= 0; tag -= 1) {
      const operation = new DiskOperation(tag)
      operation.next = this.#free
      this.#free = operation
      this.#all[tag] = operation
    }
  }

  at(tag: number): DiskOperation {
    return must(this.#all[tag], 'the operation of a tag')
  }

  tryTake(request: BlockRequest): DiskOperation | null {
    const operation = this.#free
    if (operation === null) return null
    this.#free = operation.next
    operation.next = null
    operation.request = request
    return operation
  }

  /** Its piece has been given back. */
  release(operation: DiskOperation): void {
    operation.request = null
    operation.next = this.#free
    this.#free = operation
  }
}
