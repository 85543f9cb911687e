/** `varve usage`: who uses what. */
import { Option } from 'commander'
import type { Command } from 'commander'
import type { PoolUsage, UsageRow } from '../../api/shapes.ts'
import { formatSize } from '../../base/units.ts'
import { addHelp } from '../arguments.ts'
import { countColumn, textColumn } from '../columns.ts'
import type { Column } from '../columns.ts'
import type { Cli } from '../context.ts'
import { writeOut } from '../context.ts'
import { addListOptions, writeList } from '../output.ts'
import type { OutputOptions } from '../output.ts'
import { phaseWriter } from '../phases.ts'
import { addProgressOption } from '../progress.ts'
import type { ProgressMode } from '../progress.ts'
import { savingsText, signedSize, usageColumns } from '../usage-columns.ts'
import { interruptible, withService } from '../with-service.ts'

interface Options extends OutputOptions {
  by: string
  progress: ProgressMode
}

const USUAL = ['logical', 'mapped', 'stored', 'exclusive', 'shared', 'amortised']

const COLUMNS: readonly Column<UsageRow>[] = [
  textColumn('name', (row) => row.name),
  countColumn('volumes', (row) => row.volumeCount, { usual: false }),
  countColumn('snapshots', (row) => row.snapshotCount, { usual: false }),
  ...usageColumns<UsageRow>((row) => row, USUAL),
]

export function registerUsage(program: Command, cli: Cli): void {
  const command = program
    .command('usage')
    .summary('who uses what of the pool')
    .description(
      'Counts what every disk reaches, exactly. Exclusive is what removing it would free; ' +
        'amortised divides what is shared among those who share it, and adds up.',
    )
    .addOption(
      new Option('--by <what>', 'volume (with its snapshots), disk, tenant, or label:KEY').default(
        'volume',
      ),
    )
    .action(async (options: Options) => {
      const progress = phaseWriter(cli, options.progress)
      const by = options.by === 'tenant' ? 'label:tenant' : options.by
      const report = await withService(cli, command, (service) =>
        interruptible(cli, (signal) => service.usage({ by }, { signal, progress })),
      )
      const { rows, pool } = report
      await writeList(cli, options, {
        key: 'usage',
        rows,
        columns: COLUMNS,
        nameOf: (row) => row.name ?? '-',
        besides: { by: report.by, pool },
      })
      const isForPeople = options.output === 'table' && !options.script && !options.quiet
      if (isForPeople) await writeOut(cli.stdout, poolText(pool, options))
    })
  addProgressOption(addListOptions(command, COLUMNS))
  addHelp(command, [
    'varve usage',
    'varve usage --by tenant --sort -amortised',
    'varve usage --by disk --columns name,exclusive,clone,dedup,compression',
    'varve usage --by label:team -o csv --columns name,logical,amortised',
    'varve usage -o json',
  ])
}

function poolText(pool: PoolUsage, options: OutputOptions): string {
  const size = options.exact === true ? String : formatSize
  const { amortisedBytes, internalBytes, overheadBytes, reserveBytes, physicalBytes } = pool
  return (
    `\nThe pool takes ${size(physicalBytes)}: disks ${size(amortisedBytes)}, ` +
    `its own ${size(internalBytes)}, overhead ${signedSize(overheadBytes, size)}; ` +
    `set aside ${size(reserveBytes)}.\n` +
    `Saved: ${savingsText(pool, size)}.\n`
  )
}
