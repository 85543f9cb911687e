/** `varve release`. */
import type { Command } from 'commander'
import { addHelp } from '../arguments.ts'
import type { Cli } from '../context.ts'
import { addResultOptions, writeResult } from '../output.ts'
import type { OutputOptions } from '../output.ts'
import { withService } from '../with-service.ts'

export function registerRelease(program: Command, cli: Cli): void {
  const command = program
    .command('release')
    .summary('take a hold away')
    .description('Takes away the hold of that tag.')
    .argument('<name>', 'VOLUME or VOLUME@SNAPSHOT')
    .argument('<tag>', 'says who or what for')
    .action(async (name: string, tag: string, options: OutputOptions) => {
      await withService(cli, command, (service) => service.release(name, tag))
      await writeResult(cli, options, 'release', { name, tag }, null)
    })
  addResultOptions(command)
  addHelp(command, ['varve release vm1@monday backup'])
}
