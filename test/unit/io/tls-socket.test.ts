import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { once } from 'node:events'
import { connect as connectPlain } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connect as connectTls } from 'node:tls'
import type { ConnectionOptions, TLSSocket } from 'node:tls'
import t from 'tap'
import type { Io, IoSocket } from '../../../src/io/io.ts'
import { ioResult } from '../../../src/io/io.ts'
import { openIo } from '../../../src/io/open-io.ts'
import { upgradeToTls, verifyTlsOptions } from '../../../src/io/tls-socket.ts'
import { Authority } from '../../support/authority.ts'

const folder = mkdtempSync(join(tmpdir(), 'varve-tls-'))
t.teardown(() => rmSync(folder, { recursive: true }))

function certificate(name: string): { cert: Buffer; key: Buffer } {
  const cert = join(folder, `${name}.pem`)
  const key = join(folder, `${name}.key`)
  const kind = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1']
  const rest = ['-nodes', '-days', '2', '-subj', `/CN=${name}`, '-keyout', key, '-out', cert]
  execFileSync('openssl', [...kind, ...rest], { stdio: 'ignore' })
  return { cert: readFileSync(cert), key: readFileSync(key) }
}

const server = certificate('localhost')
const client = certificate('client')

interface Pair {
  io: Io
  socket: IoSocket
  plain: ReturnType<typeof connectPlain>
  stop: () => Promise<void>
}

async function pairOf(kind: 'ring' | 'node'): Promise<Pair> {
  const io = await openIo({ kind, arenaBytes: 4 << 20 })
  let accept: (socket: IoSocket) => void = () => undefined
  const accepted = new Promise<IoSocket>((resolve) => (accept = resolve))
  const listener = await io.listen({ kind: 'tcp', host: '127.0.0.1', port: 0 }, accept)
  if (listener.address.kind !== 'tcp') throw new Error('asked for tcp')
  const plain = connectPlain(listener.address.port, '127.0.0.1')
  plain.on('error', () => undefined)
  await once(plain, 'connect')
  const socket = await accepted
  const stop = async (): Promise<void> => {
    plain.destroy()
    await io.shutdown()
  }
  return { io, socket, plain, stop }
}

function greet(plain: Pair['plain'], options: ConnectionOptions): TLSSocket {
  const secure = connectTls({ socket: plain, ca: server.cert, servername: 'localhost', ...options })
  secure.on('error', () => undefined)
  return secure
}

/** One clear-text exchange, as STARTTLS has it. */
async function exchange({ io, socket, plain }: Pair): Promise<void> {
  const at = io.arena.allocate(4096)
  plain.write('STARTTLS')
  const count = await ioResult((completion) => socket.receive(at, 4096, completion, 0))
  const sent = { pairs: Uint32Array.of(at, count), count: 1 }
  const received = once(plain, 'data')
  await ioResult((completion) => socket.send(sent, completion, 0))
  const [echo] = (await received) as [Buffer]
  if (echo.toString() !== 'STARTTLS') throw new Error('the clear exchange failed')
}

for (const kind of ['ring', 'node'] as const) {
  await t.test(`${kind}: a connection goes on encrypted, megabytes both ways`, async (t) => {
    const pair = await pairOf(kind)
    const { io, socket, plain } = pair
    await exchange(pair)
    const secure = greet(plain, {})
    const upgraded = await upgradeToTls(socket, server)
    t.equal(upgraded.peer, socket.peer)
    const bytes = Buffer.alloc(1 << 20, 'tls bytes')
    const at = io.arena.allocate(bytes.length)
    secure.write(bytes)
    let total = 0
    while (total < bytes.length) {
      const left = bytes.length - total
      const count = await ioResult((c) => upgraded.receive(at + total, left, c, 0))
      if (count <= 0) throw new Error(`receive answered ${count}`)
      total += count
    }
    t.ok(io.arena.memory.subarray(at, at + total).equals(bytes))
    const echoed = new Promise<Buffer>((resolve) => {
      const parts: Buffer[] = []
      secure.on('data', (part: Buffer) => parts.push(part))
      secure.on('end', () => resolve(Buffer.concat(parts)))
    })
    const vector = { pairs: Uint32Array.of(at, 5, at + 5, total - 5), count: 2 }
    t.equal(await ioResult((c) => upgraded.send(vector, c, 0)), total)
    upgraded.close()
    t.ok((await echoed).equals(bytes), 'everything, and then a clean end')
    await pair.stop()
  })

  await t.test(`${kind}: with requestCert only clients of the authority get in`, async (t) => {
    const options = { ...server, ca: client.cert, requestCert: true }
    const good = await pairOf(kind)
    await exchange(good)
    greet(good.plain, client)
    const upgraded = await upgradeToTls(good.socket, options)
    upgraded.close()
    await good.stop()
    for (const credentials of [{}, certificate('stranger')]) {
      const bad = await pairOf(kind)
      await exchange(bad)
      greet(bad.plain, credentials)
      await t.rejects(upgradeToTls(bad.socket, options), { code: 'io' })
      await bad.stop()
    }
  })

  await t.test(`${kind}: a client that talks nonsense is refused`, async (t) => {
    const pair = await pairOf(kind)
    await exchange(pair)
    pair.plain.write('this is no TLS at all, not in the least')
    await t.rejects(upgradeToTls(pair.socket, server), { code: 'io' })
    await pair.stop()
  })
}

const authority = new Authority(join(folder, 'authority'))
const served = { ...authority.issue('/CN=localhost'), ca: authority.cert, requestCert: true }

/** What the server makes of a client with these options; the socket is closed at the end. */
async function meet(
  options: ConnectionOptions,
  use: (upgraded: IoSocket, secure: TLSSocket) => Promise<void> = () => Promise.resolve(),
): Promise<void> {
  const pair = await pairOf('node')
  try {
    await exchange(pair)
    const secure = connectTls({
      ...{ socket: pair.plain, ca: authority.cert, servername: 'localhost' },
      ...options,
    })
    secure.on('error', () => undefined)
    const upgraded = await upgradeToTls(pair.socket, served)
    await use(upgraded, secure)
    upgraded.close()
  } finally {
    await pair.stop()
  }
}

await t.test('a client has the names that its authority gave it, and no others', async (t) => {
  const names = async (subject: string, alternativeNames?: string): Promise<readonly string[]> => {
    let found: readonly string[] = []
    const wishes = alternativeNames === undefined ? {} : { alternativeNames }
    await meet(authority.issue(subject, wishes), async ({ identity }) => {
      t.strictSame([identity.isLocal, identity.user], [false, null])
      found = identity.certificateNames
    })
    return found
  }
  t.strictSame(await names('/CN=web1'), ['web1'])
  t.strictSame(await names('/O=web1'), [])
  t.strictSame(await names('/CN=a/CN=b', 'DNS:c,email:d@e,URI:f:g,IP:127.0.0.1'), [
    ...['a', 'b', 'c', 'd@e', 'f:g'],
  ])
  t.strictSame(await names('/CN=a, DNS:web1'), ['a, DNS:web1'])
})

await t.test('a bad certificate is refused, whatever it is that is bad', async (t) => {
  const other = new Authority(join(folder, 'other'))
  const bad: [string, ConnectionOptions][] = [
    ['none', {}],
    ['of another authority', other.issue('/CN=web1')],
    ['of another authority of the same name', other.issue('/CN=authority')],
    ['self-signed', certificate('web1')],
    ['expired', authority.issue('/CN=web1', { days: -1 })],
    ['for servers', authority.issue('/CN=web1', { usage: 'serverAuth' })],
  ]
  for (const [what, options] of bad) await t.rejects(meet(options), { code: 'io' }, what)
  await meet(authority.issue('/CN=web1', { usage: 'clientAuth' }))
})

await t.test('old versions of TLS are refused, and nothing is negotiated twice', async (t) => {
  const client = authority.issue('/CN=web1')
  // With everything allowed, so that it is not the client that refuses.
  const weak = { ...client, ciphers: 'DEFAULT@SECLEVEL=0', minVersion: 'TLSv1' } as const
  for (const maxVersion of ['TLSv1', 'TLSv1.1'] as const) {
    await t.rejects(meet({ ...weak, maxVersion }), { code: 'io' }, maxVersion)
  }
  await meet({ ...weak, maxVersion: 'TLSv1.2' }, async (_upgraded, secure) => {
    if (!secure.authorized) await once(secure, 'secureConnect')
    t.equal(secure.getProtocol(), 'TLSv1.2')
    const failure = await new Promise((resolve) => {
      secure.once('error', resolve)
      secure.renegotiate({}, resolve)
    })
    t.match(failure, { code: 'ERR_SSL_NO_RENEGOTIATION' })
  })
})

t.test('what cannot be served with is said at the start', async (t) => {
  const good = authority.issue('/CN=localhost')
  verifyTlsOptions({ ...good, ca: authority.cert })
  verifyTlsOptions(good)
  const foreign = authority.issue('/CN=localhost')
  for (const bad of [
    { ...good, key: foreign.key },
    { ...good, cert: 'no certificate' },
    { ...good, key: 'no key' },
    // Node would take these for no list, and trust the authorities of the web.
    { ...good, ca: '' },
    { ...good, ca: 'no certificate' },
    { ...good, ca: good.key },
  ]) {
    t.throws(() => verifyTlsOptions(bad), { code: 'usage' })
  }
})
