/** `varve create`: a new volume. */
import type { Command } from 'commander'
import { OperatingError } from '../../base/errors.ts'
import { addHelp, parseLabel, parseSize } from '../arguments.ts'
import type { Cli } from '../context.ts'
import { addResultOptions, writeResult } from '../output.ts'
import type { OutputOptions } from '../output.ts'
import { withService } from '../with-service.ts'

interface Options extends OutputOptions {
  size?: number
  label?: Record<string, string>
}

export function registerCreate(program: Command, cli: Cli): void {
  const command = program
    .command('create')
    .summary('make an empty volume')
    .description('Makes a volume that reads as zeros and takes no space until it is written.')
    .argument('<name>')
    .argument('[size]', 'like 10G, a multiple of 512 bytes', parseSize)
    .option('-s, --size <size>', 'the same as an option', parseSize)
    .option('--label <key=value>', 'may be given several times', parseLabel)
    .action(async (name: string, size: number | undefined, options: Options) => {
      const sizeBytes = size ?? options.size
      if (sizeBytes === undefined || (size !== undefined && options.size !== undefined)) {
        throw new OperatingError('usage', 'a volume needs one size', {
          hint: `For example \`varve create ${name} 10G\`.`,
        })
      }
      const request = { name, sizeBytes, labels: options.label ?? {} }
      const volume = await withService(cli, command, (service) => service.create(request))
      await writeResult(cli, options, 'volume', volume, null)
    })
  addResultOptions(command)
  addHelp(command, ['varve create vm1 20G', 'varve create vm1 --size 20G --label owner=alice'])
}
