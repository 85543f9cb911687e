/**
 * Reads and verifies everything the pool keeps, beside running guests: the superblock, the index of
 * fingerprints, the maps, and every byte of every sealed segment, live or not. What is found is
 * healed where that can be done (`scrub-heal.ts`), and named (`scrub-names.ts`).
 *
 * Segments are read in the order of their ids. Where it has come to is kept in the file `scrub`,
 * and never beyond a segment with damage that is not dealt with yet: so a run that is stopped, by
 * whatever, forgets nothing. What is written after it began is in segments it does not read.
 */
import { OperatingError, VarveError } from '../base/errors.ts'
import { FINGERPRINT_FILE } from '../format/fingerprints.ts'
import type { ScrubState } from '../format/scrub-state.ts'
import { removeIfThere, verifyFingerprints } from '../segment/fingerprint-file.ts'
import type { SegmentFault } from '../segment/segment-scrub.ts'
import { SegmentScrubber } from '../segment/segment-scrub.ts'
import type { Checkpointer } from './checkpoint.ts'
import type { PoolCore } from './core.ts'
import { verifyHealthy } from './core.ts'
import { Pacer } from './pacer.ts'
import { ScrubFile } from './scrub-file.ts'
import { ScrubFindings } from './scrub-findings.ts'
import { ScrubHealing } from './scrub-heal.ts'
import type { HealedSegment } from './scrub-heal.ts'
import { markLive } from './scrub-live.ts'
import type { LiveState } from './scrub-live.ts'
import { DamagedAddresses, nameDamage } from './scrub-names.ts'
import type { SuperblockFile } from './superblock-file.ts'
import type {
  ScrubFinding,
  ScrubProgress,
  ScrubReport,
  ScrubRequest,
  ScrubStatus,
} from './types.ts'
import type { Upkeep } from './upkeep.ts'

/** How often the position is kept: what a crash repeats. */
const SAVE_INTERVAL_MS = 15_000
/** Damaged segments dealt with together: each time costs a walk over all maps. */
const DAMAGED_COUNT_MAX = 64

type Progress = (progress: ScrubProgress) => void
type Outcome = ScrubFinding['outcome']

/** What was damaged when the pool was opened, and opening has put right. */
export interface OpeningDamage {
  segment: number | null
}

export class Scrub {
  readonly #core: PoolCore
  readonly #checkpointer: Checkpointer
  readonly #superblock: SuperblockFile
  readonly #upkeep: Upkeep
  readonly #file: ScrubFile
  readonly #closing = new AbortController()
  #run: ScrubRun | null = null
  #running: Promise<unknown> | null = null
  #everyDays: number | null = null
  #openingDamage: OpeningDamage[]

  constructor(
    core: PoolCore,
    checkpointer: Checkpointer,
    superblock: SuperblockFile,
    upkeep: Upkeep,
    openingDamage: OpeningDamage[],
  ) {
    this.#core = core
    this.#checkpointer = checkpointer
    this.#superblock = superblock
    this.#upkeep = upkeep
    this.#file = new ScrubFile(core)
    this.#openingDamage = openingDamage
  }

  /** Only for those who ask how it stands: `ScrubSchedule` begins runs. */
  set everyDays(days: number) {
    this.#everyDays = days
  }

  async status(): Promise<ScrubStatus> {
    const state = await this.#file.load()
    const { phase, done, total } = this.#run?.progress ?? { phase: null, done: 0, total: 0 }
    const running = this.#run?.findings.totals ?? state.running
    return {
      phase,
      done,
      total,
      isPaused: this.#upkeep.isPaused,
      everyDays: this.#everyDays,
      running: running === null ? null : totalsOf(running),
      last: state.last === null ? null : { ...totalsOf(state.last), endedMs: state.last.endedMs },
    }
  }

  /** Rejects `busy`, `canceled`, `pool-failed`, or the world's errors. */
  async run(
    request: ScrubRequest,
    signal: AbortSignal | undefined,
    progress: Progress,
  ): Promise<ScrubReport> {
    if (this.#running !== null) {
      throw new OperatingError('busy', 'a scrub is running already', {
        hint: 'wait for it to end; "varve scrub --status" shows how far it is',
      })
    }
    verifyHealthy(this.#core)
    const running = this.#begin(request, signal, progress)
    this.#running = running
    try {
      return await running
    } finally {
      this.#running = null
      this.#run = null
    }
  }

  /** Gives up what is running, and resolves when it has ended. */
  async close(): Promise<void> {
    this.#closing.abort()
    await this.#running?.catch(() => undefined)
  }

  async #begin(
    request: ScrubRequest,
    signal: AbortSignal | undefined,
    progress: Progress,
  ): Promise<ScrubReport> {
    const { io, codecs, guests } = this.#core
    const signals = [this.#closing.signal, signal]
    const pacer = new Pacer(io, codecs, guests, signals, () => this.#upkeep.isPaused)
    const state = await this.#file.load()
    const openingDamage = this.#openingDamage
    const run = new ScrubRun({
      core: this.#core,
      checkpointer: this.#checkpointer,
      superblock: this.#superblock,
      upkeep: this.#upkeep,
      file: this.#file,
      openingDamage,
      state,
      pacer,
      rateBytes: request.rateBytes,
      report: progress,
    })
    this.#run = run
    const report = await run.run()
    this.#openingDamage = []
    return report
  }
}

interface RunParts {
  core: PoolCore
  checkpointer: Checkpointer
  superblock: SuperblockFile
  upkeep: Upkeep
  file: ScrubFile
  openingDamage: readonly OpeningDamage[]
  state: ScrubState
  pacer: Pacer
  rateBytes: number | null
  report: Progress
}

/** One run, from where the last one was stopped. */
class ScrubRun {
  readonly #parts: RunParts
  readonly findings: ScrubFindings
  progress: ScrubProgress = { phase: 'maps', done: 0, total: 0 }
  #live: LiveState | null = null
  /** Segments with damage that is not dealt with. */
  #damagedIds: number[] = []
  #nextSegment: number
  #savedAtMs: number
  /** Of the rate: what was read in this run, since when. */
  #pacedBytes = 0
  readonly #pacedSinceMs: number

  constructor(parts: RunParts) {
    this.#parts = parts
    const { io } = parts.core
    const startedMs = io.wallClockMs()
    const none = { startedMs, readBytes: 0, foundCount: 0, healedCount: 0, lostCount: 0 }
    this.findings = new ScrubFindings(totalsOf(parts.state.running ?? none))
    this.#nextSegment = parts.state.running?.nextSegment ?? 1
    this.#savedAtMs = io.nowMs()
    this.#pacedSinceMs = io.nowMs()
  }

  async run(): Promise<ScrubReport> {
    const { core, file, state, checkpointer } = this.#parts
    const { log, store, space } = core
    const isResumed = state.running !== null
    this.#tell('maps', 0, 1)
    await space.withReserve(() => log.sealOpen())
    const ids = store.ids().filter((id) => id >= this.#nextSegment && store.get(id).sealed)
    await this.#verifyFiles()
    const told = (done: number, total: number): void => this.#tell('maps', done, total)
    this.#live = await markLive(core, checkpointer, this.#parts.pacer.pace, told)
    const scrubber = await SegmentScrubber.create(store, core.codecs, this.#pace)
    try {
      await this.#scanAll(scrubber, ids)
      await this.#dealWithDamage(scrubber)
    } catch (error) {
      await this.#save().catch(() => undefined)
      throw error
    } finally {
      scrubber.close()
    }
    const endedMs = core.io.wallClockMs()
    const { totals } = this.findings
    await file.save({ running: null, last: { ...totals, endedMs } })
    const { list, suppressedCount } = this.findings
    return { ...totals, endedMs, isResumed, findings: list, suppressedCount }
  }

  #tell(phase: ScrubProgress['phase'], done: number, total: number): void {
    this.progress = { phase, done, total }
    this.#parts.report(this.progress)
  }

  readonly #pace = async (readBytes: number): Promise<void> => {
    const { core, pacer, rateBytes } = this.#parts
    this.findings.totals.readBytes += readBytes
    this.#pacedBytes += readBytes
    await pacer.pace()
    if (rateBytes === null) return
    for (;;) {
      const dueMs = this.#pacedSinceMs + (this.#pacedBytes / rateBytes) * 1000
      const waitMs = dueMs - core.io.nowMs()
      if (waitMs < 1) return
      await new Promise<void>((resolve) => {
        core.io.setTimer(Math.min(waitMs, 1000), resolve)
      })
      pacer.verifyWanted()
    }
  }

  async #scanAll(scrubber: SegmentScrubber, ids: readonly number[]): Promise<void> {
    const { store, io } = this.#parts.core
    for (const [done, id] of ids.entries()) {
      this.#tell('segments', done, ids.length)
      // Reclaimed, or taken over by an import, since.
      if (store.has(id) && store.get(id).sealed) {
        const faults = await scrubber.scan(id, (slot) => this.#isLive(id, slot))
        if (faults.length > 0) this.#damagedIds.push(id)
      }
      this.#nextSegment = id + 1
      if (this.#damagedIds.length >= DAMAGED_COUNT_MAX) await this.#dealWithDamage(scrubber)
      if (io.nowMs() - this.#savedAtMs >= SAVE_INTERVAL_MS) await this.#save()
    }
    this.#tell('segments', ids.length, ids.length)
  }

  #isLive(segment: number, slot: number): boolean {
    return this.#live?.marked.isReached(segment, slot) === true
  }

  async #save(): Promise<void> {
    const { file, core, state } = this.#parts
    const nextSegment = this.#damagedIds[0] ?? this.#nextSegment
    await file.save({ running: { ...this.findings.totals, nextSegment }, last: state.last })
    this.#savedAtMs = core.io.nowMs()
  }

  /** What is neither map nor segment. */
  async #verifyFiles(): Promise<void> {
    const { core, file, openingDamage } = this.#parts
    const { findings } = this
    for (const { segment } of openingDamage) {
      const fact = 'opening the pool has written it anew'
      if (segment === null) findings.add('superblock-torn', 'superblock', fact, 'healed')
      else findings.add('segment-footer-corrupt', `segment ${segment}`, fact, 'healed')
    }
    await this.#verifySuperblock()
    if (file.isDamaged) {
      const fact = 'where an earlier run had come to cannot be told'
      findings.add('scrub-state-corrupt', 'scrub', fact, 'healed')
    }
    const areSound = await verifyFingerprints(core.store, core.path, this.#pace)
    if (areSound !== false) return
    await removeIfThere(core.io, `${core.path}/${FINGERPRINT_FILE}`)
    const fact = 'the file is removed; the index is made anew when it is needed'
    findings.add('fingerprints-corrupt', FINGERPRINT_FILE, fact, 'healed')
  }

  async #verifySuperblock(): Promise<void> {
    const { checkpointer, superblock } = this.#parts
    let isOtherSound = true
    let isNewestSound = true
    await checkpointer.exclusively(async () => {
      const pages = await superblock.verify()
      isOtherSound = pages.isOtherSound
      isNewestSound = pages.isNewestSound
      // First of all: until it is sound again the other page must not be touched.
      if (!isNewestSound) await superblock.rewrite()
    })
    if (!isOtherSound) await checkpointer.run()
    if (isNewestSound && isOtherSound) return
    const which = isNewestSound ? 'older' : 'newest'
    const fact = `the ${which} of its pages was unreadable`
    this.findings.add('superblock-torn', 'superblock', fact, 'healed')
  }

  /** Heals and names what has been found so far. */
  async #dealWithDamage(scrubber: SegmentScrubber): Promise<void> {
    const ids = this.#damagedIds
    const unreadable = this.#live?.unreadable ?? []
    if (ids.length === 0 && unreadable.length === 0) return
    this.#tell('heal', 0, ids.length)
    await this.#parts.upkeep.exclusively(() => this.#heal(scrubber, ids))
    this.#damagedIds = []
    this.#tell('heal', ids.length, ids.length)
  }

  async #heal(scrubber: SegmentScrubber, ids: readonly number[]): Promise<void> {
    const { core, checkpointer, pacer } = this.#parts
    const look = (): Promise<LiveState> => {
      return markLive(core, checkpointer, pacer.pace, () => undefined)
    }
    let live = await look()
    const healing = await ScrubHealing.create(core, scrubber, live, pacer.pace)
    const damaged = new DamagedAddresses()
    try {
      const segments = await healing.run(ids)
      // What is healed may lead to what looked as if nobody referred to it.
      if (!live.marked.isCertain) live = await look()
      for (const segment of segments) this.#report(segment, live, damaged)
      await this.#reportNodes(live, damaged)
      for (const { from, to } of healing.equal.aliases) {
        const finding = damaged.find(to.segment, to.slot)
        if (finding !== null) damaged.add(from.segment, from.slot, finding)
      }
    } finally {
      healing.close()
    }
    await nameDamage(core, damaged, pacer.pace)
    await this.#renewCatalogue(damaged)
    this.#live = { marked: live.marked, unreadable: [] }
  }

  #report({ id, found, left }: HealedSegment, live: LiveState, damaged: DamagedAddresses): void {
    const isLeft = (kind: SegmentFault['kind'], slot: number): boolean =>
      left.some((fault) => {
        const isThere = slot >= fault.slot && slot < fault.slot + fault.count
        // A block whose frame was broken, and then lies there with bytes that do not match.
        return isThere && (fault.kind === kind || fault.kind === 'block')
      })
    const outcomeOf = (kind: SegmentFault['kind'], slot: number): Outcome => {
      if (!isLeft(kind, slot)) return 'healed'
      return holdsBlocks(kind) && live.marked.isReached(id, slot) ? 'lost' : 'unused'
    }
    for (const { kind, slot, count } of found) {
      // Pages are judged as one: their slots share what becomes of them.
      if (kind !== 'block' && kind !== 'frame') {
        const slots = Array.from({ length: count }, (_, i) => slot + i)
        const live1 = slots.find((one) => outcomeOf(kind, one) === 'lost')
        const outcome = outcomeOf(kind, live1 ?? slot)
        const finding = this.findings.addFault(id, { kind, slot, count }, outcome)
        if (holdsBlocks(kind)) for (const one of slots) damaged.add(id, one, finding)
        continue
      }
      for (let at = slot; at < slot + count;) {
        const outcome = outcomeOf(kind, at)
        let end = at + 1
        while (end < slot + count && outcomeOf(kind, end) === outcome) end += 1
        const fault = { kind, slot: at, count: end - at }
        const finding = this.findings.addFault(id, fault, outcome)
        for (let one = at; one < end; one += 1) damaged.add(id, one, finding)
        at = end
      }
    }
  }

  /** Nodes whose bytes match, and that yet cannot be part of a map. */
  async #reportNodes(live: LiveState, damaged: DamagedAddresses): Promise<void> {
    const { core } = this.#parts
    for (const { segment, slot } of live.unreadable) {
      if (damaged.find(segment, slot) !== null) continue
      const isReadable = await core.store.readPage(segment, slot).then(
        () => true,
        (error: unknown) => {
          if (!(error instanceof VarveError)) throw error
          return false
        },
      )
      if (!isReadable && core.store.has(segment)) continue
      const where = `segment ${segment} slot ${slot}`
      const fact = isReadable
        ? 'a map refers to what cannot be one of its nodes'
        : 'a map refers to a segment that is missing'
      damaged.add(segment, slot, this.findings.add('node-corrupt', where, fact, 'lost'))
    }
  }

  /** All of the catalogue is in memory: written anew, what was damaged of it counts no more. */
  async #renewCatalogue(damaged: DamagedAddresses): Promise<void> {
    const { checkpointer } = this.#parts
    const { totals } = this.findings
    const hit = new Set<ScrubFinding>()
    for (const part of checkpointer.chain) {
      for (let i = 0; i < part.blockCount; i += 1) {
        const finding = damaged.find(part.segment, part.slot + i)
        if (finding?.outcome === 'lost') hit.add(finding)
      }
    }
    if (hit.size === 0) return
    await checkpointer.run({ full: true })
    await checkpointer.run()
    for (const finding of hit) {
      finding.message += '; it is of the catalogue, which was written anew'
      if (finding.affected.length > 0) continue
      finding.outcome = 'healed'
      totals.lostCount -= 1
      totals.healedCount += 1
    }
  }
}

/** Whether blocks cannot be read because of it. */
function holdsBlocks(kind: SegmentFault['kind']): boolean {
  return kind !== 'header' && kind !== 'record' && kind !== 'padding'
}

function totalsOf(totals: ScrubReport | ScrubFindings['totals']): ScrubFindings['totals'] {
  const { startedMs, readBytes, foundCount, healedCount, lostCount } = totals
  return { startedMs, readBytes, foundCount, healedCount, lostCount }
}
