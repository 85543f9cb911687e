/**
 * A host in memory: its tools do to tables what the real ones do to the kernel's. Any step can be
 * made to fail, and what is there afterwards can be looked at.
 */
import type { CommandResult, Tool } from '../../../src/host/command.ts'
import type { DiskFiles, FoundDisk } from '../../../src/host/disk-files.ts'
import type { LoopDevice } from '../../../src/host/loop-devices.ts'
import type { MountEntry } from '../../../src/base/mount-table.ts'
import type { Place } from '../../../src/host/users.ts'
import type { HostWorld } from '../../../src/host/world.ts'
import { OperatingError } from '../../../src/base/errors.ts'

interface Region {
  /** As blkid prints them; empty: nothing. */
  contents: Record<string, string>
}

export interface FakePartition extends Region {
  number: number
  startSector: number
  sectorCount: number
  typeId: string
}

export interface FakeDisk extends Region, FoundDisk {
  name: string
  partitions: FakePartition[]
}

const SECTOR_BYTES = 512

export class FakeHost implements HostWorld, DiskFiles {
  readonly disks: Map<string, FakeDisk> = new Map()
  readonly commands: string[] = []
  mountTable: MountEntry[] = []
  loopTable: LoopDevice[] = []
  nbdClients: Map<string, string> = new Map()
  /** In words, by the device or mount point that they use. */
  readonly usersOf: Map<string, string[]> = new Map()
  folders: Set<string> = new Set(['/mnt/a', '/mnt/b'])
  /** Which command, from 0, fails; -1: none. */
  failAt = -1
  hasFuse = true
  nbdDevice: string | null = null
  allowsDirectIo = true
  root = true
  #sequence = 1

  disk(name: string, contents: Record<string, string>, partitions: FakePartition[] = []): void {
    const readOnly = name.includes('@')
    const id = 10 + this.disks.size
    this.disks.set(name, { name, id, readOnly, sizeBytes: 1073741824, contents, partitions })
  }

  find(name: string): FoundDisk | null {
    return this.disks.get(name) ?? null
  }
  nameOf(id: number): string | null {
    return [...this.disks.values()].find((disk) => disk.id === id)?.name ?? null
  }
  async pathOf(name: string): Promise<string> {
    if (!this.hasFuse) throw new OperatingError('unsupported', 'no FUSE here')
    return `/fuse/volumes/${name}`
  }

  isRoot(): boolean {
    return this.root
  }
  async mounts(): Promise<MountEntry[]> {
    return [...this.mountTable]
  }
  async loops(): Promise<LoopDevice[]> {
    return [...this.loopTable]
  }
  async users({ devices, directories }: Place): Promise<string[]> {
    return [...devices, ...directories].flatMap((place) => this.usersOf.get(place) ?? [])
  }
  async freeNbd(): Promise<string | null> {
    return this.nbdDevice
  }
  async pause(): Promise<void> {
    await Promise.resolve()
  }

  /** What is left on the host, for comparing. */
  left(): { mounts: string[]; loops: string[]; nbd: string[] } {
    return {
      mounts: this.mountTable.map(({ directory }) => directory),
      loops: this.loopTable.map(({ path }) => path),
      nbd: [...this.nbdClients.keys()],
    }
  }

  readonly run = async (tool: Tool, args: readonly string[]): Promise<CommandResult> => {
    const index = this.commands.push([tool, ...args].join(' ')) - 1
    // Other actions come in between wherever they may.
    await new Promise((resolve) => setImmediate(resolve))
    if (index === this.failAt) return answer(1, '', `${tool}: made to fail`)
    switch (tool) {
      case 'losetup':
        return this.#losetup(args)
      case 'realpath': {
        const path = args[args.length - 1]
        return this.folders.has(path) ? answer(0, `${path}\n`) : answer(1, '', 'realpath: no')
      }
      case 'blkid':
        return this.#blkid(args)
      case 'partx':
        return this.#partx(args[args.length - 1])
      case 'mount':
        return this.#mount(args)
      case 'umount':
        return this.#umount(args)
      case 'nbd-client':
        return this.#nbdClient(args)
      default:
        return answer(0)
    }
  }

  #losetup(args: readonly string[]): CommandResult {
    if (args[0] === '--detach') {
      const loop = this.loopTable.find(({ path }) => path === args[1])
      if (loop === undefined) return answer(1, '', 'losetup: no such device')
      if (this.#isMounted(loop.path)) loop.isDraining = true
      else this.loopTable = this.loopTable.filter((other) => other !== loop)
      return answer(0)
    }
    if (args[0] === '--set-capacity') return answer(0)
    const after = (word: string): number => {
      const at = args.indexOf(word)
      return at < 0 ? 0 : Number(args[at + 1])
    }
    const paths = new Set(this.loopTable.map(({ path }) => path))
    let number = 0
    while (paths.has(`/dev/loop${number}`)) number += 1
    const directIo = args.includes('--direct-io=on')
    const loop: LoopDevice = {
      path: `/dev/loop${number}`,
      sequence: this.#sequence,
      backingPath: args[args.length - 1],
      offsetBytes: after('--offset'),
      sizeLimitBytes: after('--sizelimit'),
      sizeBytes: after('--sizelimit') || 1073741824,
      sectorSizeBytes: after('--sector-size'),
      readOnly: args.includes('--read-only'),
      directIo: directIo && this.allowsDirectIo,
      isDraining: false,
    }
    this.#sequence += 1
    this.loopTable.push(loop)
    // The real one has made the device by then, too.
    if (directIo && !this.allowsDirectIo) return answer(1, loop.path, 'losetup: set direct io')
    return answer(0, `${loop.path}\n`)
  }

  #isMounted(device: string): boolean {
    return this.mountTable.some(({ source }) => source === device)
  }

  #regionOf(device: string): { disk: FakeDisk; offsetBytes: number } | null {
    const loop = this.loopTable.find(({ path }) => path === device)
    const base = loop?.backingPath ?? device
    const name = this.nbdClients.get(base) ?? base.replace('/fuse/volumes/', '')
    const disk = this.disks.get(name)
    return disk === undefined ? null : { disk, offsetBytes: loop?.offsetBytes ?? 0 }
  }

  #blkid(args: readonly string[]): CommandResult {
    const found = this.#regionOf(args[args.length - 1])
    if (found === null) return answer(1, '', 'blkid: no such device')
    const at = args.indexOf('--offset')
    const offset = found.offsetBytes + (at < 0 ? 0 : Number(args[at + 1]))
    const partition = found.disk.partitions.find(
      ({ startSector }) => startSector * SECTOR_BYTES === offset,
    )
    const { contents }: Region = offset === 0 ? found.disk : (partition ?? { contents: {} })
    const lines = Object.entries(contents).map(([key, value]) => `${key}=${value}\n`)
    return lines.length === 0 ? answer(2) : answer(0, lines.join(''))
  }

  #partx(device: string): CommandResult {
    const found = this.#regionOf(device)
    if (found === null || found.disk.partitions.length === 0) return answer(1)
    const lines = found.disk.partitions.map(({ number, startSector, sectorCount, typeId }) => {
      const bytes = sectorCount * SECTOR_BYTES
      const place = `START="${startSector}" SECTORS="${sectorCount}" SIZE="${bytes}"`
      return `NR="${number}" ${place} TYPE="${typeId}" NAME=""\n`
    })
    return answer(0, lines.join(''))
  }

  #mount(args: readonly string[]): CommandResult {
    const after = (word: string): string => args[args.indexOf(word) + 1]
    this.mountTable.push({
      id: this.mountTable.length,
      deviceNumber: '7:0',
      directory: after('--target'),
      options: after('-o').split(','),
      type: after('-t'),
      source: after('--source'),
    })
    return answer(0)
  }

  #umount(args: readonly string[]): CommandResult {
    const directory = args[args.length - 1]
    const isUsed = (this.usersOf.get(directory) ?? []).length > 0
    if (isUsed && !args.includes('--lazy')) return answer(32, '', 'umount: target is busy.')
    const at = this.mountTable.findLastIndex((mount) => mount.directory === directory)
    if (at < 0) return answer(32, '', 'umount: not mounted.')
    const [{ source }] = this.mountTable.splice(at, 1)
    const isDraining = this.loopTable.some((loop) => loop.path === source && loop.isDraining)
    if (isDraining) this.loopTable = this.loopTable.filter(({ path }) => path !== source)
    return answer(0)
  }

  #nbdClient(args: readonly string[]): CommandResult {
    if (args[0] === '-d') this.nbdClients.delete(args[1])
    else this.nbdClients.set(args[2], args[args.indexOf('-N') + 1])
    return answer(0)
  }
}

function answer(exitCode: number, stdout = '', stderr = ''): CommandResult {
  return { exitCode, stdout, stderr }
}
