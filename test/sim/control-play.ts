/** Steps on the catalogue and on sizes, through whichever door the run has. */
import { VarveError } from '../../src/base/errors.ts'
import { BLOCK_SIZE_BYTES } from '../../src/base/units.ts'
import { drawControl, drawLength, mustId } from './control-steps.ts'
import type { ControlKind, ControlOperation } from './control-steps.ts'
import { SimViolation } from './data-step.ts'
import { cutSectors, findDifference, withVolume } from './model.ts'
import type { ModelState, ModelVolume } from './model.ts'
import { readState } from './pool-under-test.ts'
import type { World } from './world.ts'

export async function playControl(world: World, kind: ControlKind): Promise<void> {
  const { prng, contents } = world
  const operation = drawControl(kind, { prng, state: world.history.latest, contents })
  if (operation !== null) await runControl(world, operation)
}

export async function runControl(world: World, operation: ControlOperation): Promise<void> {
  const { title, code } = operation
  world.note(`${title}${code === null ? '' : ` (must be ${code})`}`)
  for (const name of operation.closes) await world.leave(name)
  const pool = world.controlPool()
  const after = operation.after ?? world.history.latest
  const step = world.history.begin('control', title, after)
  world.report.operationCount += 1
  try {
    await world.drive(operation.run(pool))
  } catch (error) {
    if (!(error instanceof VarveError)) throw error
    world.judgeNoSpace(error.code, title)
    world.judgeRefusal(code, error)
    if (!world.hasFailed) world.history.cancel(step)
    return
  }
  if (code !== null) throw new SimViolation(`${title} was taken, must be refused: ${code}`)
  if (!operation.isDurable) return
  world.history.requireAll()
  world.notePromise()
}

/**
 * Makes a volume longer or shorter under its clients. A cut within a block zeroes the rest of
 * the block first, in a record of its own: a crash may come in between.
 */
export async function playTruncate(world: World): Promise<void> {
  const { history, prng } = world
  const volumes = [...history.latest.values()]
  if (volumes.length === 0) return
  const volume = prng.pick(volumes)
  const { name } = volume
  const sizeBytes = drawLength(prng, volume)
  const sectors = sizeBytes < volume.sizeBytes ? cutSectors(volume, sizeBytes) : volume.sectors
  const after = withVolume(history.latest, { ...volume, sizeBytes, sectors })
  world.note(`truncate ${name} ${sizeBytes}`)
  const pool = world.mustPool()
  const through = world.controlPool()
  // A filesystem cuts nothing off under clients of others.
  if (through !== pool) await world.leave(name)
  const tail = history.begin('data', `tail ${name}`, withoutTail(world, volume, sizeBytes))
  const step = history.begin('control', `truncate ${name}`, after)
  const id = mustId(pool, name, null)
  world.report.operationCount += 1
  try {
    await world.drive(through.files.resize(id, sizeBytes, () => true))
  } catch (error) {
    if (!(error instanceof VarveError)) throw error
    world.judgeRefusal(null, error)
    if (world.hasFailed) return
    history.cancel(step)
    const found = await world.drive(readState(world.io, pool, () => world.isTainted))
    if (findDifference(tail.after, found) !== null) history.cancel(tail)
  }
}

/** With zeros from `sizeBytes` to the end of its block. */
function withoutTail(world: World, volume: ModelVolume, sizeBytes: number): ModelState {
  const blockEnd = Math.ceil(sizeBytes / BLOCK_SIZE_BYTES) * BLOCK_SIZE_BYTES
  const { latest } = world.history
  if (sizeBytes >= volume.sizeBytes) return latest
  const kept = cutSectors(volume, sizeBytes)
  const whole = cutSectors(volume, Math.min(blockEnd, volume.sizeBytes))
  const sectors = volume.sectors.map((stamp, index) => (whole[index] === 0 ? stamp : kept[index]))
  return withVolume(latest, { ...volume, sectors })
}

export async function playCheckpoint(world: World): Promise<void> {
  world.note('checkpoint')
  try {
    await world.drive(world.mustPool().checkpoint())
  } catch (error) {
    world.judgeFault(error)
  }
  if (!world.hasFailed) world.history.requireAll()
}
