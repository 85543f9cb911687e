/**
 * Hooks asked for since the last turn's end. What a hook asks for while it runs follows in the same
 * turn, so that what it completed is answered without another one; only a hook that has run already
 * waits for the next turn, in which there may be something new for it.
 */
import type { TurnHook } from './io.ts'

const always = (): boolean => true

export class TurnHooks {
  #asked: Set<TurnHook> = new Set()
  #askedAgain: Set<TurnHook> = new Set()
  readonly #ran: Set<TurnHook> = new Set()

  get isEmpty(): boolean {
    return this.#asked.size === 0
  }

  add(hook: TurnHook): void {
    if (this.#ran.has(hook)) this.#askedAgain.add(hook)
    else this.#asked.add(hook)
  }

  /** `goesOn` is asked before each: a simulated process may die in the middle of a turn. */
  run(goesOn: () => boolean = always): void {
    // An iteration over a set meets what is added to it meanwhile.
    for (const hook of this.#asked) {
      if (!goesOn()) break
      this.#asked.delete(hook)
      this.#ran.add(hook)
      hook.turnEnd()
    }
    const done = this.#asked
    this.#asked = this.#askedAgain
    this.#askedAgain = done
    this.#ran.clear()
  }
}
