/**
 * The one loader of the addon, and the one description of what it offers. Every function that can
 * fail in the kernel returns a negative Linux errno; none retries. Memory is named by Buffer or
 * typed array, files by descriptor, offsets are bytes.
 */
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { constants } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Checksum } from '../base/checksum.ts'

/** Opaque: an io_uring with its arrays. */
export type RingHandle = object & { readonly brand: 'ring' }

/** Opaque: memory of another process, mapped. */
export type MappingHandle = object & { readonly brand: 'mapping' }

/** The arrays shared with the addon; `src/io/ring.ts` says what each word means. */
export interface RingArrays {
  header: Int32Array
  operations: Int32Array
  fileOffsets: Float64Array
  pairs: Uint32Array
  done: Int32Array
}

/** Checksums are those of `base/checksum.ts`. */
export interface Binding extends Checksum {
  // Memory.
  /** Maps zeroed, page-aligned memory that is not touched until used. Throws when refused. */
  arenaCreate(sizeBytes: number): Buffer

  // Frames of lz4 (codec 1) and zstd (2); see `base/codec.ts`. What lies outside a memory, is over
  // 64 KiB a frame or overlaps its target is a RangeError.
  codecDecode(
    codec: number,
    source: Uint8Array,
    sourceOffset: number,
    sourceBytes: number,
    target: Uint8Array,
    targetOffset: number,
    rawBytes: number,
  ): boolean
  /** On a thread of our own at a low priority. Resolves to the stored bytes, or -ENOMEM. */
  codecEncode(
    codec: number,
    source: Uint8Array,
    sourceOffset: number,
    totalBytes: number,
    frameBytes: number,
    target: Uint8Array,
    targetOffset: number,
    lengths: Uint32Array,
  ): Promise<number>
  /** Whether jobs begun from now on run only when nobody else wants the processor. */
  codecGentle(isGentle: boolean): void
  /** The same at once, on this thread. */
  codecEncodeInline(
    codec: number,
    source: Uint8Array,
    sourceOffset: number,
    totalBytes: number,
    frameBytes: number,
    target: Uint8Array,
    targetOffset: number,
    lengths: Uint32Array,
  ): number

  // Ring.
  /**
   * `turn(count)` is called with `count` pairs (slot, result) in `done`, at most `burstTurnsMax`
   * times before the event loop is given a round. Or -errno.
   */
  ringCreate(
    arena: Buffer,
    arrays: RingArrays,
    turn: (count: number) => void,
    burstTurnsMax: number,
  ): RingHandle | number
  /** Starts a turn in this round of the event loop. */
  ringSchedule(ring: RingHandle): void
  /** Submits what is queued and waits for nothing. Returns how many are still queued, or -errno. */
  ringSubmit(ring: RingHandle): number
  ringClose(ring: RingHandle): void
  /** One pwritev of `pairs` from pair `pairIndex` on, less `skipBytes` of the first. */
  ringWrite(
    ring: RingHandle,
    fd: number,
    offsetBytes: number,
    pairs: Uint32Array,
    pairIndex: number,
    pairCount: number,
    skipBytes: number,
  ): number

  /**
   * Reads messages of a nonblocking descriptor, one readv each, into two pieces of `pairs` each,
   * until one fails. Returns how many came, at most `count`; `results` has their bytes, and behind
   * them the -errno of the one that failed.
   */
  ringTake(
    ring: RingHandle,
    fd: number,
    pairs: Uint32Array,
    count: number,
    results: Int32Array,
  ): number

  // Sockets; all blocking and close-on-exec.
  /** Binds, sets the mode (-1: leave it), then listens. */
  listenUnix(path: string, mode: number): number
  /** `host` is a numeric address. */
  listenTcp(host: string, port: number): number
  connectUnix(path: string): number
  socketPort(fd: number): number
  /** Sets TCP_NODELAY where it applies. Returns `unix`, `address:port`, or -errno. */
  socketPeer(fd: number): string | number
  socketShutdown(fd: number): number
  /** Process, user and group of a unix socket's peer into `out[0…2]`. */
  peerCredentials(fd: number, out: Int32Array): number

  // Files.
  closeFd(fd: number): number
  /** Runs fallocate(2) on a thread. */
  fallocate(fd: number, mode: number, offsetBytes: number, lengthBytes: number): Promise<number>
  /** Exclusive, of the whole file, bound to the open file: 0, or -EAGAIN when another holds it. */
  lockFile(fd: number): number
  /** lseek(2) with SEEK_DATA (3) or SEEK_HOLE (4). */
  seek(fd: number, offsetBytes: number, whence: number): number

  // Mounting. Strings longer than a path, or with a NUL in them, are -EINVAL.
  /** Opens a device for reading and writing: nonblocking, close-on-exec. */
  openDevice(path: string): number
  /** mount(2), always nosuid and nodev. Resolving `target` must not lead through our own mount. */
  mountFilesystem(source: string, target: string, type: string, options: string): number
  /** Two connected stream sockets into `out[0]` and `out[1]`. */
  socketPair(out: Int32Array): number
  /** The descriptor that came in the next message, close-on-exec; -EAGAIN when none is there. */
  receiveDescriptor(fd: number): number
  setNonblocking(fd: number): number
  /** Marks this thread, and those it makes, as below a filesystem: prctl(PR_SET_IO_FLUSHER). */
  setIoFlusher(): number

  // Memory shared with another process; `native/shared.c` says how a file that shrinks is survived.
  /**
   * Maps part of a memory file for reading and writing: -EMEDIUMTYPE for any other file,
   * -EOVERFLOW where the file is shorter.
   */
  sharedMap(fd: number, offsetBytes: number, sizeBytes: number): MappingHandle | number
  /** A small part of a mapping, as it is. */
  sharedWindow(mapping: MappingHandle, offsetBytes: number, lengthBytes: number): ArrayBuffer
  /** Lets go of a window, which is empty from then on. */
  sharedDetach(mapping: MappingHandle, window: ArrayBuffer): void
  /** Its windows have been detached; nothing but `sharedIsBroken` is asked of it from then on. */
  sharedUnmap(mapping: MappingHandle): void
  /** Copies out of a mapping. Throws RangeError when it or `target` is left. */
  sharedRead(
    mapping: MappingHandle,
    offsetBytes: number,
    target: Uint8Array,
    targetOffset: number,
    lengthBytes: number,
  ): void
  /**
   * Copies `count` pieces out of a mapping: three numbers each, its offset in the mapping, that in
   * `target`, and its bytes. Throws RangeError, and copies nothing, when one leaves either.
   */
  sharedReadPieces(
    mapping: MappingHandle,
    pieces: Float64Array,
    count: number,
    target: Uint8Array,
  ): void
  sharedWritePieces(
    mapping: MappingHandle,
    pieces: Float64Array,
    count: number,
    source: Uint8Array,
  ): void
  /** The file was shortened: zeros of our own have taken its place. */
  sharedIsBroken(mapping: MappingHandle): boolean
  /** A memory file of a size that nobody can change. */
  sharedCreate(sizeBytes: number): number

  // Descriptors over unix sockets, and events; none of these waits.
  /**
   * Receives bytes, 0 at the end, and `fds[0]` descriptors in `fds[1…]`, close-on-exec. -EMSGSIZE,
   * all of them closed, when there are more than fit, 64 at most.
   */
  descriptorsReceive(
    socket: number,
    bytes: Uint8Array,
    offsetBytes: number,
    lengthBytes: number,
    fds: Int32Array,
  ): number
  /** Sends bytes, perhaps not all, and with the first one all of `fds`. */
  descriptorsSend(
    socket: number,
    bytes: Uint8Array,
    offsetBytes: number,
    lengthBytes: number,
    fds: Int32Array,
  ): number
  /** A nonblocking eventfd. */
  eventCreate(): number
  /** 1 for an eventfd, 0 for anything else. */
  eventIs(fd: number): number
}

interface Loaded {
  binding: Binding | null
  reason: string | null
}

let loaded: Loaded | null = null

/** The nearest folder above this file whose package.json is ours. */
function packageRoot(): string | null {
  const require = createRequire(import.meta.url)
  let folder = dirname(fileURLToPath(import.meta.url))
  for (;;) {
    const manifest = join(folder, 'package.json')
    if (existsSync(manifest)) {
      const { name } = require(manifest) as { name?: unknown }
      if (name === 'varve') return folder
    }
    const parent = dirname(folder)
    if (parent === folder) return null
    folder = parent
  }
}

/**
 * As `require` does it, but the addon's libraries look for their functions in themselves first:
 * newer Nodes export another zstd of their own, and one half of each would corrupt memory.
 */
function open(path: string): Binding {
  // A C library that cannot do it leaves the constant undefined.
  const { RTLD_NOW, RTLD_DEEPBIND }: Partial<typeof constants.dlopen> = constants.dlopen
  const flags = (RTLD_NOW ?? 0) | (RTLD_DEEPBIND ?? 0)
  const module: { exports: unknown } = { exports: {} }
  process.dlopen(module, path, flags)
  return module.exports as Binding
}

function load(): Loaded {
  const root = packageRoot()
  if (root === null) return { binding: null, reason: 'the package folder was not found' }
  const path = join(root, 'native', 'build', 'varve.node')
  if (!existsSync(path)) {
    return { binding: null, reason: `${path} is missing; tools/build-native builds it` }
  }
  try {
    return { binding: open(path), reason: null }
  } catch (error) {
    return { binding: null, reason: error instanceof Error ? error.message : String(error) }
  }
}

/** The addon, or null where it is not built or does not load. Tried once a process. */
export function tryLoadBinding(): Binding | null {
  loaded ??= load()
  return loaded.binding
}

/** Why {@link tryLoadBinding} answers null; null when it does not. */
export function bindingMissingReason(): string | null {
  loaded ??= load()
  return loaded.reason
}
