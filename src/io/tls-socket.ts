/**
 * TLS over a connection that began in the clear (STARTTLS of NBD). The connection leaves its Io
 * for Node's TLS, whatever the Io; what comes back is a {@link StreamSocket} on the same arena.
 */
import { X509Certificate, constants } from 'node:crypto'
import type { Socket } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { createSecureContext, createServer } from 'node:tls'
import { assert } from '../base/assert.ts'
import { OperatingError } from '../base/errors.ts'
import type { Arena } from './arena.ts'
import { certificateNames } from './certificate-names.ts'
import type { IoSocket } from './io.ts'
import { NodeTurn } from './node-turn.ts'
import { StreamSocket } from './stream-socket.ts'

const HANDSHAKE_TIMEOUT_MS = 10_000
const MIN_VERSION = 'TLSv1.2'

export interface TlsOptions {
  /** PEM. */
  cert: string | Buffer
  key: string | Buffer
  /** Whose clients are trusted, PEM. */
  ca?: string | Buffer
  /** Refuse clients without a certificate signed by `ca`. */
  requestCert?: boolean
}

/**
 * Throws `usage` for what cannot be served with: better at the start than at the first client. A
 * list of authorities without any would be taken by Node for its own, those of the web.
 */
export function verifyTlsOptions({ cert, key, ca }: TlsOptions): void {
  try {
    createSecureContext({ cert, key, minVersion: MIN_VERSION })
  } catch (cause) {
    const { message } = cause as Error
    throw new OperatingError('usage', `no TLS with this certificate and key: ${message}`, {
      hint: 'Both are PEM, and the key is that of the certificate.',
      cause,
    })
  }
  if (ca === undefined) return
  try {
    // Reads the first; it throws when there is none.
    new X509Certificate(ca)
    createSecureContext({ ca })
  } catch (cause) {
    throw new OperatingError('usage', 'there is no certificate of an authority for clients', {
      hint: 'It is PEM, and begins with BEGIN CERTIFICATE.',
      cause,
    })
  }
}

function verifiedNames(secure: TLSSocket, { requestCert = false }: TlsOptions): string[] {
  if (!requestCert) return []
  assert(secure.authorized, 'a client without a good certificate was refused')
  return certificateNames(secure.getPeerCertificate())
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
      ...{ cert, key, requestCert },
      rejectUnauthorized: requestCert,
      minVersion: MIN_VERSION,
      // Who the client is was settled once; TLS 1.2 would let it begin again and again.
      secureOptions: constants.SSL_OP_NO_RENEGOTIATION,
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
  const identity = { ...socket.identity, certificateNames: verifiedNames(secure, options) }
  return new StreamSocket(secure, socket.peer, identity, socket.arena, new NodeTurn())
}
