/** `varve doctor`. */
import type { Command } from 'commander'
import type { Finding, FixStep } from '../../daemon/host-report.ts'
import { addHelp, tryPoolPath } from '../arguments.ts'
import type { Cli } from '../context.ts'
import { EXIT_FAILED, EXIT_OK } from '../exit-codes.ts'
import { addResultOptions, writeResult } from '../output.ts'
import type { OutputOptions } from '../output.ts'
import type { SetExitCode } from '../run.ts'

interface Options extends OutputOptions {
  fix?: boolean
}

const EXIT_CODE_HELP = `Exit codes:
  0  nothing that is needed is missing, nothing stale is left    1  something is`

const MARKS: Record<Finding['state'], string> = {
  ok: 'ok',
  warning: 'warn',
  missing: 'MISS',
  stale: 'LEFT',
}

export function registerDoctor(program: Command, cli: Cli, setExitCode: SetExitCode): void {
  const command = program
    .command('doctor')
    .summary('what this host lacks, and how to get it')
    .description(
      'Looks at the host, and at the pool when one is named. A server that was killed leaves its ' +
        'mounts and devices behind, and they give errors: as root, these are found, and --fix ' +
        'takes them away from the top down. What a running server serves is not touched.',
    )
    .option('--fix', 'take away what dead servers left, whoever uses it')
    .action(async (options: Options) => {
      const { inspectHost, fixHost } = await cli.loadBackend()
      const steps = options.fix === true ? await fixHost() : []
      const findings = await inspectHost(tryPoolPath(cli, command))
      if (options.fix === true) {
        await writeResult(cli, options, 'doctor', { steps, findings }, reportText(steps, findings))
      } else {
        await writeResult(cli, options, 'findings', findings, findingsText(findings))
      }
      const isHealthy = findings.every(({ state }) => state === 'ok' || state === 'warning')
      setExitCode(isHealthy ? EXIT_OK : EXIT_FAILED)
    })
  addResultOptions(command)
  addHelp(
    command,
    ['varve doctor', 'varve --pool /srv/pool doctor -o json', 'varve doctor --fix'],
    EXIT_CODE_HELP,
  )
}

function reportText(steps: readonly FixStep[], findings: readonly Finding[]): string {
  const lines = steps.map(({ subject, action, failure }) => {
    return failure === null ? `${action}: ${subject}` : `${action}: ${subject}: ${failure}`
  })
  if (lines.length === 0) lines.push('nothing stale is left on this host')
  return [...lines, findingsText(findings)].join('\n')
}

function findingsText(findings: readonly Finding[]): string {
  const width = Math.max(...findings.map((finding) => finding.subject.length))
  return findings
    .map(({ state, subject, fact, remedy }) => {
      const line = `${MARKS[state].padEnd(4)}  ${subject.padEnd(width)}  ${fact}`
      return remedy === null ? line : `${line}\n${' '.repeat(width + 8)}-> ${remedy}`
    })
    .join('\n')
}
