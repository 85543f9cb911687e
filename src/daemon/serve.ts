/** The composition root: one pool, its exports and its control socket, in one process. */
import { dirname, join, resolve } from 'node:path'
import type {
  Compression,
  ExportSocket,
  FuseRequest,
  ServeStatus,
  ServedExport,
} from '../api/shapes.ts'
import { programVersion } from '../api/version.ts'
import { OperatingError } from '../base/errors.ts'
import { Undo } from '../base/undo.ts'
import { NbdServer } from '../export/nbd/server.ts'
import { VhostUserServer } from '../export/vhost-user/server.ts'
import { HostDevices } from '../host/devices.ts'
import { openHostWorld } from '../host/world.ts'
import type { SocketAddress } from '../io/io.ts'
import { tryLoadBinding } from '../native/binding.ts'
import type { OpenPoolOptions, Pool } from '../pool/pool.ts'
import type { AccessRules } from './access-rules.ts'
import { readAccessRules, readOnlyAccess } from './access-rules.ts'
import { ControlServer } from './control-server.ts'
import type { ControlLog } from './control-server.ts'
import { FuseMounts } from './fuse-mounts.ts'
import { openHost } from './host.ts'
import type { Host, IoKind } from './host.ts'
import { LocalDevices } from './local-devices.ts'
import { LocalService } from './local-service.ts'
import { openPool } from './open-pool.ts'
import { reportFill, watchSpace } from './space-watch.ts'
import { controlSocketPath } from './open-service.ts'
import { poolAccessFindings, socketFolderFinding } from './pool-access.ts'
import { PoolExports } from './pool-exports.ts'
import { PoolTree } from './pool-tree.ts'
import { removeDeadSocket } from './dead-socket.ts'
import { VhostSockets } from './vhost-sockets.ts'

/** How long clients get to finish what is in flight when the daemon is told to stop. */
const DRAIN_GRACE_MS = 10_000

export const NBD_SOCKET_NAME = 'nbd.sock'

export interface ServeOptions {
  poolPath: string
  ioKind: IoKind
  /** Null: `nbd.sock` in the pool. */
  socketPath: string | null
  tcp: { host: string; port: number } | null
  /** PEM texts. */
  tls: { cert: string; key: string; ca: string | null } | null
  allowPlaintext: boolean
  /** Who may use what; see `access-rules.ts`. Empty: whoever can connect, everything. */
  allow: readonly string[]
  /** Of a file with more of them. */
  allowFilePath: string | null
  readOnlyNames: string[]
  /** Where to show the pool as a filesystem from the start. */
  fuse: FuseRequest | null
  /** Of vhost-user sockets, one a disk; null: none but those asked for. */
  vhostUserFolder: string | null
  /** How full the pool may be before it is said; null: the pool's own idea. */
  warnPercent: number | null
  /** What is settled with when guests are idle; null: only when asked for. */
  idleCompression: Compression | null
  /** Days between two scrubs that begin by themselves; null: only when asked for. */
  scrubEveryDays: number | null
}

export interface Daemon {
  readonly controlPath: string
  status(): ServeStatus
  /**
   * Takes back what others may be using of this host: rejects `busy`, with the users, while
   * anything is in use, and goes on serving. Forced, they get errors. `close` comes after it.
   */
  withdraw(isForced: boolean): Promise<void>
  /** Drains the clients, writes a checkpoint and lets go of the pool. Idempotent. */
  close(): Promise<void>
}

export async function startDaemon(options: ServeOptions, log: ControlLog): Promise<Daemon> {
  const path = resolve(options.poolPath)
  const undo = new Undo()
  let closing: Promise<void> | null = null
  const close = (): Promise<void> => (closing ??= undo.run())
  try {
    const rules = await readAccessRules(options.allow, options.allowFilePath)
    verifyRules(rules, options)
    belowFilesystems()
    const host = await openHost(options.ioKind)
    undo.add(() => host.io.shutdown())
    const pool = await openPool(host, path, poolOptions(options, log))
    undo.add(() => pool.close())
    undo.add(watchSpace(pool, log))
    await warnOfOthers(path, rules, options, log)
    const exports = new PoolExports(pool, options.readOnlyNames)
    const server = await startNbd(host, exports, path, rules, options, log)
    undo.add(() => server.close(DRAIN_GRACE_MS))
    const vhost = startVhostUser(host, exports, rules, log)
    if (vhost !== null) undo.add(() => vhost.close(DRAIN_GRACE_MS))
    const sockets = await startSockets(vhost, exports, path, options, log)
    if (sockets !== null) undo.add(() => sockets.close())
    const world = openHostWorld()
    const filesystems = new FuseMounts(host.io, new PoolTree(pool), path, world, log)
    undo.add(() => filesystems.close(true))
    const devices = new HostDevices({
      files: filesystems,
      world,
      log,
      nbdSocketPath: nbdSocketPathOf(path, options),
    })
    undo.add(() => devices.forceClose())
    // Devices are made of files in the filesystem: they go first.
    const withdraw = async (isForced: boolean): Promise<void> => {
      await (isForced ? devices.forceClose() : devices.close())
      await filesystems.close(isForced)
    }
    if (options.fuse !== null) await filesystems.mount(options.fuse)
    const status = statusOf(pool, exports, { nbd: server, vhost, sockets, filesystems })
    const service = new LocalService({
      pool,
      io: host.io,
      seeker: host.seeker,
      status,
      filesystems,
      sockets,
      devices: new LocalDevices(devices, pool),
      close: () => Promise.resolve(),
    })
    const controlPath = controlSocketPath(path)
    const control = await ControlServer.start(controlPath, service, log)
    undo.add(() => control.close())
    log.info({ pool: path, io: host.io.kind, addresses: server.addresses }, 'serving')
    return { controlPath, status, withdraw, close }
  } catch (error) {
    await close()
    throw error
  }
}

/**
 * Filesystems of this host may lie on our disks. Short of memory, the kernel must not have us wait
 * for what they want written: they wait for us. Threads begun from here on are marked, too; those
 * that Node has by now are not. Without the privilege, or on an old kernel, it goes without.
 */
function belowFilesystems(): void {
  tryLoadBinding()?.setIoFlusher()
}

function poolOptions(options: ServeOptions, log: ControlLog): OpenPoolOptions {
  return {
    idleCompression: options.idleCompression,
    scrubEveryDays: options.scrubEveryDays,
    holder: `varve serve, process ${process.pid}`,
    ...(options.warnPercent === null ? {} : { warnPercent: options.warnPercent }),
    onFill: (fill, before, freeBytes) => reportFill(log, fill, before, freeBytes),
    onDamage: (segment, slot, fact) => {
      log.error({ segment, slot, fact }, 'damaged block')
    },
    onFailure: (errno) => {
      log.error({ errno }, 'the pool takes no more writes; free what failed, then serve again')
    },
  }
}

/** Rules that could not do what they say are refused. */
function verifyRules(rules: AccessRules, { tls }: ServeOptions): void {
  if (rules.usesCertificates && (tls?.ca ?? null) === null) {
    throw new OperatingError('usage', 'rules for certificates need TLS and its --tls-ca')
  }
  if (rules.admitsUsers && tryLoadBinding() === null) {
    throw new OperatingError('unsupported', 'who is at a socket cannot be told without the addon', {
      hint: 'Build it with tools/build-native, or leave rules for users out.',
    })
  }
}

/** What other users could do to the pool without being its clients. */
async function warnOfOthers(
  path: string,
  rules: AccessRules,
  options: ServeOptions,
  log: ControlLog,
): Promise<void> {
  const folder = dirname(nbdSocketPathOf(path, options))
  const findings = [...(await poolAccessFindings(path)), await socketFolderFinding(folder)]
  for (const finding of findings) {
    if (finding !== null) log.warn({ remedy: finding.remedy }, finding.fact)
  }
  const isClear = options.tcp !== null && (options.tls === null || options.allowPlaintext)
  if (!isClear) return
  const what = rules.isEmpty ? 'every disk' : 'what rules give to anyone'
  log.warn(
    { host: options.tcp?.host },
    `whoever reaches the TCP port, any user of this host too, may use ${what}`,
  )
}

function nbdSocketPathOf(poolPath: string, options: ServeOptions): string {
  return resolve(options.socketPath ?? join(poolPath, NBD_SOCKET_NAME))
}

async function startNbd(
  host: Host,
  exports: PoolExports,
  poolPath: string,
  rules: AccessRules,
  options: ServeOptions,
  log: ControlLog,
): Promise<NbdServer> {
  const socketPath = nbdSocketPathOf(poolPath, options)
  await removeDeadSocket(socketPath)
  // Who may connect is then asked of the kernel for every connection.
  const mode = rules.admitsUsers ? 0o666 : 0o600
  const addresses: SocketAddress[] = [{ kind: 'unix', path: socketPath, mode }]
  if (options.tcp !== null) addresses.push({ kind: 'tcp', ...options.tcp })
  const { tls } = options
  return NbdServer.start(host.io, exports, {
    addresses,
    allowPlaintext: options.allowPlaintext,
    directoryOf: (peer) => {
      const accessOf = rules.accessOf(peer)
      return accessOf === null ? null : exports.for(accessOf)
    },
    onDisconnect: (peer, name, reason) => {
      log.info({ peer, export: name, reason }, 'client gone')
    },
    ...(tls === null
      ? {}
      : {
          tls: {
            cert: tls.cert,
            key: tls.key,
            ...(tls.ca === null ? {} : { ca: tls.ca }),
            required: !options.allowPlaintext,
          },
        }),
  })
}

/** Null where the host cannot. */
function startVhostUser(
  host: Host,
  exports: PoolExports,
  rules: AccessRules,
  log: ControlLog,
): VhostUserServer | null {
  if (!VhostUserServer.isPossible(host.io)) return null
  return new VhostUserServer(host.io, {
    mode: rules.admitsUsers ? 0o666 : 0o600,
    directoryOf: (peer, isReadOnly) => {
      const accessOf = rules.accessOf(peer)
      if (accessOf === null) return null
      return exports.for(isReadOnly ? readOnlyAccess(accessOf) : accessOf)
    },
    onDisconnect: (peer, name, reason) => {
      log.info({ peer, export: name, reason }, 'vhost-user client gone')
    },
  })
}

/** Rejects `unsupported` where a folder is asked for and the host cannot. */
async function startSockets(
  server: VhostUserServer | null,
  exports: PoolExports,
  poolPath: string,
  options: ServeOptions,
  log: ControlLog,
): Promise<VhostSockets | null> {
  const { vhostUserFolder: folder } = options
  if (server !== null) return VhostSockets.start(server, exports, poolPath, folder, log)
  if (folder === null) return null
  throw new OperatingError('unsupported', 'vhost-user is not to be had on this host', {
    hint: 'It takes io_uring, the addon and a little-endian processor; NBD takes none of them.',
  })
}

interface Servers {
  nbd: NbdServer
  vhost: VhostUserServer | null
  sockets: VhostSockets | null
  filesystems: FuseMounts
}

function statusOf(pool: Pool, exports: PoolExports, servers: Servers): () => ServeStatus {
  const { nbd, vhost, sockets, filesystems } = servers
  const startedMs = Date.now()
  const version = programVersion()
  const served = (): ServedExport[] => {
    const places = new Map<string, ExportSocket[]>()
    for (const socket of sockets?.list() ?? []) {
      places.set(socket.name, [...(places.get(socket.name) ?? []), socket])
    }
    return exports.list().flatMap((entry) => [
      ...nbd.addresses.map((address) => ({ ...entry, uri: nbd.uriOf(entry.name, address) })),
      ...(places.get(entry.name) ?? []).map(({ path, readOnly }) => ({
        ...entry,
        readOnly,
        uri: `vhost-user:${path}`,
      })),
    ])
  }
  return () => ({
    mode: 'daemon',
    processId: process.pid,
    version,
    startedMs,
    exports: served(),
    connections: [...nbd.connections(), ...(vhost?.clients() ?? [])],
    mounts: filesystems.list(),
    fill: pool.fill,
  })
}
