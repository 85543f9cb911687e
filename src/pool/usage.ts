/** Who uses what: counts on a state that a checkpoint fixes, while guests go on. */
import { must } from '../base/assert.ts'
import { OperatingError } from '../base/errors.ts'
import type { PartAddress } from '../format/catalogue.ts'
import { rootAddress } from '../map/map-root.ts'
import type { BulkVolumeImport } from './bulk-import.ts'
import type { Checkpointer } from './checkpoint.ts'
import type { Cohort } from './cohort.ts'
import type { PoolCore } from './core.ts'
import type { Disk } from './disk.ts'
import { Pacer } from './pacer.ts'
import type { UsageProgress, UsageReport } from './types.ts'
import { countSpace } from './usage-count.ts'
import type { RootPlace, SpaceCount } from './usage-count.ts'
import { ROW_NONE, exclusiveOf, figuresOf } from './usage-figures.ts'
import type { Owners } from './usage-figures.ts'

const LABEL_PREFIX = 'label:'

/** A disk as it was in the moment that is counted. */
interface CountedDisk {
  id: number
  name: string
  isSnapshot: boolean
  /** Its volume's name and labels. */
  volume: string
  labels: Record<string, string>
  volumeId: number
  originId: number | null
  sizeBytes: number
  blockCount: number
  root: RootPlace
  /** The lowest id of its lineage. */
  lineage: number
}

interface Fixed {
  /** In the order of lineage, volume and age; owner 0 is no disk. */
  disks: CountedDisk[]
  importRoots: RootPlace[]
  cohort: Cohort
  catalogueParts: readonly PartAddress[]
}

interface Counted {
  disks: readonly CountedDisk[]
  owners: Owners
  count: SpaceCount
  physicalBytes: number
  pace: () => Promise<void>
}

/** A count under way, for those who wait. */
export interface UsageCall {
  signal?: AbortSignal | undefined
  progress?: ((progress: UsageProgress) => void) | undefined
}

export class SpaceUsage {
  readonly #core: PoolCore
  readonly #checkpointer: Checkpointer
  readonly #imports: ReadonlySet<BulkVolumeImport>
  readonly #closing = new AbortController()
  /** Counts run one at a time: each has its own memory. */
  #running: Promise<unknown> = Promise.resolve()

  constructor(core: PoolCore, checkpointer: Checkpointer, imports: ReadonlySet<BulkVolumeImport>) {
    this.#core = core
    this.#checkpointer = checkpointer
    this.#imports = imports
  }

  /**
   * `by`: `disk`, `volume` (with its snapshots), or `label:KEY` (by the label of the volume).
   * Rejects `usage`, `canceled`, `pool-failed`, `io`, or with a CorruptionError.
   */
  async report(by: string, call: UsageCall): Promise<UsageReport> {
    const keyOf = rowKey(by)
    const { disks, owners, count, physicalBytes, pace } = await this.#count(call)
    const keys = [...new Set(disks.map(keyOf))].toSorted(compareKeys)
    const rowByKey = new Map(keys.map((key, row) => [key, row]))
    const rows = rowsOf(disks, (disk) => must(rowByKey.get(keyOf(disk)), 'the row of a disk'))
    const figures = await figuresOf(count, owners, rows, keys.length, pace)
    const { rows: usages, pool, internalBytes } = figures
    const members = keys.map((): CountedDisk[] => [])
    for (const [i, disk] of disks.entries()) members[rows[i + 1]].push(disk)
    return {
      by,
      rows: keys.map((name, row) => ({ name, ...countsOf(members[row]), ...usages[row] })),
      pool: {
        ...countsOf(disks),
        ...pool,
        internalBytes,
        overheadBytes: physicalBytes - internalBytes - pool.amortisedBytes,
        physicalBytes,
        reserveBytes: this.#core.space.reserveHeldBytes,
      },
    }
  }

  /** Stored bytes that no disk but these reaches: what removing them frees. Rejects as `report`. */
  async exclusiveBytes(chosen: readonly Disk[], call: UsageCall = {}): Promise<number> {
    const ids = new Set(chosen.map((disk) => disk.id))
    const { disks, owners, count, pace } = await this.#count(call)
    const rows = rowsOf(disks, ({ id }) => (ids.has(id) ? 0 : ROW_NONE))
    return exclusiveOf(count, owners, rows, pace)
  }

  /** Gives up what is being counted. */
  async close(): Promise<void> {
    this.#closing.abort()
    await this.#running
  }

  #count(call: UsageCall): Promise<Counted> {
    const counted = this.#running.then(() => this.#run(call))
    this.#running = counted.catch(() => undefined)
    return counted
  }

  async #run({ signal, progress = () => undefined }: UsageCall): Promise<Counted> {
    const core = this.#core
    const signals = [signal, this.#closing.signal]
    const pacer = new Pacer(core.io, core.codecs, core.guests, signals, () => false)
    pacer.verifyWanted()
    progress({ phase: 'checkpoint', done: 0, total: 1 })
    const { disks, importRoots, catalogueParts, cohort } = await this.#fix()
    try {
      const physicalBytes = await core.store.physicalBytes()
      const roots = [null, ...disks.map((disk) => disk.root)]
      const blockCount = Math.max(0, ...disks.map((disk) => disk.blockCount))
      const request = { roots, importRoots, catalogueParts, blockCount }
      const count = await countSpace(core, request, {
        pace: pacer.pace,
        progress: (phase, done, total) => progress({ phase, done, total }),
      })
      const owners = {
        sizeBytes: [0, ...disks.map((disk) => disk.sizeBytes)],
        lineages: [0, ...disks.map((disk) => disk.lineage)],
      }
      return { disks, owners, count, physicalBytes, pace: pacer.pace }
    } finally {
      cohort.leave()
    }
  }

  async #fix(): Promise<Fixed> {
    const { catalogue, cohorts } = this.#core
    let fixed = null as Omit<Fixed, 'catalogueParts'> | null
    try {
      await this.#checkpointer.run({
        atFixed: () => {
          fixed = {
            disks: [...catalogue.disks()].map((disk) => this.#captured(disk)),
            importRoots: [...this.#imports].map((one) => rootAddress(one.root)),
            cohort: cohorts.enter(),
          }
        },
      })
    } catch (error) {
      fixed?.cohort.leave()
      throw error
    }
    const { disks, importRoots, cohort } = must(fixed, 'the fixed state')
    const catalogueParts = [...this.#checkpointer.chain]
    return { disks: orderedDisks(disks), importRoots, cohort, catalogueParts }
  }

  #captured(disk: Disk): CountedDisk {
    const { catalogue } = this.#core
    const volume = must(catalogue.tryDisk(disk.volumeId), 'the volume of a disk')
    const { id, volumeId, originId, sizeBytes, blockCount, isSnapshot } = disk
    return {
      id,
      name: catalogue.nameOf(disk),
      isSnapshot,
      volume: volume.name,
      labels: { ...volume.labels },
      volumeId,
      originId,
      sizeBytes,
      blockCount,
      root: rootAddress(disk.root),
      lineage: id,
    }
  }
}

type RowKey = string | null

/** What a disk is counted under. */
function rowKey(by: string): (disk: CountedDisk) => RowKey {
  if (by === 'disk') return (disk) => disk.name
  if (by === 'volume') return (disk) => disk.volume
  const label = by.startsWith(LABEL_PREFIX) ? by.slice(LABEL_PREFIX.length) : ''
  if (label !== '') return (disk) => (Object.hasOwn(disk.labels, label) ? disk.labels[label] : null)
  throw new OperatingError('usage', `usage cannot be counted by "${by}"`, {
    hint: 'count it by disk, volume or label:KEY',
  })
}

/** Names in order; what has none comes last. */
function compareKeys(a: RowKey, b: RowKey): number {
  if (a === null || b === null) return Number(a === null) - Number(b === null)
  return a < b ? -1 : 1
}

/** By owner. */
function rowsOf(disks: readonly CountedDisk[], row: (disk: CountedDisk) => number): Int32Array {
  return Int32Array.from([ROW_NONE, ...disks.map(row)])
}

function countsOf(disks: readonly CountedDisk[]): { volumeCount: number; snapshotCount: number } {
  const snapshotCount = disks.filter((disk) => disk.isSnapshot).length
  return { volumeCount: disks.length - snapshotCount, snapshotCount }
}

/** In the order of lineage, volume and age, a volume after its snapshots: it is the newest. */
function orderedDisks(disks: CountedDisk[]): CountedDisk[] {
  const lineages = lineagesOf(disks)
  for (const disk of disks) disk.lineage = must(lineages.get(disk.id), 'the lineage of a disk')
  return disks.sort((a, b) => {
    const byVolume = a.lineage - b.lineage || a.volumeId - b.volumeId
    return byVolume || Number(b.isSnapshot) - Number(a.isSnapshot) || a.id - b.id
  })
}

/** By disk id, the lowest id of those related to it; ids of disks long gone relate, too. */
function lineagesOf(disks: readonly CountedDisk[]): Map<number, number> {
  const parents: Map<number, number> = new Map()
  const find = (id: number): number => {
    const parent = parents.get(id) ?? id
    if (parent === id) return id
    const top = find(parent)
    parents.set(id, top)
    return top
  }
  for (const { id, volumeId, originId } of disks) {
    for (const relative of [volumeId, originId ?? id]) {
      const [a, b] = [find(id), find(relative)]
      parents.set(Math.max(a, b), Math.min(a, b))
    }
  }
  return new Map(disks.map(({ id }) => [id, find(id)]))
}
