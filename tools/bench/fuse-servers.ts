/**
 * Programs that show a disk as a file through FUSE, each in the best mode we know for it, and a
 * loop device with a filesystem on that file.
 */
import { spawnSync } from 'node:child_process'
import { closeSync, mkdirSync, openSync } from 'node:fs'
import { join } from 'node:path'
import { run, Server } from '../command.ts'
import { BESIDE_OTHERS, serveVarve, varve } from './servers.ts'

export type FuseServerKind = 'varve' | 'qemu-storage-daemon' | 'varve fuse-native'

export interface FuseService {
  kind: FuseServerKind
  /** What its configuration was, for the report. */
  description: string
  /** The disk as a file. */
  path: string
  server: Server
  /** Ends the server and leaves nothing mounted. */
  stop: () => Promise<void>
}

/** Starts `kind` in the new folder `home`, on a disk that holds what the raw `image` holds. */
export async function startFuseService(
  kind: FuseServerKind,
  home: string,
  image: string,
): Promise<FuseService> {
  mkdirSync(home)
  return kind === 'qemu-storage-daemon'
    ? startStorageDaemon(home, image)
    : startVarve(kind, home, image)
}

async function startVarve(
  kind: 'varve' | 'varve fuse-native',
  home: string,
  image: string,
): Promise<FuseService> {
  const pool = join(home, 'pool')
  const mountPath = join(home, 'mount')
  mkdirSync(mountPath)
  await varve(pool, 'init')
  await varve(pool, 'import', image, 'disk')
  const transport = kind === 'varve' ? 'native' : 'fuse-native'
  const forget = unmountAtExit(mountPath)
  const server = await serveVarve(
    pool,
    ...BESIDE_OTHERS,
    ...['--fuse', mountPath, '--fuse-transport', transport],
  )
  return {
    kind,
    description: `varve serve --fuse-transport ${transport}, checksums verified on read`,
    path: join(mountPath, 'volumes/disk'),
    server,
    stop: async () => {
      await server.stop()
      forget()
    },
  }
}

async function startStorageDaemon(home: string, image: string): Promise<FuseService> {
  const disk = join(home, 'disk.qcow2')
  const mountPath = join(home, 'disk.raw')
  const socket = join(home, 'qmp.sock')
  await run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', image, disk])
  // It mounts over a file.
  closeSync(openSync(mountPath, 'wx'))
  const file = `driver=file,filename=${disk},node-name=file,aio=threads,discard=unmap`
  const format = 'driver=qcow2,file=file,node-name=disk,discard=unmap'
  const shown = `type=fuse,id=fuse,node-name=disk,mountpoint=${mountPath},writable=on`
  const nodes = ['--blockdev', file, '--blockdev', format, '--export', shown]
  // Options are carried out in order: once it listens, the export is there.
  const monitor = ['--chardev', `socket,id=qmp,path=${socket},server=on,wait=off`]
  const forget = unmountAtExit(mountPath)
  const args = [...nodes, ...monitor, '--monitor', 'chardev=qmp']
  const server = await Server.start('qemu-storage-daemon', args, socket)
  return {
    kind: 'qemu-storage-daemon',
    description: `qemu-storage-daemon ${nodes.join(' ')}`.replaceAll(home, '.'),
    path: mountPath,
    server,
    stop: async () => {
      await server.stop()
      forget()
    },
  }
}

/** A mount whose server was killed would keep its folder from being removed. */
function unmountAtExit(path: string): () => void {
  const unmount = (): void => {
    spawnSync('umount', ['-l', path], { stdio: 'ignore' })
  }
  process.once('exit', unmount)
  return () => {
    process.removeListener('exit', unmount)
    unmount()
  }
}

export interface LoopMount {
  /** The file on the filesystem on the device. */
  path: string
  stop: () => Promise<void>
}

/** Mounts the ext4 in a file through a loop device with direct I/O. */
export async function mountLoop(
  diskPath: string,
  mountPath: string,
  fileName: string,
): Promise<LoopMount> {
  mkdirSync(mountPath)
  const losetup = ['--find', '--show', '--direct-io=on', diskPath]
  const device = (await run('losetup', losetup)).stdout.trim()
  const undo = (): void => {
    spawnSync('umount', ['-l', mountPath], { stdio: 'ignore' })
    spawnSync('losetup', ['--detach', device], { stdio: 'ignore' })
  }
  // Before the servers, which were started earlier: listeners of `exit` run in order.
  process.prependOnceListener('exit', undo)
  await run('mount', ['-t', 'ext4', '-o', 'noatime,errors=continue', device, mountPath])
  return {
    path: join(mountPath, fileName),
    stop: async () => {
      process.removeListener('exit', undo)
      await run('umount', [mountPath])
      await run('losetup', ['--detach', device])
    },
  }
}
