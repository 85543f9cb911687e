/** `varve rm`. */
import type { Command } from 'commander'
import type { RemoveReport } from '../../api/shapes.ts'
import { formatSize } from '../../base/units.ts'
import { addHelp } from '../arguments.ts'
import { confirm } from '../confirm.ts'
import type { Cli } from '../context.ts'
import { addResultOptions, writeResult } from '../output.ts'
import type { OutputOptions } from '../output.ts'
import { withService } from '../with-service.ts'

interface Options extends OutputOptions {
  recursive?: boolean
  dryRun?: boolean
  yes?: boolean
}

export function registerRm(program: Command, cli: Cli): void {
  const command = program
    .command('rm')
    .alias('remove')
    .summary('remove volumes and snapshots')
    .description(
      'Removes disks, all that are named or none. Clones keep what they share; the space of what ' +
        'nobody shares comes back with the next reclaim.',
    )
    .argument('<names...>', 'VOLUME or VOLUME@SNAPSHOT each')
    .option('-r, --recursive', 'with all snapshots of a volume')
    .option('-n, --dry-run', 'only say what would go and how much would be freed')
    .option('-y, --yes', 'do not ask')
    .action(async (names: string[], options: Options) => {
      const recursive = options.recursive === true
      const dryRun = options.dryRun === true
      await withService(cli, command, async (service) => {
        if (!dryRun && options.yes !== true && cli.terminal.stdin) {
          const plan = await service.remove({ names, recursive, dryRun: true })
          await confirm(cli, `Remove ${removalText(plan)}?`, false)
        }
        const report = await service.remove({ names, recursive, dryRun })
        const sentence = `${dryRun ? 'would remove' : 'removed'} ${removalText(report)}`
        await writeResult(cli, options, 'remove', { dryRun, ...report }, sentence)
      })
    })
  addResultOptions(command)
  addHelp(command, ['varve rm vm1@monday', 'varve rm -n -r vm1', 'varve rm -y -r vm1'])
}

function removalText({ removed, freedBytes }: RemoveReport): string {
  const names = removed.join(', ')
  return freedBytes === null ? names : `${names} (frees ${formatSize(freedBytes)})`
}
