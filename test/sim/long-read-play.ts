/** Reads that outlast the steps beside them. */
import { BLOCK_SIZE_BYTES } from '../../src/base/units.ts'
import { playData } from './data-play.ts'
import { LongRead } from './long-read.ts'
import { SECTORS_PER_BLOCK } from './stamps.ts'
import { playUpkeep } from './upkeep-play.ts'
import type { World } from './world.ts'

const READ_COUNT_MAX = 4
const UNDER_WAY_COUNT_MAX = 12
const BLOCK_COUNT_MAX = 32
const SWEPT_CHANCE = 0.4

/** Some reads of one volume, late ones; what they read may be overwritten and swept right away. */
export async function playLongRead(world: World): Promise<void> {
  beginReads(world)
  if (!world.prng.chance(SWEPT_CHANCE)) return
  await playData(world, ['write', 'trim'], world.traits.requestCountMax)
  if (!world.hasFailed) await playUpkeep(world, null)
}

function beginReads(world: World): void {
  const { prng, io, history } = world
  const volumes = [...history.latest.values()]
  if (volumes.length === 0 || world.longReads.length >= UNDER_WAY_COUNT_MAX) return
  const { name, geometry, sizeBytes } = prng.pick(volumes)
  const readCount = prng.between(1, READ_COUNT_MAX)
  const delayMs = prng.pick([10, 200, 1000, 5000])
  io.delayReads(readCount, delayMs)
  world.note(`${readCount} reads of ${name}, ${delayMs} ms late`)
  for (let count = 0; count < readCount; count += 1) {
    const window = prng.pick(geometry.windows)
    const first = prng.below(window.blockCount)
    const left = Math.min(BLOCK_COUNT_MAX, window.blockCount - first)
    const blockCount = prng.between(1, left)
    const offsetBytes = (window.startBlock + first) * BLOCK_SIZE_BYTES
    if (offsetBytes + blockCount * BLOCK_SIZE_BYTES > sizeBytes) continue
    const target = world.mustPool().openTarget(name, 'slow')
    if (target === null) throw new Error(`${name} cannot be opened`)
    const one = new LongRead(name, target, io.arena, {
      offsetBytes,
      firstSector: window.sectorIndex + first * SECTORS_PER_BLOCK,
      sectorCount: blockCount * SECTORS_PER_BLOCK,
    })
    if (one.tryStart(history.latest)) world.longReads.push(one)
  }
}
