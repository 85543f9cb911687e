/**
 * Disks with many snapshots, for `bench snapshots`: each gets the same data and the same random
 * overwrites, with so many snapshots taken at even distances meanwhile.
 */
import { mkdirSync } from 'node:fs'
import { copyFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { HttpService } from '../../src/api/http-service.ts'
import { run, type Server } from '../command.ts'
import { fio, fioLoad, type Workload } from './fio.ts'
import { fillDisk } from './nbd.ts'
import type { Subject } from './rounds.ts'
import { qcow2Nodes, startStorageDaemon, varveUri } from './servers.ts'
import { StorageDaemonMonitor } from './storage-daemon.ts'

/** Requests a second of the overwrites: what everybody keeps up with. */
const OVERWRITE_RATE_IOPS = 4000
const BLOCK_BYTES = 4096
/** Whoever takes longer for all snapshots of a disk is not waited for. */
const MAKING_MS_MAX = 240_000

const OVERWRITE: Workload = {
  name: 'overwrite',
  pattern: 'randwrite',
  blockSizes: '4k',
  queueDepth: 1,
}

export interface Amounts {
  sizeBytes: number
  overwrittenBytes: number
}

export interface DeepDisk {
  subject: Subject
  uri: string
  depth: number
  /** Of each snapshot, under load. */
  tookMs: number[]
  stop(): Promise<void>
}

export async function varveDisk(
  pool: string,
  server: Server,
  depth: number,
  amounts: Amounts,
): Promise<DeepDisk> {
  const name = `d${depth}`
  const uri = varveUri(pool, name)
  const service = new HttpService(join(pool, 'control.sock'))
  try {
    await service.create({ name, sizeBytes: amounts.sizeBytes })
    await fillDisk(uri, amounts.sizeBytes)
    const tookMs = await overwriteBeside(uri, amounts, depth, async (index) => {
      await service.snapshot([`${name}@s${index}`])
    })
    const { snapshots } = await service.volume(name)
    if (snapshots.length !== depth) throw new Error(`${snapshots.length} snapshots, not ${depth}`)
    const subject = { name: `varve ${depth}`, family: 'varve', server, load: fioLoad(uri) }
    return { subject, uri, depth, tookMs, stop: () => Promise.resolve() }
  } finally {
    await service.close()
  }
}

/** A chain of images, each the backing file of the next. */
export function qcow2Chain(folder: string, depth: number, amounts: Amounts): Promise<DeepDisk> {
  return qcow2Disk('qcow2 chain', folder, depth, amounts, async (monitor, home, index) => {
    const overlay = `layer${index}`
    const image = join(home, `${overlay}.qcow2`)
    // An empty one is an empty one, and a program less to be started for each.
    const empty = join(home, 'empty.qcow2')
    if (index === 0) await createQcow2(empty, amounts.sizeBytes)
    await copyFile(empty, image)
    const node = index === 0 ? 'disk' : `layer${index - 1}`
    // Opened without a backing file: the snapshot gives it one.
    await monitor.execute('blockdev-add', {
      driver: 'qcow2',
      'node-name': overlay,
      file: { driver: 'file', filename: image },
      backing: null,
    })
    await monitor.execute('blockdev-snapshot', { node, overlay })
  })
}

/** Snapshots inside of one image. */
export function qcow2Internal(folder: string, depth: number, amounts: Amounts): Promise<DeepDisk> {
  return qcow2Disk('qcow2 internal', folder, depth, amounts, async (monitor, _home, index) => {
    await monitor.execute('transaction', {
      actions: [
        {
          type: 'blockdev-snapshot-internal-sync',
          data: { device: 'disk', name: `s${index}` },
        },
      ],
    })
  })
}

async function qcow2Disk(
  family: string,
  folder: string,
  depth: number,
  amounts: Amounts,
  snapshot: (monitor: StorageDaemonMonitor, home: string, index: number) => Promise<void>,
): Promise<DeepDisk> {
  const name = `${family} ${depth}`
  const home = join(folder, name.replaceAll(' ', '-'))
  mkdirSync(home)
  const image = join(home, 'disk.qcow2')
  await createQcow2(image, amounts.sizeBytes)
  const socket = join(home, 'nbd.sock')
  const { server, monitorPath } = await startStorageDaemon(home, [
    ...qcow2Nodes(image, 'writeback', 'threads'),
    ...['--nbd-server', `addr.type=unix,addr.path=${socket},max-connections=8`],
    ...['--export', 'type=nbd,id=nbd,node-name=disk,name=disk,writable=on'],
  ])
  const stop = async (): Promise<void> => {
    await server.stop()
  }
  try {
    const uri = `nbd+unix:///disk?socket=${socket}`
    await fillDisk(uri, amounts.sizeBytes)
    const monitor = await StorageDaemonMonitor.open(monitorPath)
    try {
      const tookMs = await overwriteBeside(uri, amounts, depth, (index) =>
        snapshot(monitor, home, index),
      )
      return { subject: { name, family, server, load: fioLoad(uri) }, uri, depth, tookMs, stop }
    } finally {
      monitor.close()
    }
  } catch (error) {
    await stop()
    throw error
  }
}

async function createQcow2(image: string, sizeBytes: number): Promise<void> {
  await run('qemu-img', ['create', '-q', '-f', 'qcow2', image, String(sizeBytes)])
}

/** Overwrites at random and takes the snapshots meanwhile; resolves to what each took. */
async function overwriteBeside(
  uri: string,
  { sizeBytes, overwrittenBytes }: Amounts,
  depth: number,
  snapshot: (index: number) => Promise<void>,
): Promise<number[]> {
  const limits = { sizeBytes, totalBytes: overwrittenBytes, seed: 11 }
  const writing = fio(uri, OVERWRITE, { ...limits, rateIops: OVERWRITE_RATE_IOPS })
  // A failed load is reported when it is awaited below, after the snapshot in progress.
  writing.catch(() => undefined)
  const durationMs = (overwrittenBytes / BLOCK_BYTES / OVERWRITE_RATE_IOPS) * 1000
  const startMs = performance.now()
  const tookMs: number[] = []
  for (let index = 0; index < depth; index += 1) {
    const dueMs = startMs + (durationMs * (index + 0.5)) / depth
    await delay(Math.max(0, dueMs - performance.now()))
    const beginMs = performance.now()
    if (beginMs - startMs > MAKING_MS_MAX) {
      throw new Error(`after ${(MAKING_MS_MAX / 1000).toFixed(0)} s it had ${index} snapshots`)
    }
    await snapshot(index)
    tookMs.push(performance.now() - beginMs)
  }
  await writing
  return tookMs
}
