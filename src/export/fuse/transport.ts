/**
 * What a transport is: it mounts a filesystem and carries the kernel's calls to it. There are two,
 * the kernel's own protocol over /dev/fuse (`native`) and libfuse (`fuse-native`); one conformance
 * suite runs on both. What each cannot do is in docs/decisions/2026-11-22-fuse-transports.md.
 *
 * The thread that serves must never make a blocking call on a path inside its own mount: it would
 * wait for itself. That goes for `node:fs` as well, whose asynchronous calls block one of a few
 * threads that the transport may need.
 */
import type { Io } from '../../io/io.ts'
import type { FileOperations } from './operations.ts'

export type FuseTransportName = 'native' | 'fuse-native'

export interface FuseMountOptions {
  /** Absolute; an existing folder. */
  mountPath: string
  /** What `mount` and `df` show as the source: the pool's path. */
  sourceName: string
  /** Let every user in, not only the one who mounts; the kernel then checks permission bits. */
  allowOther: boolean
  io: Io
}

export interface FuseMount {
  readonly transport: FuseTransportName
  readonly mountPath: string
  /**
   * `listener` is told once, with the reason in a sentence, when the mount ends by something other
   * than `unmount`: from outside, or because it broke. Later, when it has ended before. Nothing
   * is in flight on the filesystem then.
   */
  onEnd(listener: (reason: string) => void): void
  /**
   * Unmounts; rejects `busy` when files are open or it is some process's folder. With `force` it
   * disappears at once, and what is still open gets errors. Resolves when nothing is in flight on
   * the filesystem and everything open in it is closed. Idempotent.
   */
  unmount(force: boolean): Promise<void>
}

/**
 * How a transport is started. Rejects with OperatingError: `unsupported` with what the host lacks,
 * `not-found` or `usage` for the folder, `busy` when something of ours is mounted there.
 */
export type StartFuseMount = (
  operations: FileOperations,
  options: FuseMountOptions,
) => Promise<FuseMount>
