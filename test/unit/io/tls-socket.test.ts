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
import { upgradeToTls } from '../../../src/io/tls-socket.ts'

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
