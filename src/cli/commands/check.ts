/** `varve check`: offline, with exit codes of its own. */
import type { Command } from 'commander'
import type { CheckReport, Finding } from '../../check/report.ts'
import { formatSize } from '../../base/units.ts'
import { addHelp, globalOptions, mustPoolPath } from '../arguments.ts'
import type { Cli } from '../context.ts'
import { addRecordOptions, writeResult } from '../output.ts'
import type { OutputOptions } from '../output.ts'
import { EXIT_OK } from '../exit-codes.ts'
import type { SetExitCode } from '../run.ts'

const EXIT_CORRUPT = 2
const EXIT_LEAKS = 3

const EXIT_CODE_HELP = `Exit codes:
  0  clean                         3  sound, but space is lost
  1  the check could not be made   4  a process has the pool open
  2  corrupt, or not understood as written`

export function registerCheck(program: Command, cli: Cli, setExitCode: SetExitCode): void {
  const command = program
    .command('check')
    .alias('fsck')
    .summary('read and verify a pool that is not in use')
    .description('Verifies every checksum, map and name of a pool at rest. Changes nothing.')
    .action(async (options: OutputOptions) => {
      const path = mustPoolPath(cli, command)
      const { checkOffline, poolAccessFindings } = await cli.loadBackend()
      const report = await checkOffline(path, globalOptions(command).io)
      for (const { fact, remedy } of await poolAccessFindings(path)) {
        cli.stderr.write(`varve: warning: ${fact}${remedy === null ? '' : `; ${remedy}`}\n`)
      }
      await writeResult(cli, options, 'check', report, reportText(report))
      if (report.errors.length > 0) setExitCode(EXIT_CORRUPT)
      else setExitCode(report.leaks.length > 0 ? EXIT_LEAKS : EXIT_OK)
    })
  addRecordOptions(command)
  addHelp(command, ['varve check', 'varve --pool /srv/pool check -o json'], EXIT_CODE_HELP)
}

export function reportText(report: CheckReport): string {
  const { errors, leaks, warnings } = report
  const lines = [
    ...errors.map((finding) => findingText('error', finding)),
    ...leaks.map((finding) => findingText('leak', finding)),
    ...warnings.map((finding) => findingText('warning', finding)),
  ]
  if (report.suppressedCount > 0) lines.push(`and ${report.suppressedCount} more`)
  const verdict =
    errors.length > 0
      ? `corrupt: ${errors.length} errors`
      : leaks.length > 0
        ? `sound, ${leaks.length} leaks`
        : 'clean'
  const scope =
    `${report.disks.length} disks, ${report.segmentCount} segments, ` +
    `${formatSize(report.verifiedBytes)} verified`
  lines.push(`${verdict}; ${scope}`)
  return lines.join('\n')
}

function findingText(severity: string, finding: Finding): string {
  const affected = finding.affected.map(
    ({ disk, offsetBytes, lengthBytes }) =>
      `\n  hits ${disk} at ${offsetBytes}, ${lengthBytes} bytes`,
  )
  return `${severity} ${finding.code} at ${finding.where}: ${finding.message}${affected.join('')}`
}
