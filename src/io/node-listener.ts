/** Listening with node:net. */
import type { AddressInfo, Server, Socket } from 'node:net'
import { createServer } from 'node:net'
import type { IoListener, SocketAddress } from './io.ts'
import { removeDeadSocket, resolveHost } from './listen-address.ts'
import { withOsErrors } from './os-errors.ts'
import { bindForOwner, setSocketMode } from './socket-mode.ts'

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
    accept: (stream: Socket) => void,
  ): Promise<NodeListener> {
    const server = createServer({ noDelay: true, allowHalfOpen: true }, accept)
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
        // Accepting failed, for want of descriptors say: one client is lost, and not the process.
        server.on('error', () => undefined)
        resolve()
      })
      listen()
    })
  })
}

async function listenUnix(server: Server, path: string, mode: number | undefined): Promise<void> {
  await started(server, path, () => {
    const listen = (): unknown => server.listen({ path, exclusive: true })
    if (mode === undefined) listen()
    else bindForOwner(listen)
  })
  if (mode !== undefined) await setSocketMode(path, mode)
}
