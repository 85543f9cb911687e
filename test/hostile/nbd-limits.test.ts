/** What one NBD client may take of the server, and that it is not more. */
import t from 'tap'
import type { Test } from 'tap'
import { listContexts } from '../../src/export/nbd/contexts.ts'
import type { NbdServerOptions } from '../../src/export/nbd/server.ts'
import { NbdServer } from '../../src/export/nbd/server.ts'
import { ConnectionMemory } from '../../src/export/nbd/memory.ts'
import { ArenaShare, SharePiece } from '../../src/io/arena-share.ts'
import { MIB } from '../../src/base/units.ts'
import { must } from '../../src/base/assert.ts'
import { BuddyArena } from '../../src/io/buddy-arena.ts'
import type { SocketAddress } from '../../src/io/io.ts'
import { SimIo } from '../../src/io/sim-io.ts'
import type { SimPeer } from '../../src/io/sim-socket.ts'
import { MemoryTarget, directoryOf } from '../support/memory-target.ts'
import { option, request, u32 } from '../unit/export/nbd-codec.ts'

const ADDRESS: SocketAddress = { kind: 'tcp', host: '127.0.0.1', port: 10809 }
const STALL_TIMEOUT_MS = 4000

interface World {
  io: SimIo
  server: NbdServer
  reasons: string[]
}

async function open(options: Partial<NbdServerOptions> = {}): Promise<World> {
  const io = new SimIo({ seed: 1, arenaMemory: Buffer.allocUnsafeSlow(128 * MIB) })
  const schedule = (complete: () => void): void => void io.setTimer(0.1, complete)
  const target = new MemoryTarget({ arena: io.arena, sizeBytes: 4 * MIB, schedule })
  const reasons: string[] = []
  const starting = NbdServer.start(io, directoryOf(target), {
    addresses: [ADDRESS],
    onDisconnect: (_peer, _name, reason) => reasons.push(reason),
    limits: { stallTimeoutMs: STALL_TIMEOUT_MS },
    ...options,
  })
  const server = must(await io.runUntil(starting), 'a server')
  return { io, server, reasons }
}

/** A client past its handshake. */
async function connect({ io }: World): Promise<SimPeer> {
  const peer = io.connect(ADDRESS)
  peer.send(Buffer.concat([u32(3), option(1, Buffer.from('disk'))]))
  for (let bytes = 0; bytes < 28;) {
    bytes += must(await io.runUntil(peer.receive()), 'bytes').length
  }
  return peer
}

t.test('contexts asked for over and over cost what one question costs', (t) => {
  const names = Array.from({ length: 10_000 }, (_, index) => `snapshot-${index}`)
  const arena = new BuddyArena(Buffer.alloc(MIB))
  const target = new MemoryTarget({ arena, snapshots: names })
  // As many as fit an option. Compared one by one with every name it was 1.4 s of everybody's time.
  const queries = new Array<string>(14_000).fill('base:')
  const startMs = performance.now()
  t.strictSame(listContexts(target, queries), ['base:allocation'])
  const tookMs = performance.now() - startMs
  t.ok(tookMs < 300, `${tookMs} ms`)
  t.end()
})

/** Does something small every quarter second; resolves to how long the client was suffered. */
async function trickle(t: Test, world: World, drip: (step: number) => void): Promise<void> {
  const startMs = world.io.nowMs()
  let step = 0
  while (world.server.connections().length > 0 && step < 400) {
    drip((step += 1))
    await world.io.runFor(250)
  }
  const tookMs = world.io.nowMs() - startMs
  t.ok(tookMs >= STALL_TIMEOUT_MS && tookMs < 3 * STALL_TIMEOUT_MS, `cut off after ${tookMs} ms`)
  t.strictSame(world.reasons, ['the client neither sends nor receives'])
}

t.test('a byte of a payload now and then is not progress', async (t) => {
  const world = await open()
  const peer = await connect(world)
  const whole = request({ type: 1, cookie: 1n, payload: Buffer.alloc(MIB) })
  peer.send(whole.subarray(0, 100_000))
  await trickle(t, world, (step) => peer.send(whole.subarray(100_000 + step, 100_001 + step)))
})

t.test('who takes no replies is cut off, however much it still asks', async (t) => {
  const world = await open()
  const peer = await connect(world)
  for (let cookie = 0n; cookie < 4n; cookie += 1n) {
    peer.send(request({ type: 0, cookie, length: 2 * MIB }))
  }
  await trickle(t, world, (step) => peer.send(request({ type: 3, cookie: BigInt(100 + step) })))
})

t.test('an idle client stays, and so does one that sends half a header', async (t) => {
  const world = await open()
  const idle = await connect(world)
  const half = await connect(world)
  half.send(request({ type: 3, cookie: 1n }).subarray(0, 20))
  await world.io.runFor(100 * STALL_TIMEOUT_MS)
  t.equal(world.server.connections().length, 2)
  for (const peer of [idle, half]) peer.close()
})

t.test('one address cannot take every place, and its places come back', async (t) => {
  const world = await open({ limits: { connectionsMax: 10, connectionsPerAddressMax: 3 } })
  const peers = [await connect(world), await connect(world), await connect(world)]
  const fourth = world.io.connect(ADDRESS)
  t.equal((await world.io.runUntil(fourth.receive()))?.length, 0)
  t.strictSame(world.reasons, ['too many clients from this address'])
  peers[1].close()
  await world.io.runFor(10)
  await connect(world)
  t.equal(world.server.connections().length, 3)
})

t.test('ten thousand who are turned away are a few words in the log', async (t) => {
  const world = await open({ limits: { connectionsMax: 1 } })
  await connect(world)
  for (let index = 0; index < 10_000; index += 1) world.io.connect(ADDRESS)
  await world.io.runFor(5000)
  t.equal(world.reasons.length, 2)
  t.equal(world.reasons[0], 'too many clients')
  t.equal(world.reasons[1], '9999 more turned away: too many clients')
})

t.test('whoever comes last finds as much memory as each of the greedy holds', (t) => {
  const arena = new BuddyArena(Buffer.alloc(128 * MIB))
  const share = new ArenaShare(arena, 64 * MIB)
  const counts: number[] = []
  for (let client = 0; client < 12; client += 1) {
    const memory = must(ConnectionMemory.tryOpen(share), 'a reserve')
    let count = 0
    for (;;) {
      const piece = new SharePiece()
      if (!memory.tryTake(piece, MIB) || piece.isReserve) break
      count += 1
    }
    counts.push(count)
  }
  t.equal(counts[0], 16, 'alone, it has its full measure')
  t.ok((counts[7] ?? 0) >= 1, `who comes after seven finds something: ${counts.join()}`)
  t.end()
})
