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
import { FUSE_TYPE } from '../../base/mount-table.ts'
import type { Io } from '../../io/io.ts'
import type { FuseNative } from './fuse-native.ts'
import { createFuseNative, MOUNT_PATH_BYTES_MAX, OPTION_TEXT_BYTES_MAX } from './fuse-native.ts'
import { LibfuseCalls } from './libfuse-calls.ts'
import { MountEnd } from './mount-end.ts'
import {
  DEVICE,
  DEVICE_HINT,
  detach,
  mountedAt,
  namingOptions,
  prepareMountPoint,
} from './mount-point.ts'
import type { FileOperations } from './operations.ts'
import type { FuseMount, FuseMountOptions } from './transport.ts'

const DESCRIPTORS = '/proc/self/fd'
const WATCH_INTERVAL_MS = 500
/** While an unmount waits for the end. */
const CLOSE_WATCH_INTERVAL_MS = 5

class LibfuseMount implements FuseMount {
  readonly transport = 'fuse-native'
  readonly mountPath: string
  readonly #io: Io
  readonly #fuse: FuseNative
  readonly #calls: LibfuseCalls
  /** As a link in /proc/self/fd. */
  readonly #descriptor: string
  readonly #end: MountEnd
  #unmountingCount = 0
  #cancelWatch: () => void = () => undefined

  constructor(io: Io, fuse: FuseNative, calls: LibfuseCalls, descriptor: string, end: MountEnd) {
    this.#io = io
    this.mountPath = end.mountPath
    this.#fuse = fuse
    this.#calls = calls
    this.#descriptor = descriptor
    this.#end = end
    this.#watch()
  }

  onEnd(listener: (reason: string) => void): void {
    this.#end.onEnd(listener)
  }

  async unmount(force: boolean): Promise<void> {
    if (this.#end.isOver) return
    this.#unmountingCount += 1
    this.#watch()
    try {
      if (await this.#end.isOnTop()) await detach(this.mountPath, force)
      // Files still open keep a forced mount alive, as another mount namespace keeps any.
      if (force) await this.#abort()
      await this.#end.mustComeSoon()
    } finally {
      this.#unmountingCount -= 1
    }
  }

  async #abort(): Promise<void> {
    const connection = this.#end.deviceNumber?.split(':')[1] ?? ''
    try {
      await writeFile(`/sys/fs/fuse/connections/${connection}/abort`, '1')
    } catch {
      // Gone already, or /sys/fs/fuse/connections is not mounted: then we can only wait.
    }
  }

  #watch(): void {
    this.#cancelWatch()
    const delayMs = this.#unmountingCount > 0 ? CLOSE_WATCH_INTERVAL_MS : WATCH_INTERVAL_MS
    this.#cancelWatch = this.#io.setTimer(delayMs, () => void this.#look())
  }

  async #look(): Promise<void> {
    if (this.#end.isOver) return
    const isOutside = this.#unmountingCount === 0
    // Closed after the last of libfuse's threads has gone; a reply may still have to settle here.
    const isGone = !(await isDevice(this.#descriptor)) && this.#calls.isIdle
    if (isGone && isOutside) await this.#end.detachLeft()
    if (this.#end.isOver) return
    if (isGone) this.#finish(isOutside)
    else this.#watch()
  }

  #finish(isOutside: boolean): void {
    this.#cancelWatch()
    this.#calls.closeAll()
    this.#fuse.forget()
    const fact = `the filesystem at ${this.mountPath} was unmounted or its connection aborted`
    this.#end.end(isOutside ? fact : null)
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
    if ((await mountedAt(mountPath))?.type === FUSE_TYPE) await detach(mountPath, true)
    throw mountRefused(options, cause)
  }
  const descriptor = [...(await openDevices())].find((name) => !before.has(name))
  const { deviceNumber } = must(await mountedAt(mountPath), 'what was just mounted')
  const end = new MountEnd(io, mountPath, deviceNumber)
  return new LibfuseMount(io, fuse, calls, must(descriptor, "the mount's open device"), end)
}

function optionTextOf({ sourceName, allowOther }: FuseMountOptions): string {
  const words = [
    ...namingOptions(sourceName),
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
      hint: DEVICE_HINT,
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
