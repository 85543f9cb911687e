/** `varve detach`. */
import type { Command } from 'commander'
import { addHelp } from '../arguments.ts'
import type { Cli } from '../context.ts'
import { addResultOptions, writeResult } from '../output.ts'
import type { OutputOptions } from '../output.ts'
import { withService } from '../with-service.ts'

export function registerDetach(program: Command, cli: Cli): void {
  const command = program
    .command('detach')
    .summary('take a block device back')
    .description('Refused, with the list of users, while anything uses the device.')
    .argument('<target>', 'VOLUME, VOLUME@SNAPSHOT or /dev/…')
    .action(async (target: string, options: OutputOptions) => {
      const devices = await withService(cli, command, (service) => service.detach(target))
      const paths = devices.map(({ device }) => device).join(', ')
      await writeResult(cli, options, 'devices', devices, `detached ${paths}`)
    })
  addResultOptions(command)
  addHelp(command, ['varve detach vm1', 'varve detach /dev/loop3'])
}
