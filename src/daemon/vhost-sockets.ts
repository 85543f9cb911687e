/**
 * The vhost-user sockets of a pool: in a folder, one for every volume and snapshot, as they come
 * and go; and those that were asked for one by one, wherever they were wanted.
 */
import { mkdir } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import type { ExportSocket, SocketRequest } from '../api/shapes.ts'
import { OperatingError } from '../base/errors.ts'
import type { ExportDirectory } from '../export/target.ts'
import type { VhostUserServer } from '../export/vhost-user/server.ts'
import type { ControlLog } from './control-server.ts'

/** In the pool, where a socket goes that nobody named a place for. */
const OWN_FOLDER = 'vhost-user'
const SUFFIX = '.sock'
/** How long what changes by other ways than commands, a file removed say, may go unnoticed. */
const REFRESH_MS = 1000
/** Each takes a descriptor, of which a process has few. */
const SOCKET_COUNT_MAX = 1024

export class VhostSockets {
  readonly #server: VhostUserServer
  readonly #disks: ExportDirectory
  readonly #poolPath: string
  readonly #folder: string | null
  readonly #log: ControlLog
  readonly #timer: NodeJS.Timeout
  /** By path. */
  readonly #sockets: Map<string, ExportSocket> = new Map()
  /** Those that were asked for stay until they are taken back or their disk is gone. */
  readonly #asked: Set<string> = new Set()
  /** Names that no socket could be made for, told once. */
  readonly #failed: Set<string> = new Set()
  readonly #countMax: number
  #isFullTold = false
  #last: Promise<unknown> = Promise.resolve()

  private constructor(
    server: VhostUserServer,
    disks: ExportDirectory,
    poolPath: string,
    folder: string | null,
    log: ControlLog,
    countMax: number,
  ) {
    this.#countMax = countMax
    this.#server = server
    this.#disks = disks
    this.#poolPath = poolPath
    this.#folder = folder
    this.#log = log
    this.#timer = setInterval(() => void this.refresh(), REFRESH_MS)
    this.#timer.unref()
  }

  /**
   * `folder`: of the sockets for everything, `countMax` at most; made if it is not there. Null:
   * only what is asked.
   */
  static async start(
    server: VhostUserServer,
    disks: ExportDirectory,
    poolPath: string,
    folder: string | null,
    log: ControlLog,
    countMax: number = SOCKET_COUNT_MAX,
  ): Promise<VhostSockets> {
    const path = folder === null ? null : resolve(folder)
    if (path !== null) await makeFolder(path)
    const sockets = new VhostSockets(server, disks, poolPath, path, log, countMax)
    await sockets.refresh()
    return sockets
  }

  list(): ExportSocket[] {
    return [...this.#sockets.values()]
  }

  /** Rejects `not-found`, `exists` for a place that is taken, `io` as listening does. */
  offer(request: SocketRequest): Promise<ExportSocket> {
    return this.#inOrder(async () => {
      const { name } = request
      const found = this.#disks.list().find((entry) => entry.name === name)
      if (found === undefined) throw noSuchDisk(name)
      const readOnly = request.readOnly || found.readOnly
      const path = request.path ?? this.#placeOf(name, request.readOnly)
      const there = this.#sockets.get(path)
      if (there !== undefined && (there.name !== name || there.readOnly !== readOnly)) {
        throw new OperatingError('exists', `${path} is a socket of ${there.name}`, {
          hint: 'Name another place for it.',
        })
      }
      if (there === undefined) {
        await makeFolder(dirname(path))
        await this.#open({ name, path, readOnly })
      }
      this.#asked.add(path)
      return { name, path, readOnly }
    })
  }

  /** Takes back what was asked for. A guest that is there keeps its disk. */
  withdraw(name: string): Promise<ExportSocket[]> {
    return this.#inOrder(async () => {
      const found = this.list().filter((one) => one.name === name && this.#asked.has(one.path))
      if (found.length === 0) {
        throw new OperatingError('not-found', `no socket of ${name} was asked for`)
      }
      for (const { path } of found) await this.#remove(path)
      await this.#refresh()
      return found
    })
  }

  /** Brings sockets into line with the disks there are; never rejects. */
  refresh(): Promise<void> {
    return this.#inOrder(() => this.#refresh())
  }

  async close(): Promise<void> {
    clearInterval(this.#timer)
    await this.#last
  }

  async #refresh(): Promise<void> {
    // Most servers have none: theirs is not the time to list all disks once a second.
    if (this.#folder === null && this.#sockets.size === 0) return
    const entries = this.#disks.list()
    const names = new Set(entries.map(({ name }) => name))
    for (const { name, path } of this.list()) {
      if (!names.has(name)) await this.#remove(path)
    }
    for (const name of this.#failed) if (!names.has(name)) this.#failed.delete(name)
    if (this.#folder === null) return
    // Volumes first: it is they that guests are waiting for.
    const ordered = [...entries].sort(
      (a, b) => Number(isSnapshot(a.name)) - Number(isSnapshot(b.name)),
    )
    for (const { name, readOnly } of ordered) {
      const path = this.#placeOf(name, false)
      if (this.#sockets.has(path)) continue
      if (this.#sockets.size >= this.#countMax) {
        this.#tellFull()
        return
      }
      await this.#tryOpen({ name, path, readOnly })
    }
  }

  async #tryOpen(socket: ExportSocket): Promise<void> {
    try {
      await this.#open(socket)
      this.#failed.delete(socket.name)
    } catch (error) {
      // Tried again, and told once.
      if (this.#failed.has(socket.name)) return
      this.#failed.add(socket.name)
      this.#log.warn({ export: socket.name, error }, 'no vhost-user socket for a disk')
    }
  }

  #tellFull(): void {
    if (this.#isFullTold) return
    this.#isFullTold = true
    const remedy = 'varve export-socket NAME'
    this.#log.warn({ count: this.#countMax, remedy }, 'no more vhost-user sockets than these')
  }

  async #open(socket: ExportSocket): Promise<void> {
    await this.#server.open(socket.name, socket.path, socket.readOnly)
    this.#sockets.set(socket.path, socket)
  }

  async #remove(path: string): Promise<void> {
    this.#sockets.delete(path)
    this.#asked.delete(path)
    await this.#server.remove(path).catch((error: unknown) => {
      this.#log.warn({ path, error }, 'a vhost-user socket was not removed')
    })
  }

  #placeOf(name: string, isReadOnly: boolean): string {
    const folder = this.#folder ?? join(this.#poolPath, OWN_FOLDER)
    // No name of a disk ends in "@".
    return join(folder, `${name}${isReadOnly && !isSnapshot(name) ? '@' : ''}${SUFFIX}`)
  }

  #inOrder<T>(work: () => Promise<T>): Promise<T> {
    const next = this.#last.then(work)
    this.#last = next.catch(() => undefined)
    return next
  }
}

function isSnapshot(name: string): boolean {
  return name.includes('@')
}

async function makeFolder(path: string): Promise<void> {
  try {
    await mkdir(path, { recursive: true, mode: 0o700 })
  } catch (error) {
    throw new OperatingError('io', `cannot make the folder ${path}`, { cause: error })
  }
}

function noSuchDisk(name: string): OperatingError {
  return new OperatingError('not-found', `there is no disk ${name}`, { details: { name } })
}
