/**
 * Whole pools with hostile bytes and right checksums, checked and opened. Whatever they say, the
 * answer is an error that says so, or the data; what `check` finds nothing wrong with opens, reads,
 * takes writes, and is as sound afterwards.
 */
import { Codec } from '../../src/base/codec.ts'
import { must } from '../../src/base/assert.ts'
import { Errno, OperatingError } from '../../src/base/errors.ts'
import { MIB } from '../../src/base/units.ts'
import { checkPool } from '../../src/check/check.ts'
import type { CheckReport } from '../../src/check/check.ts'
import type { ExportTarget } from '../../src/export/target.ts'
import { targetResult } from '../../src/export/target.ts'
import { openChecksum } from '../../src/io/open-io.ts'
import { SimIo } from '../../src/io/sim-io.ts'
import { tryLoadBinding } from '../../src/native/binding.ts'
import { inlineCodecs } from '../../src/native/native-codecs.ts'
import { Pool } from '../../src/pool/pool.ts'
import { buildSample } from '../support/sample-pool.ts'
import { buildSettledSample } from '../support/settled-builder.ts'
import { PATCH_BYTES, PatchedPools } from './pool-patches.ts'
import type { FuzzTarget } from './target.ts'
import { isAnswer, judge } from './target.ts'

const checksum = await openChecksum()
const codecs = inlineCodecs(must(tryLoadBinding(), 'the addon'))
const arenaMemory = Buffer.alloc(16 * MIB)
const POOL = '/pool'
const PATCH_COUNT_MAX = 12
const READ_BYTES = 65536
const OPEN_OPTIONS = {
  nodeCacheBytes: MIB,
  checksumCacheBytes: MIB,
  frameCacheBytes: MIB,
  dedupIndexBytes: MIB,
  codecs,
}

async function run<T>(io: SimIo, outcome: Promise<T>): Promise<T> {
  return (await io.runUntil(outcome)) as T
}

/** Reads both ends of every disk, and writes to every volume; the first errno, or 0. */
async function useDisk(io: SimIo, target: ExportTarget): Promise<number> {
  const at = io.arena.allocate(READ_BYTES)
  const lengthBytes = Math.min(READ_BYTES, target.sizeBytes)
  try {
    for (const offsetBytes of [0, target.sizeBytes - lengthBytes]) {
      if (lengthBytes === 0) continue
      const read = await targetResult((completion, tag) =>
        target.read(offsetBytes, lengthBytes, at, completion, tag),
      )
      if (read < 0) return read
    }
    if (target.readOnly || lengthBytes < 4096) return 0
    const written = await targetResult((completion, tag) =>
      target.write(0, 4096, at, 0, completion, tag),
    )
    if (written < 0) return written
    return await targetResult((completion, tag) => target.flush(completion, tag))
  } finally {
    target.close()
    io.arena.free(at, READ_BYTES)
  }
}

async function usePool(io: SimIo, pool: Pool): Promise<number> {
  let worst = 0
  for (const { name } of pool.list()) {
    const target = pool.openTarget(name, 'fuzz')
    if (target === null) continue
    worst = Math.min(worst, await useDisk(io, target))
  }
  return worst
}

async function answerOf<T>(work: () => Promise<T>): Promise<T | null> {
  try {
    return await work()
  } catch (error) {
    if (isAnswer(error)) return null
    throw error
  }
}

function faultsOf(report: CheckReport | null): string {
  return (report?.errors ?? [])
    .map(({ code, where, message }) => `${code} ${where} ${message}`)
    .join('; ')
}

async function judgePool(io: SimIo): Promise<void> {
  const check = (): Promise<CheckReport> => run(io, checkPool(io, checksum, codecs, POOL))
  const before = await answerOf(check)
  judge(io.arena.usedBytes === 0, 'the check gives its memory back')
  const isSound = before?.errors.length === 0
  let refusal: unknown = null
  const pool = await answerOf(async () => {
    try {
      return await run(io, Pool.open(io, checksum, POOL, OPEN_OPTIONS))
    } catch (error) {
      refusal = error
      throw error
    }
  })
  if (pool === null) {
    judge(io.arena.usedBytes === 0, 'what does not open gives its memory back')
    const isForeign = refusal instanceof OperatingError && refusal.code === 'unsupported'
    judge(!isSound || isForeign, `what is sound opens: ${String(refusal)}`)
    return
  }
  const worst = await run(io, usePool(io, pool))
  // A capacity that is smaller than what is there: full is an answer.
  const isAnswered = worst === 0 || worst === -Errno.ENOSPC
  judge(!isSound || isAnswered, `what is sound can be used: ${worst}`)
  await answerOf(() => run(io, pool.close()))
  judge(io.arena.usedBytes === 0, 'a closed pool gives its memory back')
  const after = await answerOf(check)
  if (isSound) judge(after?.errors.length === 0, `what was sound stays so: ${faultsOf(after)}`)
}

/** A first byte of 255 leaves the checksums as the patches made them. */
function target(name: string, pools: PatchedPools): FuzzTarget {
  return {
    name,
    sizeBytesMax: 1 + PATCH_COUNT_MAX * PATCH_BYTES,
    seeds() {
      const seeds = [new Uint8Array(1)]
      for (let index = 0; index < pools.pageCount; index += index < 40 ? 1 : 37) {
        const patch = PatchedPools.encode(index, index % 7, (index * 8) % 200, index)
        seeds.push(Buffer.concat([new Uint8Array(1), patch]))
      }
      return seeds
    },
    async run(input) {
      const io = new SimIo({ seed: 1, arenaMemory })
      const pool = pools.build(input.subarray(1), input[0] !== 255)
      await run(io, pool.save(io, POOL))
      await judgePool(io)
    },
  }
}

const sample = buildSample(checksum)
const settled = buildSettledSample(checksum, {}, Codec.raw)

export const TARGETS: readonly FuzzTarget[] = [
  target('pool-raw', new PatchedPools(sample.builder, sample.positionSlot, checksum, new Map())),
  target(
    'pool-settled',
    new PatchedPools(
      settled.builder,
      settled.positionSlot,
      checksum,
      new Map([
        [1, settled.log],
        [2, settled.bulk],
      ]),
    ),
  ),
]
