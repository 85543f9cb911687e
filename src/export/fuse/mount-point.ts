/**
 * Attaching /dev/fuse to a folder and detaching it: by mount(2) as root, else by fusermount3, which
 * is setuid and passes the device's descriptor back over a socket (libfuse's `fusermount.c`).
 */
import { spawn } from 'node:child_process'
import { constants } from 'node:fs'
import { open, readFile, readlink, realpath, stat } from 'node:fs/promises'
import type { FileHandle } from 'node:fs/promises'
import { Errno, OperatingError } from '../../base/errors.ts'
import { runHostTool, toolEnvironment } from '../../base/host-tool.ts'
import type { ToolResult } from '../../base/host-tool.ts'
import type { MountEntry } from '../../base/mount-table.ts'
import { FUSE_TYPE, mountOf, parseMountTable, topMount } from '../../base/mount-table.ts'
import type { Binding } from '../../native/binding.ts'
import { BODY_BYTES } from './slots.ts'
import type { FuseMountOptions } from './transport.ts'

export const DEVICE = '/dev/fuse'
/** From fcntl.h: Node does not have it. */
const O_PATH = 0o10000000
export const DEVICE_HINT =
  'Load the kernel module with `modprobe fuse`; a container needs --device /dev/fuse.'
/** What the kernel shows behind "fuse.". */
const SUBTYPE = FUSE_TYPE.slice('fuse.'.length)
const COMMAND_TIMEOUT_MS = 30_000
/** A mount whose server is gone answers at once; one that does not is alive, or worse. */
const PROBE_TIMEOUT_MS = 2_000
/** The kernel counts in its own pages, which can be larger; a read cut short is a file's end. */
const MAX_READ = `max_read=${BODY_BYTES}`
const ENOTCONN_TEXT = 'not connected'

/** How libfuse's programs are told what `mount` and `df` show. */
export function namingOptions(sourceName: string): string[] {
  // libfuse's way to have a comma in an option.
  return [`fsname=${sourceName.replace(/[\\,]/g, '\\$&')}`, `subtype=${SUBTYPE}`]
}

async function mountTable(): Promise<MountEntry[]> {
  return parseMountTable(await readFile('/proc/self/mountinfo', 'utf8'))
}

/** What is mounted at `path` itself, on top; null for nothing. */
export async function mountedAt(path: string): Promise<MountEntry | null> {
  return topMount(await mountTable(), path)
}

/**
 * The real path of a folder that can be mounted on. What a server that is gone left there is
 * unmounted. Rejects `not-found`, `usage`, or `busy` when a pool is mounted there.
 */
export async function prepareMountPoint(path: string): Promise<string> {
  const mounted = await mountedAt(path)
  if (mounted?.type === FUSE_TYPE) {
    if (await isAlive(path)) {
      throw new OperatingError('busy', `a pool is mounted at ${path} already`, {
        hint: `Name another folder, or stop its server; \`umount ${path}\` if it has none.`,
        details: { path },
      })
    }
    await detach(path, true)
  }
  let real: string
  try {
    real = await realpath(path)
    if (!(await stat(real)).isDirectory()) throw notFolder(path)
  } catch (error) {
    if (error instanceof OperatingError) throw error
    const missing = (error as NodeJS.ErrnoException).code === 'ENOENT'
    throw new OperatingError(missing ? 'not-found' : 'io', `cannot mount at ${path}`, {
      hint: missing ? `Make it first: \`mkdir -p ${path}\`.` : 'Name a folder that you may use.',
      cause: error,
    })
  }
  if (real !== path) return prepareMountPoint(real)
  if (mountOf(await mountTable(), real)?.type === FUSE_TYPE) throw insideOf(real)
  return real
}

/** mount(2) walks the path on the thread that serves: in a mount of its own it waits for itself. */
function insideOf(path: string): OperatingError {
  return new OperatingError('usage', `${path} lies in a mounted pool`, {
    hint: 'Name a folder outside of it.',
    details: { path },
  })
}

function notFolder(path: string): OperatingError {
  return new OperatingError('usage', `${path} is not a folder`, {
    hint: 'A filesystem is mounted on a folder.',
  })
}

/** Asked by another process: this one may be the server. */
async function isAlive(path: string): Promise<boolean> {
  const probe = runHostTool('stat', 'coreutils', ['-f', '--', path], PROBE_TIMEOUT_MS)
  const stderr = await probe.then(
    (result) => result.stderr,
    () => '',
  )
  return !stderr.includes(ENOTCONN_TEXT)
}

/** Mounts, and returns the open device. */
export async function attach(binding: Binding, options: FuseMountOptions): Promise<number> {
  const isRoot = process.geteuid?.() === 0
  return isRoot ? attachAsRoot(binding, options) : attachAsUser(binding, options)
}

async function attachAsRoot(binding: Binding, options: FuseMountOptions): Promise<number> {
  const folder = await openMountPoint(options.mountPath)
  try {
    return mountOn(binding, options, `/proc/self/fd/${folder.fd}`)
  } finally {
    await folder.close()
  }
}

/**
 * The folder itself. Root must not be led elsewhere by somebody who puts a link into the path after
 * it was looked at: rejects `busy` when it no longer leads where it did.
 */
export async function openMountPoint(path: string): Promise<FileHandle> {
  const flags = constants.O_DIRECTORY | constants.O_NOFOLLOW
  let folder: FileHandle | null = null
  try {
    folder = await open(path, O_PATH | flags)
    if ((await readlink(`/proc/self/fd/${folder.fd}`)) === path) return folder
  } catch (cause) {
    await folder?.close()
    throw new OperatingError('io', `cannot mount at ${path}`, { cause })
  }
  await folder.close()
  throw new OperatingError('busy', `${path} leads elsewhere than a moment ago`, {
    hint: 'Name a folder in one that only root may change.',
    details: { path },
  })
}

function mountOn(binding: Binding, options: FuseMountOptions, target: string): number {
  const fd = binding.openDevice(DEVICE)
  if (fd < 0) {
    throw new OperatingError('unsupported', `${DEVICE} cannot be opened`, {
      errno: -fd,
      hint: DEVICE_HINT,
    })
  }
  const words = [
    `fd=${fd}`,
    'rootmode=40000',
    `user_id=${process.geteuid?.() ?? 0}`,
    `group_id=${process.getegid?.() ?? 0}`,
    'default_permissions',
    MAX_READ,
  ]
  if (options.allowOther) words.push('allow_other')
  const { sourceName, mountPath } = options
  const text = words.join(',')
  const result = binding.mountFilesystem(sourceName, target, FUSE_TYPE, text)
  if (result === 0) return fd
  binding.closeFd(fd)
  throw new OperatingError('io', `cannot mount at ${mountPath}`, {
    errno: -result,
    hint: 'Mounting needs CAP_SYS_ADMIN; a container does not have it unless it is given.',
  })
}

async function attachAsUser(binding: Binding, options: FuseMountOptions): Promise<number> {
  const pair = new Int32Array(2)
  const made = binding.socketPair(pair)
  if (made < 0) throw new OperatingError('io', 'no socket to be had', { errno: -made })
  try {
    await runFusermount(options, pair[1])
    const fd = binding.receiveDescriptor(pair[0])
    if (fd < 0) throw new OperatingError('io', 'fusermount3 passed no device on', { errno: -fd })
    binding.setNonblocking(fd)
    return fd
  } finally {
    binding.closeFd(pair[0])
    binding.closeFd(pair[1])
  }
}

function runFusermount(options: FuseMountOptions, socketFd: number): Promise<void> {
  const words = [...namingOptions(options.sourceName), 'default_permissions', MAX_READ]
  if (options.allowOther) words.push('allow_other')
  const child = spawn('fusermount3', ['-o', words.join(','), '--', options.mountPath], {
    stdio: ['ignore', 'ignore', 'pipe', socketFd],
    cwd: '/',
    env: toolEnvironment({ _FUSE_COMMFD: '3' }),
  })
  let stderr = ''
  child.stderr?.on('data', (bytes: Buffer) => (stderr += bytes.toString()))
  return new Promise((resolve, reject) => {
    child.on('error', (error) => {
      reject(
        new OperatingError('unsupported', 'fusermount3 cannot be run', {
          hint: 'Mounting without root needs it: apt-get install fuse3',
          cause: error,
        }),
      )
    })
    child.on('close', (code) => {
      if (code === 0) resolve()
      else reject(mountRefused(options, stderr.trim()))
    })
  })
}

function mountRefused(options: FuseMountOptions, stderr: string): OperatingError {
  const needsConfiguration = options.allowOther && stderr.includes('user_allow_other')
  return new OperatingError('io', `cannot mount at ${options.mountPath}: ${stderr}`, {
    hint: needsConfiguration
      ? 'Add the line user_allow_other to /etc/fuse.conf, or leave --allow-other out.'
      : 'The folder must be yours, and /dev/fuse usable.',
  })
}

/** Unmounts; `isForced`: at once, whoever uses it. Rejects `busy`. */
export async function detach(path: string, isForced: boolean): Promise<void> {
  const isRoot = process.geteuid?.() === 0
  const { exitCode, stderr } = await (isRoot
    ? // -f aborts the connection: with -l alone, files still open would keep it alive.
      unmount('umount', 'mount', isForced ? ['-f', '-l'] : [], path)
    : unmount('fusermount3', 'fuse3', isForced ? ['-u', '-z'] : ['-u'], path))
  if (exitCode === 0 || /not mounted|not found in/.test(stderr)) return
  const isBusy = /busy/i.test(stderr)
  throw new OperatingError(isBusy ? 'busy' : 'io', `cannot unmount ${path}: ${stderr.trim()}`, {
    errno: isBusy ? Errno.EBUSY : Errno.EIO,
    hint: isBusy ? 'Close what is open in it; `fuser -vm` says who has it.' : 'See `mount`.',
  })
}

function unmount(
  tool: string,
  debianPackage: string,
  words: readonly string[],
  path: string,
): Promise<ToolResult> {
  return runHostTool(tool, debianPackage, [...words, '--', path], COMMAND_TIMEOUT_MS)
}
