/**
 * What two processes of one host can do beyond exchanging bytes: hand each other descriptors, share
 * memory, and wake each other through eventfds. Descriptors are numbers of this process; whoever
 * receives one closes it. Results are counts or negative errnos.
 */
import type { IoCompletion, IoListener } from './io.ts'
import type { PeerIdentity } from './peer-identity.ts'

/** Memory that another process can see, and change at any moment. */
export interface SharedMapping {
  readonly sizeBytes: number
  /** The other process took memory away; what is read is zeros, what is written goes nowhere. */
  readonly isBroken: boolean
  /** Copies `lengthBytes` from `offset` on to `target` at `targetOffset`. */
  read(offset: number, target: Uint8Array, targetOffset: number, lengthBytes: number): void
  /**
   * The same for `count` pieces in one go, in their order. Three numbers each: where it begins
   * here, where in `target`, and its bytes. Nothing is copied if one of them leaves either.
   */
  readPieces(pieces: Float64Array, count: number, target: Uint8Array): void
  /** The other way round. */
  writePieces(pieces: Float64Array, count: number, source: Uint8Array): void
  /** Some kilobytes of it as they are, to share words in. Empty after `close`. */
  view(offset: number, lengthBytes: number): DataView
  /** Nothing of it is used from here on. */
  close(): void
}

/** A connected unix socket over which descriptors travel. No call waits. */
export interface DescriptorSocket {
  readonly peer: string
  readonly identity: PeerIdentity
  /**
   * Receives bytes into `bytes` from `offset` on: how many, 0 at the end, -EAGAIN when none are
   * there. With them come `fds[0]` descriptors in `fds[1…]`; more than fit are -EMSGSIZE.
   */
  receive(bytes: Uint8Array, offset: number, lengthBytes: number, fds: Int32Array): number
  /** Sends all of `bytes`, and with the first one `fds`. 0, or why the connection is of no use. */
  send(bytes: Uint8Array, fds: Int32Array): number
  /** Completes when there is something to receive, or (-ECANCELED) after `close`. */
  awaitReadable(completion: IoCompletion, tag: number): void
  /** Idempotent. */
  close(): void
}

export interface DescriptorIo {
  /** Calls `accept` for each connection until closed. */
  listen(
    path: string,
    mode: number,
    accept: (socket: DescriptorSocket) => void,
  ): Promise<IoListener>
  /** A connected socket that came over another one; it owns the descriptor from now on. */
  adoptSocket(fd: number): DescriptorSocket
  /**
   * Maps part of a memory file (memfd, tmpfs, hugetlbfs; any other is -EMEDIUMTYPE). The descriptor
   * stays the caller's.
   */
  map(fd: number, offsetBytes: number, sizeBytes: number): SharedMapping | number
  /** A memory file of zeros that cannot be resized. */
  createMemory(sizeBytes: number): number
  isEvent(fd: number): boolean
  /**
   * Takes what an event was signalled; completes when it has been. For `cancelWait`. Older kernels
   * do not wait where the event is nonblocking: -EAGAIN, and then `awaitReadable` does.
   */
  awaitEvent(fd: number, completion: IoCompletion, tag: number): number
  /** The same, but what was signalled stays there. */
  awaitReadable(fd: number, completion: IoCompletion, tag: number): number
  /** What waits completes soon, with -ECANCELED unless it was signalled just before. */
  cancelWait(wait: number): void
  /**
   * Signals an event; completes when it is. For `cancelWait`. Goes out with the turn, and never
   * makes us wait: write(2) would, where its counter is full, if the other process makes the event
   * a blocking one between our look at it and our write. Here a thread of the kernel waits instead.
   */
  signal(fd: number, completion: IoCompletion, tag: number): number
  closeDescriptor(fd: number): void
}
