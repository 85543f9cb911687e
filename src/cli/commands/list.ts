/** `varve list`: volumes and snapshots. */
import { Option } from 'commander'
import type { Command } from 'commander'
import type { PoolService } from '../../api/service.ts'
import type { SnapshotInfo, Usage, VolumeInfo } from '../../api/shapes.ts'
import { must } from '../../base/assert.ts'
import { OperatingError } from '../../base/errors.ts'
import { addHelp } from '../arguments.ts'
import { countColumn, listColumn, sizeColumn, textColumn, timeColumn } from '../columns.ts'
import type { Column } from '../columns.ts'
import type { Cli } from '../context.ts'
import { warnOfFill } from '../fill.ts'
import { addListOptions, writeList } from '../output.ts'
import type { OutputOptions } from '../output.ts'
import { phaseWriter } from '../phases.ts'
import { addProgressOption } from '../progress.ts'
import type { ProgressMode } from '../progress.ts'
import { usageColumns, usageOf } from '../usage-columns.ts'
import { interruptible, withService } from '../with-service.ts'

type Kind = 'volumes' | 'snapshots' | 'all'

interface Options extends OutputOptions {
  type: Kind
  progress: ProgressMode
}

/** Counted only where a column shows it. */
interface Counted {
  usage?: Usage
}

type Volume = VolumeInfo & Counted
type Snapshot = SnapshotInfo & Counted

/** A volume or a snapshot in one table. */
type Row = Volume | Snapshot

function isVolume(row: Row): row is Volume {
  return 'snapshots' in row
}

const USAGE_COLUMNS: readonly Column<Row>[] = usageColumns<Row>(
  ({ usage }) => must(usage, 'the usage of what is shown'),
  [],
  ['logical', 'mapped'],
)

const COLUMNS: readonly Column<Row>[] = [
  textColumn('name', (row) => row.name),
  sizeColumn('size', (row) => row.sizeBytes),
  sizeColumn('mapped', (row) => row.mappedBytes),
  countColumn('snapshots', (row) => (isVolume(row) ? row.snapshots.length : 0)),
  listColumn('clients', (row) => (isVolume(row) ? row.clients : [])),
  timeColumn('created', (row) => row.createdMs),
  textColumn('origin', (row) => (isVolume(row) ? row.origin : row.volume), { usual: false }),
  listColumn('holds', (row) => row.holds, { usual: false }),
  listColumn('labels', (row) => (isVolume(row) ? labelTexts(row.labels) : []), { usual: false }),
  textColumn('type', (row) => (isVolume(row) ? 'volume' : 'snapshot'), { usual: false }),
  ...USAGE_COLUMNS,
]

function labelTexts(labels: Record<string, string>): string[] {
  return Object.entries(labels).map(([key, value]) => `${key}=${value}`)
}

export function registerList(program: Command, cli: Cli): void {
  const command = program
    .command('list')
    .alias('ls')
    .summary('the volumes and snapshots of the pool')
    .description(
      'Columns from "referenced" on have to be counted, which costs a walk over all maps; they ' +
        'are of the disk for itself, without its snapshots.',
    )
    .argument('[names...]', 'only these volumes')
    .addOption(
      new Option('-t, --type <type>', 'what to list')
        .choices(['volumes', 'snapshots', 'all'])
        .default('volumes'),
    )
    .action(async (names: string[], options: Options) => {
      const { all, fill } = await withService(cli, command, async (service) => {
        const volumes = await service.volumes()
        const counted = needsCount(options) ? await count(cli, service, volumes, options) : volumes
        return { all: counted, fill: (await service.status()).fill }
      })
      const volumes = chosen(all, names)
      const rows = rowsOf(volumes, options.type)
      await writeList(cli, options, {
        key: options.type === 'snapshots' ? 'snapshots' : 'volumes',
        rows,
        columns: COLUMNS,
        nameOf: (row) => row.name,
        // A volume in JSON holds its snapshots.
        json: options.type === 'snapshots' ? rows : rows.filter(isVolume),
      })
      // A script that lists asks for the fill with `info`, and reads its own stderr.
      if (cli.terminal.stderr) warnOfFill(cli, fill)
    })
  addProgressOption(addListOptions(command, COLUMNS))
  addHelp(command, [
    'varve list',
    'varve list -t all --sort -mapped',
    'varve list -H -p --columns name,mapped',
    'varve list -o json vm1',
    'varve list -t all --columns name,stored,exclusive --sort -exclusive',
  ])
}

function needsCount({ columns = [], sort = '' }: Options): boolean {
  const asked = [...columns, sort.replace(/^-/, '')].map((key) => key.toLowerCase())
  return USAGE_COLUMNS.some(({ key }) => asked.includes(key))
}

/** With what each takes; without those that went meanwhile. */
async function count(
  cli: Cli,
  service: PoolService,
  volumes: readonly VolumeInfo[],
  options: Options,
): Promise<Volume[]> {
  const progress = phaseWriter(cli, options.progress)
  const { rows } = await interruptible(cli, (signal) =>
    service.usage({ by: 'disk' }, { signal, progress }),
  )
  const usages = new Map(rows.map((row) => [row.name, usageOf(row)]))
  const withUsage = <T extends VolumeInfo | SnapshotInfo>(disk: T): (T & Counted)[] => {
    const usage = usages.get(disk.name)
    return usage === undefined ? [] : [{ ...disk, usage }]
  }
  return volumes.flatMap((volume) => {
    return withUsage({ ...volume, snapshots: volume.snapshots.flatMap(withUsage) })
  })
}

function chosen(volumes: Volume[], names: readonly string[]): Volume[] {
  if (names.length === 0) return volumes
  return names.map((name) => {
    const found = volumes.find((volume) => volume.name === name)
    if (found !== undefined) return found
    throw new OperatingError('not-found', `there is no volume ${name}`, { details: { name } })
  })
}

function rowsOf(volumes: readonly Volume[], kind: Kind): Row[] {
  if (kind === 'volumes') return [...volumes]
  if (kind === 'snapshots') return volumes.flatMap((volume) => volume.snapshots)
  return volumes.flatMap((volume) => [volume, ...volume.snapshots])
}
