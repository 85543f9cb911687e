/**
 * One seeded run of a whole pool on a simulated disk: random steps, crashes at any turn (during
 * recovery too), faults by seed, and after each reopening the judgement of `model.ts`.
 *
 * Swarm testing: the seed first draws which kinds of steps this run has and how often, so that
 * runs differ in character and not only in detail.
 */
import { Errno, VarveError } from '../../src/base/errors.ts'
import { Prng } from '../../src/base/prng.ts'
import { BLOCK_SIZE_BYTES, MIB } from '../../src/base/units.ts'
import type { ExportTarget } from '../../src/export/target.ts'
import { SimIo } from '../../src/io/sim-io.ts'
import { RESERVE_FOLDER } from '../../src/pool/reserve.ts'
import type { Compression } from '../../src/pool/types.ts'
import { Maintenance, OpenImport } from './background.ts'
import { Contents } from './contents.ts'
import { commitOf, drawControl, drawImportBody, drawLength, mustId } from './control-steps.ts'
import type { ControlKind, ControlOperation } from './control-steps.ts'
import { DataStep, SimViolation } from './data-step.ts'
import type { DataKind } from './data-step.ts'
import type { Coverage } from './coverage.ts'
import { History, cutSectors, findDifference, withVolume } from './model.ts'
import type { ModelState, ModelVolume } from './model.ts'
import { readState, targetResult } from './pool-under-test.ts'
import type { PoolMaker, SimPool } from './pool-under-test.ts'
import { STAMP_UNIQUE_FIRST } from './stamps.ts'

export interface PoolSimOptions {
  seed: number
  stepCount: number
  /** The canary: syncs lie. */
  brokenSync: boolean
  /** Sync and write errors, a full disk; drawn from the seed. */
  faults: boolean
  /** Leaves out all other kinds of steps. */
  only?: readonly StepKind[]
  arenaMemory: Buffer
  coverage?: Coverage
}

export interface PoolSimReport {
  stepCount: number
  crashCount: number
  turnCount: number
  failureCount: number
  noSpaceCount: number
}

export type StepKind =
  | ControlKind
  | 'data'
  | 'flush'
  | 'fill'
  | 'truncate'
  | 'checkpoint'
  | 'reclaim'
  | 'settle'
  | 'cancel'
  | 'beginImport'
  | 'endImport'
  | 'verify'
  | 'reopen'
  | 'crash'
  | 'fault'
  | 'full'

const DATA_KINDS: readonly DataKind[] = ['write', 'trim', 'zero', 'read', 'flush']

/** Usual weights of steps; each run multiplies them by weights of its own. */
const STEP_WEIGHTS: Record<StepKind, number> = {
  data: 30,
  flush: 4,
  fill: 0.3,
  checkpoint: 2,
  reclaim: 1,
  settle: 4,
  cancel: 0.5,
  beginImport: 2,
  endImport: 2,
  verify: 1,
  reopen: 1,
  crash: 3,
  fault: 5,
  full: 2,
  create: 6,
  import: 1,
  snapshot: 5,
  clone: 3,
  restore: 2,
  remove: 3,
  rename: 2,
  resize: 2,
  truncate: 3,
  copy: 3,
  hold: 1,
  release: 1,
}
/** What a full disk must not stand in the way of. */
const MAKES_ROOM: readonly StepKind[] = [
  'checkpoint',
  'reclaim',
  'remove',
  'release',
  'verify',
  'reopen',
  'crash',
]
const COMPRESSIONS: readonly Compression[] = ['off', 'lz4', 'zstd']
const OPEN_IMPORT_COUNT_MAX = 2
const FAULT_KINDS = ['sync-error', 'write-error', 'no-space', 'room', 'slow'] as const
/** One seed in so many, odd and even ones, is looked at in detail when it ends. */
const JUDGED_SEED_STRIDE = 4
/** Parts of the catalogue that the last checkpoints replaced. */
const EXCESS_BYTES_MAX = 8192
/** Of an empty pool: what is open, what is spare, what the last checkpoint went to. */
const EMPTY_SEGMENT_COUNT_MAX = 2
const EMPTY_LIVE_COUNT_MAX = 2
const EMPTY_SEGMENT_BYTES_MAX = 524_288
/** What a fault may make of maintenance; damage is never the answer. */
const FAULT_CODES: readonly string[] = ['no-space', 'io', 'pool-failed']
const STEP_KINDS = Object.keys(STEP_WEIGHTS) as StepKind[]

/** The world ended while something was waited for. */
class Crashed extends Error {}

/** Runs one seed; throws with everything needed to repeat it. */
export async function runPoolSim(
  maker: PoolMaker,
  options: PoolSimOptions,
): Promise<PoolSimReport> {
  const sim = new PoolSim(maker, options)
  // A rejection that nobody awaited is a mistake too, and would come without its seed.
  const stray = (reason: unknown): void => sim.abort(reason)
  process.on('unhandledRejection', stray)
  try {
    return await sim.run()
  } catch (error) {
    const { arenaMemory: _, ...told } = options
    const cause = error instanceof Error ? (error.stack ?? error.message) : String(error)
    throw new SimViolation(
      `${JSON.stringify(told)}\n${sim.log.slice(-60).join('\n')}\n` +
        `events:\n${sim.events.slice(-12).join('\n')}\n${cause}`,
      { cause: error },
    )
  } finally {
    process.off('unhandledRejection', stray)
  }
}

class PoolSim {
  readonly log: string[] = []
  readonly #maker: PoolMaker
  readonly #options: PoolSimOptions
  readonly #prng: Prng
  readonly #history = new History()
  readonly #targets = new Map<string, ExportTarget>()
  readonly #stepWeights: number[]
  readonly #dataWeights: number[]
  readonly #requestCountMax: number
  readonly #contents: Contents
  #maintenance: Maintenance | null = null
  #openImports: OpenImport[] = []
  #io: SimIo
  #pool: SimPool | null = null
  #isCreated = false
  #stampNext = STAMP_UNIQUE_FIRST
  /** Turns until the world ends, or Infinity. */
  #turnsLeft = Infinity
  #hasFailed = false
  /** A disk without room, which a crash or a close does not give any. */
  #staysFull = false
  #stray: { reason: unknown } | null = null
  readonly #report: PoolSimReport = {
    stepCount: 0,
    crashCount: 0,
    turnCount: 0,
    failureCount: 0,
    noSpaceCount: 0,
  }

  constructor(maker: PoolMaker, options: PoolSimOptions) {
    this.#maker = maker
    this.#options = options
    const { seed, arenaMemory } = options
    this.#prng = new Prng(seed)
    this.#io = new SimIo({ seed: this.#prng.nextU32(), arenaMemory })
    const factor = (): number => this.#prng.pick([0, 0.3, 1, 1, 3])
    this.#stepWeights = STEP_KINDS.map((kind) => {
      const isLeftOut = options.only !== undefined && !options.only.includes(kind)
      const weight = isLeftOut ? 0 : STEP_WEIGHTS[kind] * factor()
      if (kind === 'fault' || kind === 'full') return options.faults ? weight : 0
      return kind === 'create' || kind === 'data' ? weight + 1 : weight
    })
    this.#dataWeights = DATA_KINDS.map((kind) => factor() * (kind === 'flush' ? 0.3 : 1))
    this.#dataWeights[0] += 1
    this.#requestCountMax = this.#prng.pick([1, 2, 8, 24])
    this.#contents = new Contents(this.#prng, () => this.#newStamp())
  }

  get events(): string[] {
    return this.#io.events
  }

  /** Ends the run with `reason` at the next turn. */
  abort(reason: unknown): void {
    this.#stray ??= { reason }
  }

  async run(): Promise<PoolSimReport> {
    await this.#reopen()
    // Not before: a pool that was never created would be too easy to miss.
    if (this.#options.brokenSync) this.#io.breakSyncs()
    while (this.#report.stepCount < this.#options.stepCount) {
      this.#report.stepCount += 1
      const kind = STEP_KINDS[this.#prng.weighted(this.#stepWeights)]
      try {
        await this.#step(kind)
        if (this.#maintenance?.isDone === true) this.#judgeMaintenance()
        this.#verifyNoDamage()
        if (this.#hasFailed) await this.#leaveFailed()
      } catch (error) {
        if (!(error instanceof Crashed)) throw error
        await this.#reopen()
      }
    }
    this.#turnsLeft = Infinity
    await this.#verify()
    const isJudged = Math.floor(this.#options.seed / 2) % JUDGED_SEED_STRIDE === 0
    if (isJudged && this.#maker.walk !== undefined) await this.#judgeStored()
    await this.#closePool()
    await this.#reopen()
    await this.#closePool()
    return this.#report
  }

  async #step(kind: StepKind): Promise<void> {
    switch (kind) {
      case 'data':
        return this.#dataStep(DATA_KINDS, this.#prng.between(1, this.#requestCountMax))
      case 'flush':
        return this.#dataStep(['flush'], 1)
      case 'fill':
        return this.#fillSegments()
      case 'truncate':
        return this.#truncate()
      case 'checkpoint':
        return this.#checkpoint()
      case 'reclaim':
        return this.#upkeep(null)
      case 'settle':
        return this.#upkeep(this.#prng.pick(COMPRESSIONS))
      case 'cancel':
        this.#note('cancel')
        this.#maintenance?.cancel()
        return
      case 'beginImport':
        return this.#beginImport()
      case 'endImport':
        return this.#endImport()
      case 'verify':
        return this.#verify()
      case 'reopen':
        await this.#closePool()
        return this.#reopen()
      case 'crash':
        this.#turnsLeft = this.#prng.pick([0, this.#prng.below(10), this.#prng.below(200)])
        this.#note(`crash in ${this.#turnsLeft} turns`)
        return
      case 'fault':
        return this.#injectFault()
      case 'full':
        return this.#fullDisk()
      default:
        return this.#controlStep(kind)
    }
  }

  /** Waits in virtual time; throws {@link Crashed} when the world ends first. */
  async #drive<T>(outcome: Promise<T>): Promise<T> {
    const result = await this.#io.runUntil(outcome, () => {
      this.#report.turnCount += 1
      if (this.#stray !== null) throw this.#stray.reason
      if (this.#turnsLeft <= 0) {
        this.#io.crash({ kind: this.#prng.chance(0.8) ? 'power' : 'process' })
        return false
      }
      this.#turnsLeft -= 1
      return true
    })
    if (this.#io.isDead) throw new Crashed()
    return result as T
  }

  async #dataStep(kinds: readonly DataKind[], requestCount: number): Promise<void> {
    const names = [...this.#history.latest.keys()]
    if (names.length === 0) return
    this.#note('data step')
    const step = this.#newDataStep()
    const weights = DATA_KINDS.map((kind, index) =>
      kinds.includes(kind) ? (kinds.length === 1 ? 1 : this.#dataWeights[index]) : 0,
    )
    for (let index = 0; index < requestCount; index += 1) {
      step.issue(DATA_KINDS[this.#prng.weighted(weights)], this.#prng.pick(names))
      // Some are issued in one turn, some while earlier ones are on their way.
      if (this.#prng.chance(0.3)) await this.#drive(this.#turns(this.#prng.between(1, 6)))
    }
    await this.#endDataStep(step)
  }

  #newDataStep(): DataStep {
    return new DataStep({
      prng: this.#prng,
      arena: this.#io.arena,
      history: this.#history,
      target: (volume) => this.#target(volume),
      contents: this.#contents,
      log: (line) => this.#note(line),
    })
  }

  async #endDataStep(step: DataStep): Promise<void> {
    await this.#drive(step.whenIdle())
    if (step.violation !== null) throw step.violation
    if (step.isEmpty) this.#history.cancel(step.step)
    this.#report.noSpaceCount += step.noSpaceCount
    if (step.noSpaceCount > 0 && !this.#options.faults) throw new SimViolation('no space: why?')
    if (step.failure !== 0) this.#noteFailure(`errno ${-step.failure}`)
  }

  /** Resolves after some more turns, whatever happens in them. */
  #turns(count: number): Promise<void> {
    return new Promise((resolve) => {
      const next = (left: number): void => {
        if (left === 0) resolve()
        else this.#io.setTimer(0.01 * this.#prng.below(100), () => next(left - 1))
      }
      next(count)
    })
  }

  /** Enough megabytes to end a segment. */
  async #fillSegments(): Promise<void> {
    const name = [...this.#history.latest.keys()].find((one) => one.startsWith('b'))
    if (name === undefined) return
    this.#note('fill')
    for (let count = this.#prng.between(8, 70); count > 0; count -= 1) {
      const step = this.#newDataStep()
      step.issueFill(name)
      await this.#endDataStep(step)
      if (this.#hasFailed) return
    }
  }

  async #controlStep(kind: ControlKind): Promise<void> {
    const operation = drawControl(kind, {
      prng: this.#prng,
      state: this.#history.latest,
      contents: this.#contents,
    })
    if (operation !== null) await this.#control(operation)
  }

  async #control(operation: ControlOperation): Promise<void> {
    this.#note(`${operation.title}${operation.code === null ? '' : ` (must be ${operation.code})`}`)
    for (const name of operation.closes) this.#closeTarget(name)
    const pool = this.#mustPool()
    const after = operation.after ?? this.#history.latest
    const step = this.#history.begin('control', operation.title, after)
    try {
      await this.#drive(operation.run(pool))
    } catch (error) {
      if (!(error instanceof VarveError)) throw error
      this.#judgeNoSpace(error.code, operation.title)
      this.#judgeRefusal(operation, error)
      if (error.code !== 'io' && error.code !== 'pool-failed') this.#history.cancel(step)
      return
    }
    if (operation.code !== null) {
      throw new SimViolation(`${operation.title} was taken, must be refused: ${operation.code}`)
    }
    if (operation.isDurable) this.#history.requireAll()
  }

  /**
   * Makes a volume longer or shorter under its clients. A cut within a block zeroes the rest of
   * the block first, in a record of its own: a crash may come in between.
   */
  async #truncate(): Promise<void> {
    const volumes = [...this.#history.latest.values()]
    if (volumes.length === 0) return
    const volume = this.#prng.pick(volumes)
    const { name } = volume
    const sizeBytes = drawLength(this.#prng, volume)
    const sectors = sizeBytes < volume.sizeBytes ? cutSectors(volume, sizeBytes) : volume.sectors
    const after = withVolume(this.#history.latest, { ...volume, sizeBytes, sectors })
    this.#note(`truncate ${name} ${sizeBytes}`)
    const pool = this.#mustPool()
    const tail = this.#history.begin('data', `tail ${name}`, this.#withoutTail(volume, sizeBytes))
    const step = this.#history.begin('control', `truncate ${name}`, after)
    const id = mustId(pool, name, null)
    try {
      await this.#drive(pool.files.resize(id, sizeBytes, () => true))
    } catch (error) {
      if (!(error instanceof VarveError)) throw error
      this.#judgeRefusal({ code: null }, error)
      if (error.code === 'io' || error.code === 'pool-failed') return
      this.#history.cancel(step)
      const found = await this.#drive(readState(this.#io, pool))
      if (findDifference(tail.after, found) !== null) this.#history.cancel(tail)
    }
  }

  /** With zeros from `sizeBytes` to the end of its block. */
  #withoutTail(volume: ModelVolume, sizeBytes: number): ModelState {
    const blockEnd = Math.ceil(sizeBytes / BLOCK_SIZE_BYTES) * BLOCK_SIZE_BYTES
    if (sizeBytes >= volume.sizeBytes) return this.#history.latest
    const kept = cutSectors(volume, sizeBytes)
    const whole = cutSectors(volume, Math.min(blockEnd, volume.sizeBytes))
    const sectors = volume.sectors.map((stamp, index) => (whole[index] === 0 ? stamp : kept[index]))
    return withVolume(this.#history.latest, { ...volume, sectors })
  }

  #judgeRefusal(operation: Pick<ControlOperation, 'code'>, error: VarveError): void {
    this.#note(`  refused: ${error.code}: ${error.message}`)
    if (error.code === operation.code) return
    if (this.#options.faults && error.code === 'no-space') {
      this.#report.noSpaceCount += 1
    } else if (this.#options.faults && (error.code === 'io' || error.code === 'pool-failed')) {
      this.#noteFailure(error.message)
    } else {
      throw error
    }
  }

  async #checkpoint(): Promise<void> {
    this.#note('checkpoint')
    try {
      await this.#drive(this.#mustPool().checkpoint())
    } catch (error) {
      this.#judgeFault(error)
    }
    if (!this.#hasFailed) this.#history.requireAll()
  }

  /** A reclaim, or a settle, waited for or not. */
  async #upkeep(compression: Compression | null): Promise<void> {
    await this.#joinMaintenance()
    if (this.#hasFailed) return
    const prng = this.#prng
    const work = new Maintenance(this.#mustPool(), compression)
    this.#maintenance = work
    this.#note(work.title)
    if (prng.chance(0.15)) this.#io.setTimer(prng.below(prng.pick([5, 50])), () => work.cancel())
    if (prng.chance(0.4)) await this.#joinMaintenance()
  }

  async #joinMaintenance(): Promise<void> {
    if (this.#maintenance === null) return
    await this.#drive(this.#maintenance.whenDone())
    this.#judgeMaintenance()
  }

  #judgeMaintenance(): void {
    const { title, report, error, isCanceled } = this.#maintenance as Maintenance
    this.#maintenance = null
    this.#note(`  ${title} ended: ${error instanceof Error ? error.message : 'well'}`)
    const { coverage, faults } = this.#options
    if (report !== null) {
      coverage?.addReport(report)
      if (report.skippedSegmentCount > 0 && !faults) {
        throw new SimViolation('a segment was skipped, without a fault')
      }
      return
    }
    if (isCanceled && error instanceof VarveError && error.code === 'canceled') {
      if (coverage !== undefined) coverage.canceledRunCount += 1
      return
    }
    this.#judgeFault(error)
  }

  #judgeFault(error: unknown): void {
    const isFault = error instanceof VarveError && FAULT_CODES.includes(error.code)
    if (!isFault || !this.#options.faults) throw error
    this.#judgeNoSpace(error.code, 'a checkpoint or a reclaim')
    this.#note(`  refused: ${error.code}: ${error.message}`)
    this.#noteFailure(error.message)
  }

  #beginImport(): void {
    if (this.#openImports.length >= OPEN_IMPORT_COUNT_MAX) return
    const prng = this.#prng
    const body = drawImportBody({ prng, state: this.#history.latest, contents: this.#contents })
    if (body === null) return
    this.#note(`begin import ${body.volume.name}`)
    const delayMs = prng.pick([0, 1, 10])
    const delay = (): number => (delayMs === 0 ? 0 : prng.below(delayMs))
    this.#openImports.push(new OpenImport(this.#mustPool(), this.#io, body, delay))
  }

  async #endImport(): Promise<void> {
    const one = this.#openImports.shift()
    if (one === undefined) return
    const { name } = one.body.volume
    const isCommitted = this.#prng.chance(0.75)
    this.#note(`end import ${name}: ${isCommitted ? 'commit' : 'abort'}`)
    // An abort may come while a piece is on its way.
    if (isCommitted || one.bulk === null) await this.#drive(one.whenWritten())
    else one.stop()
    const { coverage } = this.#options
    if (isCommitted && one.error === null && one.bulk !== null) {
      const operation = commitOf(this.#history.latest, one.body, one.bulk)
      await this.#control(operation)
      if (operation.code === null && coverage !== undefined) coverage.committedImportCount += 1
    } else if (coverage !== undefined) coverage.abortedImportCount += 1
    if (one.error !== null) this.#judgeRefusal({ code: null }, one.error)
    if (!this.#hasFailed) await this.#abortImport(one)
  }

  /** Gives back what was not committed; after a commit that does nothing. */
  async #abortImport(one: OpenImport): Promise<void> {
    try {
      await this.#drive(one.bulk?.abort() ?? Promise.resolve())
    } catch (error) {
      this.#judgeFault(error)
    }
  }

  #stopImports(): void {
    for (const one of this.#openImports) one.stop()
    this.#openImports = []
  }

  /** What is stored is what is needed, and when nothing is needed, nothing is. */
  async #judgeStored(): Promise<void> {
    this.#note('judge what is stored')
    this.#io.disk.clearFaults()
    this.#giveRoom()
    await this.#joinMaintenance()
    for (const one of this.#openImports.splice(0)) {
      one.stop()
      await this.#abortImport(one)
    }
    // A failure that nobody had noticed yet, of a fault before.
    if (this.#hasFailed) await this.#leaveFailed().catch(() => this.#reopen())
    await this.#settleAll()
    await this.#verify()
    await this.#closePool()
    this.#judgeWalk(false)
    await this.#reopen()
    await this.#removeAll()
    await this.#settleAll()
    await this.#closePool()
    this.#judgeWalk(true)
    await this.#reopen()
  }

  /** Twice: what the first one leaves behind of its own, the second takes. */
  async #settleAll(): Promise<void> {
    for (const compression of ['lz4', 'off'] as const) {
      this.#maintenance = new Maintenance(this.#mustPool(), compression)
      await this.#joinMaintenance()
    }
  }

  async #removeAll(): Promise<void> {
    const pool = this.#mustPool()
    const { latest } = this.#history
    for (const { name, holds, snapshots } of latest.values()) {
      for (const tag of holds) await this.#drive(pool.release(name, tag))
      for (const snapshot of snapshots) {
        const held = `${name}@${snapshot.name}`
        for (const tag of snapshot.holds) await this.#drive(pool.release(held, tag))
      }
    }
    const names = [...latest.keys()]
    if (names.length > 0) {
      await this.#drive(pool.remove({ names, recursive: true, dryRun: false }))
    }
    this.#history.begin('control', 'remove all', new Map())
    this.#history.requireAll()
  }

  #judgeWalk(isEmpty: boolean): void {
    const walk = this.#maker.walk?.(this.#io.disk)
    if (walk === undefined) return
    const { problems, chainCount, excessBytes, segmentIds, liveCount } = walk
    const { coverage } = this.#options
    if (coverage !== undefined) {
      coverage.walkedCount += 1
      coverage.duplicateCount += walk.duplicateCount
      coverage.chainCount += chainCount
    }
    if (excessBytes > EXCESS_BYTES_MAX) problems.push(`${excessBytes} dead bytes were left`)
    this.#note(`walk: ${JSON.stringify(walk)}`)
    if (isEmpty && segmentIds.length > EMPTY_SEGMENT_COUNT_MAX) problems.push('segments were left')
    if (isEmpty && liveCount > EMPTY_LIVE_COUNT_MAX) problems.push('something is still needed')
    if (isEmpty && walk.segmentBytes > EMPTY_SEGMENT_BYTES_MAX) problems.push('bytes were left')
    if (problems.length > 0) throw new SimViolation(`what is stored:\n${problems.join('\n')}`)
  }

  #verifyNoDamage(): void {
    const { damage } = this.#maker
    if (damage.length > 0) throw new SimViolation(`blocks were damaged:\n${damage.join('\n')}`)
  }

  /** Nothing is in flight: what the pool shows must be the model's latest state. */
  async #verify(): Promise<void> {
    this.#note('verify')
    const found = await this.#drive(readState(this.#io, this.#mustPool()))
    const fault = findDifference(this.#history.latest, found)
    if (fault !== null) throw new SimViolation(`the running pool differs: ${fault}`)
  }

  #injectFault(): void {
    const prng = this.#prng
    const aim = { path: prng.pick(['segment', '', '.settling']), skip: prng.below(6), times: 1 }
    const errno = Errno.EIO
    const kind = prng.pick(FAULT_KINDS)
    this.#note(`fault ${kind} skip=${aim.skip}`)
    if (kind === 'room') this.#io.disk.setCapacity(2 ** 40)
    else if (kind === 'slow') this.#io.setSlowness(prng.pick([0.1, 1, 10]))
    else if (kind === 'no-space') {
      const leftBytes = prng.below(prng.pick([1, MIB / 16, MIB]))
      this.#io.disk.setCapacity(this.#io.disk.usedBytes + leftBytes)
    } else this.#io.addFault({ kind, ...aim, errno })
  }

  /**
   * Somebody takes all of the disk but what the pool has set aside: whatever makes room, opening
   * and closing work all the same (I9).
   */
  async #fullDisk(): Promise<void> {
    const { disk } = this.#io
    if (!(await this.#drive(this.#io.list('/pool'))).includes(RESERVE_FOLDER)) return
    if ((await this.#drive(this.#io.list(`/pool/${RESERVE_FOLDER}`))).length < 4) return
    disk.clearFaults()
    disk.setCapacity(disk.usedBytes)
    this.#staysFull = true
    for (let count = this.#prng.between(1, 6); count > 0 && !this.#hasFailed; count -= 1) {
      const kind = this.#prng.pick(MAKES_ROOM)
      this.#note(`full: ${kind}`)
      try {
        await this.#step(kind)
      } catch (error) {
        if (!(error instanceof Crashed)) throw error
        await this.#reopen()
      }
    }
    this.#staysFull = false
    this.#giveRoom()
  }

  #giveRoom(): void {
    if (!this.#staysFull) this.#io.disk.setCapacity(2 ** 40)
  }

  #judgeNoSpace(code: string, title: string): void {
    if (code !== 'no-space' || !this.#staysFull) return
    throw new SimViolation(`on a full disk the pool could not: ${title}`)
  }

  /** I10: a failed pool takes no writes, serves reads, says why; reopening recovers. */
  async #leaveFailed(): Promise<void> {
    this.#hasFailed = false
    this.#stopImports()
    const pool = this.#mustPool()
    const { failure } = await this.#drive(pool.info())
    if (failure !== null) {
      this.#note(`failed: ${failure}`)
      await this.#expectSticky()
    }
    this.#io.disk.clearFaults()
    this.#giveRoom()
    if (this.#prng.chance(0.5)) {
      this.#turnsLeft = 0
    } else {
      this.#targets.clear()
      await this.#drive(pool.close().then(undefined, () => undefined))
      this.#turnsLeft = 0
    }
    await this.#drive(this.#turns(1))
  }

  async #expectSticky(): Promise<void> {
    // Asked of the pool: whether the operation that failed has happened is open.
    const volumes = await this.#drive(this.#mustPool().volumes())
    const volume = volumes.find(({ sizeBytes }) => sizeBytes >= 4096)
    if (volume === undefined) return
    const { name } = volume
    const { arena } = this.#io
    const at = arena.allocate(4096)
    const target = this.#target(name)
    const wrote = await this.#drive(targetResult((done) => target.write(0, 4096, at, 0, done, 0)))
    if (wrote !== -Errno.EIO) throw new SimViolation(`a failed pool answered a write: ${wrote}`)
    const flushed = await this.#drive(targetResult((done) => target.flush(done, 0)))
    if (flushed === 0) throw new SimViolation('a failed pool answered a flush with success')
    const read = await this.#drive(targetResult((done) => target.read(0, 4096, at, done, 0)))
    if (read !== 0) throw new SimViolation(`a failed pool does not serve reads: ${read}`)
    arena.free(at, 4096)
  }

  #noteFailure(why: string): void {
    if (!this.#options.faults) throw new SimViolation(`failed without a fault: ${why}`)
    this.#note(`  failure: ${why}`)
    this.#report.failureCount += 1
    this.#hasFailed = true
  }

  async #closePool(): Promise<void> {
    this.#note('close')
    for (const name of [...this.#targets.keys()]) this.#closeTarget(name)
    const pool = this.#mustPool()
    this.#io.disk.clearFaults()
    this.#giveRoom()
    this.#stopImports()
    this.#maintenance?.cancel()
    await this.#drive(pool.close())
    if (this.#maintenance !== null) await this.#joinMaintenance()
    this.#pool = null
    this.#history.requireAll()
  }

  /** Opens the pool again and again until an opening survives, then judges what it shows. */
  async #reopen(): Promise<void> {
    for (;;) {
      this.#targets.clear()
      this.#pool = null
      this.#stopImports()
      this.#maintenance = null
      if (this.#io.isDead) {
        this.#report.crashCount += 1
        this.#io = this.#io.reboot()
        this.#io.disk.clearFaults()
        this.#giveRoom()
        this.#note('reboot')
      }
      this.#turnsLeft = this.#prng.chance(0.25) ? this.#prng.below(80) : Infinity
      try {
        await this.#openOnce()
        return
      } catch (error) {
        if (!(error instanceof Crashed)) throw error
        this.#note('crash while opening')
      }
    }
  }

  async #openOnce(): Promise<void> {
    if (!this.#isCreated) {
      this.#turnsLeft = Infinity
      this.#pool = await this.#drive(this.#maker.create(this.#io))
      this.#isCreated = true
      return
    }
    const complaints = await this.#drive(this.#maker.check(this.#io))
    if (complaints.length > 0) throw new SimViolation(`check:\n${complaints.join('\n')}`)
    this.#pool = await this.#drive(this.#maker.open(this.#io))
    const found = await this.#drive(readState(this.#io, this.#pool))
    this.#turnsLeft = Infinity
    this.#verifyNoDamage()
    const fault = this.#history.adopt(found)
    if (fault !== null) throw new SimViolation(`recovery shows an illegal state:\n${fault}`)
  }

  #target(volume: string): ExportTarget {
    const open = this.#targets.get(volume)
    if (open !== undefined) return open
    const target = this.#mustPool().openTarget(volume, 'guest')
    if (target === null) throw new SimViolation(`${volume} cannot be opened`)
    this.#targets.set(volume, target)
    return target
  }

  #closeTarget(volume: string): void {
    this.#targets.get(volume)?.close()
    this.#targets.delete(volume)
  }

  #mustPool(): SimPool {
    if (this.#pool === null) throw new Error('the pool is open between steps')
    return this.#pool
  }

  #newStamp(): number {
    this.#stampNext += 1
    return this.#stampNext
  }

  #note(line: string): void {
    this.log.push(`${this.#report.stepCount}. ${line}`)
  }
}
