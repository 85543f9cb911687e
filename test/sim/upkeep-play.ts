/** Work beside the guests: reclaims, settles, imports that take several steps, idle time. */
import { VarveError } from '../../src/base/errors.ts'
import type { Compression } from '../../src/pool/types.ts'
import { Maintenance, OpenImport } from './background.ts'
import { runControl } from './control-play.ts'
import { commitOf, drawImportBody } from './control-steps.ts'
import type { ImportBody } from './control-steps.ts'
import { SimViolation } from './data-step.ts'
import type { World } from './world.ts'

const OPEN_IMPORT_COUNT_MAX = 2

/** A reclaim, or with a compression, a settle; waited for or not. */
export async function playUpkeep(world: World, compression: Compression | null): Promise<void> {
  await joinMaintenance(world)
  if (world.hasFailed) return
  const { prng } = world
  const work = beginMaintenance(world, compression)
  if (prng.chance(0.15)) world.io.setTimer(prng.below(prng.pick([5, 50])), () => work.cancel())
  if (prng.chance(0.4)) await joinMaintenance(world)
}

/** None may be under way. */
export function beginMaintenance(world: World, compression: Compression | null): Maintenance {
  const work = new Maintenance(world.mustPool(), compression)
  world.maintenance = work
  world.note(work.title)
  return work
}

export async function joinMaintenance(world: World): Promise<void> {
  if (world.maintenance === null) return
  await world.drive(world.maintenance.whenDone())
  judgeMaintenance(world)
}

/** Judges what has ended by itself. */
export function judgeMaintenance(world: World): void {
  const { maintenance, coverage } = world
  if (maintenance?.isDone !== true) return
  const { title, report, error, isCanceled } = maintenance
  world.maintenance = null
  world.note(`  ${title} ended: ${error instanceof Error ? error.message : 'well'}`)
  if (report !== null) {
    coverage?.addReport(report)
    world.report.settledBytes += report.encodedFromBytes
    const maySkip = world.traits.hasErrors || world.isTainted
    if (report.skippedSegmentCount > 0 && !maySkip) {
      throw new SimViolation('a segment was skipped, without a fault')
    }
    return
  }
  if (error instanceof VarveError) {
    // The pool's own, when guests were idle.
    if (error.code === 'busy' && world.maker.isIdleSettling === true) return
    if (isCanceled && error.code === 'canceled') {
      if (coverage !== null) coverage.canceledRunCount += 1
      return
    }
  }
  world.judgeFault(error)
}

/** Nobody asks for anything: time for what a pool does by itself. */
export async function playIdle(world: World): Promise<void> {
  const durationMs = 1000 * world.prng.between(1, world.prng.pick([5, 60]))
  world.note(`idle ${durationMs} ms`)
  const { io } = world
  const startMs = io.nowMs()
  try {
    await world.drive(new Promise<void>((resolve) => io.setTimer(durationMs, resolve)))
  } finally {
    world.report.idleMs += io.nowMs() - startMs
  }
}

export function playBeginImport(world: World): void {
  if (world.openImports.length >= OPEN_IMPORT_COUNT_MAX) return
  const { prng, contents } = world
  const body = drawImportBody({ prng, state: world.history.latest, contents })
  if (body === null) return
  world.note(`begin import ${body.volume.name}`)
  openImport(world, body, prng.pick([0, 1, 10]))
}

/** `delayMs`: less than so much passes before each piece. */
export function openImport(world: World, body: ImportBody, delayMs: number): void {
  const { prng } = world
  const delay = (): number => (delayMs === 0 ? 0 : prng.below(delayMs))
  world.openImports.push(new OpenImport(world.mustPool(), world.io, body, delay))
}

export async function playEndImport(world: World): Promise<void> {
  const one = world.openImports.shift()
  if (one === undefined) return
  const { name } = one.body.volume
  const isCommitted = world.prng.chance(0.75)
  world.note(`end import ${name}: ${isCommitted ? 'commit' : 'abort'}`)
  // An abort may come while a piece is on its way.
  if (isCommitted || one.bulk === null) await world.drive(one.whenWritten())
  else one.stop()
  const { coverage } = world
  if (isCommitted && one.error === null && one.bulk !== null) {
    const operation = commitOf(world.history.latest, one.body, one.bulk)
    await runControl(world, operation)
    if (operation.code === null && coverage !== null) coverage.committedImportCount += 1
  } else if (coverage !== null) coverage.abortedImportCount += 1
  if (one.error !== null) world.judgeRefusal(null, one.error)
  if (!world.hasFailed) await abortImport(world, one)
}

/** Gives back what was not committed; after a commit that does nothing. */
export async function abortImport(world: World, one: OpenImport): Promise<void> {
  try {
    await world.drive(one.bulk?.abort() ?? Promise.resolve())
  } catch (error) {
    world.judgeFault(error)
  }
}
