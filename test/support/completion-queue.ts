/**
 * What every disk in memory does with a finished operation: completes it in order, after the call
 * that started it, when `schedule` says so; and holds it back on demand.
 */
import type { TargetCompletion } from '../../src/export/target.ts'

interface Completed {
  completion: TargetCompletion
  tag: number
  result: number
}

/** Called when completions are due; runs its argument later. */
export type CompletionSchedule = (complete: () => void) => void

export class CompletionQueue {
  /** While true nothing completes. */
  isHeld = false
  readonly #schedule: CompletionSchedule
  #completed: Completed[] = []
  #isScheduled = false

  constructor(schedule: CompletionSchedule = (complete) => setImmediate(complete)) {
    this.#schedule = schedule
  }

  get count(): number {
    return this.#completed.length
  }

  push(completion: TargetCompletion, tag: number, result: number): void {
    this.#completed.push({ completion, tag, result })
    this.#request()
  }

  /** Completes what is due, now. */
  completeAll(): void {
    const completed = this.#completed
    this.#completed = []
    for (const { completion, tag, result } of completed) completion.targetComplete(tag, result)
  }

  /** Lets what was held complete. */
  resume(): void {
    this.isHeld = false
    this.#request()
  }

  #request(): void {
    if (this.#isScheduled || this.isHeld || this.#completed.length === 0) return
    this.#isScheduled = true
    this.#schedule(() => {
      this.#isScheduled = false
      if (!this.isHeld) this.completeAll()
    })
  }
}
