/** `varve settle`. */
import { Option } from 'commander'
import type { Command } from 'commander'
import type { Compression, ReclaimReport, UpkeepStatus } from '../../api/shapes.ts'
import { OperatingError } from '../../base/errors.ts'
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
  compression: Compression
  progress: ProgressMode
  pause?: boolean
  resume?: boolean
  status?: boolean
}

export function registerSettle(program: Command, cli: Cli): void {
  const command = program
    .command('settle')
    .summary('store what is at rest once, compressed')
    .description(
      'Rewrites what is no longer appended to: equal blocks are stored once, zeros not at all, ' +
        'the rest compressed; what no disk refers to is freed. Blocks of volumes that lie ' +
        'scattered are written in order first, where no snapshot or clone shares them and there ' +
        'is room. Guests go on meanwhile.',
    )
    .addOption(
      new Option('--compression <codec>', 'how blocks are compressed')
        .choices(['off', 'lz4', 'zstd'])
        .default('lz4'),
    )
    .option('--pause', 'stop the daemon’s settling and reclaiming where they are')
    .option('--resume', 'let them go on')
    .option('--status', 'say how they stand')
    .action(async (options: Options) => {
      const asked = pauseOf(options)
      if (asked !== undefined) {
        const status = await withService(cli, command, (service) => service.upkeep(asked))
        await writeResult(cli, options, 'upkeep', status, statusSentence(status))
        return
      }
      const progress = phaseWriter(cli, options.progress)
      const { compression } = options
      const report = await withService(cli, command, (service) =>
        interruptible(cli, (signal) => service.settle({ compression }, { signal, progress })),
      )
      await writeResult(cli, options, 'settle', report, sentenceOf(report))
    })
  addProgressOption(addResultOptions(command))
  addHelp(command, [
    'varve settle',
    'varve settle --compression zstd',
    'varve settle --pause',
    'varve settle -o json',
  ])
}

/** Undefined: neither; settle now. Null: only say how it stands. */
function pauseOf({ pause, resume, status }: Options): boolean | null | undefined {
  const given = [pause, resume, status].filter((one) => one === true).length
  if (given > 1) throw new OperatingError('usage', 'one of --pause, --resume and --status')
  if (given === 0) return undefined
  return status === true ? null : pause === true
}

function statusSentence({ idle, isPaused, phase, done, total }: UpkeepStatus): string {
  const policy = idle === null ? 'only when asked for' : `when guests are idle, with ${idle}`
  const run = phase === null ? 'nothing is running' : `${phase} ${done} of ${total}`
  return `settles ${policy}; ${run}${isPaused ? ', paused' : ''}`
}

function sentenceOf(report: ReclaimReport): string {
  const size = formatSize
  const parts = [
    `${size(report.duplicateBytes)} duplicate`,
    `${size(report.zeroBytes)} zero`,
    `${size(report.encodedFromBytes)} compressed to ${size(report.encodedToBytes)}`,
  ]
  const { orderedBytes, settledSegmentCount, skippedSegmentCount } = report
  const ordered = orderedBytes === 0 ? '' : `wrote ${size(orderedBytes)} in order; `
  const skipped = skippedSegmentCount === 0 ? '' : `, ${skippedSegmentCount} left as they were`
  return (
    `${ordered}settled ${settledSegmentCount} segments (${parts.join(', ')})${skipped}; ` +
    `the pool takes ${size(report.physicalAfterBytes)}, it took ${size(report.physicalBeforeBytes)}`
  )
}
