import { assert } from '../base/assert.ts'

/** Those who began to use addresses between two grace periods. */
export class Cohort {
  count = 0
  /** Set while a grace period waits for this cohort to empty. */
  emptied: (() => void) | null = null

  leave(): void {
    this.count -= 1
    assert(this.count >= 0, 'who leaves a cohort was in it')
    if (this.count === 0) this.emptied?.()
  }
}

/**
 * Grace periods, as in RCU. Whoever looks up an address in a map and uses it later is in a cohort
 * meanwhile. Reclaim, before it takes slots away that no map names any more, waits until everyone
 * who might have looked them up before has left.
 */
export class Cohorts {
  #current: Cohort = new Cohort()

  enter(): Cohort {
    this.#current.count += 1
    return this.#current
  }

  /** Resolves when all who are in now have left. One at a time. */
  grace(): Promise<void> {
    const old = this.#current
    assert(old.emptied === null, 'one grace period at a time')
    this.#current = new Cohort()
    if (old.count === 0) return Promise.resolve()
    return new Promise((resolve) => {
      old.emptied = resolve
    })
  }
}
