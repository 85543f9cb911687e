/** Saves a built pool to a simulated disk and checks it there. */
import type { Checksum } from '../../src/base/checksum.ts'
import type { Codecs } from '../../src/base/codec.ts'
import { MIB } from '../../src/base/units.ts'
import { openWasmChecksum } from '../../src/base/xxh64-wasm.ts'
import type { CheckReport } from '../../src/check/check.ts'
import { checkPool } from '../../src/check/check.ts'
import { SimIo } from '../../src/io/sim-io.ts'
import { deflateCodecs } from './deflate-codecs.ts'
import type { PoolBuilder } from './pool-builder.ts'

export const checksum: Checksum = await openWasmChecksum()
export const POOL_PATH = '/pool'
/** For one simulated world after the other. */
export const arenaMemory: Buffer = Buffer.alloc(4 * MIB)

/** Throws when the check keeps memory, whether it succeeds or not. */
export async function checkBuilt(
  builder: PoolBuilder,
  codecs: Codecs = deflateCodecs,
): Promise<CheckReport> {
  const io = new SimIo({ seed: 1, arenaMemory })
  await io.runUntil(builder.save(io, POOL_PATH))
  try {
    const report = await io.runUntil(checkPool(io, checksum, codecs, POOL_PATH))
    if (report === undefined) throw new Error('the check did not end')
    return report
  } finally {
    if (io.arena.usedBytes > 0) throw new Error('the check kept arena memory')
  }
}

/** Of errors and leaks, each once. */
export function codesOf(report: CheckReport): string[] {
  const { errors, leaks } = report
  return [...new Set([...errors, ...leaks].map((finding) => finding.code))].sort()
}
