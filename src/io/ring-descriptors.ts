/** {@link DescriptorIo} through the ring and the addon. */
import { assert } from '../base/assert.ts'
import { Errno } from '../base/errors.ts'
import type { Binding, MappingHandle } from '../native/binding.ts'
import type { DescriptorIo, DescriptorSocket, SharedMapping } from './descriptors.ts'
import type { IoCompletion, IoListener } from './io.ts'
import { LOCAL_STRANGER } from './peer-identity.ts'
import type { PeerIdentity } from './peer-identity.ts'
import { RingListener } from './ring-listener.ts'
import type { Ring } from './ring.ts'

const EVENT_BYTES = 8
/** Of the page that events are read to and written from: where the 1 that is written lies. */
const ONE_AT = 64
const EVENT_PAGE_BYTES = 4096
const NO_WAIT = -1

class RingDescriptorSocket implements DescriptorSocket, IoCompletion {
  readonly peer: string
  readonly identity: PeerIdentity
  readonly #fd: number
  readonly #ring: Ring
  readonly #binding: Binding
  #wait = NO_WAIT
  #waiter: IoCompletion | null = null
  #waiterTag = 0
  #isClosed = false

  constructor(fd: number, peer: string, identity: PeerIdentity, ring: Ring, binding: Binding) {
    this.#fd = fd
    this.peer = peer
    this.identity = identity
    this.#ring = ring
    this.#binding = binding
  }

  receive(bytes: Uint8Array, offset: number, lengthBytes: number, fds: Int32Array): number {
    assert(!this.#isClosed, 'the socket is open')
    const result = this.#binding.descriptorsReceive(this.#fd, bytes, offset, lengthBytes, fds)
    return result === -Errno.EINTR ? -Errno.EAGAIN : result
  }

  send(bytes: Uint8Array, fds: Int32Array): number {
    assert(!this.#isClosed, 'the socket is open')
    const result = this.#binding.descriptorsSend(this.#fd, bytes, 0, bytes.length, fds)
    // Messages are a few hundred bytes: who leaves no room for one does not take any.
    if (result >= 0 && result < bytes.length) return -Errno.EPIPE
    return Math.min(result, 0)
  }

  awaitReadable(completion: IoCompletion, tag: number): void {
    assert(this.#waiter === null, 'one waits at a time')
    if (this.#isClosed) {
      this.#ring.post(completion, tag, -Errno.ECANCELED)
      return
    }
    this.#waiter = completion
    this.#waiterTag = tag
    this.#wait = this.#ring.awaitReadable(this.#fd, this, 0)
  }

  ioComplete(_tag: number, result: number): void {
    const waiter = this.#waiter
    this.#waiter = null
    this.#wait = NO_WAIT
    if (this.#isClosed) this.#binding.closeFd(this.#fd)
    waiter?.ioComplete(this.#waiterTag, this.#isClosed ? -Errno.ECANCELED : result)
  }

  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#binding.socketShutdown(this.#fd)
    // The number of a closed descriptor can become another file's: not while the ring has it.
    if (this.#wait !== NO_WAIT) this.#ring.cancel(this.#wait)
    else this.#binding.closeFd(this.#fd)
  }
}

class RingMapping implements SharedMapping {
  readonly sizeBytes: number
  readonly #handle: MappingHandle
  readonly #binding: Binding
  /** By place and length: whoever asks twice gets the same one. */
  readonly #windows: Map<string, ArrayBuffer> = new Map()

  constructor(handle: MappingHandle, sizeBytes: number, binding: Binding) {
    this.#handle = handle
    this.#binding = binding
    this.sizeBytes = sizeBytes
  }

  get isBroken(): boolean {
    return this.#binding.sharedIsBroken(this.#handle)
  }

  read(offset: number, target: Uint8Array, targetOffset: number, lengthBytes: number): void {
    this.#binding.sharedRead(this.#handle, offset, target, targetOffset, lengthBytes)
  }

  readPieces(pieces: Float64Array, count: number, target: Uint8Array): void {
    this.#binding.sharedReadPieces(this.#handle, pieces, count, target)
  }

  writePieces(pieces: Float64Array, count: number, source: Uint8Array): void {
    this.#binding.sharedWritePieces(this.#handle, pieces, count, source)
  }

  view(offset: number, lengthBytes: number): DataView {
    const key = `${offset} ${lengthBytes}`
    let window = this.#windows.get(key)
    if (window === undefined) {
      window = this.#binding.sharedWindow(this.#handle, offset, lengthBytes)
      this.#windows.set(key, window)
    }
    return new DataView(window)
  }

  close(): void {
    for (const window of this.#windows.values()) this.#binding.sharedDetach(this.#handle, window)
    this.#windows.clear()
    this.#binding.sharedUnmap(this.#handle)
  }
}

export class RingDescriptors implements DescriptorIo {
  readonly #ring: Ring
  readonly #binding: Binding
  readonly #listeners: Set<RingListener>
  /** Where the counts of events are read to; nobody looks at them. */
  readonly #eventOffset: number
  readonly #onePair: Uint32Array

  /** `listeners`: closed by whoever shuts the ring down. */
  constructor(ring: Ring, binding: Binding, listeners: Set<RingListener>) {
    this.#ring = ring
    this.#binding = binding
    this.#listeners = listeners
    this.#eventOffset = ring.arena.allocate(EVENT_PAGE_BYTES)
    assert(this.#eventOffset >= 0, 'the arena has a page for events')
    ring.arena.memory.writeBigUInt64LE(1n, this.#eventOffset + ONE_AT)
    this.#onePair = Uint32Array.of(this.#eventOffset + ONE_AT, EVENT_BYTES)
  }

  async listen(
    path: string,
    mode: number,
    accept: (socket: DescriptorSocket) => void,
  ): Promise<IoListener> {
    const address = { kind: 'unix', path, mode } as const
    const ring = this.#ring
    const binding = this.#binding
    const listener = await RingListener.open(address, ring, binding, (fd, peer, identity) => {
      accept(new RingDescriptorSocket(fd, peer, identity, ring, binding))
    })
    this.#listeners.add(listener)
    return listener
  }

  adoptSocket(fd: number): DescriptorSocket {
    return new RingDescriptorSocket(fd, 'unix', LOCAL_STRANGER, this.#ring, this.#binding)
  }

  map(fd: number, offsetBytes: number, sizeBytes: number): SharedMapping | number {
    const handle = this.#binding.sharedMap(fd, offsetBytes, sizeBytes)
    return typeof handle === 'number' ? handle : new RingMapping(handle, sizeBytes, this.#binding)
  }

  createMemory(sizeBytes: number): number {
    return this.#binding.sharedCreate(sizeBytes)
  }

  isEvent(fd: number): boolean {
    // Nonblocking events are signalled without a thread.
    return this.#binding.eventIs(fd) === 1 && this.#binding.setNonblocking(fd) >= 0
  }

  awaitEvent(fd: number, completion: IoCompletion, tag: number): number {
    return this.#ring.read(fd, 0, this.#eventOffset, EVENT_BYTES, completion, tag)
  }

  awaitReadable(fd: number, completion: IoCompletion, tag: number): number {
    return this.#ring.awaitReadable(fd, completion, tag)
  }

  cancelWait(wait: number): void {
    this.#ring.cancel(wait)
  }

  signal(fd: number, completion: IoCompletion, tag: number): number {
    return this.#ring.put(fd, this.#onePair, 1, completion, tag)
  }

  closeDescriptor(fd: number): void {
    this.#binding.closeFd(fd)
  }
}
