/**
 * What two processes of one host can do beyond exchanging bytes: hand each other descriptors, share
 * memory, and wake each other through eventfds. Descriptors are numbers of this process; whoever
 * receives one closes it. Results are counts or negative errnos.
 */
import type { IoCompletion, IoListener } from './io.ts'
import type { PeerIdentity } from './peer-identity.ts'

/** A window begins at each multiple of this within a mapping: offsets in it are small integers. */
export const WINDOW_BYTES: number = 2 ** 30
/**
 * How far a window reaches into the next one: what is no longer than this, wherever it begins, lies
 * in one window whole.
 */
export const WINDOW_OVERLAP_BYTES: number = 2 ** 20

/** Memory that another process can see, and change at any moment. */
export interface SharedMapping {
  readonly sizeBytes: number
  /** Window `i` shows the bytes from `i * WINDOW_BYTES` on. Empty after `close`. */
  readonly windows: readonly ArrayBuffer[]
  /** The other process took memory away; what is read is zeros, what is written goes nowhere. */
  readonly isBroken: boolean
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
  /** Signals the first `count` of `fds`; what is no event is passed over. */
  signal(fds: Int32Array, count: number): void
  closeDescriptor(fd: number): void
}
