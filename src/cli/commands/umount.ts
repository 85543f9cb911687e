/** `varve umount`. */
import { resolve } from 'node:path'
import type { Command } from 'commander'
import { addHelp } from '../arguments.ts'
import type { Cli } from '../context.ts'
import { addResultOptions, writeResult } from '../output.ts'
import type { OutputOptions } from '../output.ts'
import { withService } from '../with-service.ts'

export function registerUmount(program: Command, cli: Cli): void {
  const command = program
    .command('umount')
    .alias('unmount')
    .summary('unmount what `varve mount` has mounted')
    .description(
      'Writes everything out and unmounts; the device goes with its last mount unless ' +
        '`varve attach` asked for it. Refused, with the list of users, while anything uses it.',
    )
    .argument('<target>', 'a disk, for all its mounts; or a folder')
    .action(async (target: string, options: OutputOptions) => {
      const mounts = await withService(cli, command, async (service) => {
        const isDisk = (await service.devices()).some(({ name }) => name === target)
        return service.umount(isDisk ? target : resolve(target))
      })
      const folders = mounts.map(({ directory }) => directory).join(', ')
      await writeResult(cli, options, 'mounts', mounts, `unmounted ${folders}`)
    })
  addResultOptions(command)
  addHelp(command, ['varve umount /mnt/vm1', 'varve umount vm1'])
}
