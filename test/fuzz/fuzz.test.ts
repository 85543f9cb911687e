/**
 * A short run of every target, what has been found before once more, and bugs planted to see that
 * the fuzzer finds them. The long run is `npm run fuzz`.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { VarveError } from '../../src/base/errors.ts'
import { CORPUS_PATH } from './corpus.ts'
import type { JobOptions } from './job-options.ts'
import { PLANTED_BUGS } from './plants.ts'
import { TARGET_GROUPS } from './registry.ts'
import { runJob } from './run-job.ts'

t.setTimeout(1_200_000)

const SMOKE_EXECUTION_COUNT = 400
/** A whole pool takes a thousand times as long as a page. */
const SMOKE_POOL_EXECUTION_COUNT = 8
const POOL_TARGET = /^pool-/

const folder = mkdtempSync(join(tmpdir(), 'varve-fuzz-'))
t.teardown(() => rmSync(folder, { recursive: true, force: true }))

const OPTIONS: JobOptions = {
  targets: [],
  seed: 1,
  executionCount: SMOKE_EXECUTION_COUNT,
  timeMs: 0,
  corpusPath: CORPUS_PATH,
  findingsPath: folder,
  plant: null,
  isUntilFound: false,
  limitMs: 20_000,
  keepPath: null,
}

for (const targets of TARGET_GROUPS) {
  t.test(`nothing is found in ${targets.join(', ')}`, async (t) => {
    const isPool = POOL_TARGET.test(targets[0])
    const executionCount = isPool ? SMOKE_POOL_EXECUTION_COUNT : SMOKE_EXECUTION_COUNT
    for (const report of await runJob({ ...OPTIONS, targets, executionCount })) {
      t.strictSame(
        report.findings.map(({ key, stack }) => `${key}\n${stack}`),
        [],
        report.target,
      )
      t.ok(report.executionCount >= executionCount)
      t.ok(report.edgeCount > 0, 'branches were counted')
    }
  })
}

t.test('the same seed finds the same way', async (t) => {
  const one = await runJob({ ...OPTIONS, targets: ['record'], corpusPath: null })
  const two = await runJob({ ...OPTIONS, targets: ['record'], corpusPath: null })
  const facts = ([report]: typeof one): number[] => [report.edgeCount, report.corpusCount]
  t.strictSame(facts(one), facts(two))
})

t.test('a job that dies without a word is told, by target and seed', async (t) => {
  const from = 'export function decodeNode(memory, offsetBytes, level) {'
  const plant = { module: '/format/node.js', from, to: `${from} process.exit(0);` }
  const options = { ...OPTIONS, targets: ['node'], seed: 7, plant, corpusPath: null }
  await t.rejects(runJob(options), { code: 'io', message: /^node, seed 7: exit code 0, no report/ })
})

for (const { name, target, plant, executionCount } of PLANTED_BUGS) {
  t.test(`found: ${name}`, async (t) => {
    const planted = { targets: [target], plant, executionCount, isUntilFound: true, limitMs: 2000 }
    try {
      const [report] = await runJob({ ...OPTIONS, ...planted, corpusPath: null })
      t.ok(report.findings.length > 0, `within ${report.executionCount} executions`)
    } catch (error) {
      // Killed by its watch: the loop without an end.
      t.ok(error instanceof VarveError && error.message.includes('takes longer'))
    }
  })
}
