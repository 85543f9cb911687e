/** The harness itself: it must pass what is sound and catch what is not. */
import t from 'tap'
import { runPoolSim } from './pool-sim.ts'
import type { StepKind } from './script.ts'
import { toyMaker } from './toy-pool.ts'
import type { ToyMistake } from './toy-pool.ts'

const arenaMemory = Buffer.allocUnsafeSlow(8 * 1024 * 1024)
const only: StepKind[] = [
  'data',
  'flush',
  'create',
  'snapshot',
  'clone',
  'verify',
  'reopen',
  'crash',
]

/** Runs seeds until one is caught; the complaint, or null when all pass. */
async function hunt(
  mistake: ToyMistake,
  seedCount: number,
  brokenSync = false,
): Promise<string | null> {
  for (let seed = 1; seed <= seedCount; seed += 1) {
    const options = { seed, stepCount: 60, brokenSync, faults: false, only, arenaMemory }
    try {
      await runPoolSim(toyMaker(mistake), options)
    } catch (error) {
      return (error as Error).message
    }
  }
  return null
}

await t.test('a sound toy passes', async (t) => {
  t.equal(await hunt('none', 30), null)
})

for (const mistake of [
  'flush-does-nothing',
  'no-folder-sync',
  'shared-snapshot',
  'torn',
] as const) {
  await t.test(`a toy with ${mistake} is caught`, async (t) => {
    t.type(await hunt(mistake, 30), 'string')
  })
}

await t.test('a sound toy on a disk whose syncs lie is caught', async (t) => {
  t.type(await hunt('none', 30, true), 'string')
})

await t.test('a seed tells the same story twice', async (t) => {
  const stories = [await hunt('torn', 30), await hunt('torn', 30)]
  t.equal(stories[0], stories[1])
})
