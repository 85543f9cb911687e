/**
 * A server that kills itself at a named point, for tests:
 *
 *     node kill-server.js POOL IO POINT
 *
 * Serves POOL over `nbd.sock` and the control socket in it. POINT is an index into the kill points,
 * or -1. A point of the phase `open` counts from the start; others from the line `arm` on standard
 * input. The line `close` ends it in order.
 */
import { closeSync, openSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { ControlServer } from '../../src/daemon/control-server.ts'
import { openHost } from '../../src/daemon/host.ts'
import type { IoKind } from '../../src/daemon/host.ts'
import { LocalService } from '../../src/daemon/local-service.ts'
import { controlSocketPath } from '../../src/daemon/open-service.ts'
import { PoolExports } from '../../src/daemon/pool-exports.ts'
import { NbdServer } from '../../src/export/nbd/server.ts'
import { Pool } from '../../src/pool/pool.ts'
import { KILL_POINTS, Roles } from './kill-points.ts'
import type { KillPoint } from './kill-points.ts'
import { TappedIo } from './tapped-io.ts'
import type { IoOperation, IoTap } from './tapped-io.ts'

const SECTOR_BYTES = 512

/** Synchronous: nothing may be left to be said when the process dies. */
const say = (line: string): unknown => writeSync(1, `${line}\n`)

class KillTap implements IoTap {
  isArmed = false
  readonly #point: KillPoint | null
  readonly #roles: Roles
  #met: IoOperation | null = null
  #count = 0

  constructor(point: KillPoint | null, roles: Roles) {
    this.#point = point
    this.#roles = roles
  }

  before(operation: IoOperation): void {
    const role = this.#roles.of(operation)
    const point = this.#point
    if (point === null || !this.isArmed) return
    if (operation.kind !== point.kind || role !== point.role) return
    this.#count += 1
    if (this.#count !== point.nth) return
    this.#met = operation
    if (point.when === 'after') return
    if (point.when === 'torn') writeHalf(operation)
    this.#die()
  }

  after(operation: IoOperation, isDone: boolean): void {
    if (operation === this.#met && isDone) this.#die()
  }

  #die(): void {
    say(`hit ${this.#point?.name ?? ''}`)
    process.kill(process.pid, 'SIGKILL')
  }
}

/** Every second sector of what was to be written, as if the call had been cut short by the cut. */
function writeHalf({ path, offsetBytes = 0, pieces = [] }: IoOperation): void {
  const bytes = Buffer.concat(pieces)
  const fd = openSync(path, 'r+')
  for (let at = 0; at < bytes.length; at += 2 * SECTOR_BYTES) {
    writeSync(fd, bytes, at, Math.min(SECTOR_BYTES, bytes.length - at), offsetBytes + at)
  }
  closeSync(fd)
}

async function main([poolPath, ioKind, pointText]: string[]): Promise<void> {
  const point = KILL_POINTS[Number(pointText)] ?? null
  const tap = new KillTap(point, new Roles(poolPath))
  tap.isArmed = point?.during === 'open'
  const { io: inner, checksum, codecs, seeker } = await openHost(ioKind as IoKind)
  const io = new TappedIo(inner, tap)
  const pool = await Pool.open(io, checksum, poolPath, { holder: 'kill server', codecs })
  const server = await NbdServer.start(io, new PoolExports(pool, []), {
    addresses: [{ kind: 'unix', path: join(poolPath, 'nbd.sock'), mode: 0o600 }],
    allowPlaintext: true,
    onDisconnect: () => undefined,
  })
  const service = new LocalService({
    pool,
    io,
    seeker,
    filesystems: null,
    sockets: null,
    devices: null,
    close: () => Promise.resolve(),
    status: () => {
      throw new Error('nobody asks')
    },
  })
  const quiet = { info: () => undefined, warn: () => undefined, error: () => undefined }
  const control = await ControlServer.start(controlSocketPath(poolPath), service, quiet)
  const lines = createInterface({ input: process.stdin })
  const close = async (): Promise<void> => {
    lines.close()
    await control.close()
    await server.close(1000)
    await pool.close()
    await io.shutdown()
    process.exit(0)
  }
  lines.on('line', (line) => {
    if (line === 'arm') {
      tap.isArmed = true
      say('armed')
    } else if (line === 'close') {
      void close()
    }
  })
  say('ready')
}

await main(process.argv.slice(2))
