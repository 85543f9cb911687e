/** Promises of sockets, told from the server's side; the client is an ordinary one. */
import type { Test } from 'tap'
import { Errno } from '../../src/base/errors.ts'
import type { Io, IoSocket, SocketAddress } from '../../src/io/io.ts'
import { ioResult } from '../../src/io/io.ts'
import type { Client, Connect, IoUnderTest, MakeIo } from './io-conformance.ts'
import { patternBytes, pieceOf, vectorOf } from './io-conformance-files.ts'

const MIB = 1 << 20

export function receiveBytes(socket: IoSocket, at: number, length: number): Promise<number> {
  return ioResult((completion) => socket.receive(at, length, completion, 0))
}

export function sendPieces(
  socket: IoSocket,
  ...pieces: { offset: number; length: number }[]
): Promise<number> {
  return ioResult((completion) => socket.send(vectorOf(...pieces), completion, 0))
}

/** Everything up to the peer's end, received in sizes that follow no pattern of the sender. */
async function receiveAll(io: Io, socket: IoSocket, sizes: readonly number[]): Promise<Buffer> {
  const at = io.arena.allocate(MIB)
  const parts: Buffer[] = []
  for (let round = 0; ; round++) {
    const length = sizes[round % sizes.length]
    const count = await receiveBytes(socket, at, length)
    if (count < 0) throw new Error(`receive failed: ${count}`)
    if (count > length) throw new Error('received more than asked for')
    if (count === 0) break
    parts.push(Buffer.from(io.arena.memory.subarray(at, at + count)))
  }
  io.arena.free(at, MIB)
  return Buffer.concat(parts)
}

interface Pair {
  io: Io
  server: IoSocket
  client: Client
}

type Case = (t: Test, pair: Pair) => Promise<void>

const CASES: Readonly<Record<string, Case>> = {
  'megabytes from the client arrive whole, in oddly split receives': async (t, pair) => {
    const { io, server, client } = pair
    const bytes = patternBytes(5 * MIB + 4321, 1)
    const received = receiveAll(io, server, [1, 7, 4096, 65536, 100003, 333])
    for (let at = 0, step = 1; at < bytes.length; at += step, step = (step * 5 + 3) % 300007) {
      await client.write(bytes.subarray(at, at + step))
    }
    client.end()
    t.ok((await received).equals(bytes))
    server.close()
  },

  'megabytes to the client arrive whole, whatever the pieces': async (t, pair) => {
    const { io, server, client } = pair
    const bytes = patternBytes(4 * MIB, 2)
    const read = client.read(bytes.length)
    const source = [0, 1, 2, 3].map((index) => {
      return pieceOf(io, bytes.subarray(index * MIB, (index + 1) * MIB))
    })
    for (const { offset } of source) {
      const pieces: { offset: number; length: number }[] = []
      for (let at = 0, step = 1; at < MIB; step = (step * 7 + 5) % 9001) {
        const length = Math.min(step, MIB - at)
        pieces.push({ offset: offset + at, length })
        at += length
      }
      t.equal(await sendPieces(server, ...pieces), MIB)
    }
    t.ok((await read).equals(bytes))
    server.close()
  },

  'a send of thousands of pieces to a slow reader completes whole': async (t, pair) => {
    const { io, server, client } = pair
    const source = pieceOf(io, patternBytes(MIB, 3))
    const pieces: { offset: number; length: number }[] = []
    for (let index = 0; index < 3000; index++) {
      pieces.push({ offset: source.offset + ((index * 37) % 1000) * 1000, length: 997 })
    }
    const vector = vectorOf(...pieces)
    const result = ioResult((completion) => server.send(vector, completion, 0))
    vector.pairs.fill(0)
    const expected = Buffer.concat(
      pieces.map(({ offset, length }) => io.arena.memory.subarray(offset, offset + length)),
    )
    let received = Buffer.alloc(0)
    while (received.length < expected.length) {
      await new Promise((resolve) => setTimeout(resolve, 2))
      const wanted = Math.min(200_001, expected.length - received.length)
      received = Buffer.concat([received, await client.read(wanted)])
    }
    t.equal(await result, expected.length)
    t.ok(received.equals(expected), 'the vector was copied before the call returned')
    server.close()
  },

  'both directions run at once': async (t, pair) => {
    const { io, server, client } = pair
    const up = patternBytes(3 * MIB, 4)
    const down = patternBytes(MIB, 5)
    const received = receiveAll(io, server, [65536, 4095])
    const piece = pieceOf(io, down)
    const sent = Promise.all([sendPieces(server, piece), client.read(MIB)])
    await client.write(up)
    client.end()
    const [count, read] = await sent
    t.equal(count, MIB)
    t.ok(read.equals(down))
    t.ok((await received).equals(up))
    server.close()
  },

  'a receive takes what is there and does not wait for more': async (t, pair) => {
    const { io, server, client } = pair
    const at = io.arena.allocate(4096)
    const first = receiveBytes(server, at, 4096)
    await client.write(Buffer.from('hello'))
    t.equal(await first, 5)
    t.equal(io.arena.memory.toString('latin1', at, at + 5), 'hello')
    server.close()
  },

  'after the client has ended, receive answers 0 again and again, and sends still go': async (
    t,
    pair,
  ) => {
    const { io, server, client } = pair
    const at = io.arena.allocate(4096)
    await client.write(Buffer.from('x'))
    client.end()
    t.equal(await receiveBytes(server, at, 4096), 1)
    t.equal(await receiveBytes(server, at, 4096), 0)
    t.equal(await receiveBytes(server, at, 4096), 0)
    const piece = pieceOf(io, Buffer.from('still here'))
    t.equal(await sendPieces(server, piece), 10)
    t.equal((await client.read(10)).toString(), 'still here')
    server.close()
    t.equal((await client.read(1)).length, 0, 'close ends the stream')
  },

  'close cancels the receive in flight, is idempotent, and refuses later work': async (t, pair) => {
    const { io, server } = pair
    const at = io.arena.allocate(4096)
    const receiving = receiveBytes(server, at, 4096)
    await new Promise((resolve) => setTimeout(resolve, 5))
    server.close()
    server.close()
    t.equal(await receiving, -Errno.ECANCELED)
    t.equal(await receiveBytes(server, at, 4096), -Errno.ECANCELED)
    t.equal(await sendPieces(server, { offset: at, length: 10 }), -Errno.ECANCELED)
    server.close()
  },

  'close completes a send that nobody reads': async (t, pair) => {
    const { io, server } = pair
    const source = pieceOf(io, patternBytes(MIB, 6))
    const pieces = Array.from({ length: 16 }, () => source)
    let isDone = false
    const sending = sendPieces(server, ...pieces).finally(() => (isDone = true))
    await new Promise((resolve) => setTimeout(resolve, 20))
    t.notOk(isDone, 'the peer reads nothing, so the send waits')
    server.close()
    const result = await sending
    t.equal(result, -Errno.ECANCELED)
  },

  'close in the turn that started a receive still completes it once': async (t, pair) => {
    const { io, server } = pair
    const at = io.arena.allocate(4096)
    let completions = 0
    const receiving = new Promise<number>((resolve) => {
      const ioComplete = (_tag: number, result: number): void => {
        completions += 1
        resolve(result)
      }
      server.receive(at, 4096, { ioComplete }, 0)
    })
    server.close()
    t.equal(await receiving, -Errno.ECANCELED)
    await new Promise((resolve) => setTimeout(resolve, 10))
    t.equal(completions, 1)
  },

  'a client that vanishes ends receives and fails sends, and kills nobody': async (t, pair) => {
    const { io, server, client } = pair
    const at = io.arena.allocate(4096)
    const receiving = receiveBytes(server, at, 4096)
    client.destroy()
    const result = await receiving
    t.ok(result === 0 || result === -Errno.ECONNRESET, `receive ended with ${result}`)
    const source = pieceOf(io, patternBytes(MIB, 6))
    let sent = 1
    for (let round = 0; round < 20 && sent > 0; round++) sent = await sendPieces(server, source)
    t.ok([-Errno.EPIPE, -Errno.ECONNRESET].includes(sent), `send failed with ${sent}`)
    server.close()
  },

  'small requests and answers alternate thousands of times': async (t, pair) => {
    const { io, server, client } = pair
    const at = io.arena.allocate(4096)
    let isOver = false
    const serving = (async () => {
      for (;;) {
        const count = await receiveBytes(server, at, 4096)
        if (count <= 0) break
        await sendPieces(server, { offset: at, length: count })
      }
      isOver = true
    })()
    for (let round = 0; round < 2000; round++) {
      const request = Buffer.from(`request ${round}`)
      await client.write(request)
      const answer = await client.read(request.length)
      if (!answer.equals(request)) t.fail(`round ${round} differs`)
    }
    client.end()
    await serving
    t.ok(isOver)
    server.close()
  },
}

async function connected(
  io: Io,
  connect: Connect,
  address: SocketAddress,
): Promise<Pair & { stop: () => Promise<void> }> {
  let accept: (socket: IoSocket) => void = () => undefined
  const accepted = new Promise<IoSocket>((resolve) => (accept = resolve))
  const listener = await io.listen(address, accept)
  const client = await connect(listener.address)
  const server = await accepted
  const stop = async (): Promise<void> => {
    client.destroy()
    await listener.close()
  }
  return { io, server, client, stop }
}

function addressOf(kind: 'unix' | 'tcp', folder: string): SocketAddress {
  return kind === 'unix'
    ? { kind, path: `${folder}/socket`, mode: 0o660 }
    : { kind, host: '127.0.0.1', port: 0 }
}

async function listenerCases(
  t: Test,
  { io, folder }: IoUnderTest,
  connect: Connect,
  kind: 'unix' | 'tcp',
): Promise<void> {
  const sockets: IoSocket[] = []
  const accept = (socket: IoSocket): void => void sockets.push(socket)
  const listener = await io.listen(addressOf(kind, folder), accept)
  const { address } = listener
  if (address.kind === 'tcp') t.ok(address.port > 0, 'the port is filled in')
  const clients = await Promise.all(Array.from({ length: 20 }, () => connect(address)))
  await Promise.all(clients.map((client) => client.write(Buffer.from('x'))))
  while (sockets.length < clients.length) await new Promise((resolve) => setTimeout(resolve, 1))
  t.equal(sockets.length, 20, 'every connection is accepted once')
  const peer = kind === 'unix' ? /^unix$/ : /^127\.0\.0\.1:\d+$/
  for (const socket of sockets) t.match(socket.peer, peer)
  await t.rejects(io.listen(address, accept), { code: 'busy' })
  await listener.close()
  await listener.close()
  await t.rejects(connect(address), 'a closed listener takes nobody')
  const at = io.arena.allocate(4096)
  t.equal(await receiveBytes(sockets[7], at, 10), 1, 'accepted sockets live on')
  const again = await io.listen(address, accept)
  t.strictSame(again.address, address, 'the address can be had again')
  await again.close()
  for (const client of clients) client.destroy()
  for (const socket of sockets) socket.close()
}

export async function socketConformance(t: Test, makeIo: MakeIo): Promise<void> {
  for (const kind of ['unix', 'tcp'] as const) {
    for (const [name, run] of Object.entries(CASES)) {
      await t.test(`${kind}: ${name}`, async (t) => {
        const world = await makeIo()
        if (world.connect !== undefined) {
          const pair = await connected(world.io, world.connect, addressOf(kind, world.folder))
          await run(t, pair)
          await pair.stop()
        }
        await world.io.shutdown()
        await world.dispose()
      })
    }
    await t.test(`${kind}: listeners`, async (t) => {
      const world = await makeIo()
      if (world.connect !== undefined) await listenerCases(t, world, world.connect, kind)
      await world.io.shutdown()
      await world.dispose()
    })
  }
}
