/** Listening with node:net. */
import { chmod } from 'node:fs/promises'
import type { AddressInfo, Server, Socket } from 'node:net'
import { createServer } from 'node:net'
import type { Arena } from './arena.ts'
import type { IoListener, IoSocket, SocketAddress } from './io.ts'
import { removeDeadSocket, resolveHost } from './listen-address.ts'
import type { NodeTurn } from './node-turn.ts'
import { withOsErrors } from './os-errors.ts'
import { StreamSocket, peerOf } from './stream-socket.ts'

const MODE_BITS = 0o777

export class NodeListener implements IoListener {
  readonly address: SocketAddress
  readonly #server: Server
  #closed: Promise<void> | null = null

  constructor(address: SocketAddress, server: Server) {
    this.address = address
    this.#server = server
  }

  static async open(
    address: SocketAddress,
    arena: Arena,
    turn: NodeTurn,
    accept: (socket: IoSocket) => void,
  ): Promise<NodeListener> {
    const server = createServer({ noDelay: true, allowHalfOpen: true }, (stream: Socket) => {
      accept(new StreamSocket(stream, peerOf(stream), arena, turn))
    })
    if (address.kind === 'unix') {
      await removeDeadSocket(address.path)
      await listenUnix(server, address.path, address.mode)
      return new NodeListener(address, server)
    }
    const host = await resolveHost(address.host)
    await started(server, `${host}:${address.port}`, () => server.listen(address.port, host))
    const { port } = server.address() as AddressInfo
    return new NodeListener({ ...address, port }, server)
  }

  /** Connections that were accepted live on. */
  close(): Promise<void> {
    // `Server.close` waits for those connections: its callback is not ours to wait for.
    this.#closed ??= new Promise((resolve) => {
      this.#server.close()
      setImmediate(resolve)
    })
    return this.#closed
  }
}

function started(server: Server, subject: string, listen: () => void): Promise<void> {
  return withOsErrors('listen at', subject, () => {
    return new Promise((resolve, reject) => {
      server.once('error', reject)
      server.once('listening', () => {
        server.off('error', reject)
        resolve()
      })
      listen()
    })
  })
}

async function listenUnix(server: Server, path: string, mode: number | undefined): Promise<void> {
  await started(server, path, () => {
    if (mode === undefined) {
      server.listen({ path, exclusive: true })
      return
    }
    // Node binds within `listen`; the mask keeps others out until the mode is set.
    const mask = process.umask(MODE_BITS & ~mode)
    try {
      server.listen({ path, exclusive: true })
    } finally {
      process.umask(mask)
    }
  })
  if (mode !== undefined) await withOsErrors('set the mode of', path, () => chmod(path, mode))
}
