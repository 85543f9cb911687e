/** `varve reclaim`. */
import type { Command } from 'commander'
import { formatSize } from '../../base/units.ts'
import { addHelp } from '../arguments.ts'
import type { Cli } from '../context.ts'
import { addResultOptions, writeResult } from '../output.ts'
import type { OutputOptions } from '../output.ts'
import { phaseWriter } from '../phases.ts'
import { addProgressOption } from '../progress.ts'
import type { ProgressMode } from '../progress.ts'
import { interruptible, withService } from '../with-service.ts'

interface Options extends OutputOptions {
  progress: ProgressMode
}

export function registerReclaim(program: Command, cli: Cli): void {
  const command = program
    .command('reclaim')
    .summary('give back the space that no disk refers to')
    .description('Finds what no disk reaches and frees it; guests go on meanwhile.')
    .action(async (options: Options) => {
      const progress = phaseWriter(cli, options.progress)
      const report = await withService(cli, command, (service) =>
        interruptible(cli, (signal) => service.reclaim({ signal, progress })),
      )
      const { physicalBeforeBytes, physicalAfterBytes } = report
      const freed = formatSize(Math.max(0, physicalBeforeBytes - physicalAfterBytes))
      const sentence = `freed ${freed}; the pool takes ${formatSize(physicalAfterBytes)}`
      await writeResult(cli, options, 'reclaim', report, sentence)
    })
  addProgressOption(addResultOptions(command))
  addHelp(command, ['varve reclaim', 'varve reclaim -o json --progress none'])
}
