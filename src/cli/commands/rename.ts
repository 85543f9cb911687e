/** `varve rename`. */
import type { Command } from 'commander'
import { addHelp } from '../arguments.ts'
import type { Cli } from '../context.ts'
import { addResultOptions, writeResult } from '../output.ts'
import type { OutputOptions } from '../output.ts'
import { withService } from '../with-service.ts'

export function registerRename(program: Command, cli: Cli): void {
  const command = program
    .command('rename')
    .alias('mv')
    .summary('give a volume or snapshot another name')
    .argument('<from>', 'VOLUME or VOLUME@SNAPSHOT')
    .argument('<to>', 'of the same kind; a snapshot stays with its volume')
    .action(async (from: string, to: string, options: OutputOptions) => {
      await withService(cli, command, (service) => service.rename(from, to))
      await writeResult(cli, options, 'rename', { from, to }, null)
    })
  addResultOptions(command)
  addHelp(command, ['varve rename vm1 web', 'varve rename web@monday web@before-upgrade'])
}
