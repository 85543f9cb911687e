/**
 * What a server that was killed leaves on its host: its filesystem, whose every call gives
 * ENOTCONN, loop devices on files in it, and mounts of these. It is found by looking at the host
 * alone, for whoever knew about it is gone; and taken away from the top down.
 */
import { QUICK_TIMEOUT_MS, attempt, dropLoop } from './actions.ts'
import type { LoopDevice } from './loop-devices.ts'
import type { MountEntry } from '../base/mount-table.ts'
import { FUSE_TYPE, isBelow, topMount } from '../base/mount-table.ts'
import type { HostWorld } from './world.ts'

export interface StaleThing {
  kind: 'mount' | 'device' | 'filesystem'
  /** A mount point or a device. */
  subject: string
  fact: string
  /** A filesystem that does not answer: whoever waits for it is told first. */
  isHung: boolean
  /** Of a device: itself, and not a later one of the same path. */
  loop: LoopDevice | null
  /** Of a mount or filesystem: itself, and not what somebody mounts over it. */
  mountId: number | null
}

export interface FixStep {
  subject: string
  /** What was done, or was tried. */
  action: string
  /** Null: done. */
  failure: string | null
}

/** A server answers such a question in a few milliseconds; a host may be very busy. */
const LOOK_TIMEOUT_MS = 10_000
/** What a dead server's filesystem says (ENOTCONN), in the C locale. */
const NOT_CONNECTED = /Transport endpoint is not connected|Software caused connection abort/

/** The kernel fails what a dead server is asked at once; only a live one lets anybody wait. */
type Life = 'alive' | 'dead' | 'hung'

/**
 * In the order in which it has to go. `isServed` tells whether a daemon answers for the pool of
 * this path: what is slow is not stale while one does.
 */
export async function findStale(
  world: HostWorld,
  isServed: (poolPath: string) => Promise<boolean>,
): Promise<StaleThing[]> {
  const mounts = await world.mounts()
  const filesystems: StaleThing[] = []
  const slow: string[] = []
  for (const mount of mounts.filter(({ type }) => type === FUSE_TYPE)) {
    // A path leads to what is on top: of what lies under it nothing is known.
    if (topMount(mounts, mount.directory) !== mount) continue
    const life = await lifeOf(world, mount)
    if (life === 'alive') continue
    if (life === 'hung' && (await isServed(mount.source))) {
      slow.push(mount.directory)
      continue
    }
    const how = life === 'dead' ? 'is dead' : 'does not answer'
    filesystems.push({
      kind: 'filesystem',
      subject: mount.directory,
      fact: `the server of ${mount.source} ${how}`,
      isHung: life === 'hung',
      loop: null,
      mountId: mount.id,
    })
  }
  const loops = (await world.loops()).filter(({ backingPath }) => {
    return !slow.some((directory) => isBelow(backingPath, directory))
  })
  const devices = await staleDevices(world, loops, mounts, filesystems)
  const paths = new Set(devices.map(({ subject }) => subject))
  const inside = mounts
    .filter(({ source }) => paths.has(wholeDeviceOf(source)))
    .map((mount): StaleThing => {
      const fact = `${mount.type} on ${mount.source}, which gives errors`
      const { directory: subject, id: mountId } = mount
      return { kind: 'mount', subject, fact, isHung: false, loop: null, mountId }
    })
  return [...inside.toReversed(), ...devices.toReversed(), ...filesystems.toReversed()]
}

/** Of a partition that the kernel, or `partx -a`, has made: its loop device. */
function wholeDeviceOf(path: string): string {
  return path.replace(/^(\/dev\/loop\d+)p\d+$/, '$1')
}

/** Both are asked: the numbers of a filesystem may be hidden from other users, its list is not. */
async function lifeOf(world: HostWorld, { directory }: MountEntry): Promise<Life> {
  for (const [tool, args] of [
    ['stat', ['--file-system', '--', directory]],
    ['ls', ['-f', '--', directory]],
  ] as const) {
    try {
      const result = await world.run(tool, args, LOOK_TIMEOUT_MS)
      if (NOT_CONNECTED.test(result.stderr)) return 'dead'
    } catch {
      return 'hung'
    }
  }
  return 'alive'
}

/**
 * Loop devices on files of dead filesystems, mounted or not any more, whose reads fail. A read that
 * takes its time is one that somebody is still to answer: a server that is stopped or very slow. It
 * counts only on a filesystem that is known to have nobody.
 */
async function staleDevices(
  world: HostWorld,
  loops: readonly LoopDevice[],
  mounts: readonly MountEntry[],
  dead: readonly StaleThing[],
): Promise<StaleThing[]> {
  const found: StaleThing[] = []
  for (const loop of loops) {
    const isOnDead = dead.some(({ subject }) => isBelow(loop.backingPath, subject))
    const isOurs = isOnDead || isOrphan(loop, mounts)
    if (!isOurs) continue
    const life = await lifeOfDevice(world, loop)
    if (life === 'alive' || (life === 'hung' && !isOnDead)) continue
    const end = loop.isDraining ? '; it goes when its last user does' : ''
    const fact = `on ${loop.backingPath}, which nobody serves${end}`
    const [kind, subject] = ['device' as const, loop.path]
    found.push({ kind, subject, fact, isHung: false, loop, mountId: null })
  }
  return found
}

/**
 * A file in a filesystem that was unmounted lazily: the kernel names it by what is left of its
 * path. One below a live mount may be of a dead one that lies under it.
 */
function isOrphan({ backingPath }: LoopDevice, mounts: readonly MountEntry[]): boolean {
  if (/^\/(volumes\/[^/]+|snapshots\/[^/]+\/[^/]+\/disk)$/.test(backingPath)) return true
  return mounts.some(({ type, directory }) => type === FUSE_TYPE && isBelow(backingPath, directory))
}

async function lifeOfDevice(world: HostWorld, { path }: LoopDevice): Promise<Life> {
  const args = [`if=${path}`, 'of=/dev/null', 'iflag=direct', 'bs=4096', 'count=1', 'status=none']
  try {
    return (await world.run('dd', args, LOOK_TIMEOUT_MS)).exitCode === 0 ? 'alive' : 'dead'
  } catch {
    return 'hung'
  }
}

/** Goes on whatever fails; what was in use is taken away from its users. */
export async function fixStale(
  world: HostWorld,
  things: readonly StaleThing[],
): Promise<FixStep[]> {
  const steps: FixStep[] = []
  for (const { subject, isHung, mountId } of things) {
    if (!isHung || (await isHidden(world, subject, mountId))) continue
    // Ends the connection even where it cannot unmount: whoever waits gets ECONNABORTED.
    await attempt(world, 'umount', ['--force', '--', subject], QUICK_TIMEOUT_MS)
    steps.push({ subject, action: 'end the connection', failure: null })
  }
  for (const { subject, loop, mountId } of things) {
    if (loop !== null) steps.push(await detach(world, loop))
    else if ((await world.mounts()).some(({ id }) => id === mountId)) {
      steps.push(...(await unmount(world, subject, mountId)))
    }
  }
  return steps
}

/** Whether its path leads to something else by now, which is not to be touched. */
async function isHidden(
  world: HostWorld,
  directory: string,
  mountId: number | null,
): Promise<boolean> {
  return topMount(await world.mounts(), directory)?.id !== mountId
}

async function detach(world: HostWorld, loop: LoopDevice): Promise<FixStep> {
  const subject = loop.path
  try {
    const action = (await dropLoop(world, loop)) ? 'detach' : 'detach when its last user lets go'
    return { subject, action, failure: null }
  } catch (error) {
    return { subject, action: 'detach', failure: String(error) }
  }
}

async function unmount(
  world: HostWorld,
  subject: string,
  mountId: number | null,
): Promise<FixStep[]> {
  if (await isHidden(world, subject, mountId)) {
    const failure = 'something else is mounted over it; unmount that first'
    return [{ subject, action: 'unmount', failure }]
  }
  const failure = await attempt(world, 'umount', ['--', subject], QUICK_TIMEOUT_MS)
  const steps: FixStep[] = [{ subject, action: 'unmount', failure }]
  if (failure === null) return steps
  // Lazily goes a whole tree, and with it what is not ours.
  const inner = (await world.mounts()).find(({ directory }) => {
    return directory !== subject && isBelow(directory, subject)
  })
  if (inner !== undefined) {
    const fact = `${inner.source} is mounted on ${inner.directory}; unmount that first`
    return [{ subject, action: 'unmount', failure: fact }]
  }
  const lazily = ['--lazy', '--', subject]
  const second = await attempt(world, 'umount', lazily, QUICK_TIMEOUT_MS)
  return [...steps, { subject, action: 'unmount lazily', failure: second }]
}
