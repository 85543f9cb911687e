/** What the servers offer of a pool: every volume and snapshot by name, as they come and go. */
import type { ExportDirectory, ExportEntry, ExportTarget } from '../export/target.ts'
import type { AccessOf } from './access-rules.ts'
import { EVERYTHING } from './access-rules.ts'
import { LimitedTarget } from './limited-target.ts'
import type { OpenPool } from './local-service.ts'

export class PoolExports implements ExportDirectory {
  readonly #pool: Pick<OpenPool, 'list' | 'openTarget'>
  readonly #readOnlyNames: ReadonlySet<string>
  readonly #accessOf: AccessOf

  /**
   * `readOnlyNames`: volumes that clients may only read, whether they exist yet or not. `accessOf`:
   * what these clients may do; what is denied to them is not there.
   */
  constructor(
    pool: Pick<OpenPool, 'list' | 'openTarget'>,
    readOnlyNames: Iterable<string>,
    accessOf: AccessOf = EVERYTHING,
  ) {
    this.#pool = pool
    this.#readOnlyNames = new Set(readOnlyNames)
    this.#accessOf = accessOf
  }

  /** The same for others. */
  for(accessOf: AccessOf): PoolExports {
    return new PoolExports(this.#pool, this.#readOnlyNames, accessOf)
  }

  list(): ExportEntry[] {
    return this.#pool
      .list()
      .filter(({ name }) => this.#accessOf(name) !== 'none')
      .map((entry) => (this.#isReadOnly(entry.name) ? { ...entry, readOnly: true } : entry))
  }

  open(name: string, client: string): ExportTarget | null {
    if (this.#accessOf(name) === 'none') return null
    const target = this.#pool.openTarget(name, client)
    if (target === null) return null
    const readOnly = this.#isReadOnly(name)
    if (!readOnly && this.#accessOf === EVERYTHING) return target
    const showsSnapshot = (snapshot: string): boolean =>
      this.#accessOf(`${name}@${snapshot}`) !== 'none'
    return new LimitedTarget(target, { readOnly, showsSnapshot })
  }

  #isReadOnly(name: string): boolean {
    return this.#readOnlyNames.has(name) || this.#accessOf(name) === 'read'
  }
}
