/**
 * A read that the disk takes its time for, so that it stays in flight over several steps: what it
 * has looked up may be overwritten, removed and swept meanwhile, and it must not notice.
 */
import { Errno } from '../../src/base/errors.ts'
import type { ExportTarget, TargetCompletion } from '../../src/export/target.ts'
import type { Arena } from '../../src/io/arena.ts'
import { SimViolation } from './data-step.ts'
import type { ModelState } from './model.ts'
import { SECTOR_BYTES, readStamp } from './stamps.ts'

export interface LongReadRange {
  offsetBytes: number
  /** In the model. */
  firstSector: number
  sectorCount: number
}

export class LongRead implements TargetCompletion {
  readonly volume: string
  readonly #arena: Arena
  readonly #range: LongReadRange
  readonly #target: ExportTarget
  /** What the volume held when the read began, and after each step since. */
  readonly #contents: Uint32Array[] = []
  readonly #done: Promise<void>
  #onDone: () => void = () => undefined
  #arenaOffset = -1
  #result: number | null = null
  #found: Uint32Array = new Uint32Array(0)

  /** Takes the target over, and closes it. */
  constructor(volume: string, target: ExportTarget, arena: Arena, range: LongReadRange) {
    this.volume = volume
    this.#target = target
    this.#arena = arena
    this.#range = range
    this.#done = new Promise((resolve) => {
      this.#onDone = resolve
    })
  }

  get isDone(): boolean {
    return this.#result !== null
  }

  /** False when there is no memory to read into. */
  tryStart(state: ModelState): boolean {
    const lengthBytes = this.#range.sectorCount * SECTOR_BYTES
    this.#arenaOffset = this.#arena.allocate(lengthBytes)
    if (this.#arenaOffset < 0) {
      this.#target.close()
      return false
    }
    this.noteState(state)
    this.#arena.memory.fill(0xee, this.#arenaOffset, this.#arenaOffset + lengthBytes)
    this.#target.read(this.#range.offsetBytes, lengthBytes, this.#arenaOffset, this, 0)
    return true
  }

  whenDone(): Promise<void> {
    return this.#done
  }

  noteState(state: ModelState): void {
    const sectors = state.get(this.volume)?.sectors
    if (sectors !== undefined && sectors !== this.#contents.at(-1)) this.#contents.push(sectors)
  }

  targetComplete(_tag: number, result: number): void {
    const { sectorCount } = this.#range
    this.#result = result
    this.#found = Uint32Array.from({ length: sectorCount }, (_, index) =>
      readStamp(this.#arena.memory, this.#arenaOffset + index * SECTOR_BYTES),
    )
    this.#arena.free(this.#arenaOffset, sectorCount * SECTOR_BYTES)
    this.#target.close()
    this.#onDone()
  }

  /** How many reads were refused, as a damaged disk allows. Throws a {@link SimViolation}. */
  judge(mayFail: boolean): number {
    if (this.#result === -Errno.EIO && mayFail) return 1
    const place = `a long read of ${this.volume} at ${this.#range.offsetBytes}`
    if (this.#result !== 0) throw new SimViolation(`${place} gave ${this.#result}`)
    const { firstSector } = this.#range
    for (const [index, stamp] of this.#found.entries()) {
      const at = firstSector + index
      if (this.#contents.some((sectors) => sectors[at] === stamp)) continue
      const held = this.#contents.map((sectors) => sectors[at]).join(', ')
      throw new SimViolation(`${place}: model sector ${at} is ${stamp}, and has been ${held}`)
    }
    return 0
  }
}
