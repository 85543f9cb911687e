/** `varve mkfs`. */
import { Option } from 'commander'
import type { Command } from 'commander'
import type { MkfsRequest } from '../../api/shapes.ts'
import { addHelp } from '../arguments.ts'
import type { Cli } from '../context.ts'
import { addResultOptions, writeResult } from '../output.ts'
import type { OutputOptions } from '../output.ts'
import { withService } from '../with-service.ts'

interface Options extends OutputOptions {
  type: MkfsRequest['type']
  label?: string
  force?: boolean
}

export function registerMkfs(program: Command, cli: Cli): void {
  const command = program
    .command('mkfs')
    .summary('make a filesystem on a volume')
    .description(
      'Makes a filesystem whose blocks are those of the pool. What was on the volume is given ' +
        'back to the pool. Needs `varve serve` running as root.',
    )
    .argument('<volume>')
    .addOption(
      new Option('-t, --type <type>', 'of the filesystem')
        .choices(['ext4', 'xfs', 'btrfs'])
        .default('ext4'),
    )
    .option('-L, --label <text>', 'of the filesystem')
    .option('-f, --force', 'even if there is a filesystem or a partition table')
    .action(async (name: string, options: Options) => {
      const { type } = options
      const request = { name, type, label: options.label ?? null, force: options.force === true }
      const report = await withService(cli, command, (service) => service.mkfs(request))
      await writeResult(cli, options, 'filesystem', report, `made ${type} on ${name}`)
    })
  addResultOptions(command)
  addHelp(command, ['varve mkfs vm1 --type ext4', 'varve mkfs vm1 --type xfs --label data'])
}
