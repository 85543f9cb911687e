/** Runs told by their steps: they repeat to the byte, shrink, and stay what they were. */
import t from 'tap'
import { runSeed } from './pool-seeds.ts'
import { REGRESSIONS } from './regressions.ts'
import { formatSteps, parseSteps } from './script.ts'
import { reduce, shrink } from './shrink.ts'

/** Of every door, with damage and without. */
const TRACED_SEEDS = [1, 2, 3, 4, 5, 6, 7, 8]
const BROKEN_SEED_COUNT_MAX = 20

t.setTimeout(600_000)

t.test('a seed gives the same trace twice, to the byte', async (t) => {
  const seen = new Set<string>()
  for (const seed of TRACED_SEEDS) {
    const first = await runSeed({ seed, isTraced: true })
    const second = await runSeed({ seed, isTraced: true })
    t.strictSame(second, first, `seed ${seed}`)
    seen.add(first.hash)
  }
  t.equal(seen.size, TRACED_SEEDS.length, 'and no other seed gives it')
})

t.test('steps are read as they are printed, and nothing else is', (t) => {
  const text = 'data:1z141z3 crash:0 copy:zz'
  t.equal(formatSteps(parseSteps(text)), text)
  for (const wrong of ['data', 'data:', 'date:1', 'data:-1']) t.throws(() => parseSteps(wrong))
  t.end()
})

t.test('a list is cut down to what it fails for', async (t) => {
  const list = Array.from({ length: 80 }, (_, index) => index)
  const needed = [3, 40, 41, 79]
  const fails = (fewer: readonly number[]): Promise<boolean> =>
    Promise.resolve(needed.every((one) => fewer.includes(one)))
  t.strictSame(await reduce(list, fails), needed)
  t.strictSame(await reduce([1], () => Promise.resolve(true)), [])
})

t.test('a run on a disk whose syncs lie shrinks to a few steps that fail alike', async (t) => {
  for (let seed = 1; seed <= BROKEN_SEED_COUNT_MAX; seed += 1) {
    const shrunk = await shrink({ seed, brokenSync: true }, () => undefined)
    if (shrunk === null) continue
    t.ok(shrunk.steps.length <= 10, `${shrunk.steps.length} steps of seed ${seed}`)
    await t.rejects(runSeed({ seed, brokenSync: true, steps: parseSteps(shrunk.text) }))
    return
  }
  t.fail('no seed fails')
})

for (const { seed, steps, found } of REGRESSIONS) {
  t.test(`seed ${seed}: ${found}`, async (t) => {
    await t.resolves(runSeed({ seed, steps: parseSteps(steps) }))
  })
}
