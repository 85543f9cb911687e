/** The pool as the filesystem shows it. */
import type { DiskEntry, DiskTree, TreeSpace } from '../export/fuse/disk-tree.ts'
import { CLIENT_PREFIX } from '../export/fuse/operations.ts'
import type { ExportTarget } from '../export/target.ts'
import type { Pool } from '../pool/pool.ts'
import type { PoolFiles } from '../pool/pool-files.ts'

/** Whether a disk's user has it open as a file of ours. */
export function isFileClient(client: string): boolean {
  return client.startsWith(CLIENT_PREFIX)
}

type Fact = (files: PoolFiles, disk: DiskEntry) => string | Promise<string>

const time = (timeMs: number): string => new Date(timeMs).toISOString()

/** In the order shown. */
const FACTS: ReadonlyMap<string, Fact> = new Map<string, Fact>([
  ['id', (_files, { id }) => String(id)],
  ['size', (_files, { sizeBytes }) => String(sizeBytes)],
  ['mapped', async (files, { id }) => String(await files.mappedBytes(id))],
  ['unique', async (files, { id }) => String(await files.exclusiveBytes(id))],
  ['parent', parentOf],
  ['exported', (files, { id }) => files.clients(id).join(', ')],
  ['created', (_files, { createdMs }) => time(createdMs)],
  ['modified', (_files, { modifiedMs }) => time(modifiedMs)],
])
const VOLUME_FACTS: ReadonlyMap<string, Fact> = new Map<string, Fact>([
  ...FACTS,
  ['snapshots', (files, { id }) => String(files.snapshots(id)?.length ?? 0)],
])

/** The volume of a snapshot; of a volume, the disk it was cloned from, or nothing. */
function parentOf(files: PoolFiles, { id, volumeId }: DiskEntry): string {
  if (volumeId !== null) return files.nameOf(volumeId)
  const origin = files.origin(id)
  return origin === null ? '' : files.nameOf(origin.id)
}

function factsOf(disk: DiskEntry): ReadonlyMap<string, Fact> {
  return disk.volumeId === null ? VOLUME_FACTS : FACTS
}

export class PoolTree implements DiskTree {
  readonly #files: PoolFiles

  constructor(pool: Pick<Pool, 'files'>) {
    this.#files = pool.files
  }

  volumes(): readonly DiskEntry[] {
    return this.#files.volumes()
  }

  snapshots(volumeId: number): readonly DiskEntry[] | null {
    return this.#files.snapshots(volumeId)
  }

  tryVolume(name: string): DiskEntry | null {
    return this.#files.tryVolume(name)
  }

  trySnapshot(volumeId: number, name: string): DiskEntry | null {
    return this.#files.trySnapshot(volumeId, name)
  }

  tryDisk(id: number): DiskEntry | null {
    return this.#files.tryDisk(id)
  }

  mappedBytes(id: number): Promise<number> {
    return this.#files.mappedBytes(id)
  }

  factNames(id: number): readonly string[] {
    return [...factsOf(this.#files.mustDisk(id)).keys()]
  }

  async fact(id: number, name: string): Promise<string | null> {
    const disk = this.#files.mustDisk(id)
    const fact = factsOf(disk).get(name)
    return fact === undefined ? null : fact(this.#files, disk)
  }

  space(): Promise<TreeSpace> {
    return this.#files.space()
  }

  open(id: number, client: string): ExportTarget {
    return this.#files.open(id, client)
  }

  create(name: string): Promise<DiskEntry> {
    return this.#files.create(name)
  }

  resize(id: number, sizeBytes: number): Promise<void> {
    return this.#files.resize(id, sizeBytes, isFileClient)
  }

  async setModified(id: number, modifiedMs: number): Promise<void> {
    this.#files.setModified(id, modifiedMs)
  }

  remove(id: number): Promise<void> {
    return this.#files.remove(id)
  }

  rename(id: number, name: string): Promise<void> {
    return this.#files.rename(id, name)
  }

  snapshot(volumeId: number, name: string): Promise<DiskEntry> {
    return this.#files.snapshot(volumeId, name)
  }

  copyRange(
    fromId: number,
    fromBytes: number,
    toId: number,
    toBytes: number,
    lengthBytes: number,
  ): Promise<void> {
    return this.#files.copyRange({ fromId, fromBytes, toId, toBytes, lengthBytes })
  }
}
