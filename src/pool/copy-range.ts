/**
 * Makes a range of a volume what a range of a disk is, by reference: the addresses of the blocks
 * are copied, no byte of data is read or written.
 *
 * Each piece is one journalled operation that lists the addresses, found in the source's map in
 * the same synchronous stretch. So its replay needs nothing of the source; and the addresses are
 * of records before it in the log, or of an import whose segments were durable before its `create`
 * (I4): wherever the log is cut, what a piece refers to is there if the piece is.
 *
 * A lock on both ranges keeps the copy's place in the line of writes: it finds all that came
 * before it, and no read-modify-write puts back what it replaced. It is not one step: a crash, or
 * a full disk, may leave the first part of it.
 */
import { OperatingError } from '../base/errors.ts'
import { BLOCK_SIZE_BYTES, GIB } from '../base/units.ts'
import type { CatalogueOperation, SharedRun } from '../format/catalogue.ts'
import { SHARED_UNMAPPED, SHARED_ZERO } from '../format/catalogue.ts'
import { KIND_BLOCK, KIND_UNMAPPED, KIND_ZERO, NODE_ENTRY_COUNT } from '../format/node.ts'
import { Lookup } from '../map/page-tables.ts'
import type { PoolCore } from './core.ts'
import type { Disk } from './disk.ts'
import { journalSoon } from './journal.ts'
import type { BlockRange } from './range-lock.ts'
import { readOnly } from './resize.ts'
import { mustFindById } from './volumes.ts'
import type { WriteQueue } from './write-queue.ts'

/** Of one copy, so that writers behind it do not wait long: about ten milliseconds of work. */
const COPY_BYTES_MAX: number = GIB
const PIECES_PER_PAUSE = 16

export interface CopyRequest {
  fromId: number
  fromBytes: number
  toId: number
  toBytes: number
  lengthBytes: number
}

/**
 * In the log when it resolves; a flush makes it durable. Rejects `unsupported` for what is not
 * whole blocks of two separate ranges within their disks, `not-found`, `read-only`, `no-space`.
 */
export async function copyRange(
  core: PoolCore,
  writes: WriteQueue,
  request: CopyRequest,
): Promise<void> {
  const { from, to } = mustCopyable(core, request)
  if (request.lengthBytes === 0) return
  const target = rangeOf(to, request.toBytes, request.lengthBytes)
  const source = rangeOf(from, request.fromBytes, request.lengthBytes)
  const lock = await writes.lock(from.isSnapshot ? [target] : [target, source])
  try {
    await new Copy(core, request).run()
  } finally {
    lock.release()
  }
}

function rangeOf(disk: Disk, offsetBytes: number, lengthBytes: number): BlockRange {
  const firstBlock = offsetBytes / BLOCK_SIZE_BYTES
  return { disk, firstBlock, endBlock: firstBlock + lengthBytes / BLOCK_SIZE_BYTES }
}

/** The disks, if it can be done as things are now. */
function mustCopyable(core: PoolCore, request: CopyRequest): { from: Disk; to: Disk } {
  const { fromId, fromBytes, toId, toBytes, lengthBytes } = request
  const from = mustFindById(core, fromId)
  const to = mustFindById(core, toId)
  if (to.isSnapshot) throw readOnly(core, to)
  const isWhole = [fromBytes, toBytes, lengthBytes].every((bytes) => bytes % BLOCK_SIZE_BYTES === 0)
  const isRange = fromBytes >= 0 && toBytes >= 0 && lengthBytes >= 0
  if (!isWhole || !isRange || lengthBytes > COPY_BYTES_MAX) {
    throw new OperatingError('unsupported', 'only whole blocks can be shared, up to 1 GiB at once')
  }
  if (fromBytes + lengthBytes > from.sizeBytes || toBytes + lengthBytes > to.sizeBytes) {
    throw new OperatingError('unsupported', 'what is shared lies within both disks')
  }
  if (from === to && Math.abs(fromBytes - toBytes) < lengthBytes) {
    throw new OperatingError('unsupported', 'a range is not copied onto itself')
  }
  return { from, to }
}

class Copy {
  readonly #core: PoolCore
  readonly #request: CopyRequest
  readonly #blockCount: number
  readonly #missing = new Lookup()
  /** A node that the last look at the maps lacked is named in `#missing`. */
  #isMissing = false
  #doneCount = 0

  constructor(core: PoolCore, request: CopyRequest) {
    this.#core = core
    this.#request = request
    this.#blockCount = request.lengthBytes / BLOCK_SIZE_BYTES
  }

  async run(): Promise<void> {
    const { tables } = this.#core
    let pieceCount = 0
    while (this.#doneCount < this.#blockCount) {
      let count = 0
      this.#isMissing = false
      await journalSoon(this.#core, () => {
        const piece = this.#nextPiece()
        count = piece.count
        return piece.operation
      })
      if (this.#isMissing) await tables.fault(this.#missing)
      this.#doneCount += count
      pieceCount += 1
      if (pieceCount % PIECES_PER_PAUSE === 0) await tables.pause()
    }
  }

  /** What comes next, and how many blocks it is; no operation where nothing is to be done. */
  #nextPiece(): { operation: CatalogueOperation | null; count: number } {
    const { from, to } = mustCopyable(this.#core, this.#request)
    const { fromBytes, toBytes } = this.#request
    const source = fromBytes / BLOCK_SIZE_BYTES + this.#doneCount
    const target = toBytes / BLOCK_SIZE_BYTES + this.#doneCount
    const first = this.#tryRun(from, source, this.#blockCount - this.#doneCount)
    if (first === null) return { operation: null, count: 0 }
    const share = (runs: SharedRun[]): CatalogueOperation => {
      return { op: 'share', id: to.id, blockIndex: target, runs }
    }
    if (first.kind === KIND_UNMAPPED) {
      const there = this.#tryRun(to, target, first.run[0])
      if (there === null) return { operation: null, count: 0 }
      if (there.kind === KIND_UNMAPPED) return { operation: null, count: there.run[0] }
    }
    // A long run is a piece; short ones are gathered up to the end of the source's leaf: then a
    // piece needs no more nodes in memory than the smallest cache holds.
    const runs = [first.run]
    let count = first.run[0]
    const leafCount = Math.min(
      NODE_ENTRY_COUNT - (source % NODE_ENTRY_COUNT),
      this.#blockCount - this.#doneCount,
    )
    while (count < leafCount) {
      const next = this.#tryRun(from, source + count, leafCount - count)
      if (next === null) return { operation: null, count: 0 }
      runs.push(next.run)
      count += next.run[0]
    }
    return { operation: share(runs), count }
  }

  #tryRun(
    disk: Disk,
    blockIndex: number,
    countMax: number,
  ): { kind: number; run: SharedRun } | null {
    const found = this.#missing
    if (!this.#core.tables.lookup(disk.root, blockIndex, countMax, found)) {
      this.#isMissing = true
      return null
    }
    const { kind, count, segment, slot } = found
    if (kind === KIND_BLOCK) return { kind, run: [count, segment, slot] }
    return { kind, run: [count, 0, kind === KIND_ZERO ? SHARED_ZERO : SHARED_UNMAPPED] }
  }
}
