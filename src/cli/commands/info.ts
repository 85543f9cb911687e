/** `varve info`: the pool or one disk. */
import type { Command } from 'commander'
import type { PoolService } from '../../api/service.ts'
import type { PoolInfo, ServeStatus, SnapshotInfo, VolumeInfo } from '../../api/shapes.ts'
import { OperatingError } from '../../base/errors.ts'
import { formatSize } from '../../base/units.ts'
import { addHelp } from '../arguments.ts'
import { formatTime } from '../columns.ts'
import type { Cli } from '../context.ts'
import { fillText, warnOfFill } from '../fill.ts'
import { addRecordOptions, writeRecord } from '../output.ts'
import type { OutputOptions } from '../output.ts'
import { withService } from '../with-service.ts'

type Fields = [label: string, text: string][]

export function registerInfo(program: Command, cli: Cli): void {
  const command = program
    .command('info')
    .summary('all about the pool, a volume or a snapshot')
    .argument('[name]', 'VOLUME or VOLUME@SNAPSHOT; the pool when left out')
    .action(async (name: string | undefined, options: OutputOptions) => {
      await withService(cli, command, async (service) => {
        const status = await service.status()
        if (name === undefined) await showPool(cli, options, await service.info(), status)
        else await showDisk(cli, options, await findDisk(service, name), status)
      })
    })
  addRecordOptions(command)
  addHelp(command, ['varve info', 'varve info vm1', 'varve info -o json vm1@monday'])
}

async function showPool(
  cli: Cli,
  options: OutputOptions,
  pool: PoolInfo,
  status: ServeStatus,
): Promise<void> {
  const size = sizeWriter(options)
  const served = status.mode === 'daemon' ? `by process ${status.processId}` : 'no'
  const fields: Fields = [
    ['pool', pool.path],
    ['id', pool.id],
    ['format', String(pool.formatVersion)],
    ['created', formatTime(pool.createdMs)],
    ['volumes', String(pool.volumeCount)],
    ['snapshots', String(pool.snapshotCount)],
    ['logical', size(pool.logicalBytes)],
    ['mapped', size(pool.mappedBytes)],
    ['physical', `${size(pool.physicalBytes)} in ${pool.segmentCount} segments`],
    ['capacity', pool.capacityBytes === 0 ? 'that of its disk' : size(pool.capacityBytes)],
    ['free', size(pool.freeBytes)],
    ['full', fillText(pool.fill)],
    ['served', served],
    ['health', pool.failure ?? 'good'],
  ]
  await writeRecord(cli, options, 'pool', pool, fields, { daemon: daemonOf(status) })
  warnOfFill(cli, pool.fill)
}

async function showDisk(
  cli: Cli,
  options: OutputOptions,
  disk: VolumeInfo | SnapshotInfo,
  status: ServeStatus,
): Promise<void> {
  const size = sizeWriter(options)
  const exports = status.exports.filter((entry) => entry.name === disk.name)
  const isVolume = 'snapshots' in disk
  const fields: Fields = [
    [isVolume ? 'volume' : 'snapshot', disk.name],
    ['size', size(disk.sizeBytes)],
    ['mapped', size(disk.mappedBytes)],
    ['created', formatTime(disk.createdMs)],
    ['holds', disk.holds.join(', ') || '-'],
  ]
  if (isVolume) {
    const labels = Object.entries(disk.labels).map(([key, value]) => `${key}=${value}`)
    fields.push(
      ['origin', disk.origin ?? '-'],
      ['labels', labels.join(', ') || '-'],
      ['clients', disk.clients.join(', ') || '-'],
      ['snapshots', disk.snapshots.map((snapshot) => snapshot.name).join(', ') || '-'],
    )
  }
  for (const entry of exports) fields.push(['export', entry.uri])
  const uris = exports.map((entry) => entry.uri)
  await writeRecord(cli, options, isVolume ? 'volume' : 'snapshot', disk, fields, {
    exports: uris,
  })
}

function sizeWriter(options: OutputOptions): (bytes: number) => string {
  return options.exact === true ? String : formatSize
}

/** What of the daemon does not change from one look to the next. */
function daemonOf(status: ServeStatus): object | null {
  if (status.mode === 'embedded') return null
  const { processId, version, startedMs, connections, mounts } = status
  return { processId, version, startedMs, connections, mounts }
}

async function findDisk(service: PoolService, name: string): Promise<VolumeInfo | SnapshotInfo> {
  const at = name.indexOf('@')
  const volume = await service.volume(at < 0 ? name : name.slice(0, at))
  if (at < 0) return volume
  const found = volume.snapshots.find((snapshot) => snapshot.name === name)
  if (found !== undefined) return found
  throw new OperatingError('not-found', `there is no snapshot ${name}`, {
    hint: `See \`varve list -t snapshots ${volume.name}\`.`,
    details: { name },
  })
}
