/**
 * Fills a new volume outside the log. Blocks go to bulk segments, the map is built beside those of
 * the volumes, and one `create` operation at the end gives it its name: until that is durable
 * nothing refers to any of it, and a crash leaves segments that the next open removes.
 */
import { assert } from '../base/assert.ts'
import { BLOCK_SIZE_BYTES, blocksOf } from '../base/units.ts'
import { isZero } from '../base/bytes.ts'
import { ARENA_PIECE_BYTES_MAX } from '../io/arena.ts'
import type { Arena } from '../io/arena.ts'
import type { CatalogueOperation } from '../format/catalogue.ts'
import { emptyRoot, rootAddress } from '../map/map-root.ts'
import type { MapRoot } from '../map/map-root.ts'
import { Lookup } from '../map/page-tables.ts'
import { BulkWriter } from '../segment/bulk-writer.ts'
import { SEAL_BYTES } from '../segment/seal.ts'
import { writeMostNodes } from './checkpoint.ts'
import type { PoolCore } from './core.ts'
import { verifyHealthy } from './core.ts'
import { journal } from './journal.ts'
import { poolFull } from './space.ts'
import type { BulkImport, CreateVolume, VolumeInfo } from './types.ts'

/** Blocks below a leaf: a run of so many, aligned on both sides, becomes one huge entry. */
const HUGE_BLOCK_COUNT = 512
const PIECE_BLOCK_COUNT: number = ARENA_PIECE_BYTES_MAX / BLOCK_SIZE_BYTES

export interface ImportOwner {
  /** The import is over, one way or the other. */
  ended(bulk: BulkVolumeImport): void
  describe(name: string): Promise<VolumeInfo>
  /** Throws `exists`. */
  verifyFree(name: string): void
}

export class BulkVolumeImport implements BulkImport {
  readonly #core: PoolCore
  readonly #request: CreateVolume
  readonly #owner: ImportOwner
  readonly #writer: BulkWriter
  readonly #staging: number
  readonly #piece: number
  readonly #root: MapRoot = emptyRoot()
  readonly #epoch: number
  readonly #zeroHash: Uint32Array = new Uint32Array(2)
  readonly #found: Lookup = new Lookup()
  #nextBlock = 0
  /** The last write or commit begun; an abort lets it end. */
  #running: Promise<void> = Promise.resolve()
  #isOver = false

  private constructor(
    core: PoolCore,
    request: CreateVolume,
    owner: ImportOwner,
    staging: number,
    piece: number,
  ) {
    this.#core = core
    this.#request = request
    this.#owner = owner
    this.#staging = staging
    this.#piece = piece
    this.#epoch = core.catalogue.newEpoch()
    this.#writer = new BulkWriter(core.io, core.store, PIECE_BLOCK_COUNT, staging)
    core.checksum.hashBlocks(new Uint8Array(BLOCK_SIZE_BYTES), 0, 1, this.#zeroHash, 0)
  }

  static async begin(
    core: PoolCore,
    request: CreateVolume,
    owner: ImportOwner,
  ): Promise<BulkVolumeImport> {
    const staging = await allocate(core.io.arena, SEAL_BYTES)
    const piece = await allocate(core.io.arena, ARENA_PIECE_BYTES_MAX)
    return new BulkVolumeImport(core, request, owner, staging, piece)
  }

  get segmentIds(): number[] {
    return this.#writer.segmentIds
  }

  /** What its segments carry; 0 until there is one. */
  get importId(): number {
    return this.#writer.importId
  }

  /** The map so far; reclaim keeps what it refers to. */
  get root(): MapRoot {
    return this.#root
  }

  write(offsetBytes: number, bytes: Uint8Array): Promise<void> {
    this.#running = this.#write(offsetBytes, bytes)
    return this.#running
  }

  commit(sizeBytes: number = this.#request.sizeBytes): Promise<VolumeInfo> {
    const committing = this.#commit(sizeBytes)
    this.#running = committing.then(() => undefined)
    this.#running.catch(() => undefined)
    return committing
  }

  async #write(offsetBytes: number, bytes: Uint8Array): Promise<void> {
    assert(!this.#isOver, 'an import that is over takes no bytes')
    assert(offsetBytes % BLOCK_SIZE_BYTES === 0, 'an import writes whole blocks')
    assert(bytes.length % BLOCK_SIZE_BYTES === 0, 'an import writes whole blocks')
    const firstBlock = offsetBytes / BLOCK_SIZE_BYTES
    assert(firstBlock >= this.#nextBlock, 'an import goes forward')
    const blockCount = bytes.length / BLOCK_SIZE_BYTES
    for (let done = 0; done < blockCount;) {
      const count = Math.min(PIECE_BLOCK_COUNT, blockCount - done)
      const from = done * BLOCK_SIZE_BYTES
      const part = bytes.subarray(from, from + count * BLOCK_SIZE_BYTES)
      await this.#writePiece(firstBlock + done, count, part)
      done += count
    }
    this.#nextBlock = firstBlock + blockCount
  }

  async #commit(sizeBytes: number): Promise<VolumeInfo> {
    assert(!this.#isOver, 'an import is committed once')
    const writtenBytes = this.#nextBlock * BLOCK_SIZE_BYTES
    assert(blocksOf(sizeBytes) * BLOCK_SIZE_BYTES >= writtenBytes, 'a volume holds its blocks')
    const { appender, catalogue, tables } = this.#core
    const request = this.#request
    await this.#writer.finish()
    await writeMostNodes(this.#core)
    const create = (): CatalogueOperation => {
      this.#owner.verifyFree(request.name)
      tables.flushAll(appender)
      const address = rootAddress(this.#root)
      return {
        op: 'create',
        id: catalogue.nextDiskId,
        name: request.name,
        sizeBytes,
        createdMs: this.#core.io.wallClockMs(),
        labels: request.labels ?? {},
        root: address === null ? null : [address.segment, address.slot],
        importId: this.importId,
      }
    }
    // From the moment it is applied the volume owns the segments, even if the sync then fails:
    // only a recovery can tell whether the record is durable.
    await journal(this.#core, create, () => this.#end())
    return this.#owner.describe(request.name)
  }

  async abort(): Promise<void> {
    await this.#running.catch(() => undefined)
    if (this.#isOver) return
    this.#end()
    await this.#writer.abort()
  }

  #end(): void {
    this.#isOver = true
    const { io, tables } = this.#core
    tables.releaseRoot(this.#root)
    io.arena.free(this.#staging, SEAL_BYTES)
    io.arena.free(this.#piece, ARENA_PIECE_BYTES_MAX)
    this.#owner.ended(this)
  }

  async #writePiece(firstBlock: number, count: number, bytes: Uint8Array): Promise<void> {
    const { io, space } = this.#core
    verifyHealthy(this.#core)
    io.arena.memory.set(bytes, this.#piece)
    const hashes = this.#writer.hash(this.#piece, count)
    for (let done = 0; done < count;) {
      if (this.#isZeroBlock(hashes, done)) {
        done += 1
        continue
      }
      const run = this.#runFrom(hashes, done, count)
      if (!space.admits(run * BLOCK_SIZE_BYTES)) {
        await space.refresh()
        if (!space.admits(run * BLOCK_SIZE_BYTES)) throw poolFull()
      }
      await this.#appendRun(firstBlock + done, run, done, hashes)
      done += run
    }
    if (this.#core.tables.isDirtyFull) await writeMostNodes(this.#core)
    await this.#core.tables.pause()
  }

  /** Blocks from `index` up to the next zero block. */
  #runFrom(hashes: Uint32Array, index: number, count: number): number {
    let end = index + 1
    while (end < count && !this.#isZeroBlock(hashes, end)) end += 1
    return end - index
  }

  /** The hash says it may be; the bytes decide. */
  #isZeroBlock(hashes: Uint32Array, index: number): boolean {
    if (hashes[2 * index] !== this.#zeroHash[0]) return false
    if (hashes[2 * index + 1] !== this.#zeroHash[1]) return false
    const start = this.#piece + index * BLOCK_SIZE_BYTES
    return isZero(this.#core.io.arena.memory, start, start + BLOCK_SIZE_BYTES)
  }

  async #appendRun(
    blockIndex: number,
    count: number,
    pieceBlock: number,
    hashes: Uint32Array,
  ): Promise<void> {
    for (let done = 0; done < count;) {
      const at = blockIndex + done
      const room = await this.#room(at, count - done)
      const offset = this.#piece + (pieceBlock + done) * BLOCK_SIZE_BYTES
      const { tables, space } = this.#core
      while (!tables.tryReside(this.#root, at, room, this.#found)) await tables.fault(this.#found)
      const place = this.#writer.append(offset, room, hashes, 2 * (pieceBlock + done))
      tables.setBlocks(this.#root, this.#epoch, at, room, place.segment, place.slot)
      space.consume(room * BLOCK_SIZE_BYTES)
      done += room
    }
  }

  /**
   * How many blocks may be appended at once. Where a leaf's span begins and would not fit the
   * segment whole, the next segment is begun: its slots cost nothing, being never written, and a
   * sequential import then needs no leaf at all.
   */
  async #room(blockIndex: number, count: number): Promise<number> {
    const isSpanStart = blockIndex % HUGE_BLOCK_COUNT === 0
    const { slotsLeft } = this.#writer
    if (slotsLeft === 0 || (isSpanStart && slotsLeft < HUGE_BLOCK_COUNT)) await this.#writer.roll()
    return Math.min(count, this.#writer.slotsLeft)
  }
}

/** Arena memory as soon as there is some. */
async function allocate(arena: Arena, lengthBytes: number): Promise<number> {
  for (;;) {
    const offset = arena.allocate(lengthBytes)
    if (offset >= 0) return offset
    await new Promise<void>((resolve) => arena.wait({ arenaFreed: resolve }))
  }
}
