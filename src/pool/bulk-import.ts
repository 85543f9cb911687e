/**
 * Fills a new volume outside the log. Blocks that are stored already are referred to, others go to
 * bulk segments, the map is built beside those of the volumes, and one `create` operation at the
 * end gives it its name: until that is durable nothing refers to any of it, and a crash leaves
 * segments that the next open removes.
 */
import { assert } from '../base/assert.ts'
import { OperatingError } from '../base/errors.ts'
import { BLOCK_SIZE_BYTES, blocksOf } from '../base/units.ts'
import type { Arena } from '../io/arena.ts'
import { ARENA_PIECE_BYTES_MAX } from '../io/arena.ts'
import type { Io } from '../io/io.ts'
import type { CatalogueOperation } from '../format/catalogue.ts'
import { emptyRoot, rootAddress } from '../map/map-root.ts'
import type { MapRoot } from '../map/map-root.ts'
import { Lookup } from '../map/page-tables.ts'
import { BulkWriter } from '../segment/bulk-writer.ts'
import { Deduper, addressRun } from '../segment/dedup.ts'
import type { Admission } from '../segment/dedup.ts'
import { SEAL_BYTES } from '../segment/seal.ts'
import { ZeroBlocks } from '../segment/zero-blocks.ts'
import { writeMostNodes } from './checkpoint.ts'
import type { PoolCore } from './core.ts'
import { verifyHealthy } from './core.ts'
import { journal } from './journal.ts'
import { poolFull } from './space.ts'
import type { BulkImport, CreateVolume, VolumeInfo } from './types.ts'

/** Blocks below a leaf: a run of so many, aligned on both sides, becomes one huge entry. */
const HUGE_BLOCK_COUNT = 512
const PIECE_BLOCK_COUNT: number = ARENA_PIECE_BYTES_MAX / BLOCK_SIZE_BYTES

/** At once: the superblock names each that is not finished. */
export const IMPORT_COUNT_MAX = 32
/** A client that ends gives back what it had; no client need. */
const MEMORY_WAIT_MS = 10_000
const MEMORY_RETRY_MS = 20
/** What one holds of the arena from its begin to its end. */
const HELD_BYTES: number = SEAL_BYTES + 2 * ARENA_PIECE_BYTES_MAX

/**
 * How many may run at once: together they hold at most half of the arena. The other half is for
 * those who hold memory for a while only, so that nobody waits for it in a circle.
 */
export function importCountMax({ sizeBytes }: Arena): number {
  return Math.min(IMPORT_COUNT_MAX, Math.floor(sizeBytes / 2 / HELD_BYTES))
}

/** Offsets in the arena. */
interface ImportMemory {
  staging: number
  piece: number
  compared: number
}

/**
 * All that an import needs, or nothing: who holds some and waits for more may wait for somebody who
 * does the same.
 */
async function takeMemory(io: Io, verifyWanted: () => void): Promise<ImportMemory> {
  const deadlineMs = io.nowMs() + MEMORY_WAIT_MS
  for (;;) {
    const memory = tryTakeMemory(io.arena)
    if (memory !== null) return memory
    if (io.nowMs() >= deadlineMs) {
      const hint = 'wait until imports or clients have ended'
      throw new OperatingError('busy', 'there is no memory for another import', { hint })
    }
    await new Promise<void>((resolve) => io.setTimer(MEMORY_RETRY_MS, resolve))
    verifyWanted()
  }
}

function tryTakeMemory(arena: Arena): ImportMemory | null {
  const staging = arena.allocate(SEAL_BYTES)
  const piece = staging < 0 ? -1 : arena.allocate(ARENA_PIECE_BYTES_MAX)
  const compared = piece < 0 ? -1 : arena.allocate(ARENA_PIECE_BYTES_MAX)
  if (compared >= 0) return { staging, piece, compared }
  if (piece >= 0) arena.free(piece, ARENA_PIECE_BYTES_MAX)
  if (staging >= 0) arena.free(staging, SEAL_BYTES)
  return null
}

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
  /** Where the blocks being dealt with are. */
  #blocks = 0
  readonly #deduper: Deduper
  /** The deduper's, for what it compares with. */
  readonly #compared: number
  /** Two words for each block of the piece: where an equal one lies, or zeros. */
  readonly #equal: Uint32Array = new Uint32Array(2 * PIECE_BLOCK_COUNT)
  readonly #admits: Admission
  readonly #root: MapRoot = emptyRoot()
  readonly #epoch: number
  readonly #zeroBlocks: ZeroBlocks
  readonly #found: Lookup = new Lookup()
  #nextBlock = 0
  /** The last write or commit begun; an abort lets it end. */
  #running: Promise<void> = Promise.resolve()
  #isOver = false
  /** Its `create` has gone to the log, which may have failed over it. */
  #isNamed = false

  private constructor(
    core: PoolCore,
    request: CreateVolume,
    owner: ImportOwner,
    memory: ImportMemory,
  ) {
    this.#core = core
    this.#request = request
    this.#owner = owner
    this.#staging = memory.staging
    this.#piece = memory.piece
    this.#compared = memory.compared
    this.#deduper = new Deduper(core.store, core.dedupIndex, memory.compared)
    this.#admits = (segment, slot) => core.references.admits(segment, slot, this)
    this.#epoch = core.catalogue.newEpoch()
    this.#writer = new BulkWriter(core.io, core.store, PIECE_BLOCK_COUNT, memory.staging)
    this.#zeroBlocks = new ZeroBlocks(core.checksum)
  }

  /** Rejects `busy` when there is no memory for it, or with what `verifyWanted` throws. */
  static async begin(
    core: PoolCore,
    request: CreateVolume,
    owner: ImportOwner,
    verifyWanted: () => void,
  ): Promise<BulkVolumeImport> {
    const memory = await takeMemory(core.io, verifyWanted)
    return new BulkVolumeImport(core, request, owner, memory)
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
      this.#isNamed = true
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
    this.#core.references.endUnfinished(this.segmentIds)
    return this.#owner.describe(request.name)
  }

  async abort(): Promise<void> {
    await this.#running.catch(() => undefined)
    if (this.#isOver) return
    this.#end()
    // A record that could not be written may be whole all the same: only a recovery can tell, and
    // it removes the segments if there is no such record.
    if (this.#isNamed && this.#core.log.failure !== 0) return
    const ids = this.segmentIds
    await this.#writer.abort()
    this.#core.references.endUnfinished(ids)
  }

  #end(): void {
    this.#isOver = true
    const { io, tables } = this.#core
    tables.releaseRoot(this.#root)
    io.arena.free(this.#staging, SEAL_BYTES)
    io.arena.free(this.#piece, ARENA_PIECE_BYTES_MAX)
    io.arena.free(this.#compared, ARENA_PIECE_BYTES_MAX)
    this.#owner.ended(this)
  }

  async #writePiece(firstBlock: number, count: number, bytes: Uint8Array): Promise<void> {
    const { tables, cohorts } = this.#core
    verifyHealthy(this.#core)
    this.#blocks = this.#inArena(bytes)
    const hashes = this.#writer.hash(this.#blocks, count)
    // What was found is not swept before it is referred to, however long that takes.
    const cohort = cohorts.enter()
    try {
      await this.#deduper.match(this.#blocks, count, hashes, this.#admits, this.#equal)
      await this.#placePiece(firstBlock, count, hashes)
    } finally {
      cohort.leave()
    }
    if (tables.isDirtyFull) await writeMostNodes(this.#core)
    await tables.pause()
  }

  /** Where in the arena the bytes are; those that came from elsewhere are copied to the piece. */
  #inArena(bytes: Uint8Array): number {
    const { memory } = this.#core.io.arena
    if (bytes.buffer === memory.buffer) return bytes.byteOffset - memory.byteOffset
    memory.set(bytes, this.#piece)
    return this.#piece
  }

  /** Maps the blocks of the piece to what is stored already, or appends them. */
  async #placePiece(firstBlock: number, count: number, hashes: Uint32Array): Promise<void> {
    for (let done = 0; done < count;) {
      if (this.#isZeroBlock(hashes, done)) {
        done += 1
      } else if (this.#equal[2 * done] !== 0) {
        const run = addressRun(this.#equal, done, count)
        const referred = await this.#referRun(firstBlock + done, run, done)
        if (!referred) await this.#appendRun(firstBlock + done, run, done, hashes)
        done += run
      } else {
        const run = this.#newRun(hashes, done, count)
        await this.#appendRun(firstBlock + done, run, done, hashes)
        done += run
      }
    }
  }

  /** Blocks from `index` up to the next that is zero or stored already. */
  #newRun(hashes: Uint32Array, index: number, count: number): number {
    let end = index + 1
    while (end < count && this.#equal[2 * end] === 0 && !this.#isZeroBlock(hashes, end)) end += 1
    return end - index
  }

  /** Maps blocks to what is stored; false when that may not be referred to any more. */
  async #referRun(blockIndex: number, count: number, pieceBlock: number): Promise<boolean> {
    const { tables } = this.#core
    const segment = this.#equal[2 * pieceBlock]
    const slot = this.#equal[2 * pieceBlock + 1]
    while (!tables.tryReside(this.#root, blockIndex, count, this.#found)) {
      await tables.fault(this.#found)
    }
    // Asked in the same turn as the map is changed: a reclaim may have begun since the match.
    for (let i = 0; i < count; i += 1) {
      if (!this.#admits(segment, slot + i)) return false
    }
    tables.setBlocks(this.#root, this.#epoch, blockIndex, count, segment, slot)
    return true
  }

  #isZeroBlock(hashes: Uint32Array, index: number): boolean {
    const start = this.#blocks + index * BLOCK_SIZE_BYTES
    return this.#zeroBlocks.isZero(this.#core.io.arena.memory, start, hashes, 2 * index)
  }

  async #appendRun(
    blockIndex: number,
    count: number,
    pieceBlock: number,
    hashes: Uint32Array,
  ): Promise<void> {
    await this.#verifyRoom(count)
    for (let done = 0; done < count;) {
      const at = blockIndex + done
      const room = await this.#room(at, count - done)
      const offset = this.#blocks + (pieceBlock + done) * BLOCK_SIZE_BYTES
      const { tables, space } = this.#core
      while (!tables.tryReside(this.#root, at, room, this.#found)) await tables.fault(this.#found)
      const place = this.#writer.append(offset, room, hashes, 2 * (pieceBlock + done))
      tables.setBlocks(this.#root, this.#epoch, at, room, place.segment, place.slot)
      space.consume(room * BLOCK_SIZE_BYTES)
      this.#index(hashes, pieceBlock + done, room, place.segment, place.slot)
      done += room
    }
  }

  async #verifyRoom(blockCount: number): Promise<void> {
    const { space } = this.#core
    if (space.admits(blockCount * BLOCK_SIZE_BYTES)) return
    await space.refresh()
    if (!space.admits(blockCount * BLOCK_SIZE_BYTES)) throw poolFull()
  }

  #index(hashes: Uint32Array, first: number, count: number, segment: number, slot: number): void {
    const { dedupIndex } = this.#core
    for (let i = 0; i < count; i += 1) {
      const word = 2 * (first + i)
      dedupIndex.set(hashes[word], hashes[word + 1], segment, slot + i)
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
    if (slotsLeft === 0 || (isSpanStart && slotsLeft < HUGE_BLOCK_COUNT)) {
      const segment = await this.#writer.roll()
      this.#core.references.addUnfinished(segment, this)
    }
    return Math.min(count, this.#writer.slotsLeft)
  }
}
