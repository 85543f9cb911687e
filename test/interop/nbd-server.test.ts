/** Real NBD clients against the server: libnbd, QEMU and fio, on every Io of this host. */
import { execFile, execFileSync, spawn } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import type { Test } from 'tap'
import { must } from '../../src/base/assert.ts'
import { OperatingError } from '../../src/base/errors.ts'
import { NbdServer } from '../../src/export/nbd/server.ts'
import type { NbdServerOptions } from '../../src/export/nbd/server.ts'
import { openIo } from '../../src/io/open-io.ts'
import { MemoryTarget, directoryOf } from '../support/memory-target.ts'

const MIB = 1 << 20
const SIZE_BYTES = 64 * MIB
const CLIENT_TIMEOUT_MS = 60_000

const run = promisify(execFile)

interface World {
  target: MemoryTarget
  server: NbdServer
  uri: string
  snapshotUri: string
  /** Runs a client; rejects when it fails, with what it said. */
  client: (command: string, ...args: string[]) => Promise<string>
  path: (name: string) => string
}

/** A server on `kind` while `body` runs; afterwards nothing of any client may be left. */
async function serve(
  t: Test,
  kind: 'node' | 'ring',
  body: (world: World) => Promise<void>,
  options: Partial<NbdServerOptions> = {},
): Promise<void> {
  const io = await openIo({ kind })
  const directory = mkdtempSync(join(tmpdir(), 'varve-nbd-'))
  const path = (name: string): string => join(directory, name)
  const { arena } = io
  const schedule = (complete: () => void): void => io.atTurnEnd({ turnEnd: complete })
  const common = { arena, schedule, sizeBytes: SIZE_BYTES, isRecording: false, snapshots: ['mon'] }
  const target = new MemoryTarget({ ...common, name: 'vol' })
  const snapshot = new MemoryTarget({ ...common, name: 'vol@mon', readOnly: true })
  const usedBytes = arena.usedBytes
  const server = await NbdServer.start(io, directoryOf(target, snapshot), {
    addresses: [{ kind: 'unix', path: path('nbd.sock') }],
    ...options,
  })
  const address = must(server.addresses[0], 'the address')
  const client = async (command: string, ...args: string[]): Promise<string> =>
    (await run(command, args, { cwd: directory, timeout: CLIENT_TIMEOUT_MS })).stdout
  const uri = server.uriOf('vol', address)
  const snapshotUri = server.uriOf('vol@mon', address)
  try {
    await body({ target, server, uri, snapshotUri, client, path })
  } finally {
    await server.close(1000)
    t.equal(arena.usedBytes, usedBytes, 'every byte of the arena came back')
    await io.shutdown()
    rmSync(directory, { recursive: true })
  }
}

/** The kinds of Io this host allows. */
async function kinds(): Promise<('node' | 'ring')[]> {
  try {
    await (await openIo({ kind: 'ring' })).shutdown()
    return ['ring', 'node']
  } catch (error) {
    if (error instanceof OperatingError && error.code === 'unsupported') return ['node']
    throw error
  }
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

async function information(t: Test, { client, uri, snapshotUri, target }: World): Promise<void> {
  const listed = JSON.parse(await client('nbdinfo', '--list', '--json', uri)) as {
    exports: Record<string, unknown>[]
  }
  t.match(listed.exports, [
    {
      'export-name': 'vol',
      description: 'disk, 64.0 MiB',
      contexts: ['base:allocation', 'varve:changed-since:mon'],
      'export-size': SIZE_BYTES,
      is_read_only: false,
      can_cache: true,
      can_df: true,
      can_fast_zero: true,
      can_flush: true,
      can_fua: true,
      can_multi_conn: true,
      can_trim: true,
      can_zero: true,
      block_size_minimum: 1,
      block_size_preferred: 4096,
      block_size_maximum: 32 * MIB,
    },
    { 'export-name': 'vol@mon', is_read_only: true, description: 'read-only disk, 64.0 MiB' },
  ])
  await client('qemu-io', '-f', 'raw', '-c', 'write -P 7 1M 2M', '-c', 'write -z 2M 64k', uri)
  t.strictSame(JSON.parse(await client('nbdinfo', '--map', '--json', uri)), [
    { offset: 0, length: MIB, type: 3, description: 'hole,zero' },
    { offset: MIB, length: MIB, type: 0, description: 'data' },
    { offset: 2 * MIB, length: 65536, type: 3, description: 'hole,zero' },
    { offset: 2 * MIB + 65536, length: MIB - 65536, type: 0, description: 'data' },
    { offset: 3 * MIB, length: SIZE_BYTES - 3 * MIB, type: 3, description: 'hole,zero' },
  ])
  const changed = await client('nbdinfo', '--map=varve:changed-since:mon', '--json', uri)
  t.match(JSON.parse(changed), [
    { type: 0 },
    { offset: MIB, length: 2 * MIB, type: 1 },
    { type: 0 },
  ])
  t.ok(target.data.subarray(MIB, 2 * MIB).every((byte) => byte === 7))
  const image = JSON.parse(await client('qemu-img', 'info', '--output=json', snapshotUri)) as object
  t.match(image, { 'virtual-size': SIZE_BYTES, format: 'raw' })
  await t.rejects(client('qemu-io', '-f', 'raw', '-c', 'write 0 4k', snapshotUri))
  await t.rejects(client('nbdinfo', uri.replace('vol', 'nope')), { message: /No such file/ })
}

async function copying(t: Test, { client, uri, target, path }: World): Promise<void> {
  const image = randomBytes(SIZE_BYTES)
  image.fill(0, 5 * MIB, 20 * MIB)
  writeFileSync(path('in.raw'), image)
  await client('nbdcopy', 'in.raw', uri)
  t.equal(sha256(target.data), sha256(image), 'nbdcopy in')
  await client('nbdcopy', uri, 'out.raw')
  t.equal(sha256(readFileSync(path('out.raw'))), sha256(image), 'nbdcopy out')
  await client('nbdcopy', '--synchronous', '--request-size=33554432', uri, 'big.raw')
  t.equal(sha256(readFileSync(path('big.raw'))), sha256(image), 'in the largest requests')
  await client('qemu-img', 'convert', '-O', 'raw', uri, 'converted.raw')
  t.equal(sha256(readFileSync(path('converted.raw'))), sha256(image), 'qemu-img out')
  await client('qemu-img', 'convert', '-n', '-O', 'raw', 'in.raw', uri)
  const comparison = await client('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', 'in.raw', uri)
  t.match(comparison, /identical/)
}

async function patterns(t: Test, { client, uri }: World): Promise<void> {
  const commands = [
    'write -P 1 0 8M',
    'write -P 2 4095 3',
    'write -f -P 3 65535 131074',
    'write -z -u 1M 1M',
    'discard 3M 12345',
    'flush',
    'read -P 1 0 4095',
    'read -P 2 4095 3',
    'read -P 3 65535 131074',
    'read -P 0 1M 1M',
    'read -P 1 2M 1M',
    'read -P 0 3M 12345',
    'aio_write -P 9 10M 8M',
    'aio_write -P 8 20M 4k',
    'aio_flush',
    'read -P 9 10M 8M',
  ].flatMap((command) => ['-c', command])
  const said = await client('qemu-io', '-f', 'raw', '-t', 'writeback', ...commands, uri)
  t.notMatch(said, /verification failed|error|fail/i)
}

async function verifying(t: Test, { client, uri }: World): Promise<void> {
  const jobs = [
    '--rw=randrw',
    '--bsrange=512-256k',
    '--bs_unaligned=1',
    '--size=48m',
    '--iodepth=32',
  ]
  const checks = ['--verify=crc32c', '--verify_fatal=1', '--time_based=0', '--fsync=64']
  const said = await client('fio', '--name=v', '--ioengine=nbd', `--uri=${uri}`, ...jobs, ...checks)
  t.match(said, /err= 0/)
}

async function shutdown(t: Test, { server, uri }: World): Promise<void> {
  const args = [
    '--rw=randrw',
    '--bs=4k',
    '--size=48m',
    '--iodepth=32',
    '--time_based',
    '--runtime=30',
  ]
  const load = spawn('fio', ['--name=l', '--ioengine=nbd', `--uri=${uri}`, ...args])
  const ended = new Promise<number | null>((resolve) => load.on('close', resolve))
  while (!server.connections().some((client) => client.export === 'vol')) {
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  await new Promise((resolve) => setTimeout(resolve, 500))
  const startMs = Date.now()
  await server.close(5000)
  t.ok(Date.now() - startMs < 3000, 'closing takes no longer than what is in flight')
  t.strictSame(server.connections(), [])
  t.not(await ended, 0, 'the client is told')
}

/** An authority, a server and a client certificate where libnbd and QEMU look for them. */
function certificates(directory: string): NonNullable<NbdServerOptions['tls']> {
  const path = (name: string): string => join(directory, name)
  const openssl = (...args: string[]): void => {
    execFileSync('openssl', args, { cwd: directory, stdio: 'ignore' })
  }
  const keys = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout']
  openssl('req', '-x509', ...keys, 'ca-key.pem', '-out', 'ca-cert.pem', '-subj', '/CN=authority')
  writeFileSync(path('names'), 'subjectAltName=DNS:localhost,IP:127.0.0.1\n')
  for (const name of ['server', 'client']) {
    openssl('req', ...keys, `${name}-key.pem`, '-out', `${name}.csr`, '-subj', '/CN=localhost')
    const signed = ['-CA', 'ca-cert.pem', '-CAkey', 'ca-key.pem', '-CAcreateserial']
    const output = ['-extfile', 'names', '-out', `${name}-cert.pem`]
    openssl('x509', '-req', '-in', `${name}.csr`, ...signed, ...output)
  }
  const [cert, key, ca] = ['server-cert.pem', 'server-key.pem', 'ca-cert.pem'].map((name) =>
    readFileSync(path(name)),
  )
  if (cert === undefined || key === undefined || ca === undefined) throw new Error('no key')
  return { cert, key, ca, required: true }
}

async function secured(
  t: Test,
  { client, uri, server, target }: World,
  pki: string,
): Promise<void> {
  const [address] = server.addresses
  if (address?.kind !== 'tcp') throw new Error('no address')
  const info = await client('nbdinfo', '--json', `${uri}?tls-certificates=${pki}`)
  t.match(JSON.parse(info), { TLS: true, exports: [{ 'export-name': 'vol' }] })
  const credentials = `tls-creds-x509,id=tls,dir=${pki},endpoint=client`
  const image = `driver=nbd,host=127.0.0.1,port=${address.port},export=vol,tls-creds=tls`
  const options = ['--object', credentials, '--image-opts', image]
  await client('qemu-io', ...options, '-c', 'write -P 5 1M 3M', '-c', 'read -P 5 1M 3M')
  t.ok(target.data.subarray(MIB, 4 * MIB).every((byte) => byte === 5))
  const plain = `nbd://127.0.0.1:${address.port}/vol`
  await t.rejects(client('nbdinfo', plain), 'who does not use TLS is refused')
  const copy = ['nbdcopy', `${uri}?tls-certificates=${pki}`, 'null:'] as const
  await client(...copy)
}

const PROPERTIES: [string, (t: Test, world: World) => Promise<void>][] = [
  ['clients see exports, extents and changes', information],
  ['copies in and out are equal', copying],
  ['QEMU reads the patterns it wrote', patterns],
  ['fio verifies what it wrote', verifying],
  ['a shutdown under load ends in order', shutdown],
]

t.setTimeout(4 * CLIENT_TIMEOUT_MS)

for (const kind of await kinds()) {
  for (const [name, property] of PROPERTIES) {
    t.test(`${name} (${kind})`, (t) => serve(t, kind, (world) => property(t, world)))
  }
  t.test(`TLS clients are served, others refused (${kind})`, async (t) => {
    const pki = mkdtempSync(join(tmpdir(), 'varve-pki-'))
    t.teardown(() => rmSync(pki, { recursive: true }))
    const addresses = [{ kind: 'tcp', host: '127.0.0.1', port: 0 } as const]
    const options = { addresses, tls: certificates(pki) }
    await serve(t, kind, (world) => secured(t, world, pki), options)
  })
}
