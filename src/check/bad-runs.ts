/** Gathers bad slots that lie one behind the other into one finding. */
import type { Damage } from './damage.ts'
import type { FindingCode, Findings } from './report.ts'
import { placeOf } from './report.ts'

const FACTS: Partial<Record<FindingCode, string>> = {
  'alias-unequal': 'it points to a block that is not equal',
  'block-corrupt': 'bytes do not match their checksum',
  'frame-corrupt': 'the frame cannot be decoded',
  'address-no-block': 'a map or an alias refers to a slot that holds no block',
  'read-failed': 'the operating system cannot read it',
}

export class BadRuns {
  readonly #damage: Damage
  readonly #findings: Findings
  // The run being gathered.
  #code: FindingCode = 'block-corrupt'
  #segment = 0
  #slot = 0
  #count = 0

  constructor(damage: Damage, findings: Findings) {
    this.#damage = damage
    this.#findings = findings
  }

  add(code: FindingCode, segment: number, slot: number): void {
    const isNext =
      this.#count > 0 &&
      code === this.#code &&
      segment === this.#segment &&
      slot === this.#slot + this.#count
    if (!isNext) {
      this.flush()
      this.#code = code
      this.#segment = segment
      this.#slot = slot
    }
    this.#count += 1
  }

  /** Reports what has been gathered, and notes it as damage. */
  flush(): void {
    if (this.#count === 0) return
    const where = placeOf(this.#segment, this.#slot, this.#count)
    const fact = FACTS[this.#code] ?? this.#code
    const finding = this.#findings.errors.add(this.#code, where, fact)
    this.#damage.add(this.#segment, this.#slot, this.#count, finding)
    this.#count = 0
  }
}
