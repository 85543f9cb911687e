/** `varve devices`: what is attached and mounted. */
import type { Command } from 'commander'
import type { DeviceInfo } from '../../api/shapes.ts'
import { addHelp } from '../arguments.ts'
import { listColumn, sizeColumn, textColumn } from '../columns.ts'
import type { Column } from '../columns.ts'
import type { Cli } from '../context.ts'
import { addListOptions, writeList } from '../output.ts'
import type { OutputOptions } from '../output.ts'
import { withService } from '../with-service.ts'

const COLUMNS: readonly Column<DeviceInfo>[] = [
  textColumn('device', (row) => row.device),
  textColumn('disk', (row) => row.name),
  textColumn('partition', (row) => (row.partition === null ? null : String(row.partition))),
  sizeColumn('size', (row) => row.sizeBytes),
  textColumn('mode', (row) => (row.readOnly ? 'ro' : 'rw')),
  listColumn('mounts', (row) => row.mounts),
  textColumn('kind', (row) => row.kind, { usual: false }),
  sizeColumn('sector', (row) => row.sectorSizeBytes, { usual: false }),
  textColumn('direct', (row) => (row.directIo ? 'yes' : 'no'), { usual: false }),
  textColumn('state', stateOf, { usual: false }),
]

function stateOf(row: DeviceInfo): string {
  if (row.isDraining) return 'detached when its last user lets go'
  return row.isKept ? 'attached' : 'goes with its last mount'
}

export function registerDevices(program: Command, cli: Cli): void {
  const command = program
    .command('devices')
    .summary('disks that are block devices of this host, and where they are mounted')
    .action(async (options: OutputOptions) => {
      const rows = await withService(cli, command, (service) => service.devices())
      await writeList(cli, options, {
        key: 'devices',
        rows,
        columns: COLUMNS,
        nameOf: (row) => row.device,
      })
    })
  addListOptions(command, COLUMNS)
  addHelp(command, [
    'varve devices',
    'varve devices --columns device,disk,state',
    'varve devices -o json',
  ])
}
