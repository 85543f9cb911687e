/**
 * Reads the TAP that tap wrote and prints what the whole run comes to. The last line is exactly
 * `N passed, N failed`; the exit code is 0 only if something passed and nothing failed.
 *
 *     node dist/tools/test-summary.js RESULTS.tap TAP_EXIT_CODE
 */
import { readFileSync } from 'node:fs'
import { summarize } from './test-summary/summarize.ts'

const [resultsPath, tapExitText] = process.argv.slice(2)
const summary = summarize(readResults(resultsPath), Number(tapExitText))
for (const line of summary.remarks) console.log(line)
console.log(`${summary.passed} passed, ${summary.failed} failed`)
process.exitCode = summary.failed === 0 && summary.passed > 0 ? 0 : 1

function readResults(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    // tap died before it wrote anything: the summary will say so.
    return ''
  }
}
