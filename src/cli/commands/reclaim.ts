/** `varve reclaim`. */
import type { Command } from 'commander'
import type { ReclaimProgress } from '../../api/shapes.ts'
import { formatSize } from '../../base/units.ts'
import { addHelp } from '../arguments.ts'
import type { Cli } from '../context.ts'
import { API_VERSION, addResultOptions, writeResult } from '../output.ts'
import type { OutputOptions } from '../output.ts'
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
      const progress = progressWriter(cli, options.progress)
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

/** Its phases have no common measure: one line each, or one that is written over. */
function progressWriter(cli: Cli, mode: ProgressMode): (progress: ReclaimProgress) => void {
  if (mode === 'none' || (mode === 'auto' && !cli.terminal.stderr)) return () => undefined
  if (mode === 'json') {
    return (progress) => {
      cli.stderr.write(`${JSON.stringify({ apiVersion: API_VERSION, progress })}\n`)
    }
  }
  return ({ phase, done, total }) => {
    const end = phase === 'sweep' && done === total ? '\n' : ''
    cli.stderr.write(`\r\u001b[K${phase} ${done} of ${total}${end}`)
  }
}
