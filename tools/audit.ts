/**
 * Looks at the dependencies that users install: where they come from, their licenses, their
 * install scripts, and, if the registry answers, what is known to be wrong with them.
 *
 * Exit codes: 0 nothing found, 1 something is, 3 the registry did not tell.
 */
import { dependencyComplaints } from './audit/dependencies.ts'
import { run } from './command.ts'
import { projectRoot } from './project.ts'

interface AuditReport {
  metadata?: { vulnerabilities?: Record<string, number> }
  vulnerabilities?: Record<string, { severity: string; range: string }>
}

const TIMEOUT_MS = 60_000
const EXIT_FOUND = 1
const EXIT_UNKNOWN = 3

const complaints = dependencyComplaints(projectRoot)
for (const complaint of complaints) console.log(complaint)
if (complaints.length > 0) process.exitCode = EXIT_FOUND
else console.log('lock file, licenses and install scripts: nothing to complain about')

const words = ['audit', '--omit=dev', '--json']
const { stdout } = await run('npm', words, {
  cwd: projectRoot,
  timeoutMs: TIMEOUT_MS,
  exitCodes: [0, 1, 137],
})
const report = parseReport(stdout)
if (report?.metadata === undefined) {
  console.log('known vulnerabilities: the registry does not say')
  process.exitCode ??= EXIT_UNKNOWN
} else {
  const found = Object.entries(report.vulnerabilities ?? {})
  for (const [name, { severity, range }] of found) console.log(`${name} ${range}: ${severity}`)
  if (found.length > 0) process.exitCode = EXIT_FOUND
  else console.log('known vulnerabilities: none')
}

function parseReport(text: string): AuditReport | null {
  try {
    return JSON.parse(text) as AuditReport
  } catch {
    return null
  }
}
