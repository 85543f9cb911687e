/** Whether the simulator would catch a mistake: `npm run mutants` tries all of them. */
import t from 'tap'
import { ALL_MUTANTS } from '../../tools/mutants/all-mutants.ts'
import { findMisfit, mutate } from '../../tools/mutants/mutant.ts'
import type { Mutant } from '../../tools/mutants/mutant.ts'
import { MutatedTree, readSource } from '../../tools/mutants/mutated-tree.ts'
import { simulate } from '../../tools/mutants/simulation.ts'

/** As many as were promised. */
const MUTANT_COUNT_MIN = 32
/** Caught by one of the first seeds. */
const QUICK: readonly string[] = ['failed-sync-forgotten', 'footer-not-noted']
const QUICK_SEED_COUNT = 12

t.setTimeout(600_000)

t.test('every mutant still applies to its file, and is like no other', async (t) => {
  const misfits = ALL_MUTANTS.map((mutant) => findMisfit(mutant, readSource(mutant.file)))
  t.strictSame(
    misfits.filter((misfit) => misfit !== null),
    [],
  )
  t.equal(new Set(ALL_MUTANTS.map(({ name }) => name)).size, ALL_MUTANTS.length, 'names')
  t.ok(ALL_MUTANTS.length >= MUTANT_COUNT_MIN, `${ALL_MUTANTS.length} mutants`)
})

t.test('a mutant whose text is gone, or is there twice, is refused', async (t) => {
  const mutant: Mutant = { name: 'one', file: 'a.ts', before: 'x = 1', after: 'x = $&', bug: '' }
  t.equal(mutate(mutant, 'let x = 1\n'), 'let x = $&\n')
  t.throws(() => mutate(mutant, 'let y = 1\n'), /occurs 0 times/)
  t.throws(() => mutate(mutant, 'let x = 1, xx = 1\n'), /occurs 2 times/)
  t.throws(() => mutate({ ...mutant, after: mutant.before }, 'let x = 1\n'), /changes nothing/)
})

t.test('the simulator catches mistakes, and complains of nothing without any', async (t) => {
  const tree = new MutatedTree()
  t.teardown(() => tree.remove())
  for (const name of QUICK) {
    const mutant = ALL_MUTANTS.find((one) => one.name === name)
    if (mutant === undefined) throw new Error(`there is no mutant ${name}`)
    tree.apply(mutant)
    const { isCaught, seed, complaint } = await simulate(tree.root, QUICK_SEED_COUNT)
    t.ok(isCaught, `${name}: ${complaint}`)
    t.not(seed, null, 'and says which seed did')
  }
  tree.restore()
  const { isCaught, complaint } = await simulate(tree.root, QUICK_SEED_COUNT)
  t.notOk(isCaught, complaint)
})
