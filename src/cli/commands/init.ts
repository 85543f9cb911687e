/** `varve init`: a new pool. */
import type { Command } from 'commander'
import { addHelp, globalOptions, mustPoolPath, parseSize } from '../arguments.ts'
import type { Cli } from '../context.ts'
import { addResultOptions, writeResult } from '../output.ts'
import type { OutputOptions } from '../output.ts'

interface Options extends OutputOptions {
  capacity?: number
}

export function registerInit(program: Command, cli: Cli): void {
  const command = program
    .command('init')
    .summary('make an empty pool')
    .description('Makes an empty pool in a new or empty folder that only its owner may enter.')
    .argument('[folder]', 'the pool; --pool or VARVE_POOL when left out')
    .option('--capacity <size>', 'what it may take of its disk (default: all of it)', parseSize)
    .action(async (folder: string | undefined, options: Options) => {
      const path = folder ?? mustPoolPath(cli, command)
      const capacityBytes = options.capacity ?? 0
      const { initPool } = await cli.loadBackend()
      const pool = await initPool(path, globalOptions(command).io, { capacityBytes })
      await writeResult(cli, options, 'pool', pool, null)
    })
  addResultOptions(command)
  addHelp(command, ['varve init /srv/pool', 'VARVE_POOL=/srv/pool varve init'])
}
