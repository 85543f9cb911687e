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
import type { Compression, ReclaimProgress, ReclaimReport, UpkeepStatus } from './types.ts'
import type { WriteQueue } from './write-queue.ts'

const CODECS: Record<Compression, Codec> = { off: Codec.raw, lz4: Codec.lz4, zstd: Codec.zstd }

type Progress = (progress: ReclaimProgress) => void

interface RunKind {
  settleWith: Codec | null
  compression: Compression
  isOrdering: boolean
}

export class Upkeep {
  readonly #core: PoolCore
  readonly #checkpointer: Checkpointer
  readonly #imports: ReadonlySet<BulkVolumeImport>
  readonly #writes: WriteQueue
  readonly #idleCompression: Compression | null
  readonly #idle: IdleSettler | null
  readonly #closing = new AbortController()
  #running: Promise<unknown> | null = null
  /** Of the run that the idle settler began; null: none is under way. */
  #idleRun: AbortController | null = null
  /** One that was asked for is under way, or waits for what gives way to it. */
  #isAskedFor = false
  #progress: ReclaimProgress | null = null
  #isPaused = false
  #changeCount = 0

  /** `idleCompression`: what is settled with when nobody asks for it; null: it is not. */
  constructor(
    core: PoolCore,
    checkpointer: Checkpointer,
    imports: ReadonlySet<BulkVolumeImport>,
    writes: WriteQueue,
    idleCompression: Compression | null,
  ) {
    this.#core = core
    this.#checkpointer = checkpointer
    this.#imports = imports
    this.#writes = writes
    this.#idleCompression = idleCompression
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
    const compression = this.#idleCompression ?? 'lz4'
    return this.#runAskedFor({ settleWith: null, compression, isOrdering: false }, signal, progress)
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
  async settleIdle(compression: Compression): Promise<ReclaimReport> {
    const run = new AbortController()
    this.#idleRun = run
    try {
      const kind = { settleWith: CODECS[compression], compression, isOrdering: false }
      return await this.#run(kind, run.signal, () => undefined)
    } finally {
      this.#idleRun = null
    }
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
      mayRun: () => this.#running === null && !this.#isAskedFor && this.#imports.size === 0,
      isPaused: () => this.#isPaused,
      changeCount: () => this.#changeCount,
    })
  }

  /** Somebody waits for this one: an idle run gives way to it, a healing is waited for. */
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
    this.#idleRun?.abort()
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
    const { io, codecs, guests } = this.#core
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
    const { settleWith, compression, isOrdering } = kind
    const codec = CODECS[compression]
    const run = { settleWith, codec, order: isOrdering ? order : null, pacer, progress: told }
    return this.exclusively(async () => {
      pacer.verifyWanted()
      try {
        return await reclaim(this.#core, this.#checkpointer, this.#imports, run)
      } finally {
        this.#progress = null
      }
    })
  }
}
