/** What is fuzzed, and what it may do. */
import { VarveError } from '../../src/base/errors.ts'

export interface FuzzTarget {
  readonly name: string
  /** Inputs longer than this are cut. */
  readonly sizeBytesMax: number
  /** Valid encodings, and what else is worth beginning with. */
  seeds(): Uint8Array[]
  /** Makes checksums and the like right again in place, so that what lies behind is reached. */
  repair?(input: Uint8Array): void
  /**
   * Decodes. May throw a VarveError, which is an answer; anything else it throws is a finding, an
   * assertion of the code under test as well as a `FuzzError` of the target's own judgement.
   */
  run(input: Uint8Array): void | Promise<void>
}

/** The code under test gave an answer that cannot be right. */
export class FuzzError extends Error {
  override readonly name = 'FuzzError'
}

export function judge(holds: boolean, fact: string): asserts holds {
  if (!holds) throw new FuzzError(fact)
}

export function isAnswer(error: unknown): boolean {
  return error instanceof VarveError
}
