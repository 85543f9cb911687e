/**
 * Writable copies of one image of random bytes, each as a file, for `bench files`: a clone of ours
 * through FUSE, a plain copy through a loop device, reflink copies in btrfs and XFS.
 */
import { spawnSync } from 'node:child_process'
import { closeSync, ftruncateSync, mkdirSync, openSync } from 'node:fs'
import { join } from 'node:path'
import { GIB } from '../../src/base/units.ts'
import { run, type Server } from '../command.ts'
import { startFuseService } from './fuse-servers.ts'
import { varve } from './servers.ts'

export interface FileCopy {
  name: string
  description: string
  /** The copy, or the device that shows it. */
  path: string
  /** Of making the copy. */
  tookMs: number
  server: Server | null
  stop(): Promise<void>
}

export interface CopyMethod {
  name: string
  program: string
  /** `home` is empty and its own; `image` stays as it is. */
  start(home: string, image: string, sizeBytes: number): Promise<Omit<FileCopy, 'name'>>
}

export const COPY_METHODS: readonly CopyMethod[] = [
  { name: 'varve clone', program: process.execPath, start: startVarve },
  { name: 'raw copy, loop', program: 'losetup', start: startRaw },
  { name: 'btrfs reflink', program: 'mkfs.btrfs', start: reflink('btrfs', ['-q']) },
  { name: 'XFS reflink', program: 'mkfs.xfs', start: reflink('xfs', ['-q', '-m', 'reflink=1']) },
]

async function timed(action: () => Promise<unknown>): Promise<number> {
  const startMs = performance.now()
  await action()
  return performance.now() - startMs
}

async function startVarve(home: string, image: string): Promise<Omit<FileCopy, 'name'>> {
  const service = await startFuseService('varve', join(home, 'varve'), image)
  const pool = join(home, 'varve/pool')
  const tookMs = await timed(() => varve(pool, 'clone', 'disk', 'copy'))
  return {
    description: `${service.description}; varve clone`,
    path: join(home, 'varve/mount/volumes/copy'),
    tookMs,
    server: service.server,
    stop: service.stop,
  }
}

async function startRaw(home: string, image: string): Promise<Omit<FileCopy, 'name'>> {
  const copy = join(home, 'copy.raw')
  const tookMs = await timed(() => run('cp', ['--reflink=never', image, copy]))
  const device = await attach(copy)
  return {
    description: 'cp, then losetup --direct-io=off',
    path: device.path,
    tookMs,
    server: null,
    stop: device.stop,
  }
}

function reflink(
  type: 'btrfs' | 'xfs',
  options: readonly string[],
): (home: string, image: string, sizeBytes: number) => Promise<Omit<FileCopy, 'name'>> {
  return async (home, image, sizeBytes) => {
    const disk = join(home, 'disk')
    const mountPath = join(home, 'mount')
    mkdirSync(mountPath)
    makeSparse(disk, 4 * sizeBytes + 2 * GIB)
    const device = await attach(disk)
    await run(`mkfs.${type}`, [...options, device.path])
    await run('mount', ['-t', type, '-o', 'noatime', device.path, mountPath])
    const unmount = (): void => {
      spawnSync('umount', ['-l', mountPath], { stdio: 'ignore' })
    }
    // Before the device goes.
    process.prependOnceListener('exit', unmount)
    const golden = join(mountPath, 'golden.raw')
    const path = join(mountPath, 'copy.raw')
    await run('cp', [image, golden])
    await run('sync', ['-f', mountPath])
    const tookMs = await timed(() => run('cp', ['--reflink=always', golden, path]))
    return {
      description: `cp --reflink=always in ${type} on a loop device, --direct-io=off`,
      path,
      tookMs,
      server: null,
      stop: async () => {
        process.removeListener('exit', unmount)
        await run('umount', [mountPath])
        await device.stop()
      },
    }
  }
}

/** Through the page cache of the host, where the segments of ours are as well. */
async function attach(file: string): Promise<{ path: string; stop: () => Promise<void> }> {
  const words = ['--find', '--show', '--direct-io=off', file]
  const path = (await run('losetup', words)).stdout.trim()
  const detach = (): void => {
    spawnSync('losetup', ['--detach', path], { stdio: 'ignore' })
  }
  process.prependOnceListener('exit', detach)
  return {
    path,
    stop: async () => {
      process.removeListener('exit', detach)
      await run('losetup', ['--detach', path])
    },
  }
}

function makeSparse(path: string, sizeBytes: number): void {
  const descriptor = openSync(path, 'wx')
  ftruncateSync(descriptor, sizeBytes)
  closeSync(descriptor)
}
