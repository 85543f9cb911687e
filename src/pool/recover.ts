/** Brings the catalogue and the maps to where the log ends: at every open, crash or not. */
import { must } from '../base/assert.ts'
import { CorruptionError } from '../base/errors.ts'
import { BLOCK_SIZE_BYTES } from '../base/units.ts'
import type { CatalogueOperation, PartAddress } from '../format/catalogue.ts'
import {
  PartKind,
  catalogueCorrupt,
  decodePart,
  verifyLine,
  verifyOperation,
  verifyPartAddress,
} from '../format/catalogue.ts'
import { isLower } from '../format/directory.ts'
import { MAP_BLOCK_COUNT } from '../format/node.ts'
import { EntryKind, blocksOfEntry } from '../format/record.ts'
import { DATA_SLOT_END, DATA_SLOT_FIRST, SegmentKind } from '../format/segment.ts'
import { SUPERBLOCK_COUNT_MAX, SUPERBLOCK_ID_MAX } from '../format/superblock.ts'
import type { Superblock } from '../format/superblock.ts'
import type { Io } from '../io/io.ts'
import { Lookup } from '../map/page-tables.ts'
import type { PageTables } from '../map/page-tables.ts'
import type { ChainEnd, ScannedRecord } from '../segment/scan.ts'
import { LogReplay } from '../segment/replay.ts'
import type { RoomMaker } from '../segment/replay.ts'
import type { SegmentStore } from '../segment/segment-store.ts'
import type { Catalogue } from './catalogue.ts'

export interface Recovered {
  /** What the log goes on from. */
  chain: ChainEnd
  recordCount: number
  parts: PartAddress[]
  /** Segments that hold nothing anybody will refer to; to be deleted after the checkpoint. */
  deadIds: number[]
  /** Segments whose table or footer was damaged, and is written anew. */
  resealedIds: number[]
}

interface Parts {
  io: Io
  store: SegmentStore
  tables: PageTables
  catalogue: Catalogue
  /** A pool that was killed when its disk was full must open, so that room can be made. */
  withRoom: RoomMaker
}

/** Rejects with a CorruptionError or an I/O error; the pool's files are then as they were. */
export async function recover(parts: Parts, superblock: Superblock): Promise<Recovered> {
  const { io, store, catalogue, withRoom } = parts
  verifySuperblock(superblock)
  store.reserveIdsBelow(superblock.nextSegmentId)
  catalogue.reserveIdsBelow(superblock.nextDiskId)
  const replay = new LogReplay(io, store, superblock.position, superblock.clean, withRoom)
  try {
    await replay.prepare()
    const chainParts = await loadCatalogue(store, catalogue, superblock.catalogue)
    const replayer = new Replayer(parts)
    const end = await replay.run((record) => replayer.visit(record))
    const orphans = await orphanIds(store, superblock, replayer.adoptedIds)
    return {
      chain: end.chain,
      recordCount: end.recordCount,
      parts: chainParts,
      deadIds: [...new Set([...end.abandonedIds, ...orphans])],
      resealedIds: replay.resealedIds,
    }
  } finally {
    replay.close()
  }
}

/** Throws `superblock-corrupt` for a sound page that says what no pool writes. */
function verifySuperblock({ position, generation, nextSegmentId, nextDiskId }: Superblock): void {
  const { slot, sequence } = position
  const holds =
    slot >= DATA_SLOT_FIRST &&
    slot <= DATA_SLOT_END &&
    sequence >= 1 &&
    sequence <= SUPERBLOCK_COUNT_MAX &&
    generation <= SUPERBLOCK_COUNT_MAX &&
    position.segment <= nextSegmentId &&
    nextSegmentId <= SUPERBLOCK_ID_MAX &&
    nextDiskId <= SUPERBLOCK_ID_MAX
  if (holds) return
  throw new CorruptionError('superblock-corrupt', 'the superblock says what cannot be', {
    hint: 'run "varve check" on the pool',
    details: { segment: position.segment, slot, sequence, nextSegmentId, nextDiskId },
  })
}

async function loadCatalogue(
  store: SegmentStore,
  catalogue: Catalogue,
  newest: PartAddress,
): Promise<PartAddress[]> {
  const addresses: PartAddress[] = []
  const parts = []
  for (let at = newest; at.blockCount > 0; at = must(parts.at(-1), 'a part').previous) {
    const after = addresses.at(-1)
    verifyPartAddress(at)
    // The log only goes on: so a chain ends, and no part is read twice.
    if (after !== undefined && !isLower(at.segment, at.slot, after.segment, after.slot)) {
      throw catalogueCorrupt('a part does not lie before the one that names it')
    }
    addresses.push(at)
    parts.push(decodePart(await readPart(store, at)))
  }
  if (parts.length > 0 && parts.at(-1)?.kind !== PartKind.full) {
    throw catalogueCorrupt('it does not begin with a full part')
  }
  for (const part of parts.reverse()) {
    for (const line of part.lines) catalogue.load(verifyLine(line))
  }
  catalogue.verify()
  return addresses.reverse()
}

async function readPart(store: SegmentStore, at: PartAddress): Promise<Uint8Array> {
  const bytes = new Uint8Array(at.blockCount * BLOCK_SIZE_BYTES)
  for (let i = 0; i < at.blockCount; i += 1) {
    bytes.set(await store.readPage(at.segment, at.slot + i), i * BLOCK_SIZE_BYTES)
  }
  return bytes
}

/**
 * Segments that the checkpoint called unfinished, or that did not exist then and are not the
 * log's, and that no replayed `create` took over.
 */
async function orphanIds(
  store: SegmentStore,
  superblock: Superblock,
  adoptedIds: ReadonlySet<number>,
): Promise<number[]> {
  const unfinished = new Set(superblock.unfinishedIds)
  // An import's id is its first segment's: no segment of it is older.
  const oldestId = Math.min(superblock.nextSegmentId, ...superblock.unfinishedIds)
  const orphans: number[] = []
  for (const id of store.ids()) {
    if (id < oldestId) continue
    const state = store.get(id)
    const kind = await store.readKind(state)
    if (adoptedIds.has(state.importId) || !state.isHeaderSound) continue
    // Log segments from the position on are judged by the replay. No kind means a torn header:
    // the file was being created.
    const isNew = id >= superblock.nextSegmentId && kind !== SegmentKind.log
    if (isNew || unfinished.has(id) || unfinished.has(state.importId)) orphans.push(id)
  }
  return orphans
}

class Replayer {
  readonly adoptedIds: Set<number> = new Set()
  readonly #parts: Parts
  readonly #found: Lookup = new Lookup()

  constructor(parts: Parts) {
    this.#parts = parts
  }

  async visit(record: ScannedRecord): Promise<void> {
    const { entries, header } = record
    let slot = record.firstBlockSlot
    let blocksOffset = record.blocksOffset
    for (let i = 0; i < entries.count; i += 1) {
      const kind = entries.kinds[i]
      const count = entries.counts[i]
      const blockCount = blocksOfEntry(kind, count)
      if (kind === EntryKind.operation) {
        const bytes = this.#parts.io.arena.memory.subarray(
          blocksOffset,
          blocksOffset + blockCount * BLOCK_SIZE_BYTES,
        )
        await this.#operate(verifyOperation(decodePart(bytes).lines[0]))
      } else if (kind === EntryKind.data || kind === EntryKind.trim || kind === EntryKind.zero) {
        const blockIndex = entries.blockIndexes[i]
        const diskId = entries.diskIds[i]
        await this.#reside(diskId, blockIndex, count)
        this.#parts.catalogue.applyEntry(diskId, kind, blockIndex, count, header.segment, slot)
      } else if (kind === EntryKind.grow) {
        const blockIndex = entries.blockIndexes[i]
        this.#parts.catalogue.applyEntry(entries.diskIds[i], kind, blockIndex, count, 0, 0)
      }
      slot += blockCount
      blocksOffset += blockCount * BLOCK_SIZE_BYTES
    }
  }

  async #operate(operation: CatalogueOperation): Promise<void> {
    const { catalogue } = this.#parts
    const changed = catalogue.changedBy(operation)
    if (changed !== null) {
      await this.#reside(changed.disk.id, changed.blockIndex, changed.count)
    }
    if (operation.op === 'create') {
      if (operation.importId !== 0) this.adoptedIds.add(operation.importId)
    }
    catalogue.apply(operation)
  }

  async #reside(diskId: number, blockIndex: number, count: number): Promise<void> {
    const { catalogue, tables } = this.#parts
    const disk = catalogue.tryDisk(diskId)
    if (disk === null || blockIndex + count > MAP_BLOCK_COUNT) {
      throw new CorruptionError(
        'record-corrupt',
        `the log refers to disk ${diskId} in a way no pool writes`,
        {
          hint: 'run "varve check" on the pool',
          details: { disk: diskId, blockIndex, count },
        },
      )
    }
    while (!tables.tryReside(disk.root, blockIndex, count, this.#found)) {
      await tables.fault(this.#found)
    }
  }
}
