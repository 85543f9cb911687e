/**
 * No id of a disk is ever used again: a client, a record or an import that remembers one would meet
 * another's data.
 */
import { SimViolation } from './data-step.ts'
import type { ModelState } from './model.ts'
import type { SimPool } from './pool-under-test.ts'

export class DiskIds {
  /** By id, what had it when it was last looked at. */
  #present: ReadonlyMap<number, string> = new Map()
  readonly #gone: Map<number, string> = new Map()

  /** Everything that `state` names is durable. Throws a {@link SimViolation}. */
  look(pool: SimPool, state: ModelState): void {
    const present = idsOf(pool, state)
    for (const [id, name] of this.#present) if (!present.has(id)) this.#gone.set(id, name)
    for (const [id, name] of present) {
      const before = this.#gone.get(id)
      if (before === undefined) continue
      throw new SimViolation(`disk ${id} is ${name} now, and was ${before}, which is gone`)
    }
    this.#present = present
  }
}

function idsOf(pool: SimPool, state: ModelState): Map<number, string> {
  const ids = new Map<number, string>()
  for (const { name, snapshots } of state.values()) {
    const volume = pool.files.tryVolume(name)
    if (volume === null) throw new SimViolation(`there is no ${name}`)
    ids.set(volume.id, name)
    for (const one of snapshots) {
      const snapshot = pool.files.trySnapshot(volume.id, one.name)
      if (snapshot !== null) ids.set(snapshot.id, `${name}@${one.name}`)
    }
  }
  return ids
}
