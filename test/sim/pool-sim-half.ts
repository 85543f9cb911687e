import t from 'tap'
import { SUITE_SEED_COUNT, SUITE_TIMEOUT_MS, runSeeds } from './pool-seeds.ts'

/** Registers one half of the suite's seeds as a test: the odd ones (`first` 1) or the even (2). */
export function testHalf(first: 1 | 2): void {
  t.setTimeout(SUITE_TIMEOUT_MS)
  t.test('every seed ends in a state that the model allows', async (t) => {
    let passedCount = 0
    const range = { first, last: SUITE_SEED_COUNT, stride: 2 }
    const total = await runSeeds(range, () => {
      passedCount += 1
    })
    t.comment(JSON.stringify(total))
    t.equal(passedCount, SUITE_SEED_COUNT / 2, 'every seed of this half ran')
    // What did not happen was not tested.
    t.ok(total.crashCount > passedCount, 'worlds ended')
    t.ok(total.failureCount > 0, 'pools failed and recovered')
    t.ok(total.noSpaceCount > 0, 'disks were full')
    t.same(total.coverage.missing(), [], 'settling met what it can meet')
  })
}
