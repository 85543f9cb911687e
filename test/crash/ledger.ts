/**
 * What the clients of a pool know, with the moments they learned it, and so what a pool may hold
 * after a power cut at any moment of that (I2).
 *
 * A *change* is a write or trim of one block, or what one control operation does to it. Changes to
 * one block never overlap in time, so they are ordered. Of two changes, wherever they are, the one
 * answered before the other was sent is earlier in the log. What a cut leaves is a prefix of the
 * log. So a set of changes is legal exactly when
 *
 * - it has every change that is *promised*: answered with FUA; answered before a flush that was
 *   answered was sent; made or followed by a control operation that was answered;
 * - where it has a change, it has every change that was answered before that one was sent.
 *
 * Contents may repeat, so which changes are there is not always to be seen. The smallest set that
 * explains what is seen is looked for: the second rule only ever asks for more, so it is the least
 * fixed point, and if that one is not legal, none is.
 *
 * One ledger covers one *life* of a process, from the opening of the pool to the next. Opening
 * makes durable what it found, so a life begins with contents that are known and durable.
 */

/** Contents are numbers: 0 is a block of zeros. */
export interface Change {
  content: number
  sentAt: number
  answeredAt: number
  /** Promised once it is answered. */
  isDurable: boolean
  /** The control operation it is part of; null: of a guest. */
  step: number | null
}

export interface LedgerDisk {
  /** What it held when the ledger or the disk began; null: not known yet. */
  base: Uint32Array | null
  /** By block, in order. */
  changes: Map<number, Change[]>
}

/** A control operation. They are made one at a time. */
export interface Step {
  title: string
  sentAt: number
  answeredAt: number
  /** Every name with its disk and size when it has had its effect. */
  after: Names
}

export type Names = ReadonlyMap<string, { disk: number; blockCount: number }>

export interface Flush {
  sentAt: number
  answeredAt: number
}

/** What a pool holds, by name. */
export type Found = ReadonlyMap<string, Uint32Array>

export class Ledger {
  readonly disks: LedgerDisk[] = []
  /** The first is what is there at the beginning, promised. */
  readonly steps: Step[]
  readonly flushes: Flush[] = []
  /** When the pool was open. */
  readonly beginsAt: number

  constructor(beginsAt: number, found: Found) {
    this.beginsAt = beginsAt
    const after = new Map<string, { disk: number; blockCount: number }>()
    for (const [name, base] of found) {
      after.set(name, { disk: this.addDisk(base), blockCount: base.length })
    }
    this.steps = [{ title: 'open', sentAt: -1, answeredAt: beginsAt, after }]
  }

  /** What will be there when all that was sent has had its effect. */
  get names(): Names {
    return this.steps[this.steps.length - 1].after
  }

  addDisk(base: Uint32Array | null): number {
    return this.disks.push({ base, changes: new Map() }) - 1
  }

  change(disk: number, block: number, change: Change): void {
    const { changes } = this.disks[disk]
    const known = changes.get(block)
    if (known === undefined) changes.set(block, [change])
    else known.push(change)
  }

  /**
   * Why what is found after a crash at moment `at` is not legal; null: it is. When only the process
   * died, everything answered is promised.
   */
  findFault(at: number, found: Found, crash: 'power' | 'process'): string | null {
    const completeAt = crash === 'power' ? this.#promisedAt(at) : at
    const sent = this.steps.findLastIndex((step) => step.sentAt < at)
    const answered = this.steps.findLastIndex((step) => step.answeredAt < at)
    const complaints: string[] = []
    for (let step = sent; step >= Math.max(0, answered); step -= 1) {
      const fault = this.#findStepFault(at, step, found, completeAt)
      if (fault === null) return null
      complaints.push(`as of step ${step} (${this.steps[step].title}): ${fault}`)
    }
    return complaints.join('\n')
  }

  /** Why volumes cannot have held this at one moment between two others; null: they can. */
  findMomentFault(
    volumes: readonly { disk: number; found: Uint32Array }[],
    from: number,
    to: number,
  ): string | null {
    const search = new PrefixSearch(this.disks, to, this.steps.length - 1, from, false)
    for (const { disk, found } of volumes) search.add(`disk ${disk}`, disk, found, found.length)
    return search.findFault()
  }

  #findStepFault(at: number, step: number, found: Found, completeAt: number): string | null {
    const { after, sentAt } = this.steps[step]
    const fault = findNamesFault(after, found)
    if (fault !== null) return fault
    const search = new PrefixSearch(this.disks, at, step, Math.max(sentAt, completeAt), true)
    for (const [name, { disk, blockCount }] of after) {
      search.add(name, disk, found.get(name) as Uint32Array, blockCount)
    }
    return search.findFault()
  }

  /** Everything answered before this moment is promised. */
  #promisedAt(at: number): number {
    let promisedAt = -1
    for (const { sentAt, answeredAt } of [...this.flushes, ...this.steps]) {
      if (answeredAt < at) promisedAt = Math.max(promisedAt, sentAt)
    }
    return promisedAt
  }
}

function findNamesFault(expected: Names, found: Found): string | null {
  const texts = (names: Iterable<string>): string => [...names].sort().join(' ')
  if (texts(expected.keys()) !== texts(found.keys())) {
    return `expected ${texts(expected.keys())}, found ${texts(found.keys())}`
  }
  for (const [name, { blockCount }] of expected) {
    const { length } = found.get(name) as Uint32Array
    if (length !== blockCount) return `${name}: expected ${blockCount} blocks, found ${length}`
  }
  return null
}

interface Suspect {
  name: string
  block: number
  changes: readonly Change[]
  /** Indexes of changes that explain what was found, ascending; -1: what was there before. */
  candidates: number[]
  chosen: number
}

/** Looks for the smallest set of changes that explains what is found. */
class PrefixSearch {
  readonly #disks: readonly LedgerDisk[]
  readonly #at: number
  readonly #step: number
  /** FUA counts. */
  readonly #isCrash: boolean
  readonly #suspects: Suspect[] = []
  /** Every change that was answered before this moment is there. */
  #completeAt: number
  #fault: string | null = null

  constructor(
    disks: readonly LedgerDisk[],
    at: number,
    step: number,
    completeAt: number,
    isCrash: boolean,
  ) {
    this.#disks = disks
    this.#at = at
    this.#step = step
    this.#completeAt = completeAt
    this.#isCrash = isCrash
  }

  add(name: string, disk: number, found: Uint32Array, blockCount: number): void {
    const { base, changes } = this.#disks[disk]
    for (let block = 0; block < blockCount && this.#fault === null; block += 1) {
      const all = changes.get(block)
      const before = base === null ? found[block] : (base[block] ?? 0)
      if (all === undefined) {
        if (found[block] !== before)
          this.#fault = `${name} block ${block}: ${found[block]}, was ${before}`
        continue
      }
      const known = all.filter((one) => one.sentAt < this.#at && (one.step ?? 0) <= this.#step)
      const candidates: number[] = []
      if (found[block] === before) candidates.push(-1)
      for (const [index, { content }] of known.entries()) {
        if (content === found[block]) candidates.push(index)
      }
      this.#suspects.push({ name, block, changes: known, candidates, chosen: -2 })
      if (candidates.length === 0) {
        this.#fault = `${name} block ${block} holds ${found[block]}, which nobody wrote there`
      }
    }
  }

  findFault(): string | null {
    let isSettled = false
    while (!isSettled && this.#fault === null) {
      isSettled = true
      for (const suspect of this.#suspects) {
        if (this.#raise(suspect)) isSettled = false
        if (this.#fault !== null) break
      }
    }
    return this.#fault
  }

  /** Takes the first candidate that lacks nothing that must be there; true: another than before. */
  #raise(suspect: Suspect): boolean {
    const { changes, candidates, chosen } = suspect
    const required = changes.findLastIndex((change) => this.#isRequired(change))
    const next = candidates.find((index) => index >= Math.max(required, chosen))
    if (next === undefined) {
      const { name, block } = suspect
      const facts = JSON.stringify({ candidates, required, completeAt: this.#completeAt })
      const history = JSON.stringify(changes.slice(-6))
      this.#fault = `${name} block ${block} is too old: ${facts}, last changes ${history}`
      return false
    }
    if (next === chosen) return false
    suspect.chosen = next
    if (next >= 0) this.#completeAt = Math.max(this.#completeAt, changes[next].sentAt)
    return true
  }

  #isRequired({ answeredAt, isDurable, step }: Change): boolean {
    if (step !== null) return true
    const isPromised = this.#isCrash && isDurable && answeredAt < this.#at
    return isPromised || answeredAt < this.#completeAt
  }
}
