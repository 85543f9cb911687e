/** One deliberate bug: what a tired engineer could have written instead of what stands there. */
export interface Mutant {
  name: string
  /** Below the project's root. */
  file: string
  /** Occurs exactly once in the file … */
  before: string
  /** … and is replaced by this. */
  after: string
  /** What is wrong then, and which promise that breaks. */
  bug: string
}

/** Why the mutant does not apply to the text of its file; null when it does. */
export function findMisfit(mutant: Mutant, text: string): string | null {
  const { name, file, before, after } = mutant
  const count = text.split(before).length - 1
  if (count !== 1) return `${name}: its text occurs ${count} times in ${file}, must be once`
  if (before === after) return `${name}: changes nothing`
  return null
}

/** Throws for a mutant that does not apply. */
export function mutate(mutant: Mutant, text: string): string {
  const misfit = findMisfit(mutant, text)
  if (misfit !== null) throw new Error(misfit)
  // A function: in a replacing text, `$&` and the like would mean something.
  return text.replace(mutant.before, () => mutant.after)
}
