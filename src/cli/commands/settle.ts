/** `varve settle`. */
import { Option } from 'commander'
import type { Command } from 'commander'
import type { Compression, ReclaimReport } from '../../api/shapes.ts'
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
}

export function registerSettle(program: Command, cli: Cli): void {
  const command = program
    .command('settle')
    .summary('store what is at rest once, compressed')
    .description(
      'Rewrites what is no longer appended to: equal blocks are stored once, zeros not at all, ' +
        'the rest compressed; what no disk refers to is freed. Guests go on meanwhile.',
    )
    .addOption(
      new Option('--compression <codec>', 'how blocks are compressed')
        .choices(['off', 'lz4', 'zstd'])
        .default('lz4'),
    )
    .action(async (options: Options) => {
      const progress = phaseWriter(cli, options.progress)
      const { compression } = options
      const report = await withService(cli, command, (service) =>
        interruptible(cli, (signal) => service.settle({ compression }, { signal, progress })),
      )
      await writeResult(cli, options, 'settle', report, sentenceOf(report))
    })
  addProgressOption(addResultOptions(command))
  addHelp(command, ['varve settle', 'varve settle --compression zstd', 'varve settle -o json'])
}

function sentenceOf(report: ReclaimReport): string {
  const size = formatSize
  const parts = [
    `${size(report.duplicateBytes)} duplicate`,
    `${size(report.zeroBytes)} zero`,
    `${size(report.encodedFromBytes)} compressed to ${size(report.encodedToBytes)}`,
  ]
  const { settledSegmentCount, skippedSegmentCount } = report
  const skipped = skippedSegmentCount === 0 ? '' : `, ${skippedSegmentCount} left as they were`
  return (
    `settled ${settledSegmentCount} segments (${parts.join(', ')})${skipped}; ` +
    `the pool takes ${size(report.physicalAfterBytes)}, it took ${size(report.physicalBeforeBytes)}`
  )
}
