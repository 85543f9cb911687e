/** The single steps that devices and mounts are made of; each is whole or not done. */
import { OperatingError } from '../base/errors.ts'
import type { ErrorFields } from '../base/errors.ts'
import { complaintOf, mustRun } from './command.ts'
import type { Tool } from './command.ts'
import { losetupArguments } from './loop-devices.ts'
import type { LoopDevice, LoopSettings, Window } from './loop-devices.ts'
import { FUSE_TYPE, mountOf, topMount } from '../base/mount-table.ts'
import type { MountEntry } from '../base/mount-table.ts'
import { parseContents, parsePartitions } from './partitions.ts'
import type { Contents, Partition } from './partitions.ts'
import type { HostWorld } from './world.ts'

/** A look at a few blocks, or one call into the kernel. */
export const QUICK_TIMEOUT_MS = 15_000
/** Replays a journal. */
const MOUNT_TIMEOUT_MS = 120_000
/** Writes out everything that is still in memory. */
const UMOUNT_TIMEOUT_MS = 300_000
export const MKFS_TIMEOUT_MS = 600_000

/** A device is let go of by its last user, who may be udev looking at what has just changed. */
const DRAIN_WAIT_MS = 3000
const DRAIN_POLL_MS = 50
/** A table of more is not made by people. */
const PARTITION_COUNT_MAX = 128

/**
 * A loop device on a file. Direct I/O past the page cache where the file's filesystem can: data
 * would be in memory twice otherwise, and a flush would mean less than it says.
 */
export async function makeLoop(
  world: HostWorld,
  path: string,
  settings: Omit<LoopSettings, 'directIo'>,
): Promise<LoopDevice> {
  const device =
    (await tryLosetup(world, path, { ...settings, directIo: true })) ??
    (await tryLosetup(world, path, { ...settings, directIo: false }))
  if (device !== null) return device
  throw new OperatingError('io', `the kernel gives no loop device for ${path}`, {
    hint: 'See `dmesg`, and whether /dev/loop-control is there.',
    details: { path },
  })
}

/** Null when the kernel refuses direct I/O; then nothing is left behind. */
async function tryLosetup(
  world: HostWorld,
  path: string,
  settings: LoopSettings,
): Promise<LoopDevice | null> {
  const before = new Set((await world.loops()).map((loop) => loop.path))
  let complaint: string
  try {
    const result = await world.run('losetup', losetupArguments(path, settings), QUICK_TIMEOUT_MS)
    const name = result.stdout.trim()
    const made = (await world.loops()).find((loop) => loop.path === name)
    if (result.exitCode === 0 && made !== undefined) return made
    complaint = complaintOf('losetup', result)
  } catch (error) {
    await dropNewLoops(world, path, before)
    throw error
  }
  // The device is made first and then told to use direct I/O: it is there when that failed.
  await dropNewLoops(world, path, before)
  if (settings.directIo) return null
  throw new OperatingError('io', `${path} cannot be made a device: ${complaint}`, {
    details: { path },
  })
}

async function dropNewLoops(
  world: HostWorld,
  path: string,
  before: ReadonlySet<string>,
): Promise<void> {
  for (const loop of await world.loops()) {
    if (loop.backingPath === path && !before.has(loop.path)) await dropLoop(world, loop)
  }
}

/**
 * Resolves to false when somebody still has the device open: it then goes by itself as soon as
 * they let go.
 */
export async function dropLoop(
  world: HostWorld,
  loop: Pick<LoopDevice, 'path' | 'sequence'>,
): Promise<boolean> {
  if (!(await isThere(world, loop))) return true
  const result = await world.run('losetup', ['--detach', loop.path], QUICK_TIMEOUT_MS)
  for (let waitedMs = 0; await isThere(world, loop); waitedMs += DRAIN_POLL_MS) {
    if (result.exitCode !== 0) {
      const complaint = complaintOf('losetup', result)
      throw new OperatingError('io', `${loop.path} cannot be detached: ${complaint}`)
    }
    if (waitedMs >= DRAIN_WAIT_MS) return false
    await world.pause(DRAIN_POLL_MS)
  }
  return true
}

async function isThere(
  world: HostWorld,
  { path, sequence }: Pick<LoopDevice, 'path' | 'sequence'>,
): Promise<boolean> {
  return (await world.loops()).some((loop) => loop.path === path && loop.sequence === sequence)
}

/** Exit codes of blkid: nothing that it knows; the signs of more than one thing. */
const BLKID_NOTHING = 2
const BLKID_SEVERAL = 8

/** Not empty, and nothing that could be mounted without being told what. */
const SEVERAL_CONTENTS: Contents = { type: null, isFilesystem: false, tableType: 'unclear' }

/** What is at the beginning of a file or device, or of a stretch of it. */
export async function probeContents(
  world: HostWorld,
  path: string,
  window: Window | null,
): Promise<Contents> {
  const where =
    window === null
      ? []
      : ['--offset', String(window.offsetBytes), '--size', String(window.sizeBytes)]
  const args = ['--probe', '--output', 'export', ...where, path]
  const result = await world.run('blkid', args, QUICK_TIMEOUT_MS)
  if (result.exitCode === 0) return parseContents(result.stdout)
  if (result.exitCode === BLKID_NOTHING) return parseContents('')
  if (result.exitCode === BLKID_SEVERAL) return SEVERAL_CONTENTS
  const complaint = complaintOf('blkid', result)
  throw new OperatingError('io', `what is on ${path} cannot be told: ${complaint}`)
}

export async function readPartitions(world: HostWorld, path: string): Promise<Partition[]> {
  const args = ['--bytes', '--pairs', '--output', 'NR,START,SECTORS,SIZE,TYPE,NAME', path]
  const result = await world.run('partx', args, QUICK_TIMEOUT_MS)
  if (result.exitCode !== 0) return []
  const partitions: Partition[] = []
  for (const found of parsePartitions(result.stdout).slice(0, PARTITION_COUNT_MAX)) {
    partitions.push({ ...found, contents: await probeContents(world, path, found) })
  }
  return partitions
}

/** The folder without symbolic links; looked at by a child, for it may lie on what we serve. */
export async function resolveFolder(world: HostWorld, path: string): Promise<string> {
  const args = ['--canonicalize-existing', '--', path]
  const result = await world.run('realpath', args, QUICK_TIMEOUT_MS)
  if (result.exitCode === 0) return result.stdout.replace(/\n$/, '')
  throw new OperatingError('not-found', `there is no folder ${path}`, {
    hint: `Make it with \`mkdir -p ${path}\`.`,
    details: { path },
  })
}

/** Refuses what would hide a mount or lie inside the disks that are served. */
export function verifyMountPoint(mounts: readonly MountEntry[], directory: string): void {
  const under = mountOf(mounts, directory)
  if (under?.type === FUSE_TYPE) {
    throw new OperatingError('usage', `${directory} lies in the filesystem of the disks`, {
      hint: 'Choose a folder elsewhere.',
    })
  }
  if (under?.directory !== directory || directory === '/') return
  throw new OperatingError('busy', `${under.source} is already mounted on ${directory}`, {
    hint: 'Unmount it, or choose another folder.',
    details: { directory, users: [`mount of ${under.source}`] },
  })
}

export async function mountDevice(
  world: HostWorld,
  device: string,
  directory: string,
  type: string,
  options: string,
): Promise<void> {
  const args = ['-t', type, '-o', options, '--source', device, '--target', directory]
  try {
    await mustRun(world.run, 'mount', args, MOUNT_TIMEOUT_MS)
  } catch (error) {
    if (!(error instanceof OperatingError)) throw error
    const fields: ErrorFields = { hint: mountHint(type), details: error.details, cause: error }
    throw new OperatingError(error.code, `${device} cannot be mounted: ${error.message}`, fields)
  }
}

function mountHint(type: string): string {
  const kernel = 'The end of `dmesg` says why.'
  if (type !== 'btrfs') return kernel
  return `${kernel} Before Linux 6.7 a btrfs and its clone cannot be mounted at the same time.`
}

/**
 * Unmounts what of `device` is on top at `directory`; nothing to do when it is no longer there.
 * Rejects `busy` with the users.
 */
export async function unmountDirectory(
  world: HostWorld,
  device: string,
  directory: string,
): Promise<void> {
  const top = topMount(await world.mounts(), directory)
  if (top === null) return
  if (top.source !== device) {
    throw busy(directory, [`mount of ${top.source} over it`])
  }
  const result = await world.run('umount', ['--', directory], UMOUNT_TIMEOUT_MS)
  if (result.exitCode === 0) return
  if (topMount(await world.mounts(), directory)?.source !== device) return
  const users = await world.users({ devices: [], directories: [directory] })
  const complaint = complaintOf('umount', result)
  if (users.length === 0 && !/busy/.test(complaint)) {
    throw new OperatingError('io', `${directory} cannot be unmounted: ${complaint}`)
  }
  throw busy(directory, users)
}

/** `details.users` lists who. */
export function busy(what: string, users: readonly string[]): OperatingError {
  const who = users.length > 0 ? users.join(', ') : 'someone who does not show'
  return new OperatingError('busy', `${what} is in use: ${who}`, {
    hint: 'End them, or have them leave, and try again.',
    details: { users },
  })
}

/** Runs a step that must not keep others from running; null, or what went wrong. */
export async function attempt(
  world: HostWorld,
  tool: Tool,
  args: readonly string[],
  timeoutMs: number,
): Promise<string | null> {
  try {
    await mustRun(world.run, tool, args, timeoutMs)
    return null
  } catch (error) {
    return error instanceof Error ? error.message : String(error)
  }
}
