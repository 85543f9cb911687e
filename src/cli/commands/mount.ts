/** `varve mount`. */
import { resolve } from 'node:path'
import { InvalidArgumentError } from 'commander'
import type { Command } from 'commander'
import type { AttachVia } from '../../api/shapes.ts'
import { addHelp } from '../arguments.ts'
import type { Cli } from '../context.ts'
import { addResultOptions, writeResult } from '../output.ts'
import type { OutputOptions } from '../output.ts'
import { withService } from '../with-service.ts'
import { viaOption } from './attach.ts'

interface Options extends OutputOptions {
  partition?: number
  readOnly?: boolean
  options?: string[]
  via: AttachVia
}

export function registerMount(program: Command, cli: Cli): void {
  const command = program
    .command('mount')
    .summary('the filesystem inside a disk, on this host')
    .description(
      'Mounts what is in a disk: its filesystem, or that of a partition; of several, the root ' +
        'of a Linux if one is clearly meant. Set-user-id programs and device nodes do not work ' +
        'there unless asked for. A snapshot is read-only and its journal is not replayed: what ' +
        'was not written out when it was taken is missing, and a clone of it shows it. The mount ' +
        'is there for as long as `varve serve` runs, which must be root.',
    )
    .argument('<disk>', 'VOLUME or VOLUME@SNAPSHOT')
    .argument('<folder>', 'where; must be there')
    .option('-P, --partition <number>', 'this one', parsePartition)
    .option('-r, --read-only', 'a volume too, without a look at its journal')
    .option('--options <list>', 'for mount(8), separated by commas; they win over ours', (text) =>
      text.split(',').filter((word) => word !== ''),
    )
    .addOption(viaOption())
    .action(async (name: string, folder: string, options: Options) => {
      const request = {
        name,
        directory: resolve(folder),
        partition: options.partition ?? null,
        readOnly: options.readOnly === true,
        options: options.options ?? [],
        via: options.via,
      }
      const mount = await withService(cli, command, (service) => service.mount(request))
      const { type, device, directory, readOnly } = mount
      const part = mount.partition === null ? '' : `, partition ${mount.partition}`
      const what = `${name}${part}: ${type} on ${device}${readOnly ? ', read-only' : ''}`
      await writeResult(cli, options, 'mount', mount, `mounted ${what}, at ${directory}`)
    })
  addResultOptions(command)
  addHelp(command, [
    'varve mount vm1 /mnt/vm1',
    'varve mount vm1@monday /mnt/monday',
    'varve mount --partition 2 vm1 /mnt/vm1',
    'varve mount --options discard,noatime vm1 /mnt/vm1',
  ])
}

function parsePartition(text: string): number {
  const number = Number(text)
  if (/^\d+$/.test(text) && number >= 1 && number <= 1024) return number
  throw new InvalidArgumentError('A partition is a number from 1.')
}
