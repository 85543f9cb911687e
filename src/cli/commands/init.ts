/** `varve init`: a new pool. */
import type { Command } from 'commander'
import { addHelp, globalOptions, mustPoolPath } from '../arguments.ts'
import type { Cli } from '../context.ts'
import { addResultOptions, writeResult } from '../output.ts'
import type { OutputOptions } from '../output.ts'

export function registerInit(program: Command, cli: Cli): void {
  const command = program
    .command('init')
    .summary('make an empty pool')
    .description('Makes an empty pool in a new or empty folder that only its owner may enter.')
    .argument('[folder]', 'the pool; --pool or VARVE_POOL when left out')
    .action(async (folder: string | undefined, options: OutputOptions) => {
      const path = folder ?? mustPoolPath(cli, command)
      const { initPool } = await cli.loadBackend()
      const pool = await initPool(path, globalOptions(command).io)
      await writeResult(cli, options, 'pool', pool, null)
    })
  addResultOptions(command)
  addHelp(command, ['varve init /srv/pool', 'VARVE_POOL=/srv/pool varve init'])
}
