/** What the judge of a session is told of the disks, and how it says that something is wrong. */

export interface DiskFacts {
  name: string
  sizeBytes: number
  isReadOnly: boolean
  /** What every read must give; null where clients write. */
  content: Buffer | null
  /** Operations may fail though nothing is wrong with them. */
  mayFail: boolean
}

/** What a session has agreed on. */
export interface Agreed {
  disk: DiskFacts
  isStructured: boolean
  contextCount: number
}

export class ProtocolError extends Error {
  override readonly name = 'ProtocolError'
}

export function expect(condition: boolean, fact: string): asserts condition {
  if (!condition) throw new ProtocolError(fact)
}
