/**
 * The package `fuse-native` as we use it: loaded only when asked for, typed by hand, and with its
 * faults of version 2.2.6 kept away from us. They are, as its source has them:
 *
 * - Options are a fixed list, joined unescaped; `big_writes`, `hard_remove`, `use_ino` and timeouts
 *   of 0 are not among them. We write the option text ourselves.
 * - `unmount` puts the path into a shell's command line, and is always lazy. We unmount.
 * - The reply to an extended attribute that does not fit the caller's memory names more bytes than
 *   there are. We answer ERANGE.
 * - `utimens` is told the access time twice. The other is read from the call's own structure.
 * - Every call is answered with ETIMEDOUT after 15 s while it goes on using the caller's memory.
 *   Our calls have no time limit: disks answer, if only with an error.
 *
 * All this lives in members that are not its interface, so package.json names the version exactly.
 */
import { createRequire } from 'node:module'
import { Errno, OperatingError } from '../../base/errors.ts'

/** 0, a count of bytes, or -errno. */
export type Reply = (result: number) => void

export interface LibfuseStat {
  mode: number
  uid: number
  gid: number
  nlink: number
  /** 32 bits arrive. */
  ino: number
  size: number
  /** Of 512 bytes. */
  blocks: number
  blksize: number
  /** Milliseconds. */
  atime: number
  mtime: number
  ctime: number
}

/** All fields arrive as 32 bits. */
export interface LibfuseSpace {
  bsize: number
  frsize: number
  blocks: number
  bfree: number
  bavail: number
  files: number
  ffree: number
  favail: number
  namemax: number
}

/**
 * What libfuse calls, on the thread of the event loop, while one of its own threads waits for the
 * reply. Paths begin with "/", the root of the mount. A buffer is libfuse's memory: it may be used
 * until the reply and not after. None of these may throw.
 */
export interface LibfuseCallbacks {
  getattr(path: string, reply: (result: number, stat?: LibfuseStat) => void): void
  /** Names and their stats, of which mode and ino are used; "." and ".." among them. */
  readdir(
    path: string,
    reply: (result: number, names?: string[], stats?: LibfuseStat[]) => void,
  ): void
  statfs(path: string, reply: (result: number, space?: LibfuseSpace) => void): void
  open(path: string, flags: number, reply: (result: number, handle?: number) => void): void
  create(path: string, mode: number, reply: (result: number, handle?: number) => void): void
  read(
    path: string,
    handle: number,
    buffer: Buffer,
    lengthBytes: number,
    offsetBytes: number,
    reply: Reply,
  ): void
  write(
    path: string,
    handle: number,
    buffer: Buffer,
    lengthBytes: number,
    offsetBytes: number,
    reply: Reply,
  ): void
  fsync(path: string, isDataOnly: number, handle: number, reply: Reply): void
  release(path: string, handle: number, reply: Reply): void
  truncate(path: string, sizeBytes: number, reply: Reply): void
  ftruncate(path: string, handle: number, sizeBytes: number, reply: Reply): void
  /** Milliseconds. */
  utimens(path: string, accessedMs: number, modifiedMs: number, reply: Reply): void
  chmod(path: string, mode: number, reply: Reply): void
  /** 2^32 - 1 stands for unchanged. */
  chown(path: string, userId: number, groupId: number, reply: Reply): void
  unlink(path: string, reply: Reply): void
  mkdir(path: string, mode: number, reply: Reply): void
  rmdir(path: string, reply: Reply): void
  rename(path: string, newPath: string, reply: Reply): void
  mknod(path: string, mode: number, device: number, reply: Reply): void
  link(path: string, newPath: string, reply: Reply): void
  symlink(target: string, path: string, reply: Reply): void
  getxattr(path: string, name: string, reply: XattrReply): void
  listxattr(path: string, reply: XattrReply): void
  setxattr(
    path: string,
    name: string,
    value: Buffer,
    position: number,
    flags: number,
    reply: Reply,
  ): void
  removexattr(path: string, name: string, reply: Reply): void
}

/** The whole value, whatever room there is for it. */
export type XattrReply = (result: number, value?: Buffer) => void

/** One mount, not yet made. */
export interface FuseNative {
  /** Resolves when the kernel has said hello. Rejects with an Error of few words. */
  mount(): Promise<void>
  /** After the mount has gone, however it went: no longer keeps the process alive. */
  forget(): void
}

type Signal = (result: number, ...rest: unknown[]) => void
type Handler = (call: Buffer, opcode: number, ...rest: never[]) => void

interface FuseInstance {
  mount(callback: (error: Error | null) => void): void
  close(callback: (error: Error | null) => void): void
  _fuseOptions: () => string
  _op_getxattr: (signal: Signal, path: string, name: string, room: Buffer) => void
  _op_listxattr: (signal: Signal, path: string, room: Buffer) => void
  _handlers: Handler[]
}

interface FuseClass {
  new (mountPath: string, callbacks: LibfuseCallbacks, options: { timeout: false }): FuseInstance
  unmount: (mountPath: string, callback: (error: Error | null) => void) => void
}

/** Index of utimens among the handlers, as fuse-native.c numbers them. */
const UTIMENS = 12
/**
 * Where a call's structure (fuse_thread_locals_t, which begins every handler's arguments) has the
 * two times of utimens, in milliseconds, where pointers are 8 bytes.
 */
const CALL_ACCESSED_OFFSET = 104
const CALL_MODIFIED_OFFSET = 112
/** What `-o` and all options may take: fuse-native cuts longer text without a word. */
export const OPTION_TEXT_BYTES_MAX = 1023
export const MOUNT_PATH_BYTES_MAX = 1023

/**
 * `optionText`: libfuse's options, joined by commas. Throws OperatingError `unsupported` when the
 * package or libfuse cannot be loaded.
 */
export function createFuseNative(
  mountPath: string,
  optionText: string,
  callbacks: LibfuseCallbacks,
): FuseNative {
  const Fuse = loadFuseClass()
  const fuse = new Fuse(mountPath, callbacks, { timeout: false })
  fuse._fuseOptions = () => `-o${optionText}`
  fuse._op_getxattr = (signal, path, name, room) => {
    callbacks.getxattr(path, name, fittingReply(signal, room))
  }
  fuse._op_listxattr = (signal, path, room) => callbacks.listxattr(path, fittingReply(signal, room))
  const utimens = fuse._handlers[UTIMENS]
  fuse._handlers[UTIMENS] = (call: Buffer, opcode: number, ...rest: unknown[]) => {
    utimens(call, opcode, ...(withModifiedTime(call, rest) as never[]))
  }
  return {
    mount: () => settled((callback) => fuse.mount(callback)),
    forget: () => fuse.close(() => undefined),
  }
}

function loadFuseClass(): FuseClass {
  let Fuse: FuseClass
  try {
    Fuse = createRequire(import.meta.url)('fuse-native') as FuseClass
  } catch (cause) {
    const fact = cause instanceof Error ? cause.message.split('\n')[0] : String(cause)
    throw new OperatingError('unsupported', `fuse-native cannot be loaded: ${fact}`, {
      cause,
      hint: fact.includes('libfuse.so.2')
        ? 'Install libfuse 2 (apt-get install libfuse2), or use --fuse-transport native.'
        : 'Use --fuse-transport native.',
    })
  }
  // What `close` does first; by then we have unmounted in our own way.
  Fuse.unmount = (_mountPath, callback) => callback(null)
  return Fuse
}

/** `room` of no bytes asks how much is needed. */
function fittingReply(signal: Signal, room: Buffer): XattrReply {
  const { buffer } = room
  return (result, value) => {
    if (value === undefined || result < 0) return signal(result, buffer)
    if (room.length > 0 && value.length > room.length) return signal(-Errno.ERANGE, buffer)
    value.copy(room)
    signal(value.length, buffer)
  }
}

/** (path, two halves of the access time, two of the modification time) with the latter right. */
function withModifiedTime(call: Buffer, rest: readonly unknown[]): unknown[] {
  const [path, accessedLow, accessedHigh] = rest as [string, number, number]
  const isAsExpected =
    call.length >= CALL_MODIFIED_OFFSET + 8 &&
    call.readUInt32LE(CALL_ACCESSED_OFFSET) === accessedLow &&
    call.readUInt32LE(CALL_ACCESSED_OFFSET + 4) === accessedHigh
  // Past every time there is: refused, rather than a wrong time taken.
  if (!isAsExpected) return [path, accessedLow, accessedHigh, 0, 0xffffffff]
  const low = call.readUInt32LE(CALL_MODIFIED_OFFSET)
  return [path, accessedLow, accessedHigh, low, call.readUInt32LE(CALL_MODIFIED_OFFSET + 4)]
}

function settled(start: (callback: (error: Error | null) => void) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    start((error) => {
      if (error === null || error === undefined) resolve()
      else reject(error)
    })
  })
}
