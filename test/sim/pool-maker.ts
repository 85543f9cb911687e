/** The real pool for the simulation. */
import { missingCodecs } from '../../src/base/codec.ts'
import type { Codecs } from '../../src/base/codec.ts'
import type { Prng } from '../../src/base/prng.ts'
import { KIB, MIB } from '../../src/base/units.ts'
import { checkPool } from '../../src/check/check.ts'
import { openChecksum } from '../../src/io/open-io.ts'
import { tryLoadBinding } from '../../src/native/binding.ts'
import { inlineCodecs } from '../../src/native/native-codecs.ts'
import { Pool } from '../../src/pool/pool.ts'
import type { Compression } from '../../src/pool/types.ts'
import { tailSegment, walkPool } from './pool-walk.ts'
import type { PoolMaker } from './pool-under-test.ts'

const IDLE_COMPRESSIONS: readonly (Compression | null)[] = [null, null, 'lz4', 'zstd', 'off']

export const PATH = '/pool'

/** Compressing before they return; without the addon, blocks are stored as they are. */
export function openCodecs(): Codecs {
  const binding = tryLoadBinding()
  return binding === null ? missingCodecs() : inlineCodecs(binding)
}

/** Each run has caches and checkpoint intervals of its own, small ones more often than not. */
export async function poolMaker(prng: Prng): Promise<PoolMaker> {
  const checksum = await openChecksum()
  const damage: string[] = []
  const options = {
    holder: 'simulation',
    nodeCacheBytes: prng.pick([64 * KIB, MIB]),
    checksumCacheBytes: prng.pick([256 * KIB, 8 * MIB]),
    frameCacheBytes: prng.pick([KIB, MIB]),
    dedupIndexBytes: prng.pick([KIB, 4 * MIB]),
    codecs: openCodecs(),
    onDamage: (segment: number, slot: number, fact: string): void => {
      damage.push(`${segment}:${slot} ${fact}`)
    },
    idleCompression: prng.pick(IDLE_COMPRESSIONS),
    checkpointTailBytes: prng.pick([64 * KIB, MIB, 8 * MIB, 256 * MIB]),
    turnoverBytesMin: prng.pick([256 * KIB, 2 * MIB, 512 * MIB]),
  }
  return {
    damage,
    isIdleSettling: options.idleCompression !== null,
    tailSegment: (disk) => tailSegment(disk, checksum, PATH),
    create: async (io) => {
      await Pool.create(io, checksum, PATH)
      await io.syncDirectory('/')
      return Pool.open(io, checksum, PATH, options)
    },
    open: (io) => Pool.open(io, checksum, PATH, options),
    walk: (disk) => walkPool(disk, checksum, options.codecs, PATH),
    check: async (io) => {
      const { errors } = await checkPool(io, checksum, options.codecs, PATH)
      return errors.map((finding) => `${finding.code} ${finding.where}: ${finding.message}`)
    },
  }
}
