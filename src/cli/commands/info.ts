/** `varve info`: the pool or one disk. */
import type { Command } from 'commander'
import type { PoolService } from '../../api/service.ts'
import type {
  PoolInfo,
  PoolUsage,
  ScrubStatus,
  ServeStatus,
  SnapshotInfo,
  Usage,
  UsageReport,
  VolumeInfo,
} from '../../api/shapes.ts'
import { OperatingError } from '../../base/errors.ts'
import { formatSize } from '../../base/units.ts'
import { addHelp } from '../arguments.ts'
import { formatTime } from '../columns.ts'
import type { Cli } from '../context.ts'
import { fillText, warnOfFill } from '../fill.ts'
import { addRecordOptions, writeRecord } from '../output.ts'
import type { OutputOptions } from '../output.ts'
import { phaseWriter } from '../phases.ts'
import { addProgressOption } from '../progress.ts'
import type { ProgressMode } from '../progress.ts'
import { scrubText } from '../scrub-text.ts'
import { savingsText, signedSize, usageOf } from '../usage-columns.ts'
import { interruptible, withService } from '../with-service.ts'

type Fields = [label: string, text: string][]

interface Options extends OutputOptions {
  usage?: boolean
  progress: ProgressMode
}

type Count = (by: string) => Promise<UsageReport>

export function registerInfo(program: Command, cli: Cli): void {
  const command = program
    .command('info')
    .summary('all about the pool, a volume or a snapshot')
    .argument('[name]', 'VOLUME or VOLUME@SNAPSHOT; the pool when left out')
    .option('-u, --usage', 'count what it takes and saves, too; costs a walk over all maps')
    .action(async (name: string | undefined, options: Options) => {
      await withService(cli, command, async (service) => {
        const status = await service.status()
        const progress = phaseWriter(cli, options.progress)
        const count: Count = (by) =>
          interruptible(cli, (signal) => service.usage({ by }, { signal, progress }))
        const isCounted = options.usage === true
        if (name === undefined) {
          const usage = isCounted ? (await count('volume')).pool : null
          const scrub = await service.scrubStatus()
          await showPool(cli, options, { pool: await service.info(), status, scrub, usage })
        } else {
          const disk = await findDisk(service, name)
          await showDisk(
            cli,
            options,
            disk,
            status,
            isCounted ? await countDisk(count, disk) : null,
          )
        }
      })
    })
  addProgressOption(addRecordOptions(command))
  addHelp(command, [
    'varve info',
    'varve info --usage',
    'varve info vm1',
    'varve info -u vm1',
    'varve info -o json vm1@monday',
  ])
}

interface DiskUsage {
  usage: Usage
  /** Null: it has no snapshots. */
  usageWithSnapshots: Usage | null
}

async function countDisk(count: Count, disk: VolumeInfo | SnapshotInfo): Promise<DiskUsage> {
  const find = async (by: string): Promise<Usage> => {
    const row = (await count(by)).rows.find(({ name }) => name === disk.name)
    if (row !== undefined) return usageOf(row)
    throw new OperatingError('not-found', `${disk.name} was removed meanwhile`)
  }
  const usage = await find('disk')
  const hasSnapshots = 'snapshots' in disk && disk.snapshots.length > 0
  return { usage, usageWithSnapshots: hasSnapshots ? await find('volume') : null }
}

function usageFields(usage: Usage, size: (bytes: number) => string): Fields {
  const { storedBytes, exclusiveBytes, sharedBytes, amortisedBytes, metadataBytes } = usage
  return [
    ['referenced', size(usage.referencedBytes)],
    [
      'stored',
      `${size(storedBytes)}: ${size(exclusiveBytes)} exclusive, ${size(sharedBytes)} shared`,
    ],
    ['amortised', `${size(amortisedBytes)}, ${size(metadataBytes)} of it maps`],
    ['saved', savingsText(usage, size)],
  ]
}

async function showPool(
  cli: Cli,
  options: OutputOptions,
  told: { pool: PoolInfo; status: ServeStatus; scrub: ScrubStatus; usage: PoolUsage | null },
): Promise<void> {
  const { pool, status, scrub, usage } = told
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
    ['scrubbed', scrubText(scrub)],
  ]
  if (usage !== null) {
    fields.push(...usageFields(usage, size))
    fields.push(['internal', size(usage.internalBytes)])
    fields.push(['overhead', signedSize(usage.overheadBytes, size)])
    fields.push(['set aside', size(usage.reserveBytes)])
  }
  const besides = { daemon: daemonOf(status), scrub, ...(usage === null ? {} : { usage }) }
  await writeRecord(cli, options, 'pool', pool, fields, besides)
  warnOfFill(cli, pool.fill)
}

async function showDisk(
  cli: Cli,
  options: OutputOptions,
  disk: VolumeInfo | SnapshotInfo,
  status: ServeStatus,
  counted: DiskUsage | null,
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
  if (counted !== null) {
    const { usage, usageWithSnapshots } = counted
    fields.push(...usageFields(usage, size))
    if (usageWithSnapshots !== null) {
      const { storedBytes, exclusiveBytes } = usageWithSnapshots
      const text = `${size(storedBytes)} stored, ${size(exclusiveBytes)} exclusive`
      fields.push(['with its snapshots', text])
    }
  }
  const uris = exports.map((entry) => entry.uri)
  await writeRecord(cli, options, isVolume ? 'volume' : 'snapshot', disk, fields, {
    exports: uris,
    ...counted,
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
