import { missingCodecs } from '../../../src/base/codec.ts'
import { SegmentStore } from '../../../src/segment/segment-store.ts'
import { SuperblockFile } from '../../../src/pool/superblock-file.ts'
import type { Superblock } from '../../../src/format/superblock.ts'
import { MIB } from '../../../src/base/units.ts'
import { POOL } from './sim-pool.ts'
import type { SimWorld } from './sim-pool.ts'

export interface BareStore {
  store: SegmentStore
  superblock: Superblock
}

/** The segments of a pool that nobody has open, and the superblock it was left with. */
export async function openBareStore(world: SimWorld, openFileCountMax: number): Promise<BareStore> {
  const file = await world.run(SuperblockFile.open(world.io, world.checksum, POOL))
  const superblock = file.current
  await world.run(file.close())
  const limits = { checksumCacheBytes: MIB, frameCacheBytes: MIB, openFileCountMax }
  const folder = `${POOL}/segments`
  const onDamage = (segment: number, slot: number, fact: string): void => {
    world.damage.push(`${segment}:${slot} ${fact}`)
  }
  const { io, checksum } = world
  const store = new SegmentStore(
    io,
    checksum,
    missingCodecs(),
    superblock.poolId,
    folder,
    limits,
    onDamage,
  )
  await world.run(store.load())
  return { store, superblock }
}
