/**
 * TLS over a connection that began in the clear (STARTTLS of NBD). The connection leaves its Io
 * for Node's TLS, whatever the Io; what comes back is a {@link StreamSocket} on the same arena.
 */
import type { Socket } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { createServer } from 'node:tls'
import { OperatingError } from '../base/errors.ts'
import type { Arena } from './arena.ts'
import type { IoSocket } from './io.ts'
import { NodeTurn } from './node-turn.ts'
import { StreamSocket } from './stream-socket.ts'

const HANDSHAKE_TIMEOUT_MS = 10_000

export interface TlsOptions {
  /** PEM. */
  cert: string | Buffer
  key: string | Buffer
  /** Whose clients are trusted, PEM. */
  ca?: string | Buffer
  /** Refuse clients without a certificate signed by `ca`. */
  requestCert?: boolean
}

/** A socket whose connection Node can take over. */
interface StreamHolder extends IoSocket {
  readonly arena: Arena
  detachStream(): Socket
}

function isStreamHolder(socket: IoSocket): socket is StreamHolder {
  return 'detachStream' in socket
}

function handshake(stream: Socket, options: TlsOptions): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const { cert, key, ca, requestCert = false } = options
    const server = createServer({
      cert,
      key,
      requestCert,
      rejectUnauthorized: requestCert,
      minVersion: 'TLSv1.2',
      handshakeTimeout: HANDSHAKE_TIMEOUT_MS,
      ...(ca === undefined ? {} : { ca }),
    })
    server.once('secureConnection', resolve)
    server.once('tlsClientError', (cause) => {
      stream.destroy()
      reject(
        new OperatingError('io', `TLS handshake failed: ${cause.message}`, {
          cause,
          hint: 'Check that the client trusts our certificate and presents one that we trust.',
        }),
      )
    })
    // Never listens: it is given this one connection.
    server.emit('connection', stream)
  })
}

/**
 * Performs the server's side of a TLS handshake on `socket`, which is done with whatever the
 * outcome. No receive or send may be in flight. Rejects with `io` when the handshake fails, and
 * `unsupported` for the sockets of a simulated Io.
 */
export async function upgradeToTls(socket: IoSocket, options: TlsOptions): Promise<IoSocket> {
  if (!isStreamHolder(socket)) {
    throw new OperatingError('unsupported', 'TLS needs a socket of the operating system')
  }
  const stream = socket.detachStream()
  const secure = await handshake(stream, options)
  return new StreamSocket(secure, socket.peer, socket.arena, new NodeTurn())
}
