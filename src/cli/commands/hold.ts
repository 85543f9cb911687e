/** `varve hold`. */
import type { Command } from 'commander'
import { addHelp } from '../arguments.ts'
import type { Cli } from '../context.ts'
import { addResultOptions, writeResult } from '../output.ts'
import type { OutputOptions } from '../output.ts'
import { withService } from '../with-service.ts'

export function registerHold(program: Command, cli: Cli): void {
  const command = program
    .command('hold')
    .summary('protect a disk from removal')
    .description('A held disk cannot be removed until every hold on it is released.')
    .argument('<name>', 'VOLUME or VOLUME@SNAPSHOT')
    .argument('<tag>', 'says who or what for')
    .action(async (name: string, tag: string, options: OutputOptions) => {
      await withService(cli, command, (service) => service.hold(name, tag))
      await writeResult(cli, options, 'hold', { name, tag }, null)
    })
  addResultOptions(command)
  addHelp(command, ['varve hold vm1@monday backup'])
}
