/**
 * Turns for code that runs on Node's own loop. Results of the kernel are dispatched as they come
 * in the loop's poll phase; `setImmediate` runs right after that phase, so it is the turn's end.
 * Results that are known at once are posted here, because a completion must not run inside the
 * call that started the operation.
 */
import type { IoCompletion, TurnHook } from './io.ts'
import { TurnHooks } from './turn-hooks.ts'

interface Posted {
  completion: IoCompletion
  tag: number
  result: number
}

export class NodeTurn {
  readonly #hooks = new TurnHooks()
  #posted: Posted[] = []
  #isScheduled = false

  atTurnEnd(hook: TurnHook): void {
    this.#hooks.add(hook)
    this.#schedule()
  }

  /** Completes an operation whose result is known already. */
  post(completion: IoCompletion, tag: number, result: number): void {
    this.#posted.push({ completion, tag, result })
    this.#schedule()
  }

  #schedule(): void {
    if (this.#isScheduled) return
    this.#isScheduled = true
    setImmediate(this.#run)
  }

  readonly #run = (): void => {
    this.#isScheduled = false
    const posted = this.#posted
    this.#posted = []
    for (const { completion, tag, result } of posted) completion.ioComplete(tag, result)
    this.#hooks.run()
  }
}
