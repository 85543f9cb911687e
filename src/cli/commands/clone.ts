/** `varve clone`. */
import type { Command } from 'commander'
import { addHelp } from '../arguments.ts'
import type { Cli } from '../context.ts'
import { addResultOptions, writeResult } from '../output.ts'
import type { OutputOptions } from '../output.ts'
import { withService } from '../with-service.ts'

export function registerClone(program: Command, cli: Cli): void {
  const command = program
    .command('clone')
    .summary('new volumes that start as another disk')
    .description('Makes volumes that share every block of a disk until they are written.')
    .argument('<source>', 'VOLUME or VOLUME@SNAPSHOT')
    .argument('<names...>', 'the new volumes: all of them, or none')
    .action(async (source: string, names: string[], options: OutputOptions) => {
      const volumes = await withService(cli, command, (service) => service.clone(source, names))
      await writeResult(cli, options, 'volumes', volumes, null)
    })
  addResultOptions(command)
  addHelp(command, ['varve clone golden vm1 vm2 vm3', 'varve clone vm1@monday vm1-test'])
}
