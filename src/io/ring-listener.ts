/** Listening through the ring: one accept is in flight at a time. */
import { unlink } from 'node:fs/promises'
import { Errno } from '../base/errors.ts'
import type { Binding } from '../native/binding.ts'
import type { IoCompletion, IoListener, SocketAddress } from './io.ts'
import { removeDeadSocket, resolveHost } from './listen-address.ts'
import { osError, withOsErrors } from './os-errors.ts'
import { LOCAL_STRANGER, REMOTE_STRANGER, peerUserOf } from './peer-identity.ts'
import type { PeerIdentity } from './peer-identity.ts'
import type { Ring } from './ring.ts'

/** Told of a connection; the descriptor is its own from then on. */
export type AcceptDescriptor = (fd: number, peer: string, identity: PeerIdentity) => void

const EMFILE = 24
const ENFILE = 23
/** How long accepting rests when the process has no descriptor left. */
const EXHAUSTED_PAUSE_MS = 100

export class RingListener implements IoListener, IoCompletion {
  readonly address: SocketAddress
  readonly #fd: number
  readonly #ring: Ring
  readonly #binding: Binding
  readonly #accept: AcceptDescriptor
  #accepting = 0
  #pause: NodeJS.Timeout | null = null
  #isClosing = false
  #closed: Promise<void> | null = null
  #finish: () => void = () => undefined

  private constructor(
    address: SocketAddress,
    fd: number,
    ring: Ring,
    binding: Binding,
    accept: AcceptDescriptor,
  ) {
    this.address = address
    this.#fd = fd
    this.#ring = ring
    this.#binding = binding
    this.#accept = accept
    this.#acceptNext()
  }

  static async open(
    address: SocketAddress,
    ring: Ring,
    binding: Binding,
    accept: AcceptDescriptor,
  ): Promise<RingListener> {
    if (address.kind === 'unix') {
      await removeDeadSocket(address.path)
      const fd = binding.listenUnix(address.path, address.mode ?? -1)
      if (fd < 0) throw osError('listen at', address.path, -fd)
      return new RingListener(address, fd, ring, binding, accept)
    }
    const host = await resolveHost(address.host)
    const fd = binding.listenTcp(host, address.port)
    if (fd < 0) throw osError('listen at', `${host}:${address.port}`, -fd)
    const bound: SocketAddress = { ...address, port: binding.socketPort(fd) }
    return new RingListener(bound, fd, ring, binding, accept)
  }

  /** Connections that were accepted live on. */
  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  ioComplete(_tag: number, result: number): void {
    if (this.#isClosing) {
      if (result >= 0) this.#binding.closeFd(result)
      this.#finish()
      return
    }
    if (result >= 0) this.#welcome(result)
    if (result === -EMFILE || result === -ENFILE || result === -Errno.ENOMEM) {
      this.#pause = setTimeout(() => {
        this.#pause = null
        this.#acceptNext()
      }, EXHAUSTED_PAUSE_MS)
      return
    }
    // Any other failure belongs to the one connection that was lost before it was accepted.
    if (!this.#isClosing) this.#acceptNext()
  }

  #acceptNext(): void {
    this.#accepting = this.#ring.accept(this.#fd, this, 0)
  }

  #welcome(fd: number): void {
    const peer = this.#binding.socketPeer(fd)
    const identity = this.#identityOf(fd)
    if (typeof peer === 'number' || identity === null) {
      // The client hung up before it was looked at.
      this.#binding.closeFd(fd)
      return
    }
    this.#accept(fd, peer, identity)
  }

  /** Null: the kernel does not say who it is. */
  #identityOf(fd: number): PeerIdentity | null {
    if (this.address.kind !== 'unix') return REMOTE_STRANGER
    const user = peerUserOf(fd, this.#binding)
    return user === null ? null : { ...LOCAL_STRANGER, user }
  }

  async #close(): Promise<void> {
    this.#isClosing = true
    if (this.#pause !== null) {
      clearTimeout(this.#pause)
    } else {
      const finished = new Promise<void>((resolve) => (this.#finish = resolve))
      this.#ring.cancel(this.#accepting)
      await finished
    }
    this.#binding.closeFd(this.#fd)
    const { address } = this
    if (address.kind === 'unix') {
      await withOsErrors('remove', address.path, () => unlink(address.path))
    }
  }
}
