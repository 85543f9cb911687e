/** A broken promise of our own code: never the user's fault, never caught to be ignored. */
export class AssertionError extends Error {
  override readonly name = 'AssertionError'
}

/** Throws {@link AssertionError} unless `condition` holds. Stays on in production. */
export function assert(condition: boolean, fact: string): asserts condition {
  if (!condition) throw new AssertionError(fact)
}

/** Narrows away null and undefined; `what` names the thing that must be there. */
export function must<T>(value: T | null | undefined, what: string): T {
  if (value === null || value === undefined) throw new AssertionError(`${what} is missing`)
  return value
}

/** Asserts that `value` is a whole number from 0 to 2^53 - 1, as every size and offset is. */
export function assertSafe(value: number, what: string): void {
  if (!Number.isSafeInteger(value) || value < 0) {
    throw new AssertionError(`${what} is not a safe whole number: ${value}`)
  }
}
