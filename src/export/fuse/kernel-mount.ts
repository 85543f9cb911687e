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
import { MountEnd } from './mount-end.ts'
import { attach, detach, mountedAt, prepareMountPoint } from './mount-point.ts'
import type { FileOperations } from './operations.ts'
import { BODY_BYTES, Slots } from './slots.ts'
import type { FuseMount, FuseMountOptions } from './transport.ts'

/** The kernel asks at once; nothing else can be on the device before. */
const INIT_TIMEOUT_MS = 10_000
const LITTLE_ENDIAN: boolean = new Uint8Array(Uint16Array.of(1).buffer)[0] === 1

class KernelMount implements FuseMount, MessageOwner, SessionOwner {
  readonly transport = 'native'
  readonly mountPath: string
  readonly #slots: Slots
  readonly #session: KernelSession
  readonly #end: MountEnd
  #device: MessageDevice | null = null
  #isUnmounting = false
  readonly initialization: Promise<number>
  #onInitialized: (errno: number) => void = () => undefined

  constructor(slots: Slots, operations: FileOperations, end: MountEnd) {
    this.mountPath = end.mountPath
    this.#slots = slots
    this.#session = new KernelSession(slots, operations, this)
    this.#end = end
    this.initialization = new Promise((resolve) => (this.#onInitialized = resolve))
  }

  start(device: MessageDevice): void {
    this.#device = device
  }

  onEnd(listener: (reason: string) => void): void {
    this.#end.onEnd(listener)
  }

  async unmount(force: boolean): Promise<void> {
    if (this.#end.isOver) return
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
    this.#slots.describe(slot, pairs)
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
    this.#finish(isOutside, result).catch((error: unknown) => this.failed(error))
  }

  async #finish(isOutside: boolean, result: number): Promise<void> {
    await this.#session.end()
    this.#slots.close()
    if (!isOutside) {
      this.#end.end(null)
      return
    }
    const isLeft = await this.#end.detachLeft()
    const isUnmounted = !isLeft && (result === 0 || result === -Errno.ENODEV)
    const fact = isUnmounted ? 'was unmounted' : `was aborted (errno ${-result})`
    this.#end.end(`the filesystem at ${this.mountPath} ${fact}`)
  }

  async #endIfUnused(): Promise<void> {
    if (await this.#end.isOnTop()) await detach(this.mountPath, false)
    await this.#end.mustComeSoon()
  }

  /** Closing the device gives errors to whoever still has files open. */
  async #endByForce(): Promise<void> {
    try {
      if (await this.#end.isOnTop()) await detach(this.mountPath, true)
    } finally {
      this.#device?.close()
      await this.#end.over
    }
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
  let fd: number
  try {
    fd = await attach(binding, { ...options, mountPath })
  } catch (error) {
    slots.close()
    throw error
  }
  const deviceNumber = (await mountedAt(mountPath))?.deviceNumber ?? null
  const end = new MountEnd(io, mountPath, deviceNumber)
  const mount = new KernelMount(slots, operations, end)
  mount.start(must(io.openMessages(fd, mount), 'messages through the ring'))
  const errno = await initialized(mount, io)
  if (errno !== 0) {
    await mount.unmount(true)
    throw new OperatingError('unsupported', 'this kernel and varve share no FUSE protocol', {
      errno,
      hint: 'Linux 4.20 or later is needed, or --fuse-transport fuse-native.',
    })
  }
  if (deviceNumber !== null) await raiseReadahead(deviceNumber)
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
async function raiseReadahead(deviceNumber: string): Promise<void> {
  const path = `/sys/class/bdi/${deviceNumber}/read_ahead_kb`
  await writeFile(path, String(BODY_BYTES / KIB)).catch(() => undefined)
}
