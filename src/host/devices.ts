/**
 * The block devices and mounts that this process has made on the host, and how they are taken
 * back. What people do behind our back with `umount` and `losetup -d` is seen before every
 * action: the host is the truth, and this class remembers only which of it is ours.
 *
 * Actions run one after the other. Nothing here opens, or waits for, a file or device that this
 * process itself serves: children do, and each has a time after which it is given up.
 */
import { must } from '../base/assert.ts'
import { OperatingError } from '../base/errors.ts'
import { Undo } from '../base/undo.ts'
import {
  MKFS_TIMEOUT_MS,
  attempt,
  busy,
  dropLoop,
  makeLoop,
  mountDevice,
  probeContents,
  QUICK_TIMEOUT_MS,
  readPartitions,
  resolveFolder,
  unmountDirectory,
  verifyMountPoint,
} from './actions.ts'
import { mustRun } from './command.ts'
import type { DiskFiles, FoundDisk } from './disk-files.ts'
import { mkfsCommand, mountOptions } from './filesystems.ts'
import { nbdConnectArguments } from './nbd-devices.ts'
import { chooseFilesystem } from './partitions.ts'
import type { Partition } from './partitions.ts'
import type {
  AttachRequest,
  AttachVia,
  DeviceInfo,
  MkfsReport,
  MkfsRequest,
  MountInfo,
  MountRequest,
} from './types.ts'
import type { HostWorld } from './world.ts'

export interface HostLog {
  info(fields: Record<string, unknown>, message: string): void
  error(fields: Record<string, unknown>, message: string): void
}

export interface HostDevicesParts {
  files: DiskFiles
  world: HostWorld
  log: HostLog
  /** Of the NBD server's unix socket; null: none listens. */
  nbdSocketPath: string | null
}

interface Device {
  readonly diskId: number
  readonly path: string
  readonly kind: 'loop' | 'nbd'
  /** Of a loop device: tells it from a later one of the same path. */
  readonly sequence: number
  /** Follows the volume's. */
  sizeBytes: number
  readonly sectorSizeBytes: number
  readonly readOnly: boolean
  readonly directIo: boolean
  /** Null: the whole disk. */
  readonly partition: number | null
  isKept: boolean
  isDraining: boolean
}

interface Mount {
  readonly device: Device
  readonly directory: string
  readonly type: string
  readonly readOnly: boolean
}

interface DeviceSettings {
  via: AttachVia
  readOnly: boolean
  sectorSizeBytes: number
}

const SECTOR_SIZE_BYTES = 512
/** When the process is told for the second time to end, nothing may hold it up for long. */
const FORCE_TIMEOUT_MS = 5000

export class HostDevices {
  readonly #files: DiskFiles
  readonly #world: HostWorld
  readonly #log: HostLog
  readonly #nbdSocketPath: string | null
  /** Both in the order in which they were made. */
  #devices: Device[] = []
  #mounts: Mount[] = []
  #lastAction: Promise<unknown> = Promise.resolve()
  #isForced = false

  constructor(parts: HostDevicesParts) {
    this.#files = parts.files
    this.#world = parts.world
    this.#log = parts.log
    this.#nbdSocketPath = parts.nbdSocketPath
  }

  /** Whether a device of ours shows the disk, and so is among its users. */
  isAttached(name: string): boolean {
    const disk = this.#files.find(name)
    return this.#devices.some((device) => device.diskId === disk?.id)
  }

  /** Resolves to the device that is there when the disk is already attached the same way. */
  attach(request: AttachRequest): Promise<DeviceInfo> {
    return this.#inOrder(async () => {
      const disk = this.#mustFind(request.name)
      const settings = { ...request, readOnly: request.readOnly || disk.readOnly }
      const device = await this.#wholeDevice(request.name, disk, settings)
      if (device.sectorSizeBytes !== request.sectorSizeBytes) {
        throw busy(request.name, [`${device.path} with sectors of ${device.sectorSizeBytes} bytes`])
      }
      device.isKept = true
      return this.#describe(device)
    })
  }

  /** `target`: a disk or a device's path. Rejects `busy` with who uses it. */
  detach(target: string): Promise<DeviceInfo[]> {
    return this.#inOrder(async () => {
      const devices = this.#devicesOf(target)
      const mounts = this.#mounts.filter(({ device }) => devices.includes(device))
      if (mounts.length > 0) {
        const users = mounts.map(({ directory }) => `mount on ${directory}`)
        throw new OperatingError('busy', `${target} is in use: ${users.join(', ')}`, {
          hint: `Unmount it first: \`varve umount ${mounts[0].directory}\`.`,
          details: { users },
        })
      }
      await this.#refuseUsed(target, devices, [])
      const described = devices.map((device) => this.#describe(device))
      for (const device of devices.toReversed()) await this.#drop(device)
      return described
    })
  }

  /** Does not wait for an action that is under way. */
  async devices(): Promise<DeviceInfo[]> {
    await this.#reconcile()
    return this.#devices.map((device) => this.#describe(device))
  }

  /** Everything is taken back when it fails half way. */
  mount(request: MountRequest): Promise<MountInfo> {
    return this.#inOrder(async () => {
      const undo = new Undo()
      try {
        return await this.#mount(request, undo)
      } catch (error) {
        // What went wrong first is what is told; what cannot be taken back is in the log.
        await undo.run().catch((reason: unknown) => {
          this.#log.error({ reason: String(reason) }, 'a device could not be taken back')
        })
        throw error
      }
    })
  }

  /** `target`: a mount point or a disk, of which all mounts are meant. */
  umount(target: string): Promise<MountInfo[]> {
    return this.#inOrder(async () => {
      const mounts = await this.#mountsOf(target)
      const described = mounts.map((mount) => this.#describeMount(mount))
      for (const mount of mounts.toReversed()) {
        await this.#unmount(mount)
        await this.#dropIdle(mount.device.diskId)
      }
      return described
    })
  }

  /** Rejects `exists` when there is something on the volume, unless forced. */
  mkfs(request: MkfsRequest): Promise<MkfsReport> {
    return this.#inOrder(async () => {
      const disk = this.#mustFind(request.name)
      if (disk.readOnly) {
        throw new OperatingError('read-only', `${request.name} cannot be written`, {
          hint: 'Make a clone of it, and the filesystem there.',
        })
      }
      const mounted = this.#mounts.filter(({ device }) => device.diskId === disk.id)
      if (mounted.length > 0) {
        throw busy(
          request.name,
          mounted.map(({ directory }) => `mount on ${directory}`),
        )
      }
      const settings = { via: 'auto' as const, readOnly: false, sectorSizeBytes: SECTOR_SIZE_BYTES }
      const device = await this.#wholeDevice(request.name, disk, settings)
      try {
        await this.#refuseUsed(request.name, [device], [])
        if (!request.force) await this.#refuseFull(request.name, device)
        const { tool, args } = mkfsCommand(request.type, device.path, request.label)
        await mustRun(this.#world.run, tool, args, MKFS_TIMEOUT_MS)
        return { name: request.name, type: request.type, sizeBytes: device.sizeBytes }
      } finally {
        await this.#dropIdle(disk.id)
      }
    })
  }

  /** Shows a volume's new size to its device's users. Never rejects: the volume has it anyway. */
  async resized(name: string): Promise<void> {
    await this.#inOrder(async () => {
      const disk = this.#files.find(name)
      for (const device of this.#devices) {
        if (device.diskId !== disk?.id || device.partition !== null) continue
        if (device.kind !== 'loop') continue
        // The kernel believes the size of a file that it has looked at for a while.
        const fresh = ['--cached=never', '--', await this.#files.pathOf(name)]
        await attempt(this.#world, 'stat', fresh, QUICK_TIMEOUT_MS)
        const args = ['--set-capacity', device.path]
        const complaint = await attempt(this.#world, 'losetup', args, QUICK_TIMEOUT_MS)
        if (complaint === null) continue
        this.#log.error({ device: device.path, complaint }, 'the device keeps its old size')
      }
    }).catch((error: unknown) => {
      this.#log.error({ reason: String(error) }, 'devices keep their old size')
    })
  }

  /**
   * Unmounts and detaches everything, what was made last first. Rejects `busy`, with all users
   * in `details.users`, before anything is undone; should somebody come in between, what was
   * undone by then stays so, and the rest stays as it is. More may be attached afterwards.
   */
  close(): Promise<void> {
    // Nothing can have been made.
    if (!this.#world.isRoot()) return Promise.resolve()
    return this.#inOrder(async () => {
      await this.#refuseUsed('what is attached', this.#devices, this.#mounts)
      for (const mount of this.#mounts.toReversed()) await this.#unmount(mount)
      for (const device of this.#devices.toReversed()) await this.#drop(device)
      const [draining] = this.#devices
      if (draining !== undefined) throw busy(draining.path, [])
    })
  }

  /**
   * The same, whoever uses it: they get errors. Does not wait for an action that is under way,
   * refuses all later ones, and never rejects.
   */
  async forceClose(): Promise<void> {
    this.#isForced = true
    for (const { directory } of this.#mounts.toReversed()) {
      await this.#force('umount', ['--', directory], ['--lazy', '--', directory])
    }
    for (const { path, kind } of this.#devices.toReversed()) {
      // A loop device in use goes with its last user.
      if (kind === 'loop') await this.#force('losetup', ['--detach', path], null)
      else await this.#force('nbd-client', ['-d', path], null)
    }
    this.#mounts = []
    this.#devices = []
  }

  async #force(
    tool: 'umount' | 'losetup' | 'nbd-client',
    args: string[],
    harder: string[] | null,
  ): Promise<void> {
    const complaint = await attempt(this.#world, tool, args, FORCE_TIMEOUT_MS)
    if (complaint === null) return
    this.#log.error({ tool, args, complaint }, 'in the way of stopping')
    if (harder !== null) await this.#force(tool, harder, null)
  }

  /** One action at a time, each on a fresh look at the host. */
  #inOrder<T>(action: () => Promise<T>): Promise<T> {
    const run = async (): Promise<T> => {
      if (this.#isForced) throw new OperatingError('unreachable', 'the daemon is stopping')
      if (!this.#world.isRoot()) {
        throw new OperatingError('unsupported', 'block devices and mounts are for root', {
          hint: 'Run `varve serve` as root.',
        })
      }
      await this.#reconcile()
      return action()
    }
    const result = this.#lastAction.then(run, run)
    this.#lastAction = result.catch(() => undefined)
    return result
  }

  /** Forgets what somebody else has taken away; what comes during the look is not judged. */
  async #reconcile(): Promise<void> {
    if (this.#devices.length === 0) return
    const [devices, mounts] = [new Set(this.#devices), new Set(this.#mounts)]
    const table = await this.#world.mounts()
    const loops = await this.#world.loops()
    const isMounted = ({ directory, device }: Mount): boolean => {
      return table.some((entry) => entry.directory === directory && entry.source === device.path)
    }
    const isThere = (device: Device): boolean => {
      if (device.kind !== 'loop') return true
      const loop = loops.find(({ path }) => path === device.path)
      if (loop?.sequence !== device.sequence) return false
      device.isDraining = loop.isDraining
      device.sizeBytes = loop.sizeBytes
      return true
    }
    this.#mounts = this.#mounts.filter((mount) => !mounts.has(mount) || isMounted(mount))
    this.#devices = this.#devices.filter((device) => !devices.has(device) || isThere(device))
  }

  #mustFind(name: string): FoundDisk {
    const disk = this.#files.find(name)
    if (disk !== null) return disk
    throw new OperatingError('not-found', `there is no disk ${name}`, {
      hint: 'See `varve list -t all`.',
      details: { name },
    })
  }

  /** A path is no disk's name. */
  #tryDiskId(target: string): number | null {
    return target.startsWith('/') ? null : (this.#files.find(target)?.id ?? null)
  }

  #devicesOf(target: string): Device[] {
    const diskId = this.#tryDiskId(target)
    const found = this.#devices.filter(({ path, diskId: id }) => path === target || id === diskId)
    if (found.length > 0) return found
    throw new OperatingError('not-found', `${target} is not attached`, {
      hint: 'See `varve devices`.',
      details: { target },
    })
  }

  async #mountsOf(target: string): Promise<Mount[]> {
    const isPath = target.startsWith('/')
    const directory = isPath ? await this.#tryResolve(target) : target
    const diskId = this.#tryDiskId(target)
    const found = this.#mounts.filter((mount) => {
      return isPath ? mount.directory === directory : mount.device.diskId === diskId
    })
    if (found.length > 0) return found
    throw new OperatingError('not-found', `${target} is not mounted by this pool`, {
      hint: 'See `varve devices`.',
      details: { target },
    })
  }

  /** A mount point that gives errors cannot be resolved, and is taken as it was given. */
  async #tryResolve(path: string): Promise<string> {
    try {
      return await resolveFolder(this.#world, path)
    } catch {
      return path
    }
  }

  async #refuseUsed(
    what: string,
    devices: readonly Device[],
    mounts: readonly Mount[],
  ): Promise<void> {
    if (devices.length === 0) return
    const users = await this.#world.users({
      devices: devices.map(({ path }) => path),
      directories: mounts.map(({ directory }) => directory),
    })
    if (users.length > 0) throw busy(what, users)
  }

  async #refuseFull(name: string, device: Device): Promise<void> {
    const { type, tableType } = await probeContents(this.#world, device.path, null)
    if (type === null && tableType === null) return
    const what = type ?? `a partition table (${must(tableType, 'the type of the table')})`
    throw new OperatingError('exists', `there is ${what} on ${name}`, {
      hint: 'It would be lost: give --force if that is meant.',
      details: { name, type, tableType },
    })
  }

  async #mount(request: MountRequest, undo: Undo): Promise<MountInfo> {
    const { name } = request
    const disk = this.#mustFind(name)
    const directory = await resolveFolder(this.#world, request.directory)
    verifyMountPoint(await this.#world.mounts(), directory)
    undo.add(() => this.#dropIdle(disk.id))
    const settings: DeviceSettings = {
      via: request.via,
      readOnly: request.readOnly || disk.readOnly,
      sectorSizeBytes: SECTOR_SIZE_BYTES,
    }
    const whole = await this.#wholeDevice(name, disk, settings)
    const contents = await probeContents(this.#world, whole.path, null)
    const partitions =
      contents.tableType === null ? [] : await readPartitions(this.#world, whole.path)
    const choice = chooseFilesystem(name, contents, partitions, request.partition)
    const device =
      choice.partition === null ? whole : await this.#partitionDevice(whole, choice.partition)
    const readOnly = device.readOnly
    const options = mountOptions(choice.type, readOnly, request.options)
    // A mount that was given up for taking too long may still come about.
    undo.add(() => unmountDirectory(this.#world, device.path, directory))
    await mountDevice(this.#world, device.path, directory, choice.type, options)
    const mount = { device, directory, type: choice.type, readOnly }
    this.#mounts.push(mount)
    this.#log.info({ disk: name, device: device.path, directory, options }, 'mounted')
    return this.#describeMount(mount)
  }

  /** The disk's device, or a new one that goes when nothing is mounted from it. */
  async #wholeDevice(name: string, disk: FoundDisk, settings: DeviceSettings): Promise<Device> {
    const there = this.#devices.find(({ diskId, partition }) => {
      return diskId === disk.id && partition === null
    })
    if (there === undefined) return this.#makeWhole(name, disk, settings)
    // Two devices on one disk would each have a page cache, and lose what the other writes.
    if (there.isDraining) {
      await this.#drop(there)
      if (there.isDraining && this.#devices.includes(there)) {
        throw busy(name, [`${there.path}, which is being detached`])
      }
      return this.#makeWhole(name, disk, settings)
    }
    if (there.readOnly !== settings.readOnly) {
      const how = there.readOnly ? 'read-only' : 'writable'
      throw busy(name, [`${there.path}, where it is ${how}`])
    }
    return there
  }

  async #makeWhole(name: string, disk: FoundDisk, settings: DeviceSettings): Promise<Device> {
    const path = settings.via === 'nbd' ? null : await this.#tryPath(name, settings.via)
    if (path === null) return this.#makeNbd(name, disk, settings)
    const strangers = (await this.#world.loops()).filter((loop) => loop.backingPath === path)
    if (strangers.length > 0 && !settings.readOnly) {
      throw busy(
        name,
        strangers.map((loop) => `${loop.path}, made by someone else`),
      )
    }
    return this.#makeLoop(disk.id, path, settings, null)
  }

  /** Null where FUSE is not to be had and nbd may do. */
  async #tryPath(name: string, via: AttachVia): Promise<string | null> {
    try {
      return await this.#files.pathOf(name)
    } catch (error) {
      const isUnsupported = error instanceof OperatingError && error.code === 'unsupported'
      if (via === 'auto' && isUnsupported && (await this.#world.freeNbd()) !== null) return null
      throw error
    }
  }

  /** A stretch of the disk as a device of its own: works on kernels that know no such table. */
  async #partitionDevice(whole: Device, partition: Partition): Promise<Device> {
    const there = this.#devices.find(({ diskId, partition: number }) => {
      return diskId === whole.diskId && number === partition.number
    })
    if (there !== undefined) return there
    // On the file itself where there is one: a device on a device would be one more to wait for.
    const name = must(this.#files.nameOf(whole.diskId), 'the name of an attached disk')
    const path = whole.kind === 'loop' ? await this.#files.pathOf(name) : whole.path
    return this.#makeLoop(whole.diskId, path, whole, partition)
  }

  async #makeLoop(
    diskId: number,
    path: string,
    settings: { readOnly: boolean; sectorSizeBytes: number },
    partition: Partition | null,
  ): Promise<Device> {
    const { readOnly, sectorSizeBytes } = settings
    const loop = await makeLoop(this.#world, path, { readOnly, sectorSizeBytes, window: partition })
    const device: Device = {
      diskId,
      path: loop.path,
      kind: 'loop',
      sequence: loop.sequence,
      sizeBytes: loop.sizeBytes,
      sectorSizeBytes: loop.sectorSizeBytes,
      readOnly: loop.readOnly,
      directIo: loop.directIo,
      partition: partition?.number ?? null,
      isKept: false,
      isDraining: false,
    }
    this.#devices.push(device)
    this.#log.info({ path, device: loop.path, directIo: loop.directIo }, 'attached')
    return device
  }

  async #makeNbd(name: string, disk: FoundDisk, settings: DeviceSettings): Promise<Device> {
    const path = await this.#world.freeNbd()
    if (path === null || this.#nbdSocketPath === null) {
      throw new OperatingError('unsupported', 'this host has no free nbd device', {
        hint: 'Load the module with `modprobe nbd`, or attach by --via loop.',
      })
    }
    const args = nbdConnectArguments(this.#nbdSocketPath, name, path, settings)
    await mustRun(this.#world.run, 'nbd-client', args, QUICK_TIMEOUT_MS)
    const device: Device = {
      diskId: disk.id,
      path,
      kind: 'nbd',
      sequence: 0,
      sizeBytes: disk.sizeBytes,
      sectorSizeBytes: settings.sectorSizeBytes,
      readOnly: settings.readOnly,
      directIo: true,
      partition: null,
      isKept: false,
      isDraining: false,
    }
    this.#devices.push(device)
    this.#log.info({ disk: name, device: path }, 'attached')
    return device
  }

  async #unmount(mount: Mount): Promise<void> {
    await unmountDirectory(this.#world, mount.device.path, mount.directory)
    this.#mounts = this.#mounts.filter((other) => other !== mount)
    this.#log.info({ device: mount.device.path, directory: mount.directory }, 'unmounted')
  }

  /** Devices of a disk that nobody asked for and nothing is mounted from any more. */
  async #dropIdle(diskId: number): Promise<void> {
    for (const device of this.#devices.toReversed()) {
      if (device.diskId !== diskId || device.isKept) continue
      if (this.#mounts.some((mount) => mount.device === device)) continue
      const isBase = this.#devices.some((other) => {
        return other.diskId === diskId && other.partition !== null && device.partition === null
      })
      if (!isBase) await this.#drop(device)
    }
  }

  /** A device that others still have open stays in the list, to go with its last user. */
  async #drop(device: Device): Promise<void> {
    if (device.kind === 'nbd') {
      await mustRun(this.#world.run, 'nbd-client', ['-d', device.path], QUICK_TIMEOUT_MS)
    } else if (!(await dropLoop(this.#world, device))) {
      device.isDraining = true
      device.isKept = false
      this.#log.error({ device: device.path }, 'detached when its last user lets go')
      return
    }
    this.#devices = this.#devices.filter((other) => other !== device)
    this.#log.info({ device: device.path }, 'detached')
  }

  #describe(device: Device): DeviceInfo {
    const { path, kind, partition, sizeBytes, sectorSizeBytes } = device
    const { readOnly, directIo, isKept, isDraining } = device
    return {
      name: this.#files.nameOf(device.diskId),
      device: path,
      kind,
      partition,
      sizeBytes,
      sectorSizeBytes,
      readOnly,
      directIo,
      isKept,
      isDraining,
      mounts: this.#mounts.flatMap((mount) => (mount.device === device ? [mount.directory] : [])),
    }
  }

  #describeMount({ device, directory, type, readOnly }: Mount): MountInfo {
    return {
      name: this.#files.nameOf(device.diskId),
      directory,
      device: device.path,
      partition: device.partition,
      type,
      readOnly,
    }
  }
}
