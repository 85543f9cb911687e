/**
 * Disks over vhost-user-blk for `bench vhost`, each with an NBD export beside it to fill it and to
 * verify it, and two clients: a front end without a guest, and a guest under emulation.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { buildInitramfs, findGuestKernel } from '../../test/interop/guest-kernel.ts'
import { run } from '../command.ts'
import { projectRoot } from '../project.ts'
import { loadWords, resultOf } from './c-load.ts'
import type { FioLimits, FioResult, Workload } from './fio.ts'
import {
  BESIDE_OTHERS,
  nothing,
  qcow2Nodes,
  reclaim,
  serveVarve,
  startStorageDaemon,
  varve,
  varveUri,
} from './servers.ts'
import type { Contender, StartedService } from './servers.ts'

export interface VhostContender extends Contender {
  /** Where it listens, in the folder that `start` was given. */
  socketPath(home: string): string
}

export const VHOST_CONTENDERS: readonly VhostContender[] = [
  {
    name: 'varve',
    family: 'varve',
    program: process.execPath,
    socketPath: (home) => join(home, 'vhost/disk.sock'),
    start: startVarve,
  },
  storageDaemon('writeback', 'threads'),
  storageDaemon('none', 'io_uring'),
]

async function startVarve(home: string, sizeBytes: number): Promise<StartedService> {
  const pool = join(home, 'pool')
  const sockets = join(home, 'vhost')
  mkdirSync(sockets)
  await varve(pool, 'init')
  await varve(pool, 'create', 'disk', String(sizeBytes))
  return {
    description: 'varve serve --settle off --vhost-user, checksums verified on read',
    uri: varveUri(pool, 'disk'),
    server: await serveVarve(pool, ...BESIDE_OTHERS, '--vhost-user', sockets),
    tidy: () => reclaim(pool),
  }
}

function storageDaemon(cache: 'writeback' | 'none', aio: 'threads' | 'io_uring'): VhostContender {
  const socketPath = (home: string): string => join(home, 'vhost.sock')
  return {
    name: `qemu-storage-daemon ${cache}/${aio}`,
    family: 'qemu-storage-daemon',
    program: 'qemu-storage-daemon',
    socketPath,
    start: async (home, sizeBytes) => {
      const image = join(home, 'disk.qcow2')
      const socket = join(home, 'nbd.sock')
      await run('qemu-img', ['create', '-q', '-f', 'qcow2', image, String(sizeBytes)])
      const nodes = qcow2Nodes(image, cache, aio)
      const place = `addr.type=unix,addr.path=${socketPath(home)}`
      const { server } = await startStorageDaemon(home, [
        ...nodes,
        ...['--nbd-server', `addr.type=unix,addr.path=${socket},max-connections=8`],
        ...['--export', 'type=nbd,id=nbd,node-name=disk,name=disk,writable=on'],
        ...['--export', `type=vhost-user-blk,id=vhost,node-name=disk,writable=on,${place}`],
      ])
      return {
        description: `qemu-storage-daemon ${nodes.join(' ')}`.replaceAll(home, '.'),
        uri: `nbd+unix:///disk?socket=${socket}`,
        server,
        tidy: nothing,
      }
    },
  }
}

const GUEST_SAYS = 'guest says: '
const GUEST_MEMORY_MIB = 256
const GUEST_TIMEOUT_MS = 120_000

export interface Guest {
  kernelPath: string
  /** For the guest's loads, one initramfs each. */
  makeInitramfs(script: string): string
}

/** A kernel and a userland for the guest; `program` is linked statically. */
export function prepareGuest(folder: string, busyboxPath: string, program: string): Guest {
  const kernel = findGuestKernel(projectRoot)
  let count = 0
  return {
    kernelPath: kernel.kernelPath,
    makeInitramfs: (script) => {
      const path = join(folder, `initramfs-${(count += 1)}`)
      writeFileSync(path, buildInitramfs(kernel, busyboxPath, script, { 'bin/load': program }))
      return path
    },
  }
}

/** Boots a guest with the disk as its drive and runs all workloads, one after the other. */
export async function runInGuest(
  guest: Guest,
  socketPath: string,
  loads: readonly { workload: Workload; limits: FioLimits }[],
): Promise<FioResult[]> {
  const words = loads.map(({ workload, limits }) => loadWords(workload, limits))
  const script = [
    '#!/bin/busybox sh',
    'b=/bin/busybox',
    '$b mount -t devtmpfs none /dev',
    'for module in /modules/*; do $b insmod $module; done',
    ...words.map((each) => `echo "${GUEST_SAYS}$(/bin/load /dev/vda ${each.join(' ')} 2>&1)"`),
    '$b poweroff -f',
  ]
  const initramfs = guest.makeInitramfs(`${script.join('\n')}\n`)
  const memory = `memory-backend-memfd,id=memory,size=${GUEST_MEMORY_MIB}M,share=on`
  const { stdout } = await run(
    'qemu-system-x86_64',
    [
      ...['-machine', 'q35,accel=tcg,memory-backend=memory', '-m', String(GUEST_MEMORY_MIB)],
      ...['-object', memory, '-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot'],
      ...['-serial', 'stdio', '-kernel', guest.kernelPath, '-initrd', initramfs],
      ...['-append', 'console=ttyS0 panic=-1 quiet'],
      ...['-chardev', `socket,id=disk,path=${socketPath}`],
      ...['-device', 'vhost-user-blk-pci,chardev=disk,num-queues=1'],
    ],
    { timeoutMs: GUEST_TIMEOUT_MS },
  )
  const said = stdout.split(/\r?\n/).filter((line) => line.startsWith(GUEST_SAYS))
  if (said.length !== loads.length) throw new Error(`the guest did not finish: ${stdout}`)
  return said.map((line, index) => {
    const text = line.slice(GUEST_SAYS.length)
    if (!text.startsWith('{')) throw new Error(`in the guest: ${text}`)
    return resultOf(text, words[index])
  })
}
