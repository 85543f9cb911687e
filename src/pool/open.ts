import type { Checksum } from '../base/checksum.ts'
import type { Codecs } from '../base/codec.ts'
import { OperatingError } from '../base/errors.ts'
import { Undo } from '../base/undo.ts'
import { SUPERBLOCK_FILE, SUPERBLOCK_UNFINISHED_COUNT_MAX } from '../format/superblock.ts'
import { SEGMENT_FOLDER } from '../format/segment.ts'
import type { Io } from '../io/io.ts'
import { PageTables } from '../map/page-tables.ts'
import { DedupIndex } from '../segment/dedup-index.ts'
import { Log } from '../segment/log.ts'
import { PagePool } from '../segment/page-pool.ts'
import type { RoomMaker } from '../segment/replay.ts'
import { SegmentStore } from '../segment/segment-store.ts'
import type { DamageListener } from '../segment/segment-store.ts'
import { Appender } from './appender.ts'
import { IMPORT_COUNT_MAX } from './bulk-import.ts'
import type { BulkVolumeImport } from './bulk-import.ts'
import { Catalogue } from './catalogue.ts'
import { Checkpointer } from './checkpoint.ts'
import { Cohorts } from './cohort.ts'
import type { PoolCore } from './core.ts'
import { Fingerprints } from './fingerprints.ts'
import { References } from './references.ts'
import { Reserve } from './reserve.ts'
import { recover } from './recover.ts'
import type { OpeningDamage } from './scrub.ts'
import type { Recovered } from './recover.ts'
import { Space } from './space.ts'
import type { FillListener } from './space.ts'
import { SuperblockFile } from './superblock-file.ts'
import { EDGE_OP_COUNT_MAX } from './write-queue.ts'

/** Blocks read in part at once. */
const PART_READ_COUNT_MAX = 64
/** The usual soft limit of a process is 1,024 descriptors; clients need some too. */
const OPEN_FILE_COUNT_MAX = 512

export interface OpenedCore {
  core: PoolCore
  /** Lets go of everything, the lock last. */
  undo: Undo
  superblock: SuperblockFile
  checkpointer: Checkpointer
  imports: Set<BulkVolumeImport>
  /** What was damaged, and has been put right by opening. */
  damage: OpeningDamage[]
}

export interface OpenCoreOptions {
  nodeCacheBytes: number
  checksumCacheBytes: number
  frameCacheBytes: number
  dedupIndexBytes: number
  codecs: Codecs
  holder: string
  onDamage: DamageListener
  warnPercent: number
  onFill: FillListener
}

/**
 * Opens the folder: lock, superblock, recovery, and a new checkpoint before anything else is
 * written, so that what an earlier crash left behind can never again be taken for part of the log.
 */
export async function openCore(
  io: Io,
  checksum: Checksum,
  path: string,
  options: OpenCoreOptions,
): Promise<OpenedCore> {
  await verifyThere(io, path)
  const undo = new Undo()
  try {
    const lock = await io.lock(`${path}/lock`, options.holder)
    undo.add(() => lock.release())
    const superblock = await SuperblockFile.open(io, checksum, path)
    undo.add(() => superblock.close())
    return await assemble(io, checksum, path, options, superblock, undo)
  } catch (error) {
    // The first failure is the one to be told; what fails while letting go follows from it.
    await undo.run().catch(() => undefined)
    throw error
  }
}

/** Rejects `not-found` before a lock file is left in a folder that is no pool. */
async function verifyThere(io: Io, path: string): Promise<void> {
  const names = await io.list(path).catch((error: unknown): string[] => {
    if (error instanceof OperatingError && error.code === 'not-found') return []
    throw error
  })
  if (names.includes(SUPERBLOCK_FILE)) return
  throw new OperatingError('not-found', `there is no pool at ${path}`, {
    hint: `create one with "varve init --pool ${path}"`,
  })
}

async function assemble(
  io: Io,
  checksum: Checksum,
  path: string,
  options: OpenCoreOptions,
  superblock: SuperblockFile,
  undo: Undo,
): Promise<OpenedCore> {
  const { poolId, capacityBytes } = superblock.current
  const folder = `${path}/${SEGMENT_FOLDER}`
  const { checksumCacheBytes, frameCacheBytes, codecs, onDamage } = options
  const limits = { checksumCacheBytes, frameCacheBytes, openFileCountMax: OPEN_FILE_COUNT_MAX }
  const store = new SegmentStore(io, checksum, codecs, poolId, folder, limits, onDamage)
  undo.add(() => store.close())
  await store.load()
  const tables = new PageTables({
    nodeCacheBytes: options.nodeCacheBytes,
    pause: () => io.pause(),
    source: {
      loadNode: async (segment, slot) => {
        return new Uint32Array((await store.readPage(segment, slot)).buffer)
      },
    },
  })
  const catalogue = new Catalogue(tables, () => io.wallClockMs())
  const reserve = await Reserve.open(io, path)
  const physicalBytes = (): Promise<number> => store.physicalBytes()
  const { recycled } = store
  const space = new Space(io, path, capacityBytes, physicalBytes, reserve, recycled, options)
  const withRoom: RoomMaker = (work) => space.withReserve(work)
  const parts = { io, store, tables, catalogue, withRoom }
  const recovered = await recover(parts, superblock.current)
  const log = new Log(io, store)
  undo.add(() => log.close())
  const { sequence, previousChecksum } = recovered.chain
  await space.withReserve(() => log.begin(sequence, previousChecksum))
  const dedupIndex = new DedupIndex(options.dedupIndexBytes)
  const { clean, generation } = superblock.current
  const closedGeneration = clean ? generation : null
  const core: PoolCore = {
    io,
    checksum,
    codecs,
    path,
    poolId,
    pages: new PagePool(io.arena, PART_READ_COUNT_MAX),
    edgePages: new PagePool(io.arena, 2 * EDGE_OP_COUNT_MAX),
    store,
    log,
    tables,
    catalogue,
    appender: new Appender(io, log, space),
    cohorts: new Cohorts(),
    dedupIndex,
    fingerprints: new Fingerprints(store, dedupIndex, path, closedGeneration),
    references: new References(),
    guests: { operationCount: 0 },
    space,
  }
  undo.add(() => core.pages.release(io.arena))
  undo.add(() => core.edgePages.release(io.arena))
  undo.add(() => core.appender.close())
  undo.add(() => space.close())
  await core.space.refresh()
  const imports = new Set<BulkVolumeImport>()
  const checkpointer = await settleRecovery(core, superblock, recovered, imports)
  const damage: OpeningDamage[] = recovered.resealedIds.map((segment) => ({ segment }))
  if (superblock.wasTorn) damage.push({ segment: null })
  return { core, undo, superblock, checkpointer, imports, damage }
}

/** Writes the first checkpoint, then removes what the crash left behind. */
async function settleRecovery(
  core: PoolCore,
  superblock: SuperblockFile,
  recovered: Recovered,
  imports: ReadonlySet<BulkVolumeImport>,
): Promise<Checkpointer> {
  const { store } = core
  // Named in the checkpoint until they are gone, so that a cut in between does not leak them; an
  // import by its one id, however many segments it has filled.
  const names = recovered.deadIds.map((id) => store.get(id).importId || id)
  let deadNames = [...new Set(names)].slice(0, SUPERBLOCK_UNFINISHED_COUNT_MAX - IMPORT_COUNT_MAX)
  const unfinishedIds = (): number[] => {
    const importIds = [...imports].map((one) => one.importId).filter((id) => id !== 0)
    return [...importIds, ...deadNames]
  }
  const checkpointer = new Checkpointer(core, superblock, recovered.parts, unfinishedIds)
  await checkpointer.run()
  for (const id of recovered.deadIds) await store.delete(id)
  if (recovered.deadIds.length > 0) await store.syncFolder()
  deadNames = []
  return checkpointer
}
