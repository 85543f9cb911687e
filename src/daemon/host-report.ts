/** What `varve doctor` looks at: whether this machine has what the pool and its clients use. */
import { constants } from 'node:fs'
import { access, stat } from 'node:fs/promises'
import { release } from 'node:os'
import { join, resolve } from 'node:path'
import { OperatingError } from '../base/errors.ts'
import { TOOL_FOLDERS } from '../base/host-tool.ts'
import { findStale, fixStale } from '../host/stale.ts'
import type { FixStep } from '../host/stale.ts'
import { openHostWorld } from '../host/world.ts'
import { openIo } from '../io/open-io.ts'
import { bindingMissingReason } from '../native/binding.ts'
import { controlSocketPath, daemonListens } from './open-service.ts'
import { poolAccessFindings } from './pool-access.ts'

export type { FixStep } from '../host/stale.ts'

export type FindingState = 'ok' | 'missing' | 'warning' | 'stale'

export interface Finding {
  subject: string
  /**
   * `missing` and `stale`, what a dead server left, make the doctor unhappy; a `warning` costs
   * speed or a feature.
   */
  state: FindingState
  fact: string
  /** The line that mends it. */
  remedy: string | null
}

interface Tool {
  command: string
  use: string
  debianPackage: string
}

const TOOLS: readonly Tool[] = [
  { command: 'qemu-img', use: 'converting images', debianPackage: 'qemu-utils' },
  { command: 'nbdinfo', use: 'looking at exports', debianPackage: 'libnbd-bin' },
  { command: 'nbdcopy', use: 'copying exports', debianPackage: 'libnbd-bin' },
  { command: 'nbd-client', use: 'block devices on this host', debianPackage: 'nbd-client' },
  { command: 'fusermount3', use: 'FUSE without root', debianPackage: 'fuse3' },
  { command: 'qemu-system-x86_64', use: 'running guests', debianPackage: 'qemu-system-x86' },
  { command: 'losetup', use: 'block devices on this host', debianPackage: 'mount' },
  { command: 'partx', use: 'partitions in disks', debianPackage: 'util-linux' },
  { command: 'mke2fs', use: 'making filesystems', debianPackage: 'e2fsprogs' },
  { command: 'mkfs.xfs', use: 'making XFS filesystems', debianPackage: 'xfsprogs' },
  { command: 'mkfs.btrfs', use: 'making Btrfs filesystems', debianPackage: 'btrfs-progs' },
]

/** io_uring as this program uses it: with eventfd, polling and large rings. */
const KERNEL_MAJOR_MIN = 5
const KERNEL_MINOR_MIN = 11
const NODE_MAJOR_MIN = 20
const NODE_MINOR_MIN = 19

/** `poolPath` null: only the host is looked at. */
export async function inspectHost(poolPath: string | null): Promise<Finding[]> {
  const findings = [nodeFinding(), kernelFinding(), addonFinding(), await ringFinding()]
  for (const tool of TOOLS) findings.push(await toolFinding(tool))
  findings.push(await deviceFinding('/dev/fuse', 'modprobe fuse'))
  findings.push(await deviceFinding('/dev/loop-control', 'modprobe loop'))
  findings.push(await deviceFinding('/dev/nbd0', 'modprobe nbd'))
  findings.push(...(await staleFindings()))
  if (poolPath !== null) findings.push(...(await poolFindings(resolve(poolPath))))
  return findings
}

/** Takes away what dead servers left on this host; rejects `unsupported` unless root. */
export async function fixHost(): Promise<FixStep[]> {
  const world = openHostWorld()
  if (!world.isRoot()) {
    throw new OperatingError('unsupported', 'stale mounts and devices are taken away by root', {
      hint: 'Run `varve doctor --fix` as root.',
    })
  }
  return fixStale(world, await findStale(world, isServed))
}

/** Only root can look at what other users have mounted, and at devices. */
async function staleFindings(): Promise<Finding[]> {
  const world = openHostWorld()
  if (!world.isRoot()) return []
  const things = await findStale(world, isServed)
  return things.map(({ subject, fact, loop }) => {
    if (loop?.isDraining !== true) {
      return { subject, state: 'stale', fact, remedy: 'varve doctor --fix' }
    }
    // All that can be done has been.
    return { subject, state: 'warning', fact, remedy: 'end the processes that use it' }
  })
}

/** A socket that we may not use is somebody's. */
async function isServed(poolPath: string): Promise<boolean> {
  try {
    return await daemonListens(controlSocketPath(poolPath))
  } catch {
    return true
  }
}

function versionAtLeast(version: string, major: number, minor: number): boolean {
  const [haveMajor, haveMinor] = version.replace(/^v/, '').split('.').map(Number)
  return haveMajor > major || (haveMajor === major && haveMinor >= minor)
}

function nodeFinding(): Finding {
  const enough = versionAtLeast(process.version, NODE_MAJOR_MIN, NODE_MINOR_MIN)
  return {
    subject: 'node',
    state: enough ? 'ok' : 'missing',
    fact: process.version,
    remedy: enough ? null : `install Node ${NODE_MAJOR_MIN}.${NODE_MINOR_MIN} or later`,
  }
}

function kernelFinding(): Finding {
  const enough = versionAtLeast(release(), KERNEL_MAJOR_MIN, KERNEL_MINOR_MIN)
  return {
    subject: 'kernel',
    state: enough ? 'ok' : 'warning',
    fact: release(),
    remedy: enough ? null : `io_uring wants Linux ${KERNEL_MAJOR_MIN}.${KERNEL_MINOR_MIN}`,
  }
}

function addonFinding(): Finding {
  const reason = bindingMissingReason()
  if (reason === null) return { subject: 'addon', state: 'ok', fact: 'loads', remedy: null }
  const remedy =
    'apt-get install gcc libc6-dev libuv1-dev liblz4-dev libzstd-dev && tools/build-native'
  return { subject: 'addon', state: 'warning', fact: reason, remedy }
}

/** Tried for real: a container's seccomp profile says no only when asked. */
async function ringFinding(): Promise<Finding> {
  const subject = 'io_uring'
  try {
    const io = await openIo({ kind: 'ring' })
    await io.shutdown()
    return { subject, state: 'ok', fact: 'works', remedy: null }
  } catch (error) {
    const fact = error instanceof Error ? error.message : String(error)
    const remedy = 'sysctl kernel.io_uring_disabled=0, and a seccomp profile that allows it'
    return { subject, state: 'warning', fact: `${fact}; plain files are used`, remedy }
  }
}

async function toolFinding(tool: Tool): Promise<Finding> {
  for (const folder of TOOL_FOLDERS) {
    const path = join(folder, tool.command)
    if (await isExecutable(path)) {
      return { subject: tool.command, state: 'ok', fact: path, remedy: null }
    }
  }
  return {
    subject: tool.command,
    state: 'warning',
    fact: `not found; for ${tool.use}`,
    remedy: `apt-get install ${tool.debianPackage}`,
  }
}

async function isExecutable(path: string): Promise<boolean> {
  try {
    await access(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}

async function deviceFinding(path: string, remedy: string): Promise<Finding> {
  try {
    await access(path, constants.R_OK | constants.W_OK)
    return { subject: path, state: 'ok', fact: 'may be used', remedy: null }
  } catch (error) {
    const missing = (error as NodeJS.ErrnoException).code === 'ENOENT'
    const fact = missing ? 'not there' : 'may not be used by this user'
    return { subject: path, state: 'warning', fact, remedy: missing ? remedy : 'run as root' }
  }
}

async function poolFindings(path: string): Promise<Finding[]> {
  try {
    const stats = await stat(path)
    if (!stats.isDirectory()) {
      return [{ subject: 'pool', state: 'missing', fact: `${path} is not a folder`, remedy: null }]
    }
  } catch {
    const fact = `${path} is not there`
    return [{ subject: 'pool', state: 'missing', fact, remedy: `varve init ${path}` }]
  }
  const access = await poolAccessFindings(path)
  const findings: Finding[] = access.map((finding) => {
    return { subject: 'pool', state: 'warning', ...finding }
  })
  if (access.length === 0) findings.push({ subject: 'pool', state: 'ok', fact: path, remedy: null })
  return [...findings, await daemonFinding(path)]
}

async function daemonFinding(path: string): Promise<Finding> {
  const subject = 'daemon'
  try {
    const runs = await daemonListens(controlSocketPath(path))
    const fact = runs ? 'serves this pool' : 'none: commands open the pool themselves'
    return { subject, state: 'ok', fact, remedy: null }
  } catch (error) {
    const hint = error instanceof OperatingError ? (error.hint ?? null) : null
    return { subject, state: 'missing', fact: (error as Error).message, remedy: hint }
  }
}
