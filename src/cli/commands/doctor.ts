/** `varve doctor`. */
import type { Command } from 'commander'
import type { Finding } from '../../daemon/host-report.ts'
import { addHelp, tryPoolPath } from '../arguments.ts'
import type { Cli } from '../context.ts'
import { EXIT_FAILED, EXIT_OK } from '../exit-codes.ts'
import { addResultOptions, writeResult } from '../output.ts'
import type { OutputOptions } from '../output.ts'
import type { SetExitCode } from '../run.ts'

const EXIT_CODE_HELP = `Exit codes:
  0  nothing that is needed is missing    1  something is`

const MARKS: Record<Finding['state'], string> = { ok: 'ok', warning: 'warn', missing: 'MISS' }

export function registerDoctor(program: Command, cli: Cli, setExitCode: SetExitCode): void {
  const command = program
    .command('doctor')
    .summary('what this host lacks, and how to get it')
    .description('Looks at the host, and at the pool when one is named.')
    .action(async (options: OutputOptions) => {
      const { inspectHost } = await cli.loadBackend()
      const findings = await inspectHost(tryPoolPath(cli, command))
      await writeResult(cli, options, 'findings', findings, findingsText(findings))
      const healthy = findings.every((finding) => finding.state !== 'missing')
      setExitCode(healthy ? EXIT_OK : EXIT_FAILED)
    })
  addResultOptions(command)
  addHelp(command, ['varve doctor', 'varve --pool /srv/pool doctor -o json'], EXIT_CODE_HELP)
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
