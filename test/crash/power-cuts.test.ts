/**
 * Power cuts at any moment of a real pool's life. VARVE_POWER_CUTS says how many images are made
 * (half of them of traces on each kind of I/O), VARVE_POWER_CUTS_SEED of which seeds.
 */
import { rm } from 'node:fs/promises'
import t from 'tap'
import { PowerCutFailure, runPowerCuts } from './power-cuts.ts'
import type { PowerCutRequest } from './power-cuts.ts'
import type { TraceEntry } from './power-trace.ts'

const IMAGE_COUNT = Number(process.env.VARVE_POWER_CUTS ?? 60)
const SEED = Number(process.env.VARVE_POWER_CUTS_SEED ?? 1 + (Date.now() % 1_000_000))
/** Two traces on a quiet machine take ten seconds. */
const TIMEOUT_MS: number = 120_000 + 4000 * IMAGE_COUNT
/** Within so many images a lie must show. */
const CANARY_IMAGE_COUNT = 100

t.setTimeout(TIMEOUT_MS)

for (const ioKind of ['auto', 'node'] as const) {
  const imageCount = Math.ceil(IMAGE_COUNT / 2)
  t.test(`what was flushed survives ${imageCount} power cuts, on ${ioKind} I/O`, async (t) => {
    const say = (line: string): unknown => t.comment(line)
    const totals = await runPowerCuts({ imageCount, seed: SEED, ioKind, say })
    t.equal(totals.imageCount, imageCount)
    t.comment(JSON.stringify(totals))
  })
}

/** The first moment at which what a request says is wrong shows, or null. */
async function failureOf(request: PowerCutRequest): Promise<PowerCutFailure | null> {
  try {
    await runPowerCuts(request)
    return null
  } catch (error) {
    if (!(error instanceof PowerCutFailure)) throw error
    await rm(error.tracePath)
    await rm(error.imageFolder, { recursive: true })
    return error
  }
}

/** Says of every `kind` that it did nothing, though the pool was told that it did. */
function without(kind: 'sync' | 'syncdir'): (entries: TraceEntry[]) => void {
  return (entries) => {
    for (const [at, entry] of entries.entries()) {
      if (entry.kind !== 'end') continue
      const begun = entries[entry.of]
      if (begun.kind === 'begin' && begun.what.kind === kind) entries[at] = { kind: 'mark' }
    }
  }
}

for (const kind of ['sync', 'syncdir'] as const) {
  t.test(`a disk whose ${kind} does nothing is found out`, async (t) => {
    const request = { imageCount: CANARY_IMAGE_COUNT, seed: SEED, ioKind: 'auto' as const }
    const failure = await failureOf({ ...request, say: () => undefined, falsify: without(kind) })
    t.ok(failure, `within ${CANARY_IMAGE_COUNT} images`)
    t.comment(failure?.message.split('\n')[1] ?? '')
  })
}
