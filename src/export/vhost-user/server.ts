/**
 * Serves disks to virtual machine monitors: one unix socket a disk, each taken by one front end at
 * a time (whoever comes while another is there is turned away, as a drive has one user).
 */
import { endianness } from 'node:os'
import { assert, must } from '../../base/assert.ts'
import type { DescriptorIo, DescriptorSocket } from '../../io/descriptors.ts'
import type { Io, IoListener } from '../../io/io.ts'
import { describePeer } from '../../io/peer-identity.ts'
import type { PeerIdentity } from '../../io/peer-identity.ts'
import type { ExportDirectory } from '../target.ts'
import { Connection } from './connection.ts'
import { DeviceMemory } from './device-memory.ts'
import { ArenaShare } from '../../io/arena-share.ts'

/** Of the arena, for the payload of all connections. */
const ARENA_FRACTION = 1 / 8
/** Offered by every disk: one for each processor of a usual guest. */
const QUEUE_COUNT = 16
/** Of those that are turned away, so many are told of. */
const REFUSAL_INTERVAL_MS = 1000
/** How long a new size of a disk may be unknown to its guest. */
const TICK_MS = 250

export interface VhostUserOptions {
  /** Of the sockets. */
  readonly mode: number
  /**
   * What whoever connects gets to see; null: nothing. `isReadOnly`: the socket is one on which
   * nothing is written.
   */
  readonly directoryOf: (peer: PeerIdentity, isReadOnly: boolean) => ExportDirectory | null
  /** Told when a front end has gone or (once a second at most) was turned away, and why. */
  readonly onDisconnect?: (peer: string, exportName: string, reason: string) => void
}

export interface VhostUserClient {
  readonly peer: string
  readonly export: string
}

/** One socket. */
interface Place {
  readonly name: string
  readonly path: string
  readonly isReadOnly: boolean
  readonly listener: IoListener
  connection: Connection | null
}

export class VhostUserServer {
  readonly #io: Io
  readonly #descriptors: DescriptorIo
  readonly #options: VhostUserOptions
  readonly #share: ArenaShare
  readonly #places: Map<string, Place> = new Map()
  readonly #connections: Set<Connection> = new Set()
  #cancelTick: () => void = () => undefined
  #refusedMs = -REFUSAL_INTERVAL_MS
  #isClosing = false
  #onEmpty: (() => void) | null = null

  static isPossible(io: Io): boolean {
    return io.descriptors !== undefined && endianness() === 'LE'
  }

  /** `isPossible(io)`: descriptors can be passed, and bytes lie as guests have them. */
  constructor(io: Io, options: VhostUserOptions) {
    assert(VhostUserServer.isPossible(io), 'vhost-user is to be had here')
    this.#io = io
    this.#descriptors = must(io.descriptors?.(), 'descriptors')
    this.#options = options
    this.#share = new ArenaShare(io.arena, io.arena.sizeBytes * ARENA_FRACTION)
    this.#tick()
  }

  /** Paths of the sockets that there are. */
  get paths(): readonly string[] {
    return [...this.#places.keys()]
  }

  clients(): VhostUserClient[] {
    return [...this.#connections].map(({ peer, exportName }) => ({ peer, export: exportName }))
  }

  /** Offers disk `name` at `path`. Rejects as `Io.listen` does; idempotent for the same disk. */
  async open(name: string, path: string, isReadOnly = false): Promise<void> {
    assert(!this.#isClosing, 'a closing server offers nothing new')
    if (this.#places.get(path)?.name === name) return
    const listener = await this.#descriptors.listen(path, this.#options.mode, (socket) =>
      this.#accept(place, socket),
    )
    const place: Place = { name, path, isReadOnly, listener, connection: null }
    this.#places.set(path, place)
  }

  /** Takes the socket away; a front end that is there keeps its disk. */
  async remove(path: string): Promise<void> {
    const place = this.#places.get(path)
    if (place === undefined) return
    this.#places.delete(path)
    await place.listener.close()
  }

  /**
   * Accepts no one else, answers what guests have asked, and disconnects; after `graceMs` also
   * those whose requests are not done. Resolves when nothing is in flight.
   */
  async close(graceMs: number): Promise<void> {
    this.#isClosing = true
    this.#cancelTick()
    await Promise.all([...this.#places.keys()].map((path) => this.remove(path)))
    for (const connection of this.#connections) connection.drain()
    const cancelGrace = this.#io.setTimer(graceMs, () => {
      for (const connection of this.#connections) connection.cut('the server is shutting down')
    })
    if (this.#connections.size > 0) {
      await new Promise<void>((resolve) => (this.#onEmpty = resolve))
    }
    cancelGrace()
  }

  #tick(): void {
    this.#cancelTick = this.#io.setTimer(TICK_MS, () => {
      for (const connection of this.#connections) connection.tick()
      if (!this.#isClosing) this.#tick()
    })
  }

  /** Whoever comes again and again does not fill the log. */
  #refuse(place: Place, socket: DescriptorSocket, reason: string): void {
    socket.close()
    const nowMs = this.#io.nowMs()
    if (nowMs - this.#refusedMs < REFUSAL_INTERVAL_MS) return
    this.#refusedMs = nowMs
    this.#options.onDisconnect?.(socket.peer, place.name, reason)
  }

  #accept(place: Place, socket: DescriptorSocket): void {
    const refuse = (reason: string): void => this.#refuse(place, socket, reason)
    const directory = this.#options.directoryOf(socket.identity, place.isReadOnly)
    if (directory === null) return refuse(`not for ${describePeer(socket.identity)}`)
    if (this.#isClosing) return refuse('the server is shutting down')
    if (place.connection !== null) return refuse('another front end has the disk')
    const memory = DeviceMemory.tryOpen(this.#share)
    if (memory === null) return refuse('no memory for another front end')
    const target = directory.open(place.name, `vhost-user ${socket.peer}`)
    if (target === null) {
      memory.close()
      return refuse('there is no such disk')
    }
    const connection = new Connection(this.#io, this.#descriptors, socket, memory, target, {
      queueCount: QUEUE_COUNT,
      onClosed: (closed, reason) => {
        this.#connections.delete(closed)
        if (place.connection === closed) place.connection = null
        this.#options.onDisconnect?.(closed.peer, place.name, reason)
        if (this.#connections.size === 0) this.#onEmpty?.()
      },
    })
    place.connection = connection
    this.#connections.add(connection)
  }
}
