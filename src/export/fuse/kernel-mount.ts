/**
 * The kernel's own protocol as a transport: /dev/fuse through the ring, many requests in flight,
 * payload straight between the kernel and the arena. Needs io_uring; where it is not to be had
 * there is `libfuse-mount.ts`.
 */
import { writeFile } from 'node:fs/promises'
import { must } from '../../base/assert.ts'
import { Errno, OperatingError } from '../../base/errors.ts'
import { KIB } from '../../base/units.ts'
import type { Io } from '../../io/io.ts'
import type { MessageDevice, MessageOwner } from '../../io/messages.ts'
import { tryLoadBinding } from '../../native/binding.ts'
import type { SessionOwner } from './kernel-session.ts'
import { KernelSession } from './kernel-session.ts'
import { attach, detach, mountedAt, prepareMountPoint } from './mount-point.ts'
import type { FileOperations } from './operations.ts'
import { BODY_BYTES, REQUEST_HEADER_BYTES, Slots } from './slots.ts'
import type { FuseMount, FuseMountOptions } from './transport.ts'

/** The kernel asks at once; nothing else can be on the device before. */
const INIT_TIMEOUT_MS = 10_000
/** The kernel lets go of an unmounted filesystem at once, unless someone still holds it. */
const LET_GO_TIMEOUT_MS = 3_000
const LITTLE_ENDIAN: boolean = new Uint8Array(Uint16Array.of(1).buffer)[0] === 1

class KernelMount implements FuseMount, MessageOwner, SessionOwner {
  readonly transport = 'native'
  readonly mountPath: string
  readonly #io: Io
  readonly #slots: Slots
  readonly #session: KernelSession
  /** Of the mounted filesystem; null before. */
  #deviceNumber: string | null = null
  #device: MessageDevice | null = null
  #isOver = false
  #isUnmounting = false
  #reason: string | null = null
  #listener: ((reason: string) => void) | null = null
  readonly initialization: Promise<number>
  readonly #over: Promise<void>
  #onInitialized: (errno: number) => void = () => undefined
  #onOver: () => void = () => undefined

  constructor(io: Io, mountPath: string, slots: Slots, operations: FileOperations) {
    this.#io = io
    this.mountPath = mountPath
    this.#slots = slots
    this.#session = new KernelSession(slots, operations, this)
    this.initialization = new Promise((resolve) => (this.#onInitialized = resolve))
    this.#over = new Promise((resolve) => (this.#onOver = resolve))
  }

  async start(device: MessageDevice): Promise<void> {
    this.#device = device
    this.#deviceNumber = (await mountedAt(this.mountPath))?.deviceNumber ?? null
  }

  onEnd(listener: (reason: string) => void): void {
    this.#listener = listener
    if (this.#reason !== null) {
      const reason = this.#reason
      queueMicrotask(() => listener(reason))
    }
  }

  async unmount(force: boolean): Promise<void> {
    if (this.#isOver) return
    this.#isUnmounting = true
    try {
      if (force) await this.#endByForce()
      else await this.#endIfUnused()
    } finally {
      this.#isUnmounting = false
    }
  }

  takeSlot(): number {
    return this.#slots.take()
  }

  returnSlot(slot: number): void {
    this.#slots.giveBack(slot)
  }

  describeSlot(slot: number, pairs: Uint32Array): void {
    pairs[0] = this.#slots.requestOffset(slot)
    pairs[1] = REQUEST_HEADER_BYTES
    pairs[2] = this.#slots.bodyOffset(slot)
    pairs[3] = BODY_BYTES
  }

  message(slot: number, lengthBytes: number): void {
    this.#session.message(slot, lengthBytes)
  }

  sent(slot: number, result: number): void {
    this.#session.replied(slot, result)
  }

  reply(slot: number, pairs: Uint32Array, count: number): void {
    must(this.#device, 'the device').send(pairs, count, slot)
  }

  slotFreed(slot: number): void {
    this.#slots.giveBack(slot)
    this.#device?.resume()
  }

  initialized(errno: number): void {
    this.#onInitialized(errno)
  }

  failed(error: unknown): void {
    process.nextTick(() => {
      throw error
    })
  }

  ended(result: number): void {
    const isOutside = !this.#isUnmounting
    this.#device = null
    this.#onInitialized(result === 0 ? Errno.ENODEV : -result)
    this.#end(isOutside, result).catch((error: unknown) => this.failed(error))
  }

  async #end(isOutside: boolean, result: number): Promise<void> {
    await this.#session.end()
    this.#slots.close()
    // Of a connection that was aborted the mount stays, and gives whoever looks there errors.
    const isLeft = isOutside && (await this.#isOnTop())
    if (isLeft) await detach(this.mountPath, true).catch(() => undefined)
    this.#isOver = true
    this.#onOver()
    if (!isOutside) return
    const isUnmounted = !isLeft && (result === 0 || result === -Errno.ENODEV)
    const fact = isUnmounted ? 'was unmounted' : `was aborted (errno ${-result})`
    this.#reason = `the filesystem at ${this.mountPath} ${fact}`
    this.#listener?.(this.#reason)
  }

  /** Rejects `busy` while anything holds the filesystem, seen here or not. */
  async #endIfUnused(): Promise<void> {
    if (await this.#isOnTop()) await detach(this.mountPath, false)
    // Unmounted lazily by someone, hidden under another mount, or seen in another namespace: then
    // files may be open that no folder of ours leads to.
    if (await this.#isOverWithin(LET_GO_TIMEOUT_MS)) return
    throw new OperatingError('busy', `something still holds the files of ${this.mountPath}`, {
      hint: 'It is unmounted, and goes when they are closed.',
    })
  }

  /** Closing the device gives errors to whoever still has files open. */
  async #endByForce(): Promise<void> {
    try {
      if (await this.#isOnTop()) await detach(this.mountPath, true)
    } finally {
      this.#device?.close()
      await this.#over
    }
  }

  /** Whether the mount at our path is ours: nobody else's is taken away. */
  async #isOnTop(): Promise<boolean> {
    const mounted = await mountedAt(this.mountPath)
    return mounted !== null && mounted.deviceNumber === this.#deviceNumber
  }

  async #isOverWithin(timeoutMs: number): Promise<boolean> {
    let cancel = (): void => undefined
    const late = new Promise<void>((resolve) => (cancel = this.#io.setTimer(timeoutMs, resolve)))
    await Promise.race([this.#over, late])
    cancel()
    return this.#isOver
  }
}

/** See `StartFuseMount`. */
export async function startKernelMount(
  operations: FileOperations,
  options: FuseMountOptions,
): Promise<FuseMount> {
  const { io } = options
  const binding = tryLoadBinding()
  if (binding === null || io.kind !== 'ring' || !LITTLE_ENDIAN) {
    throw new OperatingError('unsupported', 'the native FUSE transport needs io_uring', {
      hint: 'Use --fuse-transport fuse-native, which is slower, or allow io_uring.',
    })
  }
  const mountPath = await prepareMountPoint(options.mountPath)
  const slots = Slots.tryOpen(io.arena)
  if (slots === null) {
    throw new OperatingError('busy', 'no memory is left for another FUSE mount', {
      hint: 'One mount shows the whole pool.',
    })
  }
  const mount = new KernelMount(io, mountPath, slots, operations)
  let fd: number
  try {
    fd = await attach(binding, { ...options, mountPath })
  } catch (error) {
    slots.close()
    throw error
  }
  await mount.start(must(io.openMessages(fd, mount), 'messages through the ring'))
  const errno = await initialized(mount, io)
  if (errno !== 0) {
    await mount.unmount(true)
    throw new OperatingError('unsupported', 'this kernel and varve share no FUSE protocol', {
      errno,
      hint: 'Linux 4.20 or later is needed, or --fuse-transport fuse-native.',
    })
  }
  await raiseReadahead(mountPath)
  return mount
}

/** 0, or why the kernel and we did not come to terms. */
async function initialized(mount: KernelMount, io: Io): Promise<number> {
  const ETIMEDOUT = 110
  let cancel = (): void => undefined
  const late = new Promise<number>((resolve) => {
    cancel = io.setTimer(INIT_TIMEOUT_MS, () => resolve(ETIMEDOUT))
  })
  const errno = await Promise.race([mount.initialization, late])
  cancel()
  return errno
}

/**
 * A reader in order is read ahead by whole requests instead of 128 KiB, where we may say so. Only
 * speed hangs on it.
 */
async function raiseReadahead(mountPath: string): Promise<void> {
  const mounted = await mountedAt(mountPath)
  if (mounted === null) return
  const path = `/sys/class/bdi/${mounted.deviceNumber}/read_ahead_kb`
  await writeFile(path, String(BODY_BYTES / KIB)).catch(() => undefined)
}
