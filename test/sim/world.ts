/**
 * One simulated world from its first opening to its last: the pool in it, its clients, crashes and
 * reopenings, and what may be held against the pool at any moment. What is done in it, steps say.
 */
import { CorruptionError, VarveError } from '../../src/base/errors.ts'
import { Prng } from '../../src/base/prng.ts'
import { MIB } from '../../src/base/units.ts'
import type { SimCrashOptions } from '../../src/io/sim-disk.ts'
import { SimIo } from '../../src/io/sim-io.ts'
import type { OpenImport, Maintenance } from './background.ts'
import { Contents } from './contents.ts'
import type { Coverage } from './coverage.ts'
import { SimViolation } from './data-step.ts'
import type { Near } from './data-step.ts'
import { DiskIds } from './disk-ids.ts'
import { Doors } from './doors.ts'
import type { Guest } from './guest.ts'
import type { LongRead } from './long-read.ts'
import { History, countUnreadable, findDifference } from './model.ts'
import { readState } from './pool-under-test.ts'
import type { PoolMaker, SimPool } from './pool-under-test.ts'
import { newReport } from './report.ts'
import type { SimReport } from './report.ts'
import type { Script } from './script.ts'
import { DOOR_KINDS } from './script.ts'
import { STAMP_UNIQUE_FIRST } from './stamps.ts'

/** The world ended while something was waited for. */
export class Crashed extends Error {}
/** The run ends here, and nothing is wrong: what comes next cannot be judged. */
export class Ended extends Error {}

export interface WorldOptions {
  script: Script
  /** Not every run uses all of it. */
  arenaMemory: Buffer
  coverage?: Coverage
  /** Takes a line for everything that is asked of the disk. */
  trace?: (line: string) => void
}

/** Blocks whose checksums lay there alone: they cannot be verified any more. */
const FENCING = /a record’s header is damaged/
const PLENTY_BYTES = 2 ** 40
/** Enough where no filesystem is mounted, and little enough for clients to run short of. */
const SMALL_ARENA_BYTES = 32 * MIB
/** Where a cut hurts most. */
const CUT_OPERATIONS = ['write', 'sync', 'answer', 'roll'] as const
type CutOperation = (typeof CUT_OPERATIONS)[number]
const CUT_PATHS = ['superblock', '.seg', ''] as const
const CUT_RECOVERY_CHANCE = 0.2
const ROT_AT_BOOT_CHANCE = 0.3
const CUT_AHEAD_CHANCE = 0.35
const OPEN_ATTEMPT_COUNT_MAX = 50
/** What a fault may make of maintenance. */
const FAULT_CODES: readonly string[] = ['no-space', 'io', 'pool-failed']

export class World {
  readonly log: string[] = []
  readonly maker: PoolMaker
  readonly script: Script
  readonly history: History = new History()
  readonly contents: Contents
  readonly coverage: Coverage | null
  readonly report: SimReport = newReport()
  /** Of the step under way; see `script.ts`. */
  prng: Prng
  io: SimIo
  pool: SimPool | null = null
  maintenance: Maintenance | null = null
  openImports: OpenImport[] = []
  /** Turns until the world ends, or Infinity. */
  turnsLeft: number = Infinity
  hasFailed = false
  /** A request was answered with an error that only a pool that has failed may answer with. */
  owesFailure = false
  longReads: LongRead[] = []
  /** No more ends are planned. */
  isEnding = false
  readonly near: Near = { last: null }
  /** The world ends soon after so many more of these; null: no such end is planned. */
  #cut: { operation: CutOperation; path: string; leftCount: number } | null = null
  /** How the planned end comes; null: as is drawn. */
  #end: SimCrashOptions | null = null
  /** A disk without room, which a crash or a close does not give any. */
  staysFull = false
  /** How often the writes have gone on in another segment. */
  rollCount = 0
  /** Where the last write to a segment went. */
  segmentPath = ''
  /**
   * An opening met damage: it may have made an older page of the superblock the truth, or have
   * taken for torn what the disk has again when it is healed.
   */
  #mayBeStale = false
  /** An opening, perhaps one that was cut short, met damage in what is replayed. */
  #mayBeCut = false
  /** The page cache has what no sync will write any more. */
  #isCacheAhead = false
  readonly #diskIds: DiskIds = new DiskIds()
  #doors: Doors | null = null
  #isCreated = false
  isFenced = false
  #isTainted = false
  /** Damage that a pool opened after had nothing to do with. */
  #oldDamageCount = 0
  #stampNext = STAMP_UNIQUE_FIRST
  #stray: { reason: unknown } | null = null
  #bootMs = 0

  constructor(maker: PoolMaker, options: WorldOptions) {
    const { script, arenaMemory, coverage, trace } = options
    this.maker = maker
    this.script = script
    this.coverage = coverage ?? null
    this.prng = new Prng(script.seed)
    const needsAll = script.traits.doorWeights[DOOR_KINDS.indexOf('fuse')] > 0
    const memory = needsAll ? arenaMemory : arenaMemory.subarray(0, SMALL_ARENA_BYTES)
    const seed = this.prng.nextU32()
    const touched = (operation: 'write' | 'sync', path: string, offsetBytes: number): void => {
      this.#countToCut(operation, path)
      // A header is written ahead of time.
      const isOfSegment = operation === 'write' && path.endsWith('.seg') && offsetBytes > 0
      if (isOfSegment) this.#noteSegment(path)
    }
    const traced = trace === undefined ? {} : { trace }
    this.io = new SimIo({ seed, arenaMemory: memory, touched, ...traced })
    this.contents = new Contents(
      () => this.prng,
      () => this.#newStamp(),
      script.traits.repeatWeight,
    )
  }

  get events(): string[] {
    return this.io.events
  }

  get traits(): Script['traits'] {
    return this.script.traits
  }

  /** Damage, or a disk that cannot be read, may show in what this opening of the pool does. */
  get isTainted(): boolean {
    const { disk } = this.io
    this.#isTainted ||= disk.damageCount !== this.#oldDamageCount
    return this.#isTainted
  }

  taint(): void {
    this.#isTainted = true
  }

  /** The pool has put down for good that something is lost: no mending of the disk undoes that. */
  fence(): void {
    if (!this.isFenced) this.report.fencedCount += 1
    this.isFenced = true
    this.#isTainted = true
  }

  /** Ends the run with `reason` at the next turn. */
  abort(reason: unknown): void {
    this.#stray ??= { reason }
  }

  /** Everything drawn from here on, of the world's too, depends on `seed`. */
  beginStep(seed: number): void {
    this.prng = new Prng(seed)
    this.io.reseed(this.prng.nextU32())
  }

  mustPool(): SimPool {
    if (this.pool === null) throw new Error('the pool is open between steps')
    return this.pool
  }

  note(line: string): void {
    this.log.push(`${this.report.stepCount}. ${line}`)
  }

  /** Waits in virtual time; throws {@link Crashed} when the world ends first. */
  async drive<T>(outcome: Promise<T>): Promise<T> {
    const result = await this.io.runUntil(outcome, () => {
      this.report.turnCount += 1
      if (this.#stray !== null) throw this.#stray.reason
      if (this.turnsLeft <= 0) {
        this.#endWorld()
        return false
      }
      this.turnsLeft -= 1
      return true
    })
    if (this.io.isDead) throw new Crashed()
    return result as T
  }

  #endWorld(): void {
    const isPower = this.#isCacheAhead || this.prng.chance(this.traits.powerChance)
    const kind = isPower ? 'power' : 'process'
    this.#isCacheAhead = false
    this.io.crash(this.#end ?? { kind })
  }

  /** Whatever end was planned does not come. */
  cancelEnd(): void {
    this.turnsLeft = Infinity
    this.#cut = null
    this.#end = null
  }

  /** The process ends, and the page cache stays; a power cut during the recovery is likely. */
  endProcess(): void {
    this.io.crash({ kind: 'process' })
    this.#isCacheAhead = true
  }

  /** The world ends soon after some more writes, syncs or promises that something is durable. */
  planCut(): void {
    const { prng } = this
    const operation = prng.pick(CUT_OPERATIONS)
    const path = operation === 'write' || operation === 'sync' ? prng.pick(CUT_PATHS) : ''
    const leftCount = prng.between(1, prng.pick(path === '.seg' ? [3, 30] : [1, 3]))
    this.#cut = { operation, path, leftCount }
  }

  /** The world ends right after such an operation: the next, or a later one. */
  endAt(operation: CutOperation, path: string, end: SimCrashOptions, leftCount: number = 1): void {
    this.#cut = { operation, path, leftCount }
    this.#end = end
  }

  /** The power goes now. */
  cutPower(): void {
    this.note('the power goes')
    this.io.crash({ kind: 'power' })
    this.#isCacheAhead = false
  }

  /** The log goes on in another segment, and neither may be synced. */
  #noteSegment(path: string): void {
    if (path !== this.segmentPath && this.segmentPath !== '') {
      this.rollCount += 1
      this.#countToCut('roll', '')
    }
    this.segmentPath = path
  }

  /** A client was told that something is durable. */
  notePromise(): void {
    this.#countToCut('answer', '')
  }

  #countToCut(operation: CutOperation, path: string): void {
    const cut = this.#cut
    if (cut === null || operation !== cut.operation || !path.includes(cut.path)) return
    cut.leftCount -= 1
    if (cut.leftCount > 0) return
    this.#cut = null
    this.turnsLeft = this.#end === null ? Math.min(this.turnsLeft, this.prng.below(3)) : 0
  }

  /** Resolves after some more turns, whatever happens in them. */
  turns(count: number): Promise<void> {
    return new Promise((resolve) => {
      const next = (left: number): void => {
        if (left === 0) resolve()
        else this.io.setTimer(0.01 * this.prng.below(100), () => next(left - 1))
      }
      next(count)
    })
  }

  /** One of the clients of a disk, or a new one. */
  guest(volume: string): Guest {
    const doors = this.#mustDoors()
    const there = doors.guestsOf(volume)
    const isNew = there.length < this.traits.clientCountMax && this.prng.chance(0.4)
    return there.length > 0 && !isNew ? this.prng.pick(there) : doors.enter(volume, this.prng)
  }

  async leave(volume: string): Promise<void> {
    await this.endLongReads(volume)
    await this.drive(this.#mustDoors().leave(volume))
  }

  /** Some client dies, with what it asked. */
  kill(): void {
    const guest = this.#mustDoors().kill(this.prng)
    if (guest === null) return
    this.report.clientDeathCount += 1
    this.note(`  a client of ${guest.volume} dies`)
  }

  /** Waits for the reads of a volume, or of all, that steps have left under way. */
  async endLongReads(volume: string | null): Promise<void> {
    const isMeant = (one: LongRead): boolean => volume === null || one.volume === volume
    for (const one of this.longReads.filter(isMeant)) await this.drive(one.whenDone())
    this.judgeLongReads()
  }

  /** After each step: what those that ended may have seen is any state since they began. */
  judgeLongReads(): void {
    for (const one of this.longReads) one.noteState(this.history.latest)
    const done = this.longReads.filter((one) => one.isDone)
    this.longReads = this.longReads.filter((one) => !one.isDone)
    for (const one of done) this.report.refusedReadCount += one.judge(this.isTainted)
  }

  async quiet(): Promise<void> {
    await this.drive(this.#mustDoors().quiet())
  }

  /** Where control operations go in. */
  controlPool(): SimPool {
    this.mustPool()
    return this.#mustDoors().control(this.prng)
  }

  giveRoom(): void {
    if (!this.staysFull) this.io.disk.setCapacity(PLENTY_BYTES)
  }

  heal(): void {
    this.report.healedPageCount += this.io.disk.damaged().length
    this.io.disk.heal()
  }

  noteFailure(why: string): void {
    if (!this.traits.hasErrors && !this.isTainted) {
      throw new SimViolation(`failed without a fault: ${why}`)
    }
    this.note(`  failure: ${why}`)
    this.report.failureCount += 1
    this.hasFailed = true
  }

  judgeNoSpace(code: string, title: string): void {
    if (code !== 'no-space' || !this.staysFull) return
    throw new SimViolation(`on a full disk the pool could not: ${title}`)
  }

  /** Of an operation that should have been taken, or be refused with `code`. */
  judgeRefusal(code: string | null, error: VarveError): void {
    this.note(`  refused: ${error.code}: ${error.message}`)
    if (error.code === code) return
    if (this.traits.hasErrors && error.code === 'no-space') this.report.noSpaceCount += 1
    else if (this.#mayBeFault(error)) this.noteFailure(error.message)
    else throw error
  }

  /** Of a checkpoint, a reclaim or the like. */
  judgeFault(error: unknown): void {
    const isFault =
      error instanceof VarveError && (FAULT_CODES.includes(error.code) || this.#mayBeFault(error))
    if (!isFault || (!this.traits.hasErrors && !this.isTainted)) throw error
    this.judgeNoSpace(error.code, 'a checkpoint or a reclaim')
    this.note(`  refused: ${error.code}: ${error.message}`)
    this.noteFailure(error.message)
  }

  #mayBeFault(error: VarveError): boolean {
    if (error instanceof CorruptionError) return this.isTainted
    const isFault = error.code === 'io' || error.code === 'pool-failed'
    return isFault && (this.traits.hasErrors || this.isTainted)
  }

  verifyNoDamage(): void {
    const { damage } = this.maker
    if (damage.length === 0) return
    const told = damage.splice(0)
    if (this.isTainted) {
      this.note(`  damage was told: ${told[0]}`)
      if (told.some((line) => FENCING.test(line))) this.fence()
    } else throw new SimViolation(`blocks were damaged:\n${told.join('\n')}`)
  }

  /** Nothing is in flight: what the pool shows must be the model's latest state. */
  async verify(): Promise<void> {
    this.note('verify')
    // Damage may come to light while it is being read.
    const mayFail = (): boolean => this.isTainted
    try {
      const found = await this.drive(readState(this.io, this.mustPool(), mayFail))
      this.report.refusedReadCount += countUnreadable(found)
      const fault = findDifference(this.history.latest, found)
      if (fault !== null) throw new SimViolation(`the running pool differs: ${fault}`)
      this.#lookAtIds()
    } catch (error) {
      if (!mayFail() || !(error instanceof VarveError)) throw error
      this.judgeFault(error)
    }
  }

  #lookAtIds(): void {
    if (this.isTainted || this.maker.walk === undefined) return
    this.#diskIds.look(this.mustPool(), this.history.latest)
  }

  stopImports(): void {
    for (const one of this.openImports) one.stop()
    this.openImports = []
  }

  /** Closes in good order; with damage about, that may fail, and then the world ends. */
  async closePool(): Promise<void> {
    this.note('close')
    const pool = this.mustPool()
    this.io.disk.clearFaults()
    this.giveRoom()
    this.stopImports()
    await this.endLongReads(null)
    await this.drive(this.#mustDoors().close())
    this.maintenance?.cancel()
    const wasTainted = this.isTainted
    try {
      await this.drive(pool.close())
    } catch (error) {
      if (!wasTainted || !(error instanceof VarveError)) throw error
      this.note(`  closing failed: ${error.message}`)
      this.heal()
      this.io.crash({ kind: 'process' })
      throw new Crashed()
    }
    this.pool = null
    this.history.requireAll()
  }

  /** Opens the pool again and again until an opening survives, then judges what it shows. */
  async reopen(planFirstEnd = (): void => this.#planEnd()): Promise<void> {
    for (let attempt = 0; attempt < OPEN_ATTEMPT_COUNT_MAX; attempt += 1) {
      this.#forgetPool()
      if (this.io.isDead) this.#reboot()
      this.cancelEnd()
      if (attempt === 0) planFirstEnd()
      else this.#planEnd()
      try {
        await this.#openOnce()
        return
      } catch (error) {
        if (error instanceof Crashed) {
          // Or what was read left open what happened.
          this.report.recoveryCrashCount += 1
          this.note('crash while opening')
        } else await this.#judgeRefusedOpen(error)
      }
    }
    throw new SimViolation('the pool does not open, however often the world is mended')
  }

  #planEnd(): void {
    const cutChance = this.#isCacheAhead ? CUT_AHEAD_CHANCE : CUT_RECOVERY_CHANCE
    if (this.prng.chance(cutChance)) this.planCut()
    else if (this.prng.chance(0.25)) this.turnsLeft = this.prng.below(80)
  }

  #forgetPool(): void {
    this.verifyNoDamage()
    this.#doors = null
    this.pool = null
    this.segmentPath = ''
    this.hasFailed = false
    this.owesFailure = false
    this.longReads = []
    this.stopImports()
    this.maintenance = null
  }

  #reboot(): void {
    this.report.crashCount += 1
    this.#noteTime()
    this.io = this.io.reboot()
    this.#bootMs = this.io.nowMs()
    if (this.prng.chance(0.7) || !this.isTainted) this.io.disk.clearFaults()
    this.giveRoom()
    this.note('reboot')
    const damaged = this.io.disk.damaged()
    if (damaged.length > 0) this.#mayBeStale = true
    const isSound = damaged.length === 0 && !this.io.disk.hasFaults && !this.#mayBeStale
    if (isSound && this.traits.hasDamage && this.prng.chance(ROT_AT_BOOT_CHANCE))
      this.#rotSuperblock()
  }

  /** One of its pages: what was written last suffers most from a cut. */
  #rotSuperblock(): void {
    const { disk } = this.io
    for (const [path, { data }] of disk.files()) {
      if (!path.endsWith('/superblock')) continue
      const pageIndex = this.prng.below(2)
      const bytes = data.page(pageIndex)
      if (bytes === null) return
      const rotten = Uint8Array.from(bytes)
      rotten[this.prng.below(rotten.length)] ^= 1 << this.prng.below(8)
      disk.damage('bit-rot', path, pageIndex, rotten)
      this.note(`rot of superblock page ${pageIndex}`)
    }
  }

  /** Adds this world's time to the report. */
  #noteTime(): void {
    this.report.virtualMs += this.io.nowMs() - this.#bootMs
    this.#bootMs = this.io.nowMs()
  }

  /** At the end of a run. */
  finish(): SimReport {
    this.#noteTime()
    for (const [kind, count] of this.io.disk.strikeCounts) this.report.faults[kind] = count
    return this.report
  }

  /** With damage about a pool may refuse to open: it is mended, and must open then. */
  async #judgeRefusedOpen(error: unknown): Promise<void> {
    const { disk } = this.io
    if (!this.isTainted || !(error instanceof VarveError) || !this.#mayRefuse(error)) throw error
    this.note(`  refused to open: ${error.code}: ${error.message}`)
    this.report.refusedOpenCount += 1
    if (this.#mayBeCut && disk.damaged().length === 0 && !disk.hasFaults) this.#endOfLostTail()
    this.heal()
    disk.clearFaults()
    this.giveRoom()
    this.io.crash({ kind: 'process' })
    return Promise.resolve()
  }

  #mayRefuse(error: VarveError): boolean {
    return error instanceof CorruptionError || ['io', 'pool-failed'].includes(error.code)
  }

  async #openOnce(): Promise<void> {
    const { disk } = this.io
    if (!this.#isCreated) {
      this.cancelEnd()
      this.pool = await this.drive(this.maker.create(this.io))
      this.#doors = await this.drive(Doors.open(this.io, this.pool, this.traits.doorWeights))
      this.#isCreated = true
      return
    }
    const damaged = disk.damaged()
    // The other one leads to the same state, if it is whole: nothing may be refused, nothing lost.
    const isOfOnePage =
      damaged.length === 1 &&
      damaged[0].path.endsWith('/superblock') &&
      (this.maker.tailSegment?.(disk) ?? 0) > 0
    const hasDamage = damaged.length > 0 && !isOfOnePage
    this.#mayBeCut ||= hasDamage && this.#isTailDamaged()
    this.#isTainted = this.isFenced || hasDamage || disk.hasFaults || this.#mayBeCut
    this.#oldDamageCount = disk.damageCount
    const complaints = await this.drive(this.maker.check(this.io))
    if (complaints.length > 0 && !this.isTainted && !isOfOnePage) {
      throw new SimViolation(`check:\n${complaints.join('\n')}`)
    }
    this.pool = await this.drive(this.maker.open(this.io))
    const found = await this.drive(readState(this.io, this.pool, () => this.isTainted))
    this.cancelEnd()
    this.verifyNoDamage()
    this.report.refusedReadCount += countUnreadable(found)
    const fault = this.history.adopt(found)
    if (fault !== null && this.#mayBeCut) this.#endOfLostTail()
    if (fault !== null) throw new SimViolation(`recovery shows an illegal state:\n${fault}`)
    if (this.history.isUnclear) {
      if (this.isFenced) throw new Ended()
      this.note('what happened cannot be read')
      this.heal()
      disk.clearFaults()
      this.io.crash({ kind: 'process' })
      throw new Crashed()
    }
    this.#mayBeCut = false
    this.#doors = await this.drive(Doors.open(this.io, this.pool, this.traits.doorWeights))
    this.#lookAtIds()
    const mayEnd = this.#isCacheAhead && !this.isEnding
    if (mayEnd && this.prng.chance(0.5)) this.turnsLeft = this.prng.below(200)
  }

  #endOfLostTail(): never {
    this.report.lostTailCount += 1
    throw new Ended()
  }

  /** Damage to the superblock, or to what is replayed: it may look like a torn tail. */
  #isTailDamaged(): boolean {
    const { disk } = this.io
    const first = this.maker.tailSegment?.(disk) ?? 0
    return disk.damaged().some(({ path }) => {
      const match = /\/(\d+)\.seg$/.exec(path)
      return path.endsWith('/superblock') || (match !== null && Number(match[1]) >= first)
    })
  }

  #mustDoors(): Doors {
    if (this.#doors === null) throw new Error('the pool is open between steps')
    return this.#doors
  }

  #newStamp(): number {
    this.#stampNext += 1
    return this.#stampNext
  }
}
