/** The server on simulated sockets: what happens between clients, and when one goes wrong. */
import fc from 'fast-check'
import t from 'tap'
import { NbdServer } from '../../../src/export/nbd/server.ts'
import type { NbdServerOptions } from '../../../src/export/nbd/server.ts'
import type { SocketAddress } from '../../../src/io/io.ts'
import { SimIo } from '../../../src/io/sim-io.ts'
import type { SimPeer } from '../../../src/io/sim-socket.ts'
import { MemoryTarget, directoryOf } from '../../support/memory-target.ts'
import type { TransmissionReply } from './nbd-codec.ts'
import { contextData, decodeReplies, infoData, option, request, u32 } from './nbd-codec.ts'

const MIB = 1 << 20
const ADDRESS: SocketAddress = { kind: 'unix', path: '/nbd.sock' }
const HANDSHAKE = Buffer.concat([
  u32(3),
  option(8),
  option(10, contextData('disk', ['base:allocation'])),
  option(7, infoData('disk')),
])
/** What the server says to that: the greeting, two acknowledged options, and the export. */
const HANDSHAKE_REPLY_BYTES = 18 + 20 + (20 + 4 + 15) + 20 + (20 + 12) + 20

interface World {
  io: SimIo
  target: MemoryTarget
  server: NbdServer
  reasons: string[]
  /** Arena bytes in use while nobody is connected. */
  idleBytes: number
}

async function open(seed: number, options: Partial<NbdServerOptions> = {}): Promise<World> {
  const io = new SimIo({ seed, arenaMemory: Buffer.allocUnsafeSlow(16 * MIB) })
  const schedule = (complete: () => void): void => void io.setTimer(0.1, complete)
  const target = new MemoryTarget({ arena: io.arena, sizeBytes: 4 * MIB, schedule })
  const reasons: string[] = []
  const server = await io.runUntil(
    NbdServer.start(io, directoryOf(target), {
      addresses: [ADDRESS],
      onDisconnect: (_peer, _name, reason) => reasons.push(reason),
      ...options,
    }),
  )
  if (server === undefined) throw new Error('not started')
  return { io, target, server, reasons, idleBytes: io.arena.usedBytes }
}

/** Receives exactly `lengthBytes`, or what comes before the end. */
async function receive(peer: SimPeer, lengthBytes: number): Promise<Buffer> {
  const parts: Uint8Array[] = []
  for (let length = 0; length < lengthBytes;) {
    const part = await peer.receive()
    if (part.length === 0) break
    parts.push(part)
    length += part.length
  }
  return Buffer.concat(parts)
}

/** A client past its handshake. */
async function connect({ io }: World): Promise<SimPeer> {
  const peer = io.connect(ADDRESS)
  peer.send(HANDSHAKE)
  const reply = await io.runUntil(receive(peer, HANDSHAKE_REPLY_BYTES))
  if (reply?.length !== HANDSHAKE_REPLY_BYTES) throw new Error('the handshake has other replies')
  return peer
}

async function ask(
  { io }: World,
  peer: SimPeer,
  bytes: Buffer,
  replyBytes: number,
): Promise<TransmissionReply[]> {
  peer.send(bytes)
  return decodeReplies((await io.runUntil(receive(peer, replyBytes))) ?? Buffer.alloc(0))
}

const write = (cookie: bigint, lengthBytes: number): Buffer =>
  request({ type: 1, cookie, payload: Buffer.alloc(lengthBytes, Number(cookie)) })
const read = (cookie: bigint, length: number): Buffer => request({ type: 0, cookie, length })

/** Nobody is connected and nothing of anybody is left. */
function isClean({ io, server, target, idleBytes }: World, clientCount: number): boolean {
  return (
    server.connections().length === 0 &&
    io.arena.usedBytes === idleBytes &&
    target.closeCount === clientCount
  )
}

t.test('a client negotiates, writes, reads and disconnects; nothing of it is left', async (t) => {
  const world = await open(1)
  const peer = await connect(world)
  t.strictSame(world.server.connections(), [{ peer: 'unix', export: 'disk' }])
  const bytes = Buffer.concat([write(7n, 5000), write(8n, 200_000)])
  const written = await ask(world, peer, bytes, 32)
  t.strictSame(written.map(({ cookie }) => cookie).sort(), [7n, 8n])
  const [reply] = await ask(world, peer, read(9n, 4096), 28 + 4096)
  t.equal(reply?.data.length, 4096)
  t.ok(reply?.data.equals(world.target.data.subarray(0, 4096)))
  peer.send(request({ type: 2, cookie: 1n }))
  t.equal((await world.io.runUntil(peer.receive()))?.length, 0, 'the server closes')
  await world.io.runFor(1000)
  // The SET_META_CONTEXT before GO opened and closed it once, too.
  t.ok(isClean(world, 2))
  t.strictSame(world.reasons, ['disconnected'])
})

t.test('a client that dies at any moment leaves nothing behind', async (t) => {
  const script = Buffer.concat([
    HANDSHAKE,
    write(1n, 70_000),
    read(2n, 2 * MIB),
    read(3n, 4096),
    write(4n, 4096),
    request({ type: 7, cookie: 5n, length: MIB }),
    write(6n, 3 * MIB),
  ])
  await fc.assert(
    fc.asyncProperty(
      fc.nat(1000),
      fc.oneof(fc.nat(HANDSHAKE.length), fc.nat(script.length)),
      fc.nat(60),
      async (seed, cut, turns) => {
        const world = await open(seed)
        const peer = world.io.connect(ADDRESS)
        peer.send(script.subarray(0, cut))
        for (let i = 0; i < turns; i += 1) world.io.step()
        peer.close()
        await world.io.runFor(120_000)
        const opened = world.target.closeCount
        return world.reasons.length === 1 && opened <= 2 && isClean(world, opened)
      },
    ),
    { numRuns: 60 },
  )
  t.pass('every byte of the arena came back')
})

t.test('a client that says nothing is cut off after the handshake timeout', async (t) => {
  const world = await open(2, { limits: { handshakeTimeoutMs: 500 } })
  const silent = world.io.connect(ADDRESS)
  const peer = await connect(world)
  await world.io.runFor(400)
  t.equal(world.server.connections().length, 2)
  await world.io.runFor(200)
  t.strictSame(world.reasons, ['handshake timeout'])
  await world.io.runFor(100_000)
  t.equal(world.server.connections().length, 1, 'one that is idle stays')
  peer.close()
  silent.close()
  await world.io.runFor(100)
  t.ok(isClean(world, 2))
})

t.test('clients that do not read slow no one down and are cut off', async (t) => {
  const world = await open(3, { limits: { stallTimeoutMs: 4000 } })
  const greedy: SimPeer[] = []
  for (let i = 0; i < 5; i += 1) {
    const peer = await connect(world)
    for (let cookie = 0n; cookie < 20n; cookie += 1n) peer.send(read(cookie, 2 * MIB))
    greedy.push(peer)
  }
  // Not half of a long payload comes from this one.
  const lazy = await connect(world)
  lazy.send(write(1n, MIB).subarray(0, 200_000))
  await world.io.runFor(500)
  const modest = await connect(world)
  for (let cookie = 1n; cookie < 50n; cookie += 1n) {
    const [written] = await ask(world, modest, write(cookie, 100_000), 16)
    t.equal(written?.error, 0)
    const replies = await ask(world, modest, read(cookie, 4096), 28 + 4096)
    t.equal(replies[0]?.data[0], Number(cookie))
  }
  await world.io.runFor(6000)
  t.strictSame(world.reasons, new Array<string>(6).fill('the client neither sends nor receives'))
  t.equal(world.server.connections().length, 1)
  modest.close()
  await world.io.runFor(1000)
  t.ok(isClean(world, 2 * 7))
})

t.test('clients beyond the limit are turned away, and room comes back', async (t) => {
  const world = await open(4, { limits: { connectionsMax: 2 } })
  const peers = [await connect(world), await connect(world)]
  const third = world.io.connect(ADDRESS)
  t.equal((await world.io.runUntil(third.receive()))?.length, 0)
  t.strictSame(world.reasons, ['too many clients'])
  peers[0]?.close()
  await world.io.runFor(100)
  peers[0] = await connect(world)
  for (const peer of peers) peer.close()
  await world.io.runFor(100)
  t.ok(isClean(world, 6))
  // The reserves of all clients fit a quarter of the arena, whatever the limit says.
  const small = await open(5)
  for (let i = 0; i < 40; i += 1) small.io.connect(ADDRESS)
  await small.io.runFor(100)
  t.equal(small.server.connections().length, 12)
})

t.test('closing answers what was asked, then disconnects', async (t) => {
  const world = await open(6)
  const peer = await connect(world)
  const young = world.io.connect(ADDRESS)
  await world.io.runFor(100)
  world.target.isHeld = true
  peer.send(Buffer.concat([write(1n, 5000), read(2n, 4096)]))
  await world.io.runFor(100)
  const closing = world.server.close(10_000)
  await world.io.runFor(100)
  peer.send(write(3n, 10))
  await world.io.runFor(100)
  t.strictSame(world.reasons, ['the server is shutting down'], 'who only shook hands goes at once')
  world.target.resume()
  const bytes = (await world.io.runUntil(receive(peer, 10_000))) ?? Buffer.alloc(0)
  t.strictSame(
    decodeReplies(bytes)
      .map(({ cookie, error }) => `${cookie} ${error}`)
      .sort(),
    ['1 0', '2 0'],
  )
  await world.io.runUntil(closing)
  t.ok(isClean(world, 2))
  t.throws(() => world.io.connect(ADDRESS), 'nobody listens')
  await world.io.runUntil(world.server.close(0))
  young.close()
})

t.test('closing waits for a client that does not read only so long', async (t) => {
  const world = await open(7)
  const peer = await connect(world)
  for (let cookie = 0n; cookie < 9n; cookie += 1n) peer.send(read(cookie, MIB))
  await world.io.runFor(100)
  const startMs = world.io.nowMs()
  await world.io.runUntil(world.server.close(3000))
  const tookMs = world.io.nowMs() - startMs
  t.ok(tookMs >= 2900 && tookMs < 4000, `${tookMs} ms`)
  t.ok(isClean(world, 2))
})

t.test('addresses beyond this host need TLS or an explicit word', async (t) => {
  const io = new SimIo({ seed: 8 })
  const directory = directoryOf()
  const tls = { cert: '', key: '' }
  const tcp = (host: string): SocketAddress => ({ kind: 'tcp', host, port: 10809 })
  for (const host of ['0.0.0.0', '::', '10.0.0.1', '127.example.com']) {
    const addresses = [ADDRESS, tcp(host)]
    for (const more of [{}, { tls: { ...tls, required: false } }]) {
      await t.rejects(NbdServer.start(io, directory, { addresses, ...more }), { code: 'usage' })
    }
  }
  for (const [options, uri] of [
    [{ addresses: [ADDRESS] }, 'nbd+unix:///a%40b?socket=%2Fnbd.sock'],
    [{ addresses: [tcp('127.0.0.1')] }, 'nbd://127.0.0.1:10809/a%40b'],
    [{ addresses: [tcp('::1')] }, 'nbd://[::1]:10809/a%40b'],
    [{ addresses: [tcp('::')], allowPlaintext: true }, 'nbd://[::]:10809/a%40b'],
    [
      { addresses: [tcp('0.0.0.0')], tls: { ...tls, required: true } },
      'nbds://0.0.0.0:10809/a%40b',
    ],
  ] as const) {
    const addresses = [...options.addresses]
    const server = await io.runUntil(NbdServer.start(io, directory, { ...options, addresses }))
    if (server === undefined) throw new Error('not started')
    const [address] = server.addresses
    t.equal(address === undefined ? '' : server.uriOf('a@b', address), uri)
    await io.runUntil(server.close(0))
  }
})
