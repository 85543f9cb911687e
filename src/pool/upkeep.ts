/** The work below the address, one run at a time: reclaiming and settling, asked for or idle. */
import { Codec } from '../base/codec.ts'
import { OperatingError } from '../base/errors.ts'
import type { BulkVolumeImport } from './bulk-import.ts'
import type { Checkpointer } from './checkpoint.ts'
import type { PoolCore } from './core.ts'
import { verifyHealthy } from './core.ts'
import { IdleSettler } from './idle-settler.ts'
import { orderVolumes } from './order.ts'
import { Pacer } from './pacer.ts'
import { reclaim } from './reclaim.ts'
import { Turnover } from './turnover.ts'
import type { Compression, ReclaimProgress, ReclaimReport, UpkeepStatus } from './types.ts'
import type { WriteQueue } from './write-queue.ts'

const CODECS: Record<Compression, Codec> = { off: Codec.raw, lz4: Codec.lz4, zstd: Codec.zstd }

type Progress = (progress: ReclaimProgress) => void

interface RunKind {
  settleWith: Codec | null
  compression: Compression
  /** What lies scattered is written in order first. */
  isOrdering?: boolean
  /** Only segments of which nothing is live are given back. */
  onlyDead?: boolean
}

export class Upkeep {
  readonly #core: PoolCore
  readonly #checkpointer: Checkpointer
  readonly #imports: ReadonlySet<BulkVolumeImport>
  readonly #writes: WriteQueue
  readonly #idleCompression: Compression | null
  readonly #idle: IdleSettler | null
  readonly #turnover: Turnover
  readonly #closing = new AbortController()
  #running: Promise<unknown> | null = null
  /** Of a run that nobody asked for; null: none is under way. */
  #ownRun: AbortController | null = null
  /** One that was asked for is under way, or waits for what gives way to it. */
  #isAskedFor = false
  #progress: ReclaimProgress | null = null
  #isPaused = false
  #changeCount = 0

  /**
   * `idleCompression`: what is settled with when nobody asks for it; null: it is not.
   * `turnoverBytesMin`: see {@link Turnover}.
   */
  constructor(
    core: PoolCore,
    checkpointer: Checkpointer,
    imports: ReadonlySet<BulkVolumeImport>,
    writes: WriteQueue,
    options: { idleCompression: Compression | null; turnoverBytesMin: number },
  ) {
    const { idleCompression, turnoverBytesMin } = options
    this.#core = core
    this.#checkpointer = checkpointer
    this.#imports = imports
    this.#writes = writes
    this.#idleCompression = idleCompression
    this.#turnover = new Turnover(turnoverBytesMin, core.log.appendedBytes)
    this.#idle = idleCompression === null ? null : this.#beginIdle(idleCompression)
  }

  get status(): UpkeepStatus {
    const { done, total, phase } = this.#progress ?? { done: 0, total: 0, phase: null }
    return { idle: this.#idleCompression, isPaused: this.#isPaused, phase, done, total }
  }

  /** A run that is under way stops where it is, too, and goes on later. */
  set isPaused(isPaused: boolean) {
    this.#isPaused = isPaused
  }

  /** Something was removed or imported: there may be something to free or to settle. */
  noteChange(): void {
    this.#changeCount += 1
  }

  /** Gives back what no disk refers to. Rejects `busy`, `canceled`, or the world's errors. */
  reclaim(signal: AbortSignal | undefined, progress: Progress): Promise<ReclaimReport> {
    const compression = this.#codecOf()
    return this.#runAskedFor({ settleWith: null, compression }, signal, progress)
  }

  /**
   * As `reclaim`, and settles every sealed segment that is not settled yet. What lies scattered is
   * brought in order first: that writes to the log and takes room for a while, so it is done for
   * those who ask, and not behind guests' backs.
   */
  settle(
    compression: Compression,
    signal: AbortSignal | undefined,
    progress: Progress,
  ): Promise<ReclaimReport> {
    const kind = { settleWith: CODECS[compression], compression, isOrdering: true }
    return this.#runAskedFor(kind, signal, progress)
  }

  /** As `settle`, but gives way (`canceled`) to whatever is asked for. */
  settleIdle(compression: Compression): Promise<ReclaimReport> {
    return this.#runOfOwn({ settleWith: CODECS[compression], compression })
  }

  /** Something was appended: gives back segments that must be dead by now, beside the guests. */
  noteAppended(): void {
    if (!this.#turnover.isDue(this.#core.log.appendedBytes) || this.#isPaused) return
    if (!this.#mayRunOfOwn() || this.#closing.signal.aborted) return
    // What goes wrong is told by whoever asks next.
    const kind = { settleWith: null, compression: this.#codecOf(), onlyDead: true }
    this.#runOfOwn(kind).catch(() => undefined)
  }

  get isPaused(): boolean {
    return this.#isPaused
  }

  /** Does something while nothing is reclaimed or settled: segments then stay what they are. */
  async exclusively<T>(work: () => Promise<T>): Promise<T> {
    while (this.#running !== null) await this.#running.catch(() => undefined)
    const running = work()
    this.#running = running
    try {
      return await running
    } finally {
      this.#running = null
    }
  }

  /** Gives up what is running, and resolves when it has ended. */
  async close(): Promise<void> {
    this.#closing.abort()
    await this.#idle?.close()
    await this.#running?.catch(() => undefined)
  }

  #beginIdle(compression: Compression): IdleSettler {
    return new IdleSettler(this.#core, {
      settle: () => this.settleIdle(compression),
      mayRun: () => this.#mayRunOfOwn(),
      isPaused: () => this.#isPaused,
      changeCount: () => this.#changeCount,
    })
  }

  #mayRunOfOwn(): boolean {
    return this.#running === null && !this.#isAskedFor && this.#imports.size === 0
  }

  #codecOf(): Compression {
    return this.#idleCompression ?? 'lz4'
  }

  /** Nobody waits for this one. */
  async #runOfOwn(kind: RunKind): Promise<ReclaimReport> {
    const run = new AbortController()
    this.#ownRun = run
    try {
      return await this.#run(kind, run.signal, () => undefined)
    } finally {
      this.#ownRun = null
    }
  }

  /** Somebody waits for this one: a run of our own gives way, a healing is waited for. */
  async #runAskedFor(
    kind: RunKind,
    signal: AbortSignal | undefined,
    progress: Progress,
  ): Promise<ReclaimReport> {
    if (this.#isAskedFor) {
      throw new OperatingError('busy', 'a reclaim or settle is running already', {
        hint: 'wait for it to end; "varve info" shows how far it is',
      })
    }
    this.#isAskedFor = true
    this.#ownRun?.abort()
    try {
      return await this.#run(kind, signal, progress)
    } finally {
      this.#isAskedFor = false
    }
  }

  async #run(
    kind: RunKind,
    signal: AbortSignal | undefined,
    progress: Progress,
  ): Promise<ReclaimReport> {
    verifyHealthy(this.#core)
    const { io, codecs, guests, log } = this.#core
    const pacer = new Pacer(
      io,
      codecs,
      guests,
      [this.#closing.signal, signal],
      () => this.#isPaused,
    )
    const told = (now: ReclaimProgress): void => {
      this.#progress = now
      progress(now)
    }
    const order = (): Promise<number> =>
      orderVolumes(this.#core, this.#writes, this.#checkpointer, this.#imports, {
        pacer,
        progress: told,
      })
    const { settleWith, compression, isOrdering = false, onlyDead = false } = kind
    const run = {
      settleWith,
      codec: CODECS[compression],
      onlyDead,
      order: isOrdering ? order : null,
      pacer,
      progress: told,
    }
    return this.exclusively(async () => {
      const { appendedBytes } = log
      let report: ReclaimReport | null = null
      try {
        pacer.verifyWanted()
        report = await reclaim(this.#core, this.#checkpointer, this.#imports, run)
        return report
      } finally {
        this.#progress = null
        this.#turnover.ended(appendedBytes, report)
      }
    })
  }
}
