/** Who is at the other end of a connection, as far as the kernel or TLS vouches for it. */
import type { Socket } from 'node:net'
import type { Binding } from '../native/binding.ts'

/** As it was when it connected, in our user namespace: 65534 is everybody who is not in it. */
export interface PeerUser {
  readonly processId: number
  readonly userId: number
  readonly groupId: number
}

export interface PeerIdentity {
  /** Came through a unix socket. */
  readonly isLocal: boolean
  /** Of a unix socket; null where the kernel cannot be asked, which takes the addon. */
  readonly user: PeerUser | null
  /** Common name and alternative names of a certificate that was verified; empty without one. */
  readonly certificateNames: readonly string[]
}

/** Through a unix socket, and nobody says who. */
export const LOCAL_STRANGER: PeerIdentity = { isLocal: true, user: null, certificateNames: [] }
export const REMOTE_STRANGER: PeerIdentity = { isLocal: false, user: null, certificateNames: [] }

/** Of a unix socket's peer; null when the kernel does not tell. */
export function peerUserOf(fd: number, binding: Binding): PeerUser | null {
  const out = new Int32Array(3)
  if (binding.peerCredentials(fd, out) < 0) return null
  return { processId: out[0], userId: out[1] >>> 0, groupId: out[2] >>> 0 }
}

/** Of a connection that Node accepted. */
export function identityOfStream(stream: Socket, binding: Binding | null): PeerIdentity {
  if (stream.remoteAddress !== undefined) return REMOTE_STRANGER
  const fd = descriptorOf(stream)
  if (binding === null || fd === null) return LOCAL_STRANGER
  return { ...LOCAL_STRANGER, user: peerUserOf(fd, binding) }
}

/** Node keeps it to itself; should it ever hide it better, the socket's mode is what is left. */
function descriptorOf(stream: Socket): number | null {
  const { _handle: handle } = stream as unknown as { _handle?: { fd?: unknown } | null }
  return typeof handle?.fd === 'number' && handle.fd >= 0 ? handle.fd : null
}

/** For logs. */
export function describePeer({ user, certificateNames }: PeerIdentity): string {
  const words = certificateNames.map((name) => `certificate ${JSON.stringify(name)}`)
  if (user !== null) words.push(`user ${user.userId}, process ${user.processId}`)
  return words.length === 0 ? 'nobody known' : words.join(', ')
}
