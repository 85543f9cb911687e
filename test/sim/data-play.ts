/** Steps on data: requests in flight together, clients that die among them, whole segments. */
import { Errno } from '../../src/base/errors.ts'
import { BLOCK_SIZE_BYTES } from '../../src/base/units.ts'
import { DataStep, FILL_BLOCK_COUNT, SimViolation } from './data-step.ts'
import type { ChangeKind, DataKind, Place } from './data-step.ts'
import { geometryByName, readDisk } from './pool-under-test.ts'
import { DATA_KINDS, DOOR_KINDS } from './script.ts'
import type { World } from './world.ts'

/** A request's length has 32 bits, and ends at a block. */
const NBD_RANGE_MAX = 0xfffff000

/** Some random requests of `kinds`. */
export async function playData(
  world: World,
  kinds: readonly DataKind[],
  requestCount: number,
): Promise<void> {
  const { prng, traits } = world
  const names = [...world.history.latest.keys()]
  if (names.length === 0) return
  world.note('data step')
  const step = newStep(world)
  const weights = DATA_KINDS.map((kind, index) =>
    kinds.includes(kind) ? (kinds.length === 1 ? 1 : traits.dataWeights[index]) : 0,
  )
  const deathAt = prng.chance(traits.deathChance) ? prng.below(requestCount + 1) : -1
  for (let index = 0; index < requestCount; index += 1) {
    step.issue(DATA_KINDS[prng.weighted(weights)], prng.pick(names))
    // Some are issued in one turn, some while earlier ones are on their way.
    if (prng.chance(0.3)) await world.drive(world.turns(prng.between(1, 6)))
    if (index === deathAt) world.kill()
  }
  if (deathAt === requestCount) world.kill()
  await endStep(world, step)
  if (deathAt >= 0) await world.quiet()
}

export interface Change {
  kind: ChangeKind
  place: Place
  isFua: boolean
  /** Only of a part of the first block. */
  isPart?: boolean
}

/** These changes and nothing beside them. */
export async function playChanges(world: World, changes: readonly Change[]): Promise<void> {
  world.note('data step')
  const step = newStep(world)
  for (const { kind, place, isFua, isPart } of changes) step.issueAt(kind, place, isFua, isPart)
  await endStep(world, step)
}

/** A volume that takes a megabyte at once; null: there is none. */
export function fillable({ history }: World): string | null {
  for (const { name, sizeBytes, geometry } of history.latest.values()) {
    const { startBlock, blockCount } = geometry.windows[0]
    const endBytes = (startBlock + FILL_BLOCK_COUNT) * BLOCK_SIZE_BYTES
    if (blockCount >= FILL_BLOCK_COUNT && sizeBytes >= endBytes) return name
  }
  return null
}

/** Megabytes, up to so many, until `isEnough`; seventy are enough to end a segment. */
export async function playFill(
  world: World,
  stepCountMax: number,
  isEnough = (): boolean => false,
): Promise<void> {
  const name = fillable(world)
  if (name === null) return
  world.note('fill')
  for (let count = stepCountMax; count > 0; count -= 1) {
    const step = newStep(world)
    step.issueFill(name)
    await endStep(world, step)
    if (world.hasFailed || isEnough()) return
  }
}

function newStep(world: World): DataStep {
  return new DataStep({
    prng: world.prng,
    arena: world.io.arena,
    history: world.history,
    rangeBytesMax:
      world.traits.doorWeights[DOOR_KINDS.indexOf('nbd')] > 0 ? NBD_RANGE_MAX : Infinity,
    crowdChance: world.traits.crowdChance,
    guest: (volume) => world.guest(volume),
    mayFailToRead: () => world.isTainted,
    contents: world.contents,
    followChance: world.traits.followChance,
    near: world.near,
    promised: () => world.notePromise(),
    log: (line) => world.note(line),
  })
}

async function endStep(world: World, step: DataStep): Promise<void> {
  const { report } = world
  await world.drive(step.whenIdle())
  if (step.unansweredCount > 0) await resolveUnanswered(world, step)
  if (step.violation !== null) throw step.violation
  if (step.isEmpty) world.history.cancel(step.step)
  report.operationCount += step.requestCount
  report.writtenBytes += step.writtenBytes
  report.unansweredCount += step.unansweredCount
  report.refusedReadCount += step.refusedReadCount
  report.noSpaceCount += step.noSpaceCount
  if (step.noSpaceCount > 0 && !world.traits.hasErrors) throw new SimViolation('no space: why?')
  if (step.failure !== 0) world.noteFailure(`errno ${-step.failure}`)
  if (step.failure === -Errno.EIO) world.owesFailure = true
}

/** Once the servers have let go of the dead, what they asked has happened or never will. */
async function resolveUnanswered(world: World, step: DataStep): Promise<void> {
  await world.quiet()
  if (world.isTainted && step.unansweredVolumes.length > 0) {
    world.heal()
    world.io.disk.clearFaults()
  }
  for (const volume of step.unansweredVolumes) {
    const geometry = geometryByName(volume)
    const found = await world.drive(
      readDisk(world.io, world.mustPool(), volume, geometry, () => world.isTainted),
    )
    step.resolve(volume, found)
  }
}
