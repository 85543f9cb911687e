/**
 * What has to be taken back, in the reverse order of how it was built up: when building fails
 * half way, and when all of it ends. One step that fails does not keep the others from running.
 */
export class Undo {
  readonly #steps: (() => Promise<void> | void)[] = []

  add(step: () => Promise<void> | void): void {
    this.#steps.push(step)
  }

  /** Runs every step, the last added first; then throws what the first failing one threw. */
  async run(): Promise<void> {
    const failures: unknown[] = []
    for (const step of this.#steps.splice(0).reverse()) {
      try {
        await step()
      } catch (error) {
        failures.push(error)
      }
    }
    if (failures.length > 0) throw failures[0]
  }
}
