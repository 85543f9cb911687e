/** `varve attach`. */
import { InvalidArgumentError, Option } from 'commander'
import type { Command } from 'commander'
import type { AttachRequest, AttachVia } from '../../api/shapes.ts'
import { addHelp } from '../arguments.ts'
import type { Cli } from '../context.ts'
import { addResultOptions, writeResult } from '../output.ts'
import type { OutputOptions } from '../output.ts'
import { withService } from '../with-service.ts'

interface Options extends OutputOptions {
  readOnly?: boolean
  sectorSize: AttachRequest['sectorSizeBytes']
  via: AttachVia
}

export function viaOption(): Option {
  return new Option('--via <kind>', 'by a loop device on a FUSE file, or the nbd of the kernel')
    .choices(['auto', 'loop', 'nbd'])
    .default('auto')
}

export function registerAttach(program: Command, cli: Cli): void {
  const command = program
    .command('attach')
    .summary('a disk as a block device of this host')
    .description(
      'Makes a block device of a disk and prints its path. Discards on it free space in the ' +
        'pool, a flush is durable, and a snapshot is read-only. The device is there for as long ' +
        'as `varve serve` runs, which must be root. A disk that is attached already keeps its ' +
        'device.',
    )
    .argument('<disk>', 'VOLUME or VOLUME@SNAPSHOT')
    .option('-r, --read-only', 'a volume too')
    .option(
      '--sector-size <bytes>',
      'of the device; an image has the one it was made with, nearly always 512',
      parseSectorSize,
      512,
    )
    .addOption(viaOption())
    .action(async (name: string, options: Options) => {
      const { via, sectorSize } = options
      const readOnly = options.readOnly === true
      const request = { name, readOnly, via, sectorSizeBytes: sectorSize }
      const device = await withService(cli, command, (service) => service.attach(request))
      await writeResult(cli, options, 'device', device, device.device)
    })
  addResultOptions(command)
  addHelp(command, [
    'varve attach vm1',
    'varve attach vm1@monday',
    'mkfs.ext4 "$(varve attach vm1)"',
    'varve attach --sector-size 4096 vm1',
  ])
}

function parseSectorSize(text: string): AttachRequest['sectorSizeBytes'] {
  if (text === '512') return 512
  if (text === '4096') return 4096
  throw new InvalidArgumentError('A sector has 512 or 4096 bytes.')
}
