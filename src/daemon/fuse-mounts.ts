/**
 * The FUSE filesystems of a pool that this process serves: those asked for, and one of its own in
 * the pool's folder, made when a block device wants a disk as a file and none is mounted yet.
 */
import { mkdir, realpath } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import type { FuseRequest, MountedFilesystem } from '../api/shapes.ts'
import { OperatingError } from '../base/errors.ts'
import { isBelow } from '../base/mount-table.ts'
import type { DiskEntry, DiskTree } from '../export/fuse/disk-tree.ts'
import { PoolFilesystem } from '../export/fuse/filesystem.ts'
import { SNAPSHOT_FILE_NAME } from '../export/fuse/nodes.ts'
import type { FuseMount, FuseMountOptions, FuseTransportName } from '../export/fuse/transport.ts'
import { busy, resolveFolder } from '../host/actions.ts'
import type { DiskFiles, FoundDisk } from '../host/disk-files.ts'
import type { HostWorld } from '../host/world.ts'
import type { Io } from '../io/io.ts'
import { mustParseDiskName } from '../pool/names.ts'
import type { ControlLog } from './control-server.ts'

/** In the pool's folder: the filesystem that block devices are made of. */
const OWN_FOLDER = 'fuse'

interface Mounted {
  readonly mount: FuseMount
  readonly allowOther: boolean
  readonly isOwn: boolean
}

export class FuseMounts implements DiskFiles {
  readonly #io: Io
  readonly #tree: DiskTree
  readonly #poolPath: string
  readonly #world: HostWorld
  readonly #log: ControlLog
  readonly #mounted = new Set<Mounted>()
  /** Mounting and unmounting, one after the other. */
  #last: Promise<unknown> = Promise.resolve()

  constructor(io: Io, tree: DiskTree, poolPath: string, world: HostWorld, log: ControlLog) {
    this.#io = io
    this.#tree = tree
    this.#poolPath = poolPath
    this.#world = world
    this.#log = log
  }

  list(): MountedFilesystem[] {
    return [...this.#mounted].map(describe)
  }

  /** Rejects as `StartFuseMount` does. */
  mount(request: FuseRequest): Promise<MountedFilesystem> {
    return this.#inOrder(async () => describe(await this.#mount(request, false)))
  }

  /** Rejects `not-found` when it is none of ours, `busy` when something in it is open. */
  unmount(path: string, isForced: boolean): Promise<void> {
    return this.#inOrder(async () => {
      const place = resolve(path)
      const found = this.#tryMountedAt(place) ?? (await this.#tryMountedBy(place))
      if (found === null) {
        throw new OperatingError('not-found', `this pool is not mounted at ${path}`, {
          hint: '`varve fuse --list` shows where it is.',
          details: { path },
        })
      }
      await this.#unmount(found, isForced)
    })
  }

  /**
   * Unmounts all, last mounted first; rejects `busy` at the first that is in use. Forced, goes on
   * to the last whatever fails.
   */
  close(isForced: boolean): Promise<void> {
    return this.#inOrder(async () => {
      const failures: unknown[] = []
      for (const one of [...this.#mounted].reverse()) {
        try {
          await this.#unmount(one, isForced)
        } catch (error) {
          if (!isForced) throw error
          failures.push(error)
        }
      }
      if (failures.length > 0) throw failures[0] as Error
    })
  }

  find(name: string): FoundDisk | null {
    const disk = this.#tryFind(name)
    if (disk === null) return null
    return { id: disk.id, readOnly: disk.volumeId !== null, sizeBytes: disk.sizeBytes }
  }

  nameOf(id: number): string | null {
    const disk = this.#tree.tryDisk(id)
    if (disk === null || disk.volumeId === null) return disk?.name ?? null
    const volume = this.#tree.tryDisk(disk.volumeId)
    return volume === null ? null : `${volume.name}@${disk.name}`
  }

  #tryMountedAt(path: string): Mounted | null {
    return [...this.#mounted].find(({ mount }) => mount.mountPath === path) ?? null
  }

  /** By a path with symbolic links in it. */
  async #tryMountedBy(path: string): Promise<Mounted | null> {
    const real = await resolveFolder(this.#world, path).catch(() => null)
    return real === null ? null : this.#tryMountedAt(real)
  }

  async pathOf(name: string): Promise<string> {
    const { volume, snapshot } = mustParseDiskName(name)
    const root = await this.#inOrder(() => this.#deviceRoot())
    if (snapshot === null) return join(root, 'volumes', volume)
    return join(root, 'snapshots', volume, snapshot, SNAPSHOT_FILE_NAME)
  }

  #tryFind(name: string): DiskEntry | null {
    const parsed = mustParseDiskName(name)
    const volume = this.#tree.tryVolume(parsed.volume)
    if (volume === null || parsed.snapshot === null) return volume
    return this.#tree.trySnapshot(volume.id, parsed.snapshot)
  }

  /** Where disks are files at their fastest. */
  async #deviceRoot(): Promise<string> {
    const fast = [...this.#mounted].find(({ mount }) => mount.transport === 'native')
    if (fast !== undefined) return fast.mount.mountPath
    const path = join(this.#poolPath, OWN_FOLDER)
    // One that a dead server left mounted there is in the way of mkdir; mounting clears it.
    await mkdir(path, { mode: 0o700 }).catch((error: unknown) => {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    })
    const own = await this.#mount({ path, allowOther: false, transport: 'native' }, true)
    return own.mount.mountPath
  }

  async #mount(request: FuseRequest, isOwn: boolean): Promise<Mounted> {
    const { allowOther } = request
    const io = this.#io
    const mountPath = resolve(request.path)
    await verifyPlace(this.#poolPath, mountPath)
    const owner = { userId: process.geteuid?.() ?? 0, groupId: process.getegid?.() ?? 0 }
    const startedMs = io.wallClockMs()
    const filesystem = new PoolFilesystem(this.#tree, owner, {
      allowOther,
      startedMs,
      arena: io.arena,
    })
    const options = { mountPath, sourceName: this.#poolPath, allowOther, io }
    const mount = await start(transportOf(request, io), filesystem, options)
    const mounted = { mount, allowOther, isOwn }
    this.#mounted.add(mounted)
    mount.onEnd((reason) => {
      this.#mounted.delete(mounted)
      this.#log.error({ path: mount.mountPath }, reason)
    })
    this.#log.info({ path: mount.mountPath, transport: mount.transport }, 'mounted')
    return mounted
  }

  async #unmount(mounted: Mounted, isForced: boolean): Promise<void> {
    const { mount } = mounted
    try {
      await mount.unmount(isForced)
    } catch (error) {
      if (!(error instanceof OperatingError) || error.code !== 'busy') throw error
      const place = { devices: [], directories: [mount.mountPath] }
      const users = await this.#world.users(place)
      // Held where this process does not see: the transport says what that can be.
      throw users.length === 0 ? error : busy(mount.mountPath, users)
    }
    this.#mounted.delete(mounted)
    this.#log.info({ path: mount.mountPath }, 'unmounted')
  }

  #inOrder<T>(action: () => Promise<T>): Promise<T> {
    const result = this.#last.then(action, action)
    this.#last = result.catch(() => undefined)
    return result
  }
}

function describe({ mount, allowOther, isOwn }: Mounted): MountedFilesystem {
  return { path: mount.mountPath, transport: mount.transport, allowOther, isOwn }
}

/** A mount that hides the pool's files takes the pool from under its own server. */
async function verifyPlace(poolPath: string, mountPath: string): Promise<void> {
  const pool = await realpath(poolPath)
  // Whether it is there at all, the transport looks.
  const place = await realpath(mountPath).catch(() => mountPath)
  const isInPool = isBelow(place, pool) && place !== join(pool, OWN_FOLDER)
  if (!isInPool && !isBelow(pool, place)) return
  throw new OperatingError('usage', `a mount at ${mountPath} would hide files of the pool`, {
    hint: 'Name a folder that is not in the pool, nor the pool in it.',
    details: { path: mountPath },
  })
}

/** The kernel's protocol where io_uring is to be had; libfuse otherwise. */
function transportOf(request: FuseRequest, io: Io): FuseTransportName {
  if (request.transport !== 'auto') return request.transport
  return io.kind === 'ring' ? 'native' : 'fuse-native'
}

/** Only the transport that is used is loaded. */
async function start(
  transport: FuseTransportName,
  filesystem: PoolFilesystem,
  options: FuseMountOptions,
): Promise<FuseMount> {
  if (transport === 'native') {
    const { startKernelMount } = await import('../export/fuse/kernel-mount.ts')
    return startKernelMount(filesystem, options)
  }
  const { startLibfuseMount } = await import('../export/fuse/libfuse-mount.ts')
  return startLibfuseMount(filesystem, options)
}
