/**
 * The control operations on volumes and snapshots: each checks what it was asked, journals one
 * operation, and says how things stand afterwards. Checks are made inside `journal`, in the same
 * synchronous stretch as the change.
 */
import { OperatingError } from '../base/errors.ts'
import { VOLUME_SIZE_BYTES_MAX } from '../base/units.ts'
import type { CatalogueOperation } from '../format/catalogue.ts'
import type { PoolCore } from './core.ts'
import type { Disk } from './disk.ts'
import { journal } from './journal.ts'
import {
  mustParseDiskName,
  mustParseSnapshotName,
  mustParseVolumeName,
  verifyTag,
} from './names.ts'
import type { CreateVolume, RemoveRequest } from './types.ts'

/** Disks whose size is a whole number of these can be any drive's. */
const SECTOR_BYTES = 512

export function mustFindDisk(core: PoolCore, name: string): Disk {
  const { volume, snapshot } = mustParseDiskName(name)
  const found = core.catalogue.tryVolume(volume)
  const disk = snapshot === null ? found : found?.snapshots.get(snapshot)
  if (disk !== null && disk !== undefined) return disk
  const what = snapshot === null ? 'volume' : 'snapshot'
  throw new OperatingError('not-found', `there is no ${what} "${name}"`, {
    hint: '"varve list" shows what there is',
    details: { name },
  })
}

/** Throws `not-found`. */
export function mustFindById(core: PoolCore, id: number): Disk {
  const disk = core.catalogue.tryDisk(id)
  if (disk !== null) return disk
  throw gone(id)
}

export function gone(id: number): OperatingError {
  return new OperatingError('not-found', 'the disk is gone', { details: { id } })
}

export function verifyFree(core: PoolCore, name: string): void {
  const { volume, snapshot } = mustParseDiskName(name)
  const found = core.catalogue.tryVolume(volume)
  if (snapshot === null ? found === null : found?.snapshots.has(snapshot) !== true) return
  throw new OperatingError('exists', `"${name}" exists already`, { details: { name } })
}

/** Throws `out-of-range` or `usage` for a size no volume can have. */
export function verifySize(sizeBytes: number): void {
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes <= 0 || sizeBytes % SECTOR_BYTES !== 0) {
    throw new OperatingError('usage', `a volume cannot have ${sizeBytes} bytes`, {
      hint: `the size is a whole number of ${SECTOR_BYTES}-byte sectors`,
    })
  }
  if (sizeBytes <= VOLUME_SIZE_BYTES_MAX) return
  throw new OperatingError('out-of-range', `a volume cannot have ${sizeBytes} bytes`, {
    hint: `the most is ${VOLUME_SIZE_BYTES_MAX} (256 TiB)`,
  })
}

/**
 * Throws `busy` with the users and holds of the disks, if any has some; `allows` says whose use
 * is none of the operation's business.
 */
export function verifyUnused(
  core: PoolCore,
  disks: Iterable<Disk>,
  verb: string,
  holdsCount: boolean,
  allows: (client: string, user: object) => boolean = () => false,
): void {
  const holders: string[] = []
  for (const disk of disks) {
    const name = core.catalogue.nameOf(disk)
    for (const [user, client] of disk.users) {
      if (!allows(client, user)) holders.push(`${name}: in use by ${client}`)
    }
    if (!holdsCount) continue
    for (const tag of disk.holds) holders.push(`${name}: held by "${tag}"`)
  }
  if (holders.length === 0) return
  throw new OperatingError('busy', `cannot ${verb}: ${holders.join('; ')}`, {
    hint: 'disconnect the clients (see "varve devices"), or "varve release" the holds',
    details: { holders },
  })
}

export async function createVolume(core: PoolCore, request: CreateVolume): Promise<void> {
  verifySize(request.sizeBytes)
  await createOfAnySize(core, request)
}

/** Resolves to the id of the new volume. */
export async function createOfAnySize(core: PoolCore, request: CreateVolume): Promise<number> {
  const name = mustParseVolumeName(request.name)
  let id = 0
  await journal(core, () => {
    verifyFree(core, name)
    id = core.catalogue.nextDiskId
    return {
      op: 'create',
      id,
      name,
      sizeBytes: request.sizeBytes,
      createdMs: core.io.wallClockMs(),
      labels: request.labels ?? {},
      root: null,
      importId: 0,
    }
  })
  return id
}

export async function snapshotVolumes(core: PoolCore, names: readonly string[]): Promise<void> {
  if (names.length === 0) throw new OperatingError('usage', 'no snapshot is named')
  const parsed = names.map(mustParseSnapshotName)
  if (new Set(names).size < names.length) {
    throw new OperatingError('usage', 'a snapshot is named twice')
  }
  await journal(core, () => {
    const { catalogue } = core
    return {
      op: 'snapshot',
      createdMs: core.io.wallClockMs(),
      snapshots: parsed.map(({ volume, snapshot }, i) => {
        const disk = mustFindDisk(core, volume)
        verifyFree(core, names[i])
        return { id: catalogue.nextDiskId + i, volumeId: disk.id, name: snapshot }
      }),
    }
  })
}

/** Of a volume by its id. Resolves to the id of the new snapshot. */
export async function snapshotById(
  core: PoolCore,
  volumeId: number,
  name: string,
): Promise<number> {
  let id = 0
  await journal(core, () => {
    const fullName = `${mustFindById(core, volumeId).name}@${name}`
    mustParseSnapshotName(fullName)
    verifyFree(core, fullName)
    id = core.catalogue.nextDiskId
    const createdMs = core.io.wallClockMs()
    return { op: 'snapshot', createdMs, snapshots: [{ id, volumeId, name }] }
  })
  return id
}

export async function cloneDisk(
  core: PoolCore,
  source: string,
  names: readonly string[],
): Promise<void> {
  if (names.length === 0) throw new OperatingError('usage', 'no clone is named')
  const clones = names.map(mustParseVolumeName)
  if (new Set(clones).size < clones.length) {
    throw new OperatingError('usage', 'a clone is named twice')
  }
  await journal(core, () => {
    const { catalogue } = core
    for (const name of clones) verifyFree(core, name)
    return {
      op: 'clone',
      createdMs: core.io.wallClockMs(),
      sourceId: mustFindDisk(core, source).id,
      clones: clones.map((name, i) => ({ id: catalogue.nextDiskId + i, name })),
    }
  })
}

export async function restoreVolume(core: PoolCore, name: string): Promise<string> {
  const { volume } = mustParseSnapshotName(name)
  await journal(core, () => {
    const snapshot = mustFindDisk(core, name)
    const disk = mustFindDisk(core, volume)
    verifyUnused(core, [disk], `restore "${volume}"`, false)
    return { op: 'restore', volumeId: disk.id, snapshotId: snapshot.id }
  })
  return volume
}

/** The disks a removal means, or why it may not be: `not-found`, `busy`. */
export function disksToRemove(core: PoolCore, request: RemoveRequest): Disk[] {
  if (request.names.length === 0) throw new OperatingError('usage', 'nothing is named')
  return removable(
    core,
    request.names.map((name) => mustFindDisk(core, name)),
    request.recursive,
  )
}

/** The disks, with their snapshots if `recursive`; throws `busy`. */
export function removable(core: PoolCore, named: readonly Disk[], recursive: boolean): Disk[] {
  const disks = new Set(named)
  for (const disk of named) {
    const left = [...disk.snapshots.values()].filter((snapshot) => !disks.has(snapshot))
    if (left.length > 0 && !recursive) {
      const names = left.map((snapshot) => core.catalogue.nameOf(snapshot))
      throw new OperatingError('busy', `"${disk.name}" has snapshots: ${names.join(', ')}`, {
        hint: 'remove them too with --recursive',
        details: { holders: names },
      })
    }
    for (const snapshot of left) disks.add(snapshot)
  }
  verifyUnused(core, disks, 'remove', true)
  return [...disks]
}

/** `choose` says which, or throws why not; resolves to their names. */
export async function removeDisks(core: PoolCore, choose: () => Disk[]): Promise<string[]> {
  let removed: string[] = []
  await journal(core, () => {
    const disks = choose()
    removed = disks.map((disk) => core.catalogue.nameOf(disk))
    // Snapshots before their volume: an operation never refers to what it has removed.
    disks.sort((a, b) => Number(b.isSnapshot) - Number(a.isSnapshot))
    return { op: 'remove', ids: disks.map((disk) => disk.id) }
  })
  return removed
}

export async function renameDisk(core: PoolCore, from: string, to: string): Promise<void> {
  const source = mustParseDiskName(from)
  const target = mustParseDiskName(to)
  const isSnapshot = source.snapshot !== null
  if (
    isSnapshot !== (target.snapshot !== null) ||
    (isSnapshot && source.volume !== target.volume)
  ) {
    throw new OperatingError('usage', `"${from}" cannot become "${to}"`, {
      hint: 'a volume gets another volume name, a snapshot another one of the same volume',
    })
  }
  await journal(core, () => renaming(core, mustFindDisk(core, from), to))
}

/** A volume, or a snapshot to another name `name` of the same volume. */
export async function renameById(core: PoolCore, id: number, name: string): Promise<void> {
  await journal(core, () => {
    const disk = mustFindById(core, id)
    if (!disk.isSnapshot) return renaming(core, disk, mustParseVolumeName(name))
    const to = `${mustFindById(core, disk.volumeId).name}@${name}`
    mustParseSnapshotName(to)
    return renaming(core, disk, to)
  })
}

function renaming(core: PoolCore, disk: Disk, to: string): CatalogueOperation {
  const target = mustParseDiskName(to)
  verifyFree(core, to)
  const verb = `rename "${core.catalogue.nameOf(disk)}"`
  verifyUnused(core, [disk, ...disk.snapshots.values()], verb, false)
  return { op: 'rename', id: disk.id, name: target.snapshot ?? target.volume }
}

export async function holdDisk(core: PoolCore, name: string, tag: string): Promise<void> {
  verifyTag(tag)
  await journal(core, () => {
    const disk = mustFindDisk(core, name)
    if (disk.holds.has(tag)) {
      throw new OperatingError('exists', `"${name}" is held by "${tag}" already`)
    }
    return { op: 'hold', id: disk.id, tag }
  })
}

export async function releaseDisk(core: PoolCore, name: string, tag: string): Promise<void> {
  await journal(core, () => {
    const disk = mustFindDisk(core, name)
    if (!disk.holds.has(tag)) {
      throw new OperatingError('not-found', `"${name}" is not held by "${tag}"`)
    }
    return { op: 'release', id: disk.id, tag }
  })
}
