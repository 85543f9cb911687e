/**
 * Records a trace of a real pool in a real folder: lives of a process, one after the other, that
 * end in order or by the death of the process, with guests, control operations, settling and
 * reclaiming going on at once.
 */
import { Prng } from '../../src/base/prng.ts'
import { KIB, MIB } from '../../src/base/units.ts'
import { openHost } from '../../src/daemon/host.ts'
import type { IoKind } from '../../src/daemon/host.ts'
import { Pool } from '../../src/pool/pool.ts'
import type { OpenPoolOptions } from '../../src/pool/pool.ts'
import { readFound } from './block-contents.ts'
import { Ledger } from './ledger.ts'
import type { Found } from './ledger.ts'
import { PowerTrace } from './power-trace.ts'
import type { TraceEntry } from './power-trace.ts'
import { TappedIo } from './tapped-io.ts'
import type { LifeParts } from './traced-guest.ts'
import { TracedOperator, keepUp } from './traced-operator.ts'

const CAPACITY_BYTES: number = 512 * MIB
const OPERATION_COUNT_MAX = 14
/** A little more than a segment holds. */
const FILL_BYTES: number = 68 * MIB

export interface RecordedTrace {
  seed: number
  entries: TraceEntry[]
  /** One a life; of a cut before the first begins nothing is known. */
  ledgers: Ledger[]
}

/** `folder`: new, its parent exists. Rejects with what went wrong while the pool was running. */
export async function recordTrace(
  seed: number,
  ioKind: IoKind,
  folder: string,
): Promise<RecordedTrace> {
  const prng = new Prng(seed)
  const trace = new PowerTrace(folder)
  const ledgers: Ledger[] = []
  let content = 1000
  const nextContent = (): number => (content += 1)
  const lifeCount = prng.between(2, 3)
  const isFull = prng.chance(0.15)
  for (let life = 0; life < lifeCount; life += 1) {
    const isLast = life === lifeCount - 1
    const before = ledgers.at(-1) ?? null
    const plan = { life, isFull: isFull && life === 0, isClosed: !isLast && prng.chance(0.5) }
    ledgers.push(await live({ prng, trace, ioKind, folder, nextContent }, plan, before))
  }
  return { seed, entries: trace.entries, ledgers }
}

interface Setting {
  prng: Prng
  trace: PowerTrace
  ioKind: IoKind
  folder: string
  nextContent: () => number
}

function optionsOf(prng: Prng): OpenPoolOptions {
  return {
    holder: 'power cuts',
    nodeCacheBytes: prng.pick([64 * KIB, 64 * MIB]),
    checkpointTailBytes: prng.pick([256 * KIB, MIB, 256 * MIB]),
  }
}

/** One life from the opening on; `isClosed`: it ends in order. */
async function live(
  setting: Setting,
  plan: { life: number; isFull: boolean; isClosed: boolean },
  before: Ledger | null,
): Promise<Ledger> {
  const { prng, trace, folder, nextContent } = setting
  const diedAt = trace.mark()
  const host = await openHost(setting.ioKind)
  const { checksum, codecs } = host
  const io = new TappedIo(host.io, trace)
  if (before === null) {
    await Pool.create(io, checksum, folder, { capacityBytes: CAPACITY_BYTES })
  }
  const pool = await Pool.open(io, checksum, folder, { ...optionsOf(prng), codecs })
  const openedAt = trace.mark()
  const found: Found = await readFound(io, pool)
  const fault = before?.findFault(diedAt, found, 'process') ?? null
  if (fault !== null) throw new Error(`what a process left: ${fault}`)
  const ledger = new Ledger(openedAt, found)
  const mark = (): number => (io.isDead ? Infinity : trace.mark())
  const parts = { io, pool, mark, ledger, prng, nextContent }
  await work(parts, plan)
  if (plan.isClosed) {
    await pool.close()
    await io.shutdown()
  } else {
    await io.die()
  }
  return ledger
}

async function work(
  parts: LifeParts,
  plan: { life: number; isFull: boolean; isClosed: boolean },
): Promise<void> {
  const { prng } = parts
  let isOver = false
  let failed: (error: unknown) => void = () => undefined
  const failure = new Promise<never>((_resolve, reject) => (failed = reject))
  // Awaited by the races below; without this a failure between two of them would go unhandled.
  failure.catch(() => undefined)
  const operator = new TracedOperator(parts, `v${plan.life}x`, failed)
  const upkeep = keepUp(parts, () => isOver).catch(failed)
  const operationCount = prng.between(4, OPERATION_COUNT_MAX)
  const operate = async (): Promise<void> => {
    for (let i = 0; i < operationCount; i += 1) {
      await operator.act()
      await new Promise((resolve) => setTimeout(resolve, prng.below(40)))
    }
    if (plan.isFull) await operator.guests.values().next().value?.fill(FILL_BYTES)
  }
  const operating = operate()
  if (plan.isClosed) {
    await Promise.race([operating, failure])
    isOver = true
    await Promise.race([Promise.all([operator.stop(), upkeep]), failure])
    return
  }
  operating.catch(failed)
  await Promise.race([operating, failure])
  // It dies in the middle of the next operation.
  void operator.act().catch(failed)
  await Promise.race([new Promise((resolve) => setTimeout(resolve, prng.below(30))), failure])
  isOver = true
}
