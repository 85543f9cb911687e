/**
 * Counts tests in the TAP of a whole run. tap nests by four spaces a level: a point at level 0 is
 * a test file, a point at level 1 is a test in it, and deeper ones are that test's assertions,
 * which would only inflate the count.
 */
export interface TestSummary {
  passed: number
  failed: number
  /** What a reader should know besides the two numbers, failures by name first. */
  remarks: string[]
}

interface Point {
  level: number
  ok: boolean
  name: string
  directive: string
}

const POINT = /^( *)(ok|not ok) \d+(?: - )?(.*?)(?:\s+#\s*(skip|todo|time=)(.*))?(?: \{)?$/i
const YAML_START = /^( *)---$/

/** `tapExitCode` not 0 with nothing else failed counts as one failure: tap saw what we did not. */
export function summarize(tapText: string, tapExitCode: number): TestSummary {
  const summary: TestSummary = { passed: 0, failed: 0, remarks: [] }
  const skipped: string[] = []
  let failedInFile = 0
  let passedInFile = 0
  /** The first assertion that failed in the test whose own point is still to come. */
  let reason: string | null = null
  for (const point of readPoints(tapText)) {
    const isSkipped = /^(skip|todo)/i.test(point.directive)
    if (point.level > 1) {
      if (!point.ok && !isSkipped) reason ??= point.name
    } else if (point.level === 1) {
      if (isSkipped) skipped.push(`${point.name}${reasonOf(point.directive)}`)
      else if (point.ok) passedInFile += 1
      else failedInFile += fail(summary, reason === null ? point.name : `${point.name}: ${reason}`)
      reason = null
    } else if (point.level === 0) {
      // A file that fails although no test in it did has thrown, timed out or leaked.
      if (!point.ok && failedInFile === 0) failedInFile += fail(summary, point.name)
      if (point.ok && passedInFile === 0) failedInFile += fail(summary, `${point.name}: no tests`)
      summary.passed += passedInFile
      summary.failed += failedInFile
      passedInFile = 0
      failedInFile = 0
    }
  }
  if (passedInFile + failedInFile > 0) {
    // The results end inside a file: the run was cut short.
    summary.passed += passedInFile
    summary.failed += failedInFile + fail(summary, 'the results end in the middle of a file')
  }
  if (summary.passed + summary.failed === 0) summary.failed += fail(summary, 'no tests were run')
  if (tapExitCode !== 0 && summary.failed === 0) {
    summary.failed += fail(summary, `tap itself exited with ${tapExitCode}`)
  }
  for (const name of skipped) summary.remarks.push(`skipped: ${name}`)
  return summary
}

/** What stands behind `skip`, such as ` (no fusermount3 here)`. */
function reasonOf(directive: string): string {
  const reason = directive.replace(/^(skip|todo)/i, '').trim()
  return reason === '' ? '' : ` (${reason})`
}

function fail(summary: TestSummary, name: string): 1 {
  summary.remarks.push(`failed: ${name}`)
  return 1
}

/** Test points outside of YAML blocks, whose text may look like one. */
function* readPoints(tapText: string): Generator<Point> {
  let yamlEnd: string | null = null
  for (const line of tapText.split('\n')) {
    if (yamlEnd !== null) {
      if (line === yamlEnd) yamlEnd = null
      continue
    }
    const yaml = YAML_START.exec(line)
    if (yaml !== null) {
      yamlEnd = `${yaml[1]}...`
      continue
    }
    const match = POINT.exec(line)
    if (match === null || match[1].length % 4 !== 0) continue
    const [, indent, result, name, directive = '', rest = ''] = match
    yield { level: indent.length / 4, ok: result === 'ok', name, directive: directive + rest }
  }
}
