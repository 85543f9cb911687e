/**
 * Finds the fewest steps that still fail in the same way: takes away ever smaller stretches of the
 * list as long as what is left fails (delta debugging, Zeller and Hildebrandt 2002).
 */
import { SimFailure } from './pool-sim.ts'
import { runSeed } from './pool-seeds.ts'
import type { RunSeedOptions } from './pool-seeds.ts'
import { formatSteps } from './script.ts'
import type { ScriptStep } from './script.ts'

export interface Shrunk {
  steps: readonly ScriptStep[]
  /** As the command line takes them. */
  text: string
  message: string
}

type Attempt = (steps: readonly ScriptStep[]) => Promise<SimFailure | null>

/** Null when the run does not fail. `say` hears of each list that is shorter. */
export async function shrink(
  options: RunSeedOptions,
  say: (line: string) => void,
): Promise<Shrunk | null> {
  const first = await tryRun(options)
  if (first === null) return null
  const attempt: Attempt = async (steps) => {
    const failure = await tryRun({ ...options, steps })
    return failure?.signature === first.signature ? failure : null
  }
  let best = first
  say(`${first.script.steps.length} steps fail: ${first.signature}`)
  const steps = await reduce(first.script.steps, async (fewer) => {
    const failure = await attempt(fewer)
    if (failure === null) return false
    best = failure
    say(`${fewer.length} steps`)
    return true
  })
  return { steps, text: formatSteps(steps), message: best.message }
}

async function tryRun(options: RunSeedOptions): Promise<SimFailure | null> {
  try {
    await runSeed(options)
    return null
  } catch (error) {
    if (error instanceof SimFailure) return error
    throw error
  }
}

/** The shortest list that is found by taking stretches away, one that `fails` like the whole. */
export async function reduce<T>(
  list: readonly T[],
  fails: (fewer: readonly T[]) => Promise<boolean>,
): Promise<readonly T[]> {
  let left = list
  for (
    let size = Math.ceil(left.length / 2);
    size >= 1;
    size = size === 1 ? 0 : Math.ceil(size / 2)
  ) {
    let hasShrunk = true
    while (hasShrunk) {
      hasShrunk = false
      // From the end: what came last is least often what the failure needs to be set up.
      for (let at = left.length - size; at > -size; at -= size) {
        const fewer = [...left.slice(0, Math.max(0, at)), ...left.slice(at + size)]
        if (fewer.length === left.length || !(await fails(fewer))) continue
        left = fewer
        hasShrunk = true
      }
      if (size > 1) break
    }
  }
  return left
}
