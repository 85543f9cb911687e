/**
 * The one interface to the world. Three implementations run the same engine: `ring-io` (io_uring
 * through the addon), `node-io` (node:fs and node:net), `sim-io` (a simulated disk and clock in
 * tests). One conformance suite runs on all three.
 *
 * Hot-path operations name memory by its offset in the arena, complete through an object and an
 * integer tag, and allocate nothing: no promise, no closure, no Buffer. A result is a byte count
 * or a negative Linux errno. A completion never runs inside the call that started the operation.
 *
 * A *turn* is one round of the loop: completions are dispatched, then the turn-end hooks run
 * (where the log writes its batch), then everything queued is submitted in one system call.
 */
import type { Arena } from './arena.ts'
import type { DescriptorIo } from './descriptors.ts'
import type { MessageDevice, MessageOwner } from './messages.ts'
import type { PeerIdentity } from './peer-identity.ts'

/** Receives results of operations it started; `tag` is whatever the starter passed. */
export interface IoCompletion {
  ioComplete(tag: number, result: number): void
}

/** Called once at the end of the turn in which it was requested. */
export interface TurnHook {
  turnEnd(): void
}

/** An open file. Implementations hang their own state behind it. */
export interface IoFile {
  readonly path: string
}

/** Pieces of arena memory in order: (offset, length) at `pairs[2 * i]` and `pairs[2 * i + 1]`. */
export interface IoVector {
  readonly pairs: Uint32Array
  count: number
}

export interface IoFileStat {
  sizeBytes: number
  /** What the file takes on disk: st_blocks * 512. */
  allocatedBytes: number
}

export interface IoSpace {
  totalBytes: number
  /** What an unprivileged writer could still have. */
  freeBytes: number
}

/** Held until `release` or the end of the process, whichever comes first; SIGKILL releases it. */
export interface IoLock {
  release(): Promise<void>
}

export type OpenMode =
  | 'read' // must exist
  | 'write' // must exist; read and write
  | 'create' // must not exist; read and write

/** A connected stream socket. One receive and one send may be in flight at a time. */
export interface IoSocket {
  /** For logs: `unix`, or `address:port`. */
  readonly peer: string
  readonly identity: PeerIdentity
  /** Receives 1 to `lengthBytes` bytes into the arena. Result: bytes, 0 at the end, -errno. */
  receive(arenaOffset: number, lengthBytes: number, completion: IoCompletion, tag: number): void
  /** Sends every byte of `vector` (copied before return) or fails. Result: total bytes, -errno. */
  send(vector: IoVector, completion: IoCompletion, tag: number): void
  /**
   * Ends both directions; what is in flight completes with -ECANCELED or its result first.
   * The arena memory of an operation stays in use until it has completed. Idempotent.
   */
  close(): void
}

export interface IoListener {
  /** Where it listens, the port filled in. */
  readonly address: SocketAddress
  close(): Promise<void>
}

export type SocketAddress =
  { kind: 'unix'; path: string; mode?: number } | { kind: 'tcp'; host: string; port: number }

export interface Io {
  readonly kind: 'ring' | 'node' | 'sim'
  readonly arena: Arena

  // Hot path: files.
  /** Short only at the end of the file. */
  read(
    file: IoFile,
    offsetBytes: number,
    arenaOffset: number,
    lengthBytes: number,
    completion: IoCompletion,
    tag: number,
  ): void
  /**
   * Writes every byte of `vector` at `offsetBytes` into the page cache, in one system call where
   * the kernel takes it whole (short writes are continued). Synchronous because a buffered append
   * measured four times faster so than through the ring. Returns the bytes, or -errno: then any
   * part may have been written.
   */
  writeSync(file: IoFile, offsetBytes: number, vector: IoVector): number
  /** fdatasync: everything written before this call is durable when it completes with 0. */
  sync(file: IoFile, completion: IoCompletion, tag: number): void
  /** Runs `hook` at the end of this turn, or starts one. A hook asked for twice runs once. */
  atTurnEnd(hook: TurnHook): void

  // Control path: files. Each rejects with OperatingError carrying the errno.
  /** `unsupported` for what is no plain file: links are not followed. */
  open(path: string, mode: OpenMode): Promise<IoFile>
  close(file: IoFile): Promise<void>
  stat(file: IoFile): Promise<IoFileStat>
  truncate(file: IoFile, sizeBytes: number): Promise<void>
  /** Gives the range back to the filesystem; it reads as zeros. */
  punch(file: IoFile, offsetBytes: number, lengthBytes: number): Promise<void>
  /** Reserves the range without changing the file's size. */
  allocate(file: IoFile, offsetBytes: number, lengthBytes: number): Promise<void>
  /** Names in a folder, sorted, without `.` and `..`. */
  list(path: string): Promise<string[]>
  createDirectory(path: string): Promise<void>
  rename(from: string, to: string): Promise<void>
  remove(path: string): Promise<void>
  /** Makes creations, renames and removals in the folder durable. */
  syncDirectory(path: string): Promise<void>
  space(path: string): Promise<IoSpace>
  /**
   * Takes the exclusive lock of `path` (created if missing) or rejects `busy` with
   * `details.holder`, the text the holder left there. `holder` describes us.
   */
  lock(path: string, holder: string): Promise<IoLock>

  // Sockets.
  /** Calls `accept` for each connection until closed. */
  listen(address: SocketAddress, accept: (socket: IoSocket) => void): Promise<IoListener>

  /**
   * Begins to take messages from an open, nonblocking device; its descriptor is closed with it.
   * Null where this Io cannot: then the descriptor stays the caller's.
   */
  openMessages(fd: number, owner: MessageOwner): MessageDevice | null

  /** Descriptors, shared memory and events; missing where this Io cannot. */
  descriptors?(): DescriptorIo

  // Time and entropy.
  /** Monotonic. */
  nowMs(): number
  wallClockMs(): number
  /** Calls back once; the returned function cancels. Never keeps the process alive by itself. */
  setTimer(delayMs: number, callback: () => void): () => void
  /** Lets everything else that is ready have a turn; for long control work. */
  pause(): Promise<void>
  randomBytes(lengthBytes: number): Uint8Array

  /** Releases ring, arena and listeners. Nothing may be in flight. */
  shutdown(): Promise<void>
}

/** One hot-path operation as a promise, for control code: `ioResult((c) => io.sync(f, c, 0))`. */
export function ioResult(start: (completion: IoCompletion) => void): Promise<number> {
  return new Promise((resolve) => {
    start({ ioComplete: (_tag, result) => resolve(result) })
  })
}
