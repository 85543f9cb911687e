/** `varve scrub`. */
import type { Command } from 'commander'
import type { ScrubFinding, ScrubReport } from '../../api/shapes.ts'
import { OperatingError } from '../../base/errors.ts'
import { formatSize } from '../../base/units.ts'
import { addHelp, parseSize } from '../arguments.ts'
import type { Cli } from '../context.ts'
import type { SetExitCode } from '../run.ts'
import { addResultOptions, writeResult } from '../output.ts'
import type { OutputOptions } from '../output.ts'
import { phaseWriter } from '../phases.ts'
import { addProgressOption } from '../progress.ts'
import type { ProgressMode } from '../progress.ts'
import { findingsText, scrubText } from '../scrub-text.ts'
import { interruptible, withService } from '../with-service.ts'

interface Options extends OutputOptions {
  progress: ProgressMode
  rate?: number
  pause?: boolean
  resume?: boolean
  status?: boolean
}

/** As of `check`. */
const EXIT_CORRUPT = 2

const EXIT_CODE_HELP = `Exit codes:
  0  nothing is lost               4  a scrub is running already
  1  failed                        5  the daemon does not answer
  2  blocks are lost, or not understood as written
  130  interrupted; the next run goes on from there`

/** Ranges of disks shown with a finding; JSON has more. */
const RANGE_COUNT_MAX = 4

export function registerScrub(program: Command, cli: Cli, setExitCode: SetExitCode): void {
  const command = program
    .command('scrub')
    .summary('verify everything that is stored, and heal what can be')
    .description(
      'Reads all that the pool keeps and holds it against its checksums. What is damaged is put ' +
        'right from an equal block, or by the one bit that is wrong; what cannot be stays ' +
        'unreadable, and only that. Guests go on meanwhile. A run that is stopped goes on, the ' +
        'next time, where it was.',
    )
    .option('--rate <size>', 'most to read in a second, like 100M', parseSize)
    .option('--pause', 'stop the daemon’s scrubbing, settling and reclaiming where they are')
    .option('--resume', 'let them go on')
    .option('--status', 'say how it stands')
    .action(async (options: Options) => {
      if (isQuestion(options)) await showStatus(cli, command, options)
      else if ((await scrub(cli, command, options)).lostCount > 0) setExitCode(EXIT_CORRUPT)
    })
  addProgressOption(addResultOptions(command))
  const examples = ['varve scrub', 'varve scrub --rate 100M', 'varve scrub --status']
  addHelp(command, [...examples, 'varve scrub -o json --progress none'], EXIT_CODE_HELP)
}

function isQuestion({ pause, resume, status }: Options): boolean {
  const count = [pause, resume, status].filter((one) => one === true).length
  if (count > 1) throw new OperatingError('usage', 'one of --pause, --resume and --status')
  return count === 1
}

async function showStatus(cli: Cli, command: Command, options: Options): Promise<void> {
  const status = await withService(cli, command, async (service) => {
    if (options.status !== true) await service.upkeep(options.pause === true)
    return service.scrubStatus()
  })
  const paused = status.isPaused ? '; paused' : ''
  await writeResult(cli, options, 'scrub', status, `scrubbed: ${scrubText(status)}${paused}`)
}

async function scrub(cli: Cli, command: Command, options: Options): Promise<ScrubReport> {
  const progress = phaseWriter(cli, options.progress)
  const request = { rateBytes: options.rate ?? null }
  const report = await withService(cli, command, (service) =>
    interruptible(cli, (signal) => service.scrub(request, { signal, progress })),
  )
  await writeResult(cli, options, 'scrub', report, sentencesOf(report))
  return report
}

function sentencesOf(report: ScrubReport): string {
  const lines = report.findings.map(lineOf)
  if (report.suppressedCount > 0) lines.push(`and ${report.suppressedCount} more`)
  const resumed = report.isResumed ? ', since it was begun' : ''
  lines.push(`${formatSize(report.readBytes)} read${resumed}; ${findingsText(report)}`)
  return lines.join('\n')
}

function lineOf({ outcome, where, message, affected }: ScrubFinding): string {
  const ranges = affected
    .slice(0, RANGE_COUNT_MAX)
    .map((range) => `${range.disk} at ${range.offsetBytes} +${range.lengthBytes}`)
  if (affected.length > RANGE_COUNT_MAX) ranges.push('…')
  const hits = ranges.length === 0 ? '' : ` (${ranges.join(', ')})`
  return `${outcome}: ${where}: ${message}${hits}`
}
