/** Drills about what is stored: equal blocks, dead ones, holes, and what decays. */
import type { Compression } from '../../src/pool/types.ts'
import { BLOCK_SIZE_BYTES } from '../../src/base/units.ts'
import { playControl, runControl } from './control-play.ts'
import {
  createOf,
  drawCopyOf,
  drawImportBody,
  freeName,
  importAgain,
  importOf,
  removeOf,
  restoreOf,
  snapshotOf,
} from './control-steps.ts'
import type { ControlKind, ImportBody } from './control-steps.ts'
import { playChanges, playData } from './data-play.ts'
import type { Change } from './data-play.ts'
import type { Place } from './data-step.ts'
import { playDamage } from './fault-play.ts'
import { DATA_KINDS } from './script.ts'
import { SECTORS_PER_BLOCK, SECTOR_BYTES, writeStamp } from './stamps.ts'
import { beginMaintenance, joinMaintenance, openImport, playEndImport } from './upkeep-play.ts'
import type { World } from './world.ts'

const COMPRESSIONS: readonly Compression[] = ['off', 'lz4', 'zstd']
const COPY_COUNT = 4
/** More than half of which, one by one, are more runs than an ordering leaves alone. */
const SCATTERED_BLOCK_COUNT = 32
/** The snapshot to which a volume goes back while it is brought in order. */
const ORDERED = 'ordered'
const WHILE_ORDERING: readonly ControlKind[] = [
  'snapshot',
  'clone',
  'restore',
  'remove',
  'copy',
  'resize',
]

/** A reclaim or a settle, to its end. */
export async function sweep(world: World, compression: Compression | null): Promise<void> {
  await joinMaintenance(world)
  if (world.hasFailed) return
  beginMaintenance(world, compression)
  await joinMaintenance(world)
}

/**
 * Two images, and a third that has at each place what one of them has there: its blocks are equal
 * to neighbouring slots of two segments. Then the same through the log, to be settled.
 */
export async function drillVersions(world: World): Promise<void> {
  world.note('drill: versions of an image')
  const drawn = drawImport(world)
  if (drawn === null) return
  const one = withContent(drawn, freshContent(world, drawn))
  await runControl(world, importOf(world.history.latest, one, false))
  if (world.hasFailed) return
  const again = importAgain(world.history.latest, one)
  if (again === null) return
  const other = withContent(again, freshContent(world, again))
  await runControl(world, importOf(world.history.latest, other, false))
  if (world.hasFailed) return
  const mixed = mixture(world, one, other)
  const third = importAgain(world.history.latest, one)
  if (third !== null && world.prng.chance(0.5)) {
    await runControl(world, importOf(world.history.latest, withContent(third, mixed), false))
  } else await writeMixture(world, one, mixed)
  if (!world.hasFailed) await sweep(world, world.prng.pick(COMPRESSIONS))
  if (!world.hasFailed) await world.verify()
}

function drawImport(world: World): ImportBody | null {
  const { prng, contents } = world
  return drawImportBody({ prng, state: world.history.latest, contents })
}

function freshContent({ contents }: World, { volume }: ImportBody): Uint32Array {
  return contents.fresh(volume.sectors.length / SECTORS_PER_BLOCK)
}

/** Every window as one piece. */
function withContent({ volume }: ImportBody, sectors: Uint32Array): ImportBody {
  const pieces = volume.geometry.windows.map(({ startBlock, blockCount, sectorIndex }) => {
    const bytes = new Uint8Array(blockCount * SECTORS_PER_BLOCK * SECTOR_BYTES)
    const stamps = sectors.subarray(sectorIndex, sectorIndex + blockCount * SECTORS_PER_BLOCK)
    for (const [index, stamp] of stamps.entries()) writeStamp(bytes, index * SECTOR_BYTES, stamp)
    return { offsetBytes: startBlock * SECTORS_PER_BLOCK * SECTOR_BYTES, bytes }
  })
  return { volume: { ...volume, sectors: Uint32Array.from(sectors) }, pieces }
}

/** At each place the block of one or of the other, in runs of a few. */
function mixture({ prng }: World, one: ImportBody, other: ImportBody): Uint32Array {
  const mixed = Uint32Array.from(one.volume.sectors)
  let isOther = false
  for (let at = 0; at < mixed.length; at += SECTORS_PER_BLOCK) {
    if (prng.chance(0.4)) isOther = !isOther
    if (!isOther) continue
    mixed.set(other.volume.sectors.subarray(at, at + SECTORS_PER_BLOCK), at)
  }
  return mixed
}

async function writeMixture(world: World, one: ImportBody, mixed: Uint32Array): Promise<void> {
  const { name, geometry } = one.volume
  const [{ startBlock, blockCount }] = geometry.windows
  world.contents.dictate(mixed)
  const place = { volume: name, firstBlock: startBlock, blockCount: Math.min(256, blockCount) }
  await playChanges(world, [{ kind: 'write', place, isFua: false }])
}

/** What nothing refers to any more is imported once more while it is being swept. */
export async function drillDeadAgain(world: World): Promise<void> {
  const { prng } = world
  if (world.openImports.length > 0) return
  world.note('drill: dead blocks are met again')
  const body = drawImport(world)
  if (body === null) return
  await runControl(world, importOf(world.history.latest, body, false))
  if (world.hasFailed || !world.history.latest.has(body.volume.name)) return
  await runControl(world, removeOf(world.history.latest, body.volume.name))
  await joinMaintenance(world)
  if (world.hasFailed) return
  openImport(world, body, prng.pick([0, 1, 5]))
  await world.drive(world.turns(prng.below(prng.pick([4, 40]))))
  beginMaintenance(world, null)
  if (prng.chance(0.5)) await joinMaintenance(world)
  if (!world.hasFailed) await playEndImport(world)
  await joinMaintenance(world)
  if (!world.hasFailed) await world.verify()
}

/** Holes are copied over what is there in parts. */
export async function drillCopy(world: World): Promise<void> {
  const { prng, contents } = world
  const name = freeName(world.history.latest, prng.pick(['a', 'b']))
  if (name === null) return
  world.note('drill: holes are copied')
  await runControl(world, createOf(world.history.latest, name))
  for (let count = 0; count < COPY_COUNT && !world.hasFailed; count += 1) {
    const state = world.history.latest
    const operation = drawCopyOf({ prng, state, contents }, state.get(name) ?? null, null)
    if (operation !== null) await runControl(world, operation)
  }
  if (!world.hasFailed) await world.verify()
}

/** Blocks that lie scattered are brought in order by a settle, while something changes them. */
export async function drillScattered(world: World): Promise<void> {
  const { prng } = world
  for (let count = prng.between(1, 3); count > 0 && !world.hasFailed; count -= 1) {
    await joinMaintenance(world)
    const place = world.hasFailed ? null : drawScattered(world)
    if (place === null) return
    world.note('drill: scattered blocks are settled')
    await settleScattered(world, place)
  }
  if (!world.hasFailed && prng.chance(0.7)) await joinMaintenance(world)
  if (!world.hasFailed) await world.verify()
}

async function settleScattered(world: World, place: Place): Promise<void> {
  const { prng } = world
  const isRestored = prng.chance(0.4)
  if (isRestored) await snapshotAnew(world, place.volume)
  if (!world.hasFailed) await scatter(world, place)
  if (world.hasFailed) return
  if (world.traits.hasDamage && prng.chance(0.5)) playDamage(world, '.seg')
  if (prng.chance(0.3)) world.planCut()
  if (isRestored) await world.leave(place.volume)
  beginMaintenance(world, prng.pick(COMPRESSIONS))
  const isOrdering = (): boolean => world.maintenance?.phase === 'order'
  for (let left = 40; left > 0 && !isOrdering(); left -= 1) await world.drive(world.turns(1))
  await world.drive(world.turns(prng.below(prng.pick([4, 20]))))
  if (isRestored) await restore(world, place.volume)
  for (let count = prng.below(8); count > 0 && !world.hasFailed; count -= 1) {
    if (prng.chance(0.3)) await playControl(world, prng.pick(WHILE_ORDERING))
    else if (prng.chance(0.5)) await playData(world, DATA_KINDS, prng.between(1, 8))
    else await playChanges(world, [{ kind: 'write', place: partOf(world, place), isFua: false }])
  }
}

async function snapshotAnew(world: World, name: string): Promise<void> {
  const volume = world.history.latest.get(name)
  if (volume === undefined || volume.snapshots.some((one) => one.name === ORDERED)) return
  await runControl(world, snapshotOf(world.history.latest, name, ORDERED))
}

async function restore(world: World, name: string): Promise<void> {
  const { latest } = world.history
  const snapshot = latest.get(name)?.snapshots.find((one) => one.name === ORDERED)
  if (snapshot !== undefined) await runControl(world, restoreOf(latest, name, snapshot))
}

/** Every second block, then those in between. */
async function scatter(world: World, place: Place): Promise<void> {
  for (const parity of [0, 1]) {
    const changes = Array.from({ length: place.blockCount / 2 }, (_, index): Change => {
      const firstBlock = place.firstBlock + 2 * index + parity
      return { kind: 'write', place: { ...place, firstBlock, blockCount: 1 }, isFua: false }
    })
    await playChanges(world, changes)
    if (world.hasFailed) return
  }
}

function drawScattered({ prng, history }: World): Place | null {
  const places: Place[] = []
  for (const { name, sizeBytes, geometry } of history.latest.values()) {
    const [{ startBlock, blockCount }] = geometry.windows
    const wholeCount = Math.floor(sizeBytes / BLOCK_SIZE_BYTES) - startBlock
    const count = 2 * Math.floor(Math.min(blockCount, wholeCount) / 2)
    if (count < SCATTERED_BLOCK_COUNT) continue
    places.push({ volume: name, firstBlock: startBlock, blockCount: Math.min(count, 64) })
  }
  return places.length === 0 ? null : prng.pick(places)
}

function partOf({ prng }: World, { volume, firstBlock, blockCount }: Place): Place {
  const first = prng.below(blockCount)
  const count = prng.between(1, Math.min(4, blockCount - first))
  return { volume, firstBlock: firstBlock + first, blockCount: count }
}

/** What was settled decays, and is read. */
export async function drillDecay(world: World): Promise<void> {
  world.note('drill: what was settled decays')
  await sweep(world, world.prng.pick(COMPRESSIONS))
  for (let count = 0; count < 3 && !world.hasFailed; count += 1) playDamage(world, '.seg')
  if (!world.hasFailed) await world.verify()
}
