/** A volume's guest in a trace: several requests in flight, each noted when sent and answered. */
import type { Prng } from '../../src/base/prng.ts'
import { WRITE_FUA, targetResult } from '../../src/export/target.ts'
import type { ExportTarget } from '../../src/export/target.ts'
import { allocateArena } from '../../src/io/arena.ts'
import type { Io } from '../../src/io/io.ts'
import type { Pool } from '../../src/pool/pool.ts'
import { BLOCK_BYTES, COMMON_CONTENT_COUNT, writeContent } from './block-contents.ts'
import type { Change, Ledger } from './ledger.ts'

const QUEUE_DEPTH = 3
const RUN_BLOCK_COUNT_MAX = 16
/** Between requests of one worker, so that the trace is not all of guests. */
const PAUSE_MS_MAX = 12

/** What the guests and the operator of one life share. */
export interface LifeParts {
  io: Io
  pool: Pool
  /** Notes that a client does something; Infinity when the process is dead and nobody hears. */
  mark: () => number
  ledger: Ledger
  prng: Prng
  /** A content nobody has used. */
  nextContent: () => number
}

export class TracedGuest {
  readonly disk: number
  blockCount: number
  name: string
  readonly #parts: LifeParts
  readonly #busy: Set<number> = new Set()
  #target: ExportTarget | null = null
  #workers: Promise<void>[] = []
  #isStopped = true

  constructor(parts: LifeParts, name: string, disk: number, blockCount: number) {
    this.#parts = parts
    this.name = name
    this.disk = disk
    this.blockCount = blockCount
  }

  /** `failed`: told of what must not happen. */
  start(failed: (error: unknown) => void): void {
    this.#target = this.#parts.pool.openTarget(this.name, 'guest')
    this.#isStopped = false
    this.#workers = Array.from({ length: QUEUE_DEPTH }, () => this.#work().catch(failed))
  }

  /** Resolves when nothing is in flight and the disk is closed. */
  async stop(): Promise<void> {
    this.#isStopped = true
    await Promise.all(this.#workers)
    this.#target?.close()
    this.#target = null
  }

  /** Writes the whole disk over and over, a mebibyte at a time, until so much is written. */
  async fill(lengthBytes: number): Promise<void> {
    const runBlockCount = Math.min(256, this.blockCount)
    for (
      let done = 0;
      done < lengthBytes && !this.#isStopped;
      done += runBlockCount * BLOCK_BYTES
    ) {
      const first = (done / BLOCK_BYTES) % (this.blockCount - runBlockCount + 1)
      await this.#write(first - (first % runBlockCount), runBlockCount)
    }
  }

  async #work(): Promise<void> {
    const { prng } = this.#parts
    while (!this.#isStopped) {
      await new Promise((resolve) => setTimeout(resolve, prng.below(PAUSE_MS_MAX)))
      if (this.#isStopped) return
      const kind = prng.weighted([20, 4, 3])
      if (kind === 2) await this.#flush()
      else await this.#changeSome(kind === 1)
    }
  }

  async #changeSome(isTrim: boolean): Promise<void> {
    const { prng } = this.#parts
    const first = prng.below(this.blockCount)
    const countMax = Math.min(this.blockCount - first, prng.pick([1, 2, RUN_BLOCK_COUNT_MAX]))
    let count = 0
    while (count < countMax && !this.#busy.has(first + count)) count += 1
    if (count === 0) return
    if (isTrim) await this.#trim(first, count)
    else await this.#write(first, count)
  }

  async #write(first: number, count: number): Promise<void> {
    const { io, prng, nextContent } = this.#parts
    const contents = Array.from({ length: count }, () => {
      return prng.chance(0.25) ? 1 + prng.below(COMMON_CONTENT_COUNT) : nextContent()
    })
    const lengthBytes = count * BLOCK_BYTES
    const end = this.#take(first, contents)
    const at = await allocateArena(io.arena, lengthBytes)
    for (const [i, content] of contents.entries()) {
      writeContent(io.arena.memory, at + i * BLOCK_BYTES, content)
    }
    const target = this.#open()
    const result = await targetResult((done) => {
      target.write(first * BLOCK_BYTES, lengthBytes, at, end.isDurable ? WRITE_FUA : 0, done, 0)
    })
    end.answered(result)
    io.arena.free(at, lengthBytes)
  }

  async #trim(first: number, count: number): Promise<void> {
    const end = this.#take(first, new Array<number>(count).fill(0))
    const target = this.#open()
    const flags = end.isDurable ? WRITE_FUA : 0
    const isZero = this.#parts.prng.chance(0.5)
    const range = [first * BLOCK_BYTES, count * BLOCK_BYTES, flags] as const
    const result = await targetResult((done) => {
      if (isZero) target.zero(...range, done, 0)
      else target.trim(...range, done, 0)
    })
    end.answered(result)
  }

  async #flush(): Promise<void> {
    const { mark, ledger } = this.#parts
    const sentAt = mark()
    const result = await targetResult((done) => this.#open().flush(done, 0))
    if (result !== 0) throw new Error(`a flush of ${this.name} gave ${result}`)
    ledger.flushes.push({ sentAt, answeredAt: mark() })
  }

  /** Notes that a request for these blocks is being sent. */
  #take(
    first: number,
    contents: readonly number[],
  ): { isDurable: boolean; answered: (result: number) => void } {
    const { mark, ledger, prng } = this.#parts
    const isDurable = prng.chance(0.1)
    const sentAt = mark()
    const changes = contents.map((content, i): Change => {
      const change = { content, sentAt, answeredAt: Infinity, isDurable, step: null }
      this.#busy.add(first + i)
      ledger.change(this.disk, first + i, change)
      return change
    })
    const answered = (result: number): void => {
      if (result !== 0) throw new Error(`a request for ${this.name} gave ${result}`)
      const answeredAt = mark()
      for (const [i, change] of changes.entries()) {
        change.answeredAt = answeredAt
        this.#busy.delete(first + i)
      }
    }
    return { isDurable, answered }
  }

  #open(): ExportTarget {
    if (this.#target === null) throw new Error(`${this.name} is open`)
    return this.#target
  }
}
