/** A client of a disk as the simulation uses it, whatever lies between the two. */
import { Errno } from '../../src/base/errors.ts'
import type { ExportTarget } from '../../src/export/target.ts'

/** What a request gets whose client died before it was answered: it may have happened or not. */
export const UNANSWERED: number = -Errno.ECONNRESET

export interface Guest extends Pick<ExportTarget, 'read' | 'write' | 'flush' | 'trim' | 'zero'> {
  readonly volume: string
  readonly isGone: boolean
  /**
   * Dies now: what it asked and was not answered completes with {@link UNANSWERED}. `isAbrupt`:
   * what is under way is lost, and a request may be cut off in its middle.
   */
  die(isAbrupt: boolean): void
  /** Takes its leave; resolves when the server has let go of the disk. Nothing is in flight. */
  leave(): Promise<void>
}

/** Nothing lies between. */
export function directGuest(volume: string, target: ExportTarget): Guest {
  return {
    volume,
    isGone: false,
    read: (...args) => target.read(...args),
    write: (...args) => target.write(...args),
    flush: (...args) => target.flush(...args),
    trim: (...args) => target.trim(...args),
    zero: (...args) => target.zero(...args),
    die: () => undefined,
    leave: () => {
      target.close()
      return Promise.resolve()
    },
  }
}
