/** `varve list`: volumes and snapshots. */
import { Option } from 'commander'
import type { Command } from 'commander'
import type { SnapshotInfo, VolumeInfo } from '../../api/shapes.ts'
import { OperatingError } from '../../base/errors.ts'
import { addHelp } from '../arguments.ts'
import { countColumn, listColumn, sizeColumn, textColumn, timeColumn } from '../columns.ts'
import type { Column } from '../columns.ts'
import type { Cli } from '../context.ts'
import { warnOfFill } from '../fill.ts'
import { addListOptions, writeList } from '../output.ts'
import type { OutputOptions } from '../output.ts'
import { withService } from '../with-service.ts'

type Kind = 'volumes' | 'snapshots' | 'all'

interface Options extends OutputOptions {
  type: Kind
}

/** A volume or a snapshot in one table. */
type Row = VolumeInfo | SnapshotInfo

function isVolume(row: Row): row is VolumeInfo {
  return 'snapshots' in row
}

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
]

function labelTexts(labels: Record<string, string>): string[] {
  return Object.entries(labels).map(([key, value]) => `${key}=${value}`)
}

export function registerList(program: Command, cli: Cli): void {
  const command = program
    .command('list')
    .alias('ls')
    .summary('the volumes and snapshots of the pool')
    .argument('[names...]', 'only these volumes')
    .addOption(
      new Option('-t, --type <type>', 'what to list')
        .choices(['volumes', 'snapshots', 'all'])
        .default('volumes'),
    )
    .action(async (names: string[], options: Options) => {
      const { all, fill } = await withService(cli, command, async (service) => {
        return { all: await service.volumes(), fill: (await service.status()).fill }
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
  addListOptions(command, COLUMNS)
  addHelp(command, [
    'varve list',
    'varve list -t all --sort -mapped',
    'varve list -H -p --columns name,mapped',
    'varve list -o json vm1',
  ])
}

function chosen(volumes: VolumeInfo[], names: readonly string[]): VolumeInfo[] {
  if (names.length === 0) return volumes
  return names.map((name) => {
    const found = volumes.find((volume) => volume.name === name)
    if (found !== undefined) return found
    throw new OperatingError('not-found', `there is no volume ${name}`, { details: { name } })
  })
}

function rowsOf(volumes: readonly VolumeInfo[], kind: Kind): Row[] {
  if (kind === 'volumes') return [...volumes]
  if (kind === 'snapshots') return volumes.flatMap((volume) => volume.snapshots)
  return volumes.flatMap((volume) => [volume, ...volume.snapshots])
}
