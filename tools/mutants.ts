/**
 * Mutation testing of the simulator: does it catch bugs that we know are there?
 *
 *     npm run mutants                          all of them, seeds 1 to 200
 *     npm run mutants -- --only NAME,NAME      those whose names contain one of these
 *     npm run mutants -- --seeds 1000 --jobs 2
 *     npm run mutants -- --list                what they are
 *     npm run mutants -- --json                the outcome for a program
 *
 * Each is put into a copy of the compiled tree, and the simulator run over it up to the first seed
 * that fails; before all others the tree as it is, which must pass.
 *
 * Exit codes: 0 all were caught, 1 some were not, 2 something is wrong with the options, a mutant
 * or the tree itself.
 */
import { parseArgs } from 'node:util'
import { ALL_MUTANTS } from './mutants/all-mutants.ts'
import { findMisfit } from './mutants/mutant.ts'
import type { Mutant } from './mutants/mutant.ts'
import { MutatedTree, readSource } from './mutants/mutated-tree.ts'
import { simulate } from './mutants/simulation.ts'
import type { Verdict } from './mutants/simulation.ts'
import { table } from './table.ts'

const SEED_COUNT_DEFAULT = 200
const COMPLAINT_LENGTH_MAX = 90
const EXIT_SURVIVORS = 1
const EXIT_UNUSABLE = 2

interface Options {
  mutants: readonly Mutant[]
  seedCount: number
  jobCount: number
  isList: boolean
  isJson: boolean
}

interface Outcome extends Verdict {
  name: string
}

/** Throws for what is no such option, and for a mutant that does not apply. */
function optionsOf(args: string[]): Options {
  const { values } = parseArgs({
    args,
    options: {
      only: { type: 'string', default: '' },
      seeds: { type: 'string', default: `${SEED_COUNT_DEFAULT}` },
      jobs: { type: 'string', default: '1' },
      list: { type: 'boolean', default: false },
      json: { type: 'boolean', default: false },
    },
  })
  const parts = values.only.split(',')
  const mutants = ALL_MUTANTS.filter(({ name }) => parts.some((part) => name.includes(part)))
  if (mutants.length === 0) throw new RangeError(`no mutant is called "${values.only}"`)
  for (const mutant of mutants) {
    const misfit = findMisfit(mutant, readSource(mutant.file))
    if (misfit !== null) throw new RangeError(misfit)
  }
  return {
    mutants,
    seedCount: count('--seeds', values.seeds),
    jobCount: count('--jobs', values.jobs),
    isList: values.list,
    isJson: values.json,
  }
}

function count(option: string, text: string): number {
  if (/^[1-9]\d{0,5}$/.test(text)) return Number(text)
  throw new RangeError(`${option} takes a whole number from 1 to 999999, not "${text}"`)
}

/** One process after the other, in each of the trees. */
async function runAll(options: Options, told: (outcome: Outcome) => void): Promise<Outcome[]> {
  const { mutants, seedCount, jobCount } = options
  // As it is now, whatever is edited or compiled meanwhile.
  const sources = new Map(mutants.map(({ file }) => [file, readSource(file)]))
  const sourceOf = (file: string): string => sources.get(file) ?? readSource(file)
  const trees = Array.from({ length: jobCount }, () => new MutatedTree(sourceOf))
  const outcomes: Outcome[] = []
  try {
    const control = await simulate(trees[0].root, seedCount)
    if (control.isCaught) {
      const seed = control.seed ?? 'unknown'
      throw new Error(`without any mutant seed ${seed} fails: ${control.complaint}`)
    }
    told({ ...control, name: '(none)' })
    const waiting = [...mutants]
    const work = async (tree: MutatedTree): Promise<void> => {
      for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
        tree.apply(next)
        const outcome = { ...(await simulate(tree.root, seedCount)), name: next.name }
        outcomes.push(outcome)
        told(outcome)
      }
    }
    await Promise.all(trees.map(work))
  } finally {
    for (const tree of trees) tree.remove()
  }
  return outcomes
}

function lineOf({ name, isCaught, seed, durationMs, complaint }: Outcome): string {
  const fate = isCaught ? `caught by seed ${seed ?? '?'}` : 'passes'
  const seconds = `${(durationMs / 1000).toFixed(0)} s`
  return `${name}: ${fate} after ${seconds} ${complaint.slice(0, COMPLAINT_LENGTH_MAX)}`.trimEnd()
}

function summaryOf(outcomes: readonly Outcome[]): string {
  const rows = outcomes.map(({ name, isCaught, seed, durationMs }) => [
    name,
    isCaught ? `${seed ?? '?'}` : 'survived',
    (durationMs / 1000).toFixed(0),
  ])
  const caughtCount = outcomes.filter(({ isCaught }) => isCaught).length
  const title = `${caughtCount} of ${outcomes.length} caught`
  return `${table(['mutant', 'seed', 'seconds'], rows)}\n${title}`
}

async function main(): Promise<number> {
  let options: Options
  try {
    options = optionsOf(process.argv.slice(2))
  } catch (error) {
    console.error(`mutants: ${(error as Error).message}`)
    return EXIT_UNUSABLE
  }
  const { mutants, isList, isJson } = options
  if (isList) {
    for (const { name, file, bug } of mutants) console.log(`${name} (${file})\n    ${bug}`)
    return 0
  }
  let outcomes: Outcome[]
  try {
    outcomes = await runAll(options, (outcome) => {
      if (!isJson) console.log(lineOf(outcome))
    })
  } catch (error) {
    console.error(`mutants: ${(error as Error).message}`)
    return EXIT_UNUSABLE
  }
  // In the order of the list, however many ran side by side.
  const order = mutants.map(({ name }) => name)
  outcomes.sort((left, right) => order.indexOf(left.name) - order.indexOf(right.name))
  console.log(isJson ? JSON.stringify(outcomes, null, 2) : `\n${summaryOf(outcomes)}`)
  return outcomes.every(({ isCaught }) => isCaught) ? 0 : EXIT_SURVIVORS
}

process.exitCode = await main()
