/**
 * Hooks asked for since the last turn's end. What a hook asks for while it runs follows in the same
 * turn, so that what it completed is answered without another one; only a hook that has run already
 * waits for the next turn, in which there may be something new for it.
 *
 * Two arrays that are used in turn, and no sets: those would make garbage in every turn, and there
 * are a handful of hooks, one for each client that is busy and some of the pool's.
 */
import type { TurnHook } from './io.ts'

const always = (): boolean => true

export class TurnHooks {
  #asked: TurnHook[] = []
  #askedAgain: TurnHook[] = []
  /** Of `#asked`, those that have run in this turn. */
  #ranCount = 0

  get isEmpty(): boolean {
    return this.#asked.length === 0
  }

  add(hook: TurnHook): void {
    const index = this.#asked.indexOf(hook)
    if (index === -1) this.#asked.push(hook)
    else if (index < this.#ranCount && !this.#askedAgain.includes(hook)) this.#askedAgain.push(hook)
  }

  /** `goesOn` is asked before each: a simulated process may die in the middle of a turn. */
  run(goesOn: () => boolean = always): void {
    while (this.#ranCount < this.#asked.length && goesOn()) {
      this.#ranCount += 1
      this.#asked[this.#ranCount - 1].turnEnd()
    }
    const done = this.#asked
    done.length = 0
    this.#asked = this.#askedAgain
    this.#askedAgain = done
    this.#ranCount = 0
  }
}
