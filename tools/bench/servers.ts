/**
 * The servers that are compared, each in the best mode we know for it: an image in the page
 * cache, flushes honoured, as many clients as ask, on a unix socket.
 */
import { closeSync, ftruncateSync, mkdirSync, openSync } from 'node:fs'
import { join } from 'node:path'
import { run, Server } from '../command.ts'
import { varveCommand } from '../project.ts'

export type ServerKind = 'varve' | 'qemu-nbd' | 'nbdkit'
export const SERVER_KINDS: readonly ServerKind[] = ['varve', 'qemu-nbd', 'nbdkit']

export interface NbdService {
  kind: ServerKind
  /** What its configuration was, for the report. */
  description: string
  uri: string
  server: Server
}

/** Starts `kind` on a new empty disk of `sizeBytes` in its own folder below `folder`. */
export async function startService(
  kind: ServerKind,
  folder: string,
  sizeBytes: number,
): Promise<NbdService> {
  const home = join(folder, kind)
  mkdirSync(home)
  if (kind === 'varve') return startVarve(home, sizeBytes)
  return kind === 'qemu-nbd' ? startQemuNbd(home, sizeBytes) : startNbdkit(home, sizeBytes)
}

async function startVarve(home: string, sizeBytes: number): Promise<NbdService> {
  const pool = join(home, 'pool')
  await varve(pool, 'init')
  await varve(pool, 'create', 'disk', String(sizeBytes))
  const server = await serveVarve(pool)
  return {
    kind: 'varve',
    description: 'varve serve, checksums verified on read',
    uri: varveUri(pool, 'disk'),
    server,
  }
}

/** Runs one command on a pool and resolves to its standard output. */
export async function varve(pool: string, ...args: string[]): Promise<string> {
  const [program, first] = varveCommand
  return (await run(program, [...first, '--pool', pool, ...args])).stdout
}

/** Starts `varve serve` on a pool; its control socket is the last thing that comes up. */
export function serveVarve(pool: string, ...args: string[]): Promise<Server> {
  const [program, first] = varveCommand
  const words = [...first, '--pool', pool, 'serve', ...args]
  return Server.start(program, words, join(pool, 'control.sock'))
}

export function varveUri(pool: string, name: string): string {
  return `nbd+unix:///${name}?socket=${join(pool, 'nbd.sock')}`
}

async function startQemuNbd(home: string, sizeBytes: number): Promise<NbdService> {
  const image = join(home, 'disk.qcow2')
  const socket = join(home, 'nbd.sock')
  await run('qemu-img', ['create', '-q', '-f', 'qcow2', image, String(sizeBytes)])
  const args = ['-t', '-f', 'qcow2', '--cache=writeback', '--aio=threads', '--discard=unmap']
  const server = await Server.start(
    'qemu-nbd',
    [...args, '--shared=8', '-k', socket, image],
    socket,
  )
  return {
    kind: 'qemu-nbd',
    description: `qemu-nbd ${args.join(' ')} on qcow2`,
    uri: `nbd+unix:///?socket=${socket}`,
    server,
  }
}

async function startNbdkit(home: string, sizeBytes: number): Promise<NbdService> {
  const image = join(home, 'disk.raw')
  const socket = join(home, 'nbd.sock')
  const descriptor = openSync(image, 'wx')
  ftruncateSync(descriptor, sizeBytes)
  closeSync(descriptor)
  const server = await Server.start('nbdkit', ['-f', '-U', socket, 'file', image], socket)
  return {
    kind: 'nbdkit',
    description: 'nbdkit file on a raw file',
    uri: `nbd+unix:///?socket=${socket}`,
    server,
  }
}
