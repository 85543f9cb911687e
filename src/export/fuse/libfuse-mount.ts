/**
 * libfuse 2 as a transport, through the package fuse-native: works without io_uring, one copy and
 * one thread more for every call. libfuse's threads wait for the event loop, which never waits for
 * them; what it does itself (mounting, looking after the mount) touches no file inside the mount.
 *
 * libfuse ends its threads and closes the device when the kernel has let go of the filesystem,
 * and tells nobody; so the mount's device is looked at from time to time.
 */
import { access, readdir, readlink, writeFile } from 'node:fs/promises'
import { must } from '../../base/assert.ts'
import { OperatingError } from '../../base/errors.ts'
import type { Io } from '../../io/io.ts'
import type { FuseNative } from './fuse-native.ts'
import { createFuseNative, MOUNT_PATH_BYTES_MAX, OPTION_TEXT_BYTES_MAX } from './fuse-native.ts'
import { LibfuseCalls } from './libfuse-calls.ts'
import { detach, FILESYSTEM_TYPE, mountedAt, prepareMountPoint } from './mount-point.ts'
import type { FileOperations } from './operations.ts'
import type { FuseMount, FuseMountOptions } from './transport.ts'

const DEVICE = '/dev/fuse'
const DESCRIPTORS = '/proc/self/fd'
const WATCH_INTERVAL_MS = 500
/** While an unmount waits for the end. */
const CLOSE_WATCH_INTERVAL_MS = 5
/** The kernel lets go of an unmounted filesystem at once, unless someone still holds it. */
const LET_GO_TIMEOUT_MS = 3_000

class LibfuseMount implements FuseMount {
  readonly transport = 'fuse-native'
  readonly mountPath: string
  readonly #io: Io
  readonly #fuse: FuseNative
  readonly #calls: LibfuseCalls
  /** As a link in /proc/self/fd. */
  readonly #descriptor: string
  /** Of the mounted filesystem, "0:NUMBER". */
  readonly #deviceNumber: string
  readonly #over: Promise<void>
  #onOver: () => void = () => undefined
  #isOver = false
  #unmountingCount = 0
  #cancelWatch: () => void = () => undefined
  #reason: string | null = null
  #listener: ((reason: string) => void) | null = null

  constructor(
    io: Io,
    mountPath: string,
    fuse: FuseNative,
    calls: LibfuseCalls,
    descriptor: string,
    deviceNumber: string,
  ) {
    this.#io = io
    this.mountPath = mountPath
    this.#fuse = fuse
    this.#calls = calls
    this.#descriptor = descriptor
    this.#deviceNumber = deviceNumber
    this.#over = new Promise((resolve) => (this.#onOver = resolve))
    this.#watch()
  }

  onEnd(listener: (reason: string) => void): void {
    this.#listener = listener
    if (this.#reason === null) return
    const reason = this.#reason
    queueMicrotask(() => listener(reason))
  }

  async unmount(force: boolean): Promise<void> {
    if (this.#isOver) return
    this.#unmountingCount += 1
    this.#watch()
    try {
      if (await this.#isOnTop()) await detach(this.mountPath, force)
      // Files still open keep a forced mount alive, as another mount namespace keeps any.
      if (force) await this.#abort()
      if (await this.#isOverWithin(LET_GO_TIMEOUT_MS)) return
      throw new OperatingError('busy', `something still holds the files of ${this.mountPath}`, {
        hint: 'It is unmounted, and goes when they are closed.',
      })
    } finally {
      this.#unmountingCount -= 1
    }
  }

  async #abort(): Promise<void> {
    const [, connection] = this.#deviceNumber.split(':')
    try {
      await writeFile(`/sys/fs/fuse/connections/${connection}/abort`, '1')
    } catch {
      // Gone already, or /sys/fs/fuse/connections is not mounted: then we can only wait.
    }
  }

  async #isOverWithin(timeoutMs: number): Promise<boolean> {
    let cancel = (): void => undefined
    const late = new Promise<void>((resolve) => (cancel = this.#io.setTimer(timeoutMs, resolve)))
    await Promise.race([this.#over, late])
    cancel()
    return this.#isOver
  }

  #watch(): void {
    this.#cancelWatch()
    const delayMs = this.#unmountingCount > 0 ? CLOSE_WATCH_INTERVAL_MS : WATCH_INTERVAL_MS
    this.#cancelWatch = this.#io.setTimer(delayMs, () => void this.#look())
  }

  async #look(): Promise<void> {
    if (this.#isOver) return
    const isOutside = this.#unmountingCount === 0
    // Closed after the last of libfuse's threads has gone; a reply may still have to settle here.
    const isGone = !(await isDevice(this.#descriptor)) && this.#calls.isIdle
    if (isGone && isOutside && (await this.#isOnTop())) {
      // Of a connection that was aborted the mount stays, and gives whoever looks there errors.
      await detach(this.mountPath, true).catch(() => undefined)
    }
    if (this.#isOver) return
    if (isGone) this.#end(isOutside)
    else this.#watch()
  }

  /** Whether the mount at our path is ours: nobody else's is taken away. */
  async #isOnTop(): Promise<boolean> {
    return (await mountedAt(this.mountPath))?.deviceNumber === this.#deviceNumber
  }

  #end(isOutside: boolean): void {
    this.#isOver = true
    this.#cancelWatch()
    this.#calls.closeAll()
    this.#fuse.forget()
    this.#onOver()
    if (!isOutside) return
    this.#reason = `the filesystem at ${this.mountPath} was unmounted or its connection aborted`
    this.#listener?.(this.#reason)
  }
}

/** See `StartFuseMount`. */
export async function startLibfuseMount(
  operations: FileOperations,
  options: FuseMountOptions,
): Promise<FuseMount> {
  const { io } = options
  const mountPath = await prepareMountPoint(options.mountPath)
  const optionText = optionTextOf(options)
  verifyLengths(mountPath, optionText)
  await verifyDevice()
  const calls = new LibfuseCalls(operations, io.arena)
  const fuse = createFuseNative(mountPath, optionText, calls)
  const before = await openDevices()
  try {
    await fuse.mount()
  } catch (cause) {
    // libfuse may have mounted before it failed; whoever looked there would wait for ever.
    if ((await mountedAt(mountPath))?.type === FILESYSTEM_TYPE) await detach(mountPath, true)
    throw mountRefused(options, cause)
  }
  const descriptor = [...(await openDevices())].find((name) => !before.has(name))
  const { deviceNumber } = must(await mountedAt(mountPath), 'what was just mounted')
  return new LibfuseMount(
    io,
    mountPath,
    fuse,
    calls,
    must(descriptor, "the mount's open device"),
    deviceNumber,
  )
}

function optionTextOf({ sourceName, allowOther }: FuseMountOptions): string {
  const words = [
    // libfuse's way to have a comma in an option.
    `fsname=${sourceName.replace(/[\\,]/g, '\\$&')}`,
    'subtype=varve',
    'default_permissions',
    // Without it, removing an open file renames it instead, to a name libfuse makes up.
    'hard_remove',
    'use_ino',
    // Writes of 128 KiB; without it, of 4 KiB.
    'big_writes',
    'attr_timeout=0',
    'entry_timeout=0',
    'negative_timeout=0',
    'ac_attr_timeout=0',
  ]
  if (allowOther) words.push('allow_other')
  return words.join(',')
}

function verifyLengths(mountPath: string, optionText: string): void {
  if (Buffer.byteLength(mountPath) > MOUNT_PATH_BYTES_MAX) {
    throw new OperatingError('usage', 'the path to mount at is too long for libfuse', {
      hint: 'Use --fuse-transport native, or a shorter path.',
    })
  }
  if (Buffer.byteLength(optionText) + '-o'.length > OPTION_TEXT_BYTES_MAX) {
    throw new OperatingError('usage', "the pool's path is too long for libfuse's mount options", {
      hint: 'Use --fuse-transport native, or a shorter path.',
    })
  }
}

async function verifyDevice(): Promise<void> {
  try {
    await access(DEVICE)
  } catch (cause) {
    throw new OperatingError('unsupported', `${DEVICE} is not there`, {
      hint: 'Load the kernel module with `modprobe fuse`; a container needs --device /dev/fuse.',
      cause,
    })
  }
}

function mountRefused(options: FuseMountOptions, cause: unknown): OperatingError {
  const fact = cause instanceof Error ? cause.message : String(cause)
  return new OperatingError('io', `cannot mount at ${options.mountPath}: ${fact}`, {
    hint: options.allowOther
      ? 'The line above is libfuse’s. --allow-other needs root, or user_allow_other in fuse.conf.'
      : 'The line above is libfuse’s. The folder must be empty and no mount point itself.',
    cause,
  })
}

/** Descriptors of this process that are open FUSE devices. */
async function openDevices(): Promise<Set<string>> {
  const found = new Set<string>()
  for (const name of await readdir(DESCRIPTORS)) {
    if (await isDevice(name)) found.add(name)
  }
  return found
}

/** Reads a link in /proc, which asks no filesystem. */
async function isDevice(descriptor: string): Promise<boolean> {
  try {
    return (await readlink(`${DESCRIPTORS}/${descriptor}`)) === DEVICE
  } catch {
    return false
  }
}
