/**
 * The servers that are compared over NBD: on a unix socket, flushes honoured, as many clients as
 * ask. Of a program that has several modes, those that make sense are contenders of their own.
 */
import { spawnSync } from 'node:child_process'
import { closeSync, ftruncateSync, mkdirSync, openSync } from 'node:fs'
import { join } from 'node:path'
import { HttpService } from '../../src/api/http-service.ts'
import { run, Server } from '../command.ts'
import { varveCommand } from '../project.ts'
import type { Workload } from './fio.ts'

export interface NbdService {
  contender: Contender
  /** The folder of its own that all it has is in. */
  home: string
  /** What its configuration was, for the report. */
  description: string
  uri: string
  server: Server
  /** What it does for itself when nobody asks anything of it, done now, outside of the time. */
  tidy(): Promise<void>
}

export type StartedService = Omit<NbdService, 'contender' | 'home'>

export interface Contender {
  /** Family and mode. */
  name: string
  /** Of contenders that differ in their mode only, the best counts. */
  family: string
  program: string
  /** Keeps nothing: shown, never a measure for those who do. */
  isVolatile?: true
  start(home: string, sizeBytes: number): Promise<StartedService>
}

export const NBD_CONTENDERS: readonly Contender[] = [
  { name: 'varve', family: 'varve', program: process.execPath, start: startVarve },
  qemuNbd('writeback', 'threads'),
  qemuNbd('writeback', 'io_uring'),
  qemuNbd('none', 'io_uring'),
  storageDaemon('writeback', 'threads'),
  storageDaemon('none', 'io_uring'),
  { name: 'nbdkit file', family: 'nbdkit file', program: 'nbdkit', start: startNbdkitFile },
  {
    name: 'nbdkit memory',
    family: 'nbdkit memory',
    program: 'nbdkit',
    isVolatile: true,
    start: startNbdkitMemory,
  },
]

/** Those whose name is or begins with one of `only`, in the order above. */
export function contendersOf<T extends Contender>(
  all: readonly T[],
  only: readonly string[] | undefined,
): readonly T[] {
  if (only === undefined) return all
  const isOf = (contender: T, prefix: string): boolean =>
    contender.name === prefix || contender.name.startsWith(`${prefix} `)
  const unknown = only.find((prefix) => !all.some((contender) => isOf(contender, prefix)))
  if (unknown !== undefined) {
    const names = all.map(({ name }) => name).join(', ')
    throw new Error(`${unknown} is none of ${names}, nor how one begins`)
  }
  return all.filter((contender) => only.some((prefix) => isOf(contender, prefix)))
}

export function isInstalled(program: string): boolean {
  return spawnSync(program, ['--version'], { stdio: 'ignore' }).error === undefined
}

/** Starts it on a new empty disk of `sizeBytes` in its own folder below `folder`. */
export async function startService(
  contender: Contender,
  folder: string,
  sizeBytes: number,
): Promise<NbdService> {
  const home = join(folder, contender.name.replaceAll(/[ /]/g, '-'))
  mkdirSync(home)
  return { contender, home, ...(await contender.start(home, sizeBytes)) }
}

/**
 * What a server does when it is idle would run while others are measured, at their cost: it is off
 * wherever ours is beside others.
 */
export const BESIDE_OTHERS: readonly string[] = ['--settle', 'off']

async function startVarve(home: string, sizeBytes: number): Promise<StartedService> {
  const pool = join(home, 'pool')
  await varve(pool, 'init')
  await varve(pool, 'create', 'disk', String(sizeBytes))
  const server = await serveVarve(pool, ...BESIDE_OTHERS)
  return {
    description: `varve serve ${BESIDE_OTHERS.join(' ')}, checksums verified on read`,
    uri: varveUri(pool, 'disk'),
    server,
    tidy: () => reclaim(pool),
  }
}

/** Of a served pool. */
export async function reclaim(pool: string): Promise<void> {
  const service = new HttpService(join(pool, 'control.sock'))
  try {
    await service.reclaim({})
  } finally {
    await service.close()
  }
}

/** After a workload that writes: all services tidy, outside of the time. */
export async function tidyAfter(
  workload: Workload,
  services: readonly NbdService[],
): Promise<void> {
  if (!workload.pattern.includes('write')) return
  for (const service of services) await service.tidy()
}

/** Runs one command on a pool and resolves to its standard output. */
export async function varve(pool: string, ...args: string[]): Promise<string> {
  const [program, first] = varveCommand
  return (await run(program, [...first, '--pool', pool, ...args])).stdout
}

/** Starts `varve serve` on a pool; its control socket is the last thing that comes up. */
export function serveVarve(pool: string, ...args: string[]): Promise<Server> {
  return serveVarveWith({}, pool, ...args)
}

/** The same, with more in its environment. */
export function serveVarveWith(
  env: Record<string, string>,
  pool: string,
  ...args: string[]
): Promise<Server> {
  const [program, first] = varveCommand
  const words = [...first, '--pool', pool, 'serve', ...args]
  return Server.start(program, words, join(pool, 'control.sock'), env)
}

export function varveUri(pool: string, name: string): string {
  return `nbd+unix:///${name}?socket=${join(pool, 'nbd.sock')}`
}

type QemuCache = 'writeback' | 'none'
type QemuAio = 'threads' | 'io_uring'

function qemuNbd(cache: QemuCache, aio: QemuAio): Contender {
  const args = ['-t', '-f', 'qcow2', `--cache=${cache}`, `--aio=${aio}`, '--discard=unmap']
  return {
    name: `qemu-nbd ${cache}/${aio}`,
    family: 'qemu-nbd',
    program: 'qemu-nbd',
    start: async (home, sizeBytes) => {
      const image = await qcow2(home, sizeBytes)
      const socket = join(home, 'nbd.sock')
      const words = [...args, '--shared=8', '-k', socket, image]
      return {
        description: `qemu-nbd ${args.join(' ')} on qcow2`,
        uri: `nbd+unix:///?socket=${socket}`,
        server: await Server.start('qemu-nbd', words, socket),
        tidy: nothing,
      }
    },
  }
}

function storageDaemon(cache: QemuCache, aio: QemuAio): Contender {
  return {
    name: `qemu-storage-daemon ${cache}/${aio}`,
    family: 'qemu-storage-daemon',
    program: 'qemu-storage-daemon',
    start: async (home, sizeBytes) => {
      const socket = join(home, 'nbd.sock')
      const nodes = qcow2Nodes(await qcow2(home, sizeBytes), cache, aio)
      const args = [
        ...nodes,
        ...['--nbd-server', `addr.type=unix,addr.path=${socket},max-connections=8`],
        ...['--export', 'type=nbd,id=nbd,node-name=disk,name=disk,writable=on'],
      ]
      const monitor = await startStorageDaemon(home, args)
      return {
        description: `qemu-storage-daemon ${nodes.join(' ')}`.replaceAll(home, '.'),
        uri: `nbd+unix:///disk?socket=${socket}`,
        server: monitor.server,
        tidy: nothing,
      }
    },
  }
}

/** Options that open a qcow2 image as the node `disk`. */
export function qcow2Nodes(image: string, cache: QemuCache, aio: QemuAio): string[] {
  const direct = cache === 'none' ? 'on' : 'off'
  const file = `driver=file,filename=${image},node-name=file,aio=${aio},cache.direct=${direct}`
  return [
    ...['--blockdev', `${file},discard=unmap`],
    ...['--blockdev', `driver=qcow2,file=file,node-name=disk,discard=unmap`],
  ]
}

/** With a monitor; once that listens, everything else in `args` has been carried out. */
export async function startStorageDaemon(
  home: string,
  args: readonly string[],
): Promise<{ server: Server; monitorPath: string }> {
  const monitorPath = join(home, 'qmp.sock')
  const monitor = ['--chardev', `socket,id=qmp,path=${monitorPath},server=on,wait=off`]
  const words = [...args, ...monitor, '--monitor', 'chardev=qmp']
  return { server: await Server.start('qemu-storage-daemon', words, monitorPath), monitorPath }
}

async function qcow2(home: string, sizeBytes: number): Promise<string> {
  const image = join(home, 'disk.qcow2')
  await run('qemu-img', ['create', '-q', '-f', 'qcow2', image, String(sizeBytes)])
  return image
}

async function startNbdkitFile(home: string, sizeBytes: number): Promise<StartedService> {
  const image = join(home, 'disk.raw')
  const descriptor = openSync(image, 'wx')
  ftruncateSync(descriptor, sizeBytes)
  closeSync(descriptor)
  return startNbdkit(home, ['file', image], 'nbdkit file on a raw file')
}

function startNbdkitMemory(home: string, sizeBytes: number): Promise<StartedService> {
  return startNbdkit(home, ['memory', `size=${sizeBytes}`], 'nbdkit memory: nothing is kept')
}

async function startNbdkit(
  home: string,
  plugin: readonly string[],
  description: string,
): Promise<StartedService> {
  const socket = join(home, 'nbd.sock')
  const server = await Server.start('nbdkit', ['-f', '-U', socket, ...plugin], socket)
  return { description, uri: `nbd+unix:///?socket=${socket}`, server, tidy: nothing }
}

/** The `tidy` of those that do nothing for themselves. */
export function nothing(): Promise<void> {
  return Promise.resolve()
}
