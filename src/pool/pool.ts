/**
 * A pool: one folder, opened by one process at a time.
 *
 *     superblock            two alternating pages, where recovery begins
 *     segments/NNNNNNNNNN.seg
 *     lock                  held while open; says by whom
 */
import { dirname } from 'node:path'
import { assert } from '../base/assert.ts'
import type { Checksum } from '../base/checksum.ts'
import { missingCodecs } from '../base/codec.ts'
import type { Codecs } from '../base/codec.ts'
import { OperatingError } from '../base/errors.ts'
import { BLOCK_SIZE_BYTES, MIB } from '../base/units.ts'
import { toHex } from '../base/bytes.ts'
import type { Undo } from '../base/undo.ts'
import type { ExportEntry, ExportTarget } from '../export/target.ts'
import { FORMAT_VERSION } from '../format/page.ts'
import { DATA_SLOT_FIRST, SEGMENT_FOLDER } from '../format/segment.ts'
import { REFUSE_FEATURES } from '../format/features.ts'
import { KIND_BLOCK } from '../format/node.ts'
import type { Io } from '../io/io.ts'
import { diff } from '../map/diff.ts'
import { BulkVolumeImport, importCountMax } from './bulk-import.ts'
import type { ImportOwner } from './bulk-import.ts'
import type { Checkpointer } from './checkpoint.ts'
import type { PoolCore } from './core.ts'
import type { DamageListener } from '../segment/segment-store.ts'
import { captureRoot, describeSnapshot, describeVolume, mappedBytes } from './describe.ts'
import type { Disk } from './disk.ts'
import { DiskReads } from './disk-read.ts'
import { DiskTarget } from './disk-target.ts'
import { WARN_PERCENT_DEFAULT } from './fill.ts'
import { mustParseVolumeName } from './names.ts'
import { openCore } from './open.ts'
import type { OpenedCore } from './open.ts'
import { PoolFiles } from './pool-files.ts'
import { resizeVolume, verifyOpenable } from './resize.ts'
import type { FillListener } from './space.ts'
import { Scrub } from './scrub.ts'
import { ScrubSchedule } from './scrub-schedule.ts'
import { SuperblockFile } from './superblock-file.ts'
import type {
  BulkImport,
  Compression,
  CreateVolume,
  DiffExtent,
  Fill,
  PoolInfo,
  PoolOperations,
  ReclaimProgress,
  ReclaimReport,
  RemoveReport,
  RemoveRequest,
  ScrubProgress,
  ScrubReport,
  ScrubRequest,
  ScrubStatus,
  SnapshotInfo,
  UpkeepStatus,
  UsageProgress,
  UsageReport,
  VolumeInfo,
} from './types.ts'
import { Upkeep } from './upkeep.ts'
import { SpaceUsage } from './usage.ts'
import {
  cloneDisk,
  createVolume,
  disksToRemove,
  holdDisk,
  mustFindDisk,
  releaseDisk,
  removeDisks,
  renameDisk,
  restoreVolume,
  snapshotVolumes,
  verifyFree,
  verifySize,
} from './volumes.ts'
import { WriteQueue } from './write-queue.ts'

export interface CreatePoolOptions {
  /** Bytes the pool may take on its disk; 0: all there is. */
  capacityBytes?: number
}

export interface OpenPoolOptions {
  /** Of clean map nodes in memory. */
  nodeCacheBytes?: number
  /** Of checksum tables in memory. */
  checksumCacheBytes?: number
  /** Of decoded blocks of settled segments in memory. */
  frameCacheBytes?: number
  /** Of fingerprints in memory, by which equal blocks are found. */
  dedupIndexBytes?: number
  codecs?: Codecs
  /** What is settled with when guests are idle; null, the default: only when asked for. */
  idleCompression?: Compression | null
  /** Days between two scrubs that begin by themselves; null, the default: only when asked for. */
  scrubEveryDays?: number | null
  /** Log bytes after which a checkpoint is written: bounds the time of a recovery. */
  checkpointTailBytes?: number
  /**
   * Log bytes, at least, after which segments that are dead are given back beside guests that do
   * not rest; as much as is live where that is more. Infinity: only when they rest.
   */
  turnoverBytesMin?: number
  /** Left in the lock file for whoever else wants the pool. */
  holder?: string
  onDamage?: DamageListener
  /** How full it may be before it is said, in percent of what guests may use. */
  warnPercent?: number
  /** Told when the pool becomes, or is no longer, nearly full or full. */
  onFill?: FillListener
  /** Told once, when the pool stops taking writes. */
  onFailure?: (errno: number) => void
}

const OPTIONS_DEFAULT: Required<OpenPoolOptions> = {
  nodeCacheBytes: 64 * MIB,
  checksumCacheBytes: 32 * MIB,
  frameCacheBytes: 64 * MIB,
  dedupIndexBytes: 32 * MIB,
  codecs: missingCodecs(),
  idleCompression: null,
  scrubEveryDays: null,
  checkpointTailBytes: 256 * MIB,
  turnoverBytesMin: 512 * MIB,
  holder: `process ${process.pid}`,
  onDamage: () => undefined,
  warnPercent: WARN_PERCENT_DEFAULT,
  onFill: () => undefined,
  onFailure: () => undefined,
}

export class Pool implements PoolOperations {
  /** The same disks, as a filesystem works with them. */
  readonly files: PoolFiles
  readonly #core: PoolCore
  readonly #undo: Undo
  readonly #superblock: SuperblockFile
  readonly #checkpointer: Checkpointer
  readonly #reads: DiskReads
  readonly #writes: WriteQueue
  readonly #imports: Set<BulkVolumeImport>
  readonly #upkeep: Upkeep
  readonly #scrub: Scrub
  readonly #scrubSchedule: ScrubSchedule | null
  readonly #usage: SpaceUsage
  readonly #options: Required<OpenPoolOptions>
  /** Imports that wait for memory, or for the fingerprints, and so are not in `#imports` yet. */
  #beginningCount = 0
  readonly #beginning: Set<Promise<BulkImport>> = new Set()
  #isClosing = false
  #background: Promise<void> | null = null
  #reportedFailure = false

  private constructor(opened: OpenedCore, options: Required<OpenPoolOptions>) {
    this.#core = opened.core
    this.#undo = opened.undo
    this.#superblock = opened.superblock
    this.#checkpointer = opened.checkpointer
    this.#imports = opened.imports
    this.#options = options
    const { core, checkpointer, imports } = opened
    this.#writes = new WriteQueue(core, () => this.#afterAppend())
    this.#upkeep = new Upkeep(core, checkpointer, imports, this.#writes, options)
    this.#scrub = new Scrub(core, checkpointer, opened.superblock, this.#upkeep, opened.damage)
    this.#scrubSchedule =
      options.scrubEveryDays === null ? null : this.#schedule(options.scrubEveryDays)
    this.#reads = new DiskReads(opened.core)
    this.#usage = new SpaceUsage(core, checkpointer, imports)
    this.files = new PoolFiles(opened.core, this.#reads, this.#writes, this.#usage, () => {
      this.#upkeep.noteChange()
    })
  }

  /** Makes a new pool. Rejects `exists` when there is one, or the operating system's error. */
  static async create(
    io: Io,
    checksum: Checksum,
    path: string,
    options: CreatePoolOptions = {},
  ): Promise<void> {
    await createFolder(io, path)
    if ((await io.list(path)).includes('superblock')) {
      throw new OperatingError('exists', `there is a pool at ${path} already`)
    }
    await createFolder(io, `${path}/${SEGMENT_FOLDER}`)
    await SuperblockFile.create(io, checksum, path, {
      poolId: io.randomBytes(16),
      generation: 0,
      refuseFeatures: REFUSE_FEATURES,
      readOnlyFeatures: 0,
      ignoreFeatures: 0,
      clean: true,
      createdMs: io.wallClockMs(),
      capacityBytes: options.capacityBytes ?? 0,
      position: {
        segment: 0,
        slot: DATA_SLOT_FIRST,
        sequence: 1,
        previousChecksum: new Uint32Array(2),
      },
      nextSegmentId: 1,
      nextDiskId: 1,
      catalogue: { segment: 0, slot: 0, blockCount: 0 },
      unfinishedIds: [],
    })
    await io.syncDirectory(path)
    await io.syncDirectory(dirname(path))
  }

  /**
   * Locks, recovers and opens a pool. Rejects `busy` (with the holder), `not-found`,
   * `unsupported`, or with a CorruptionError.
   */
  static async open(
    io: Io,
    checksum: Checksum,
    path: string,
    options: OpenPoolOptions = {},
  ): Promise<Pool> {
    const all = { ...OPTIONS_DEFAULT, ...options }
    return new Pool(await openCore(io, checksum, path, all), all)
  }

  /** Null while the pool takes writes, else why not (I10). */
  get failure(): string | null {
    const errno = this.#core.log.failure
    return errno === 0 ? null : `a write or sync of the log failed with errno ${-errno}`
  }

  /** How full it is, as of the last look at its disk. */
  get fill(): Fill {
    return this.#core.space.fill
  }

  /** Every disk that can be exported. */
  list(): ExportEntry[] {
    const entries: ExportEntry[] = []
    for (const volume of this.#core.catalogue.volumes()) {
      for (const disk of [volume, ...volume.snapshots.values()]) {
        const name = this.#core.catalogue.nameOf(disk)
        entries.push({ name, sizeBytes: disk.sizeBytes, readOnly: disk.isSnapshot })
      }
    }
    return entries
  }

  /**
   * The disk as an export sees it, until `close`; null when there is none of that name. Throws
   * `busy` while it is being shrunk.
   */
  openTarget(name: string, client: string): ExportTarget | null {
    const disk = this.#tryFindDisk(name)
    if (disk === null) return null
    verifyOpenable(disk, client)
    return new DiskTarget(this.#core, disk, this.#reads, this.#writes, client)
  }

  async info(): Promise<PoolInfo> {
    const { catalogue, store, path } = this.#core
    const superblock = this.#superblock.current
    let mapped = 0
    for (const volume of catalogue.volumes()) {
      // Removed while the others were counted.
      if (catalogue.tryDisk(volume.id) === null) continue
      mapped += await mappedBytes(this.#core, volume)
    }
    await this.#core.space.refresh()
    const physicalBytes = await store.physicalBytes()
    const volumes = catalogue.volumes()
    return {
      id: toHex(superblock.poolId),
      path,
      formatVersion: FORMAT_VERSION,
      createdMs: superblock.createdMs,
      logicalBytes: volumes.reduce((sum, volume) => sum + volume.sizeBytes, 0),
      mappedBytes: mapped,
      physicalBytes,
      capacityBytes: superblock.capacityBytes,
      freeBytes: this.#core.space.guestBytes,
      fill: this.fill,
      volumeCount: volumes.length,
      snapshotCount: catalogue.diskCount - volumes.length,
      segmentCount: store.count,
      failure: this.failure,
    }
  }

  async volumes(): Promise<VolumeInfo[]> {
    const infos: VolumeInfo[] = []
    for (const volume of this.#core.catalogue.volumes()) {
      if (this.#core.catalogue.tryDisk(volume.id) === null) continue
      infos.push(await describeVolume(this.#core, volume))
    }
    return infos
  }

  async volume(name: string): Promise<VolumeInfo> {
    return describeVolume(this.#core, mustFindDisk(this.#core, mustParseVolumeName(name)))
  }

  async create(request: CreateVolume): Promise<VolumeInfo> {
    await createVolume(this.#core, request)
    return this.volume(request.name)
  }

  async snapshot(names: string[]): Promise<SnapshotInfo[]> {
    await snapshotVolumes(this.#core, names)
    return Promise.all(
      names.map((name) => describeSnapshot(this.#core, mustFindDisk(this.#core, name))),
    )
  }

  async clone(source: string, names: string[]): Promise<VolumeInfo[]> {
    await cloneDisk(this.#core, source, names)
    return Promise.all(names.map((name) => this.volume(name)))
  }

  async restore(name: string): Promise<VolumeInfo> {
    return this.volume(await restoreVolume(this.#core, name))
  }

  async remove(
    request: RemoveRequest,
    signal?: AbortSignal,
    progress?: (progress: UsageProgress) => void,
  ): Promise<RemoveReport> {
    if (!request.dryRun) {
      const removed = await removeDisks(this.#core, () => disksToRemove(this.#core, request))
      this.#upkeep.noteChange()
      return { removed, freedBytes: null }
    }
    const disks = disksToRemove(this.#core, request)
    const removed = disks.map((disk) => this.#core.catalogue.nameOf(disk))
    const freedBytes = await this.#usage.exclusiveBytes(disks, { signal, progress })
    return { removed, freedBytes }
  }

  usage(
    by: string,
    signal?: AbortSignal,
    progress?: (progress: UsageProgress) => void,
  ): Promise<UsageReport> {
    return this.#usage.report(by, { signal, progress })
  }

  rename(from: string, to: string): Promise<void> {
    return renameDisk(this.#core, from, to)
  }

  async resize(name: string, sizeBytes: number, allowShrink: boolean): Promise<VolumeInfo> {
    await resizeVolume(this.#core, this.#writes, name, sizeBytes, allowShrink)
    return this.volume(name)
  }

  hold(name: string, tag: string): Promise<void> {
    return holdDisk(this.#core, name, tag)
  }

  release(name: string, tag: string): Promise<void> {
    return releaseDisk(this.#core, name, tag)
  }

  async *diff(from: string | null, to: string): AsyncIterable<DiffExtent> {
    const { tables, cohorts } = this.#core
    const later = mustFindDisk(this.#core, to)
    const earlier = from === null ? null : mustFindDisk(this.#core, from)
    const toRoot = captureRoot(this.#core, later)
    const fromRoot = earlier === null ? null : captureRoot(this.#core, earlier)
    const { sizeBytes, blockCount } = later
    const cohort = cohorts.enter()
    try {
      for await (const run of diff(fromRoot, toRoot, 0, blockCount, tables)) {
        const offsetBytes = run.blockIndex * BLOCK_SIZE_BYTES
        const endBytes = Math.min(sizeBytes, offsetBytes + run.count * BLOCK_SIZE_BYTES)
        const kind = run.kind === KIND_BLOCK ? 'data' : 'zero'
        yield { offsetBytes, lengthBytes: endBytes - offsetBytes, kind }
      }
    } finally {
      tables.releaseRoot(toRoot)
      if (fromRoot !== null) tables.releaseRoot(fromRoot)
      cohort.leave()
    }
  }

  reclaim(
    signal?: AbortSignal,
    progress: (progress: ReclaimProgress) => void = () => undefined,
  ): Promise<ReclaimReport> {
    return this.#upkeep.reclaim(signal, progress)
  }

  settle(
    compression: Compression,
    signal?: AbortSignal,
    progress: (progress: ReclaimProgress) => void = () => undefined,
  ): Promise<ReclaimReport> {
    return this.#upkeep.settle(compression, signal, progress)
  }

  scrub(
    request: ScrubRequest,
    signal?: AbortSignal,
    progress: (progress: ScrubProgress) => void = () => undefined,
  ): Promise<ScrubReport> {
    return this.#scrub.run(request, signal, progress)
  }

  scrubStatus(): Promise<ScrubStatus> {
    return this.#scrub.status()
  }

  upkeep(isPaused: boolean | null): UpkeepStatus {
    if (isPaused !== null) this.#upkeep.isPaused = isPaused
    return this.#upkeep.status
  }

  async beginImport(request: CreateVolume): Promise<BulkImport> {
    mustParseVolumeName(request.name)
    verifySize(request.sizeBytes)
    verifyFree(this.#core, request.name)
    const countMax = importCountMax(this.#core.io.arena)
    if (this.#imports.size + this.#beginningCount >= countMax) {
      const hint = 'wait until one of them has ended'
      throw new OperatingError('busy', `${countMax} imports are running already`, { hint })
    }
    const beginning = this.#beginImport(request)
    this.#beginning.add(beginning)
    try {
      return await beginning
    } finally {
      this.#beginning.delete(beginning)
    }
  }

  async #beginImport(request: CreateVolume): Promise<BulkImport> {
    this.#beginningCount += 1
    try {
      const verifyOpen = (): void => {
        if (this.#isClosing) throw closing()
      }
      await this.#core.fingerprints.ready(async () => {
        await this.#core.io.pause()
        verifyOpen()
      })
      const owner = this.#importOwner()
      const bulk = await BulkVolumeImport.begin(this.#core, request, owner, verifyOpen)
      this.#imports.add(bulk)
      if (!this.#isClosing) return bulk
      await bulk.abort()
      throw closing()
    } finally {
      this.#beginningCount -= 1
    }
  }

  #importOwner(): ImportOwner {
    return {
      ended: (bulk) => {
        this.#imports.delete(bulk)
        this.#upkeep.noteChange()
      },
      describe: (name) => this.volume(name),
      verifyFree: (name) => {
        verifyFree(this.#core, name)
      },
    }
  }

  /** Sees what others do with the disk under the pool, and tells `onFill`. */
  watchSpace(): Promise<void> {
    return this.#core.space.refresh()
  }

  /** Writes a checkpoint now. */
  checkpoint(): Promise<void> {
    return this.#checkpointer.run()
  }

  /**
   * Checkpoints and lets go of the pool. Exports must be closed. After a failure (I10) nothing is
   * written: the next open recovers.
   */
  async close(): Promise<void> {
    const { log, cohorts } = this.#core
    try {
      // One that cannot be given up must not keep what is behind it from ending, in the undo too.
      this.#isClosing = true
      const aborts = [...this.#imports].map((bulk) => bulk.abort())
      // Those that were waiting for memory get it now, and give it back.
      await Promise.allSettled([...aborts, ...this.#beginning])
      await this.#usage.close()
      await Promise.all([this.#scrub.close(), this.#scrubSchedule?.close()])
      await this.#upkeep.close()
      await this.#background?.catch(() => undefined)
      assert(this.#writes.pendingCount === 0, 'a pool closes with nothing pending')
      await cohorts.grace()
      await Promise.all(aborts)
      if (log.failure === 0) {
        await this.#checkpointer.run({ clean: true })
        await this.#core.fingerprints.save(this.#superblock.current.generation)
      }
    } finally {
      await this.#undo.run()
    }
  }

  #schedule(everyDays: number): ScrubSchedule {
    const { createdMs } = this.#superblock.current
    const upkeep = (): UpkeepStatus => this.#upkeep.status
    return new ScrubSchedule(this.#core, this.#scrub, everyDays, createdMs, upkeep)
  }

  #tryFindDisk(name: string): Disk | null {
    try {
      return mustFindDisk(this.#core, name)
    } catch (error) {
      if (error instanceof OperatingError) return null
      throw error
    }
  }

  #afterAppend(): void {
    const errno = this.#core.log.failure
    if (errno !== 0) {
      if (!this.#reportedFailure) this.#options.onFailure(-errno)
      this.#reportedFailure = true
      return
    }
    this.#upkeep.noteAppended()
    const isDue = this.#checkpointer.tailBytes >= this.#options.checkpointTailBytes
    if (!isDue || this.#background !== null) return
    this.#background = this.#checkpointer
      .run()
      // A full disk: the tail stays long and the next append tries again. Anything worse has
      // failed the log, which says so itself.
      .catch(() => undefined)
      .finally(() => {
        this.#background = null
      })
  }
}

function closing(): OperatingError {
  return new OperatingError('canceled', 'the pool is being closed')
}

async function createFolder(io: Io, path: string): Promise<void> {
  try {
    await io.createDirectory(path)
  } catch (error) {
    if (!(error instanceof OperatingError) || error.code !== 'exists') throw error
  }
}
