/** Hooks asked for since the last turn's end. */
import type { TurnHook } from './io.ts'

export class TurnHooks {
  #asked: Set<TurnHook> = new Set()
  #running: Set<TurnHook> = new Set()

  get isEmpty(): boolean {
    return this.#asked.size === 0
  }

  add(hook: TurnHook): void {
    this.#asked.add(hook)
  }

  /** What a hook asks for while it runs belongs to the next turn. */
  run(): void {
    const hooks = this.#asked
    this.#asked = this.#running
    this.#running = hooks
    for (const hook of hooks) {
      hooks.delete(hook)
      hook.turnEnd()
    }
  }
}
