import type { Checksum } from '../base/checksum.ts'
import { OperatingError } from '../base/errors.ts'
import { SUPERBLOCK_FILE } from '../format/superblock.ts'
import { SEGMENT_FOLDER } from '../format/segment.ts'
import type { Io, IoLock } from '../io/io.ts'
import { PageTables } from '../map/page-tables.ts'
import { Log } from '../segment/log.ts'
import { PagePool } from '../segment/page-pool.ts'
import { SegmentStore } from '../segment/segment-store.ts'
import type { DamageListener } from '../segment/segment-store.ts'
import { Appender } from './appender.ts'
import type { BulkVolumeImport } from './bulk-import.ts'
import { Catalogue } from './catalogue.ts'
import { Checkpointer } from './checkpoint.ts'
import { Cohorts } from './cohort.ts'
import type { PoolCore } from './core.ts'
import { physicalBytes } from './reclaim.ts'
import { recover } from './recover.ts'
import { Space } from './space.ts'
import { SuperblockFile } from './superblock-file.ts'
import { EDGE_OP_COUNT_MAX } from './write-queue.ts'

/** Blocks read in part at once. */
const PART_READ_COUNT_MAX = 64
/** The usual soft limit of a process is 1,024 descriptors; clients need some too. */
const OPEN_FILE_COUNT_MAX = 512

export interface OpenedCore {
  core: PoolCore
  lock: IoLock
  superblock: SuperblockFile
  checkpointer: Checkpointer
  imports: Set<BulkVolumeImport>
}

export interface OpenCoreOptions {
  nodeCacheBytes: number
  checksumCacheBytes: number
  holder: string
  onDamage: DamageListener
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
  const lock = await io.lock(`${path}/lock`, options.holder)
  let superblock: SuperblockFile | null = null
  try {
    superblock = await SuperblockFile.open(io, checksum, path)
    return await assemble(io, checksum, path, options, lock, superblock)
  } catch (error) {
    await superblock?.close()
    await lock.release()
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
  lock: IoLock,
  superblock: SuperblockFile,
): Promise<OpenedCore> {
  const { poolId, capacityBytes } = superblock.current
  const folder = `${path}/${SEGMENT_FOLDER}`
  const store = new SegmentStore(
    io,
    checksum,
    poolId,
    folder,
    {
      checksumCacheBytes: options.checksumCacheBytes,
      openFileCountMax: OPEN_FILE_COUNT_MAX,
    },
    options.onDamage,
  )
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
  const catalogue = new Catalogue(tables)
  const recovered = await recover({ io, store, tables, catalogue }, superblock.current)
  const log = new Log(io, store)
  await log.begin(recovered.chain.sequence, recovered.chain.previousChecksum)
  const core: PoolCore = {
    io,
    checksum,
    path,
    poolId,
    pages: new PagePool(io.arena, PART_READ_COUNT_MAX),
    edgePages: new PagePool(io.arena, 2 * EDGE_OP_COUNT_MAX),
    store,
    log,
    tables,
    catalogue,
    appender: new Appender(io, log, (lengthBytes) => {
      core.space.consume(lengthBytes)
    }),
    cohorts: new Cohorts(),
    space: new Space(io, path, capacityBytes, () => physicalBytes(core)),
  }
  await core.space.refresh()
  const imports = new Set<BulkVolumeImport>()
  // Named in the checkpoint until they are gone, so that a cut in between does not leak them.
  let deadIds = recovered.deadIds
  const unfinishedIds = (): number[] => {
    const importIds = [...imports].map((one) => one.importId).filter((id) => id !== 0)
    return [...importIds, ...deadIds]
  }
  const checkpointer = new Checkpointer(core, superblock, recovered.parts, unfinishedIds)
  await checkpointer.run()
  for (const id of deadIds) await store.delete(id)
  if (deadIds.length > 0) await store.syncFolder()
  deadIds = []
  return { core, lock, superblock, checkpointer, imports }
}
