/**
 * A program that serves a pool without ever writing a checkpoint, so that its log grows as long as
 * a benchmark wants it: `node unchecked-server.js POOL`. It is made to be killed.
 */
import { join } from 'node:path'
import { GIB } from '../../src/base/units.ts'
import { openHost } from '../../src/daemon/host.ts'
import { PoolExports } from '../../src/daemon/pool-exports.ts'
import { NBD_SOCKET_NAME } from '../../src/daemon/serve.ts'
import { NbdServer } from '../../src/export/nbd/server.ts'
import { Pool } from '../../src/pool/pool.ts'

/** Longer than any benchmark's log. */
const CHECKPOINT_TAIL_BYTES = 1024 * GIB

const path = process.argv[2]
const host = await openHost('auto')
const pool = await Pool.open(host.io, host.checksum, path, {
  checkpointTailBytes: CHECKPOINT_TAIL_BYTES,
  turnoverBytesMin: Infinity,
})
await NbdServer.start(host.io, new PoolExports(pool, []), {
  addresses: [{ kind: 'unix', path: join(path, NBD_SOCKET_NAME), mode: 0o600 }],
})
