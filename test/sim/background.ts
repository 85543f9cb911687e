/** What goes on beside the steps of a run: a reclaim or settle, and imports. */
import { VarveError } from '../../src/base/errors.ts'
import type { Io } from '../../src/io/io.ts'
import type {
  BulkImport,
  Compression,
  ReclaimProgress,
  ReclaimReport,
} from '../../src/pool/types.ts'
import type { ImportBody } from './control-steps.ts'
import type { SimPool } from './pool-under-test.ts'

/** A reclaim, or with a compression, a settle. */
export class Maintenance {
  readonly title: string
  readonly #controller = new AbortController()
  readonly #ended: Promise<void>
  isDone = false
  phase: ReclaimProgress['phase'] | null = null
  report: ReclaimReport | null = null
  error: unknown = null

  constructor(pool: SimPool, compression: Compression | null) {
    this.title = compression === null ? 'reclaim' : `settle ${compression}`
    const { signal } = this.#controller
    const told = ({ phase }: ReclaimProgress): void => {
      this.phase = phase
    }
    const work =
      compression === null ? pool.reclaim(signal, told) : pool.settle(compression, signal, told)
    this.#ended = work
      .then(
        (report) => {
          this.report = report
        },
        (error: unknown) => {
          this.error = error
        },
      )
      .then(() => {
        this.isDone = true
      })
  }

  get isCanceled(): boolean {
    return this.#controller.signal.aborted
  }

  cancel(): void {
    this.#controller.abort()
  }

  whenDone(): Promise<void> {
    return this.#ended
  }
}

/** An import whose bytes arrive by and by; to be committed or aborted when all are there. */
export class OpenImport {
  readonly body: ImportBody
  readonly #written: Promise<void>
  #bulk: BulkImport | null = null
  #isStopped = false
  /** Why it cannot be committed. */
  error: VarveError | null = null

  /** `delayMs` is asked before each piece. */
  constructor(pool: SimPool, io: Io, body: ImportBody, delayMs: () => number) {
    this.body = body
    this.#written = this.#write(pool, io, delayMs).catch((error: unknown) => {
      if (!(error instanceof VarveError)) throw error
      this.error = error
    })
    // Judged when it is waited for; nobody may, if the world ends first.
    this.#written.catch(() => undefined)
  }

  get bulk(): BulkImport | null {
    return this.#bulk
  }

  /** Rejects only with what is no answer of a pool. */
  whenWritten(): Promise<void> {
    return this.#written
  }

  /** The pool is about to close: no more pieces. */
  stop(): void {
    this.#isStopped = true
  }

  async #write(pool: SimPool, io: Io, delayMs: () => number): Promise<void> {
    const { name, sizeBytes } = this.body.volume
    const bulk = await pool.beginImport({ name, sizeBytes })
    this.#bulk = bulk
    for (const { offsetBytes, bytes } of this.body.pieces) {
      await new Promise<void>((resolve) => {
        io.setTimer(delayMs(), resolve)
      })
      if (this.#isStopped) return
      await bulk.write(offsetBytes, bytes)
    }
  }
}
