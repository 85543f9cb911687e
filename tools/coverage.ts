/**
 * How much of what lies between an export and the disk the tests take: runs the unit tests of those
 * layers, the pool against its model and a fixed set of simulator seeds under V8's block coverage,
 * prints the branches of every file, leaves a report to click through in `.build/coverage`, and
 * fails when a layer has less than its share.
 *
 *     npm run coverage
 *
 * Exit codes: 0 every layer has it, 1 one has not, or a test failed.
 */
import { mkdirSync, readFileSync, readdirSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { availableParallelism } from 'node:os'
import { dirname, join, relative } from 'node:path'
import { run } from './command.ts'
import { projectRoot } from './project.ts'
import { table } from './table.ts'

const LAYERS: readonly string[] = ['format', 'segment', 'map', 'pool']
const BRANCH_PERCENT_MIN = 95
const SEED_COUNT = 40
/** One test: the longest takes a minute on a quiet machine. */
const TEST_TIMEOUT_MS = 900_000
const REPORT_TIMEOUT_MS = 300_000
const FAILURE_LINE_COUNT = 20

/** What c8 counts; of a module that has no branches, none of none. */
interface Count {
  total: number
  covered: number
}

type Summary = Record<string, { branches: Count; lines: Count }>

const compiledRoot = join(import.meta.dirname, '..')
const reportFolder = join(projectRoot, '.build/coverage')
const rawFolder = join(reportFolder, 'raw')

/** Each with its arguments; the longest first, so that none is left alone at the end. */
function testRuns(): string[][] {
  const seeds = [join(compiledRoot, 'test/sim/run-seeds.js'), '--seeds', String(SEED_COUNT)]
  const model = [join(compiledRoot, 'test/sim/pool-model.test.js')]
  const units = ['pool', 'segment', 'map', 'check', 'format'].flatMap((layer) => {
    const folder = join(compiledRoot, 'test/unit', layer)
    const names = readdirSync(folder).filter((name) => name.endsWith('.test.js'))
    return names.sort().map((name) => [join(folder, name)])
  })
  return [seeds, model, ...units]
}

/** Runs what is left, one after the other; returns what failed. */
async function runTests(left: string[][]): Promise<string[]> {
  const failures: string[] = []
  for (let words = left.shift(); words !== undefined; words = left.shift()) {
    const env = { NODE_V8_COVERAGE: rawFolder }
    await run(process.execPath, words, { env, timeoutMs: TEST_TIMEOUT_MS }).catch(
      (error: unknown) => failures.push(failureOf(words, error)),
    )
  }
  return failures
}

/** Which test, and of all that it said what failed, or the end. */
function failureOf(words: readonly string[], error: unknown): string {
  const said = String(error).split('\n')
  const failed = said.filter((line) => /^\s*not ok/.test(line))
  const lines = failed.length > 0 ? failed : said.slice(-FAILURE_LINE_COUNT)
  return [`failed: ${relative(compiledRoot, words[0])}`, ...lines].join('\n  ')
}

async function report(): Promise<Summary> {
  const words = ['report', '--temp-directory', rawFolder, '--reports-dir', reportFolder]
  words.push('--src', 'src', '--all=false', '--exclude-after-remap')
  for (const layer of LAYERS) words.push('--include', `src/${layer}/**`)
  words.push('--reporter', 'html', '--reporter', 'json-summary')
  const c8 = join(dirname(createRequire(import.meta.url).resolve('c8')), 'bin/c8.js')
  const options = { cwd: projectRoot, timeoutMs: REPORT_TIMEOUT_MS }
  await run(process.execPath, [c8, ...words], options)
  const path = join(reportFolder, 'coverage-summary.json')
  return JSON.parse(readFileSync(path, 'utf8')) as Summary
}

function percent({ total, covered }: Count): number {
  return total === 0 ? 100 : (100 * covered) / total
}

function row(name: string, { branches, lines }: { branches: Count; lines: Count }): string[] {
  const { covered, total } = branches
  const share = `${covered} of ${total}`
  return [name, share, percent(branches).toFixed(1), percent(lines).toFixed(1)]
}

function sum(counts: readonly Count[]): Count {
  return {
    total: counts.reduce((all, { total }) => all + total, 0),
    covered: counts.reduce((all, { covered }) => all + covered, 0),
  }
}

/** Prints every file and every layer; returns the layers that have too little. */
function tell(summary: Summary): string[] {
  const header = ['file', 'branches', '%', 'lines %']
  const files: string[][] = []
  const layers: string[][] = []
  const wanting: string[] = []
  for (const layer of LAYERS) {
    const folder = `src/${layer}/`
    const found = Object.entries(summary)
      .map(([path, counts]) => ({ name: relative(projectRoot, path), ...counts }))
      .filter(({ name }) => name.startsWith(folder))
    for (const one of found) files.push(row(one.name, one))
    const branches = sum(found.map((one) => one.branches))
    layers.push(row(folder, { branches, lines: sum(found.map((one) => one.lines)) }))
    // A layer of which nothing was loaded was not measured.
    if (found.length === 0 || percent(branches) < BRANCH_PERCENT_MIN) wanting.push(folder)
  }
  console.log(table(header, [...files, ...layers]))
  return wanting
}

rmSync(reportFolder, { recursive: true, force: true })
mkdirSync(rawFolder, { recursive: true })
const left = testRuns()
const lanes = Array.from({ length: Math.min(4, availableParallelism()) }, () => runTests(left))
const failures = (await Promise.all(lanes)).flat()
for (const failure of failures) console.error(failure)
const wanting = tell(await report())
rmSync(rawFolder, { recursive: true })
for (const folder of wanting) {
  console.error(`${folder} has less than ${BRANCH_PERCENT_MIN} % of its branches taken`)
}
console.log(`the report: ${relative(process.cwd(), reportFolder)}/index.html`)
if (failures.length + wanting.length > 0) process.exitCode = 1
