/** `varve snapshot`. */
import type { Command } from 'commander'
import { addHelp } from '../arguments.ts'
import type { Cli } from '../context.ts'
import { addResultOptions, writeResult } from '../output.ts'
import type { OutputOptions } from '../output.ts'
import { withService } from '../with-service.ts'

export function registerSnapshot(program: Command, cli: Cli): void {
  const command = program
    .command('snapshot')
    .alias('snap')
    .summary('keep volumes as they are now')
    .description('Takes snapshots of one or more volumes, all at the same moment or none.')
    .argument('<names...>', 'VOLUME@SNAPSHOT each')
    .action(async (names: string[], options: OutputOptions) => {
      const snapshots = await withService(cli, command, (service) => service.snapshot(names))
      await writeResult(cli, options, 'snapshots', snapshots, null)
    })
  addResultOptions(command)
  addHelp(command, ['varve snapshot vm1@monday', 'varve snapshot db-data@t1 db-log@t1'])
}
