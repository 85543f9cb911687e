/** Serves the disks of a directory over NBD: addresses, clients, and their common limits. */
import { assert } from '../../base/assert.ts'
import { OperatingError } from '../../base/errors.ts'
import type { Io, IoListener, IoSocket, SocketAddress } from '../../io/io.ts'
import type { PeerIdentity } from '../../io/peer-identity.ts'
import { describePeer } from '../../io/peer-identity.ts'
import { upgradeToTls, verifyTlsOptions } from '../../io/tls-socket.ts'
import type { ExportDirectory } from '../target.ts'
import { Admission } from './admission.ts'
import type { ConnectionOptions } from './connection.ts'
import { Connection, STALL_TICKS } from './connection.ts'
import type { NbdLimits } from './limits.ts'
import { CONNECTION_RESERVE_BYTES, DEFAULT_LIMITS } from './limits.ts'
import { ConnectionMemory } from './memory.ts'
import { ArenaShare } from '../../io/arena-share.ts'

/**
 * Of the arena, for the reserves of all connections, and as much again for what they take beyond.
 * The other half is for the pool and for other exports.
 */
const ARENA_FRACTION = 1 / 4

export interface NbdTlsOptions {
  /** PEM. */
  cert: string | Buffer
  key: string | Buffer
  /** Clients must show a certificate that this authority signed. */
  ca?: string | Buffer
  /** Without it a client may also stay in the clear. */
  required: boolean
}

export interface NbdServerOptions {
  addresses: SocketAddress[]
  tls?: NbdTlsOptions
  limits?: Partial<NbdLimits>
  /**
   * What a client gets to see: asked when it comes, and again when TLS has said who it is. Null: it
   * is disconnected, before it has been told or asked anything. Left out: everybody sees it all.
   */
  directoryOf?: (peer: PeerIdentity) => ExportDirectory | null
  /** Listen beyond this host although clients may talk in the clear. */
  allowPlaintext?: boolean
  /**
   * Told when a client has gone, and why; of those that were turned away, once a second at most.
   */
  onDisconnect?: (peer: string, exportName: string | null, reason: string) => void
}

export interface NbdClient {
  peer: string
  /** Name of the disk, null before the client has chosen one. */
  export: string | null
}

export class NbdServer {
  readonly #io: Io
  readonly #options: NbdServerOptions
  readonly #limits: NbdLimits
  readonly #directoryOf: (peer: PeerIdentity) => ExportDirectory | null
  readonly #share: ArenaShare
  readonly #admission: Admission
  readonly #connectionOptions: ConnectionOptions
  readonly #listeners: IoListener[] = []
  readonly #connections: Set<Connection> = new Set()
  #cancelTick: () => void = () => undefined
  #isClosing = false
  /** Waiting for the last connection to go. */
  #onEmpty: (() => void) | null = null

  private constructor(io: Io, directory: ExportDirectory, options: NbdServerOptions) {
    this.#io = io
    this.#options = options
    this.#directoryOf = options.directoryOf ?? (() => directory)
    this.#limits = { ...DEFAULT_LIMITS, ...options.limits }
    const shareBytes = io.arena.sizeBytes * ARENA_FRACTION
    this.#share = new ArenaShare(io.arena, shareBytes)
    const roomCount = Math.floor(shareBytes / CONNECTION_RESERVE_BYTES)
    this.#admission = new Admission(io, {
      countMax: Math.min(this.#limits.connectionsMax, roomCount),
      countPerAddressMax: this.#limits.connectionsPerAddressMax,
      onRefused: (peer, reason) => options.onDisconnect?.(peer, null, reason),
    })
    this.#connectionOptions = {
      directoryOf: this.#directoryOf,
      limits: this.#limits,
      tls: options.tls === undefined ? 'none' : options.tls.required ? 'required' : 'offered',
      upgrade: (socket) => this.#upgrade(socket),
      onClosed: (connection, reason) => this.#closed(connection, reason),
    }
  }

  /**
   * Listens on every address or on none. Rejects with OperatingError: `usage` for an address
   * beyond this host where clients could talk in the clear or for a bad certificate, or as
   * `Io.listen` does.
   */
  static async start(
    io: Io,
    directory: ExportDirectory,
    options: NbdServerOptions,
  ): Promise<NbdServer> {
    for (const address of options.addresses) verifyAddress(address, options)
    if (options.tls !== undefined) verifyTlsOptions(options.tls)
    const server = new NbdServer(io, directory, options)
    try {
      for (const address of options.addresses) {
        server.#listeners.push(await io.listen(address, (socket) => server.#accept(socket)))
      }
    } catch (error) {
      await server.close(0)
      throw error
    }
    server.#scheduleTick()
    return server
  }

  /** Where it listens, ports filled in. */
  get addresses(): readonly SocketAddress[] {
    return this.#listeners.map((listener) => listener.address)
  }

  /** What a client is given to reach `exportName` (the NBD URI specification). */
  uriOf(exportName: string, address: SocketAddress): string {
    const scheme = this.#options.tls === undefined ? 'nbd' : 'nbds'
    const name = encodeURIComponent(exportName)
    if (address.kind === 'unix') {
      return `${scheme}+unix:///${name}?socket=${encodeURIComponent(address.path)}`
    }
    const host = address.host.includes(':') ? `[${address.host}]` : address.host
    return `${scheme}://${host}:${address.port}/${name}`
  }

  connections(): NbdClient[] {
    return [...this.#connections].map(({ peer, exportName }) => ({ peer, export: exportName }))
  }

  /**
   * Accepts no one else, answers what clients have asked, and disconnects them; after `graceMs`
   * also those that do not take their answers. Resolves when nothing is in flight. Idempotent.
   */
  async close(graceMs: number): Promise<void> {
    this.#isClosing = true
    this.#cancelTick()
    this.#admission.close()
    await Promise.all(this.#listeners.map((listener) => listener.close()))
    for (const connection of this.#connections) connection.drain()
    const cancelGrace = this.#io.setTimer(graceMs, () => {
      for (const connection of this.#connections) connection.cut('the server is shutting down')
    })
    await this.#whenEmpty()
    cancelGrace()
  }

  #whenEmpty(): Promise<void> {
    if (this.#connections.size === 0) return Promise.resolve()
    return new Promise((resolve) => {
      const earlier = this.#onEmpty
      this.#onEmpty = () => {
        earlier?.()
        resolve()
      }
    })
  }

  #accept(socket: IoSocket): void {
    if (this.#directoryOf(socket.identity) === null) {
      socket.close()
      this.#admission.refuse(socket.peer, `not for ${describePeer(socket.identity)}`)
      return
    }
    const { peer } = socket
    if (this.#isClosing || !this.#admission.tryEnter(peer)) {
      socket.close()
      return
    }
    const memory = ConnectionMemory.tryOpen(this.#share)
    if (memory === null) {
      socket.close()
      this.#admission.leave(peer)
      this.#admission.refuse(peer, 'no memory for another client')
      return
    }
    this.#connections.add(new Connection(this.#io, socket, memory, this.#connectionOptions))
  }

  async #upgrade(socket: IoSocket): Promise<IoSocket> {
    const { tls } = this.#options
    assert(tls !== undefined, 'TLS is only agreed on where it is configured')
    const { cert, key, ca } = tls
    const authority = ca === undefined ? {} : { ca }
    return upgradeToTls(socket, { cert, key, ...authority, requestCert: ca !== undefined })
  }

  #closed(connection: Connection, reason: string): void {
    this.#connections.delete(connection)
    this.#admission.leave(connection.peer)
    this.#options.onDisconnect?.(connection.peer, connection.exportName, reason)
    if (this.#connections.size === 0) this.#onEmpty?.()
  }

  #scheduleTick(): void {
    if (this.#isClosing) return
    this.#cancelTick = this.#io.setTimer(this.#limits.stallTimeoutMs / STALL_TICKS, () => {
      for (const connection of this.#connections) connection.stallTick()
      this.#scheduleTick()
    })
  }
}

function verifyAddress(address: SocketAddress, options: NbdServerOptions): void {
  if (address.kind === 'unix' || isLoopback(address.host)) return
  if (options.tls?.required === true || options.allowPlaintext === true) return
  throw new OperatingError(
    'usage',
    `${address.host}:${address.port} is reachable from other hosts and would be in the clear`,
    { hint: 'Require TLS, listen on a unix socket or 127.0.0.1, or allow plaintext explicitly.' },
  )
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127(\.\d{1,3}){3}$/.test(host)
}
