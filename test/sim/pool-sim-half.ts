import t from 'tap'
import { SUITE_SEED_COUNT, SUITE_TIMEOUT_MS, runSeeds } from './pool-seeds.ts'

/** What must have struck: what did not happen was not tested. */
const FAULT_KINDS: readonly string[] = [
  'bit-rot',
  'damaged-read',
  'lost-write',
  'misdirected-landing',
  'misdirected-write',
  'read-error',
  'sector-rot',
  'sync-error',
  'torn-write',
  'write-error',
]

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
    t.ok(total.crashCount > passedCount, 'worlds ended')
    t.ok(total.recoveryCrashCount > 0, 'and did so again while recovering')
    t.ok(total.failureCount > 0, 'pools failed and recovered')
    t.ok(total.noSpaceCount > 0, 'disks were full')
    t.ok(total.unansweredCount > 0, 'clients died with requests in flight')
    t.ok(total.refusedReadCount > 0 && total.refusedOpenCount > 0, 'damage was met')
    t.ok(total.scrubHealedCount > 0, 'and healed')
    for (const kind of FAULT_KINDS) t.ok(total.faults[kind] > 0, kind)
    t.same(total.coverage.missing(), [], 'settling met what it can meet')
  })
}
