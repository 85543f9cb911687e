/**
 * Power cuts by the number: traces are recorded, some tens of images made of each and judged. What
 * a seed decides is what is done and which image is made; when the kernel ends what, and so the
 * trace, it does not. So the trace of a failure is kept in a file, of which the same images are
 * made again.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { existsSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { deserialize, serialize } from 'node:v8'
import { Prng } from '../../src/base/prng.ts'
import { openHost } from '../../src/daemon/host.ts'
import type { IoKind } from '../../src/daemon/host.ts'
import { CutDisk } from './cut-disk.ts'
import { cutImage, drawStyle } from './cut-image.ts'
import { cutAgain, judgeImage } from './judge-image.ts'
import { Ledger } from './ledger.ts'
import type { TraceEntry } from './power-trace.ts'
import { recordTrace } from './record-trace.ts'
import type { RecordedTrace } from './record-trace.ts'

const IMAGES_PER_TRACE = 25
/** Of images, a second cut while the first is recovered from. */
const SECOND_CUT_CHANCE = 0.25

export interface PowerCutRequest {
  imageCount: number
  /** Of the first trace; the next has the next. */
  seed: number
  ioKind: IoKind
  say: (line: string) => void
  /** Falsifies what the kernel answered, to see that it is noticed. */
  falsify?: (entries: TraceEntry[]) => void
}

export interface PowerCutTotals {
  traceCount: number
  imageCount: number
  /** Of them, images of a second cut. */
  secondCount: number
  entryCount: number
  /** By kind, what the traces hold. */
  changes: Record<string, number>
  /** By first word, control operations that were answered. */
  steps: Record<string, number>
  /** Images by which distribution of luck they were made. */
  styles: Record<string, number>
}

export class PowerCutFailure extends Error {
  readonly tracePath: string
  /** What is left of the image, after it was opened. */
  readonly imageFolder: string

  constructor(message: string, tracePath: string, imageFolder: string) {
    super(`${message}\nthe trace: ${tracePath}\nthe image: ${imageFolder}`)
    this.tracePath = tracePath
    this.imageFolder = imageFolder
  }
}

/** Rejects with a PowerCutFailure at the first image that is not legal. */
export async function runPowerCuts(request: PowerCutRequest): Promise<PowerCutTotals> {
  return keptAlive(() => run(request))
}

/** A pool that waits for its own timers does not keep a process from ending. */
async function keptAlive<T>(work: () => Promise<T>): Promise<T> {
  const timer = setInterval(() => undefined, 60_000)
  try {
    return await work()
  } finally {
    clearInterval(timer)
  }
}

async function run(request: PowerCutRequest): Promise<PowerCutTotals> {
  const totals: PowerCutTotals = {
    traceCount: 0,
    imageCount: 0,
    secondCount: 0,
    entryCount: 0,
    changes: {},
    steps: {},
    styles: {},
  }
  for (let { seed } = request; totals.imageCount < request.imageCount; seed += 1) {
    const folder = await mkdtemp(join(tmpdir(), 'varve-trace-'))
    let recorded: RecordedTrace
    try {
      recorded = await recordTrace(seed, request.ioKind, join(folder, 'pool')).catch(
        (error: unknown) => {
          throw new Error(`seed ${seed}, while the trace was recorded`, { cause: error })
        },
      )
    } finally {
      await rm(folder, { recursive: true })
    }
    request.falsify?.(recorded.entries)
    const count = Math.min(IMAGES_PER_TRACE, request.imageCount - totals.imageCount)
    await judgeTrace(recorded, count, request.ioKind, totals)
    totals.traceCount += 1
    tally(totals, recorded)
    request.say(`seed ${seed}: ${totals.imageCount} images, ${totals.secondCount} of second cuts`)
  }
  return totals
}

/** The images of a kept trace, again. */
export async function replayPowerCuts(path: string, ioKind: IoKind): Promise<void> {
  const { seed, entries, ledgers } = deserialize(readFileSync(path)) as RecordedTrace
  const known = ledgers.map((plain) => Object.assign(new Ledger(0, new Map()), plain))
  const recorded = { seed, entries, ledgers: known }
  await keptAlive(() => judgeTrace(recorded, IMAGES_PER_TRACE, ioKind, null))
}

function tally(totals: PowerCutTotals, { entries, ledgers }: RecordedTrace): void {
  totals.entryCount += entries.length
  for (const entry of entries) {
    if (entry.kind !== 'begin') continue
    totals.changes[entry.what.kind] = (totals.changes[entry.what.kind] ?? 0) + 1
  }
  for (const { title, answeredAt } of ledgers.flatMap(({ steps }) => steps)) {
    const [word] = title.split(' ')
    if (answeredAt < Infinity) totals.steps[word] = (totals.steps[word] ?? 0) + 1
  }
}

async function judgeTrace(
  recorded: RecordedTrace,
  imageCount: number,
  ioKind: IoKind,
  totals: PowerCutTotals | null,
): Promise<void> {
  const parent = await imageFolder()
  const host = await openHost(ioKind)
  const moments = drawMoments(recorded, imageCount)
  const disk = new CutDisk(recorded.entries)
  for (const [index, at] of moments.entries()) {
    // Of this image alone: a replay may begin anywhere.
    const prng = new Prng(recorded.seed * 1000 + index)
    disk.advance(at)
    const style = drawStyle(prng)
    const image = cutImage(disk, at, style, prng)
    const ledger = recorded.ledgers.findLast(({ beginsAt }) => beginsAt < at) as Ledger
    const request = { host, image, folder: join(parent, `image-${index}`), ledger, at }
    const isSecond = prng.chance(SECOND_CUT_CHANCE)
    try {
      if (isSecond) {
        const again = await cutAgain(request, recorded.seed * 1000 + index)
        await judgeImage({ ...request, image: again.image })
      } else {
        await judgeImage(request)
      }
    } catch (error) {
      const about = { seed: recorded.seed, index, at, of: recorded.entries.length, isSecond, style }
      const message = `${JSON.stringify(about)}\n${(error as Error).stack ?? ''}`
      throw keep(recorded, message, parent)
    }
    if (totals === null) continue
    totals.imageCount += 1
    if (isSecond) totals.secondCount += 1
    const word = `${style.data}${style.namesInOrder ? '' : ', names at will'}`
    totals.styles[word] = (totals.styles[word] ?? 0) + 1
  }
  await host.io.shutdown()
  await rm(parent, { recursive: true })
}

/** In memory where there is some: nothing is proved by images going through a disk. */
async function imageFolder(): Promise<string> {
  const root = existsSync('/dev/shm') ? '/dev/shm' : tmpdir()
  return mkdtemp(join(root, 'varve-cut-'))
}

function keep(recorded: RecordedTrace, message: string, folder: string): PowerCutFailure {
  const path = join(tmpdir(), `varve-power-cut-${recorded.seed}.trace`)
  writeFileSync(path, serialize(recorded))
  return new PowerCutFailure(message, path, folder)
}

/**
 * Ascending. Half of them anywhere, half beside something rare: most of a trace is guests' writes,
 * and most of what can go wrong is not.
 */
function drawMoments({ seed, entries, ledgers }: RecordedTrace, count: number): number[] {
  const prng = new Prng(seed)
  const first = ledgers[0].beginsAt + 1
  const rare: number[] = []
  for (const [at, entry] of entries.entries()) if (at >= first && isRare(entry)) rare.push(at)
  const moments: number[] = []
  for (let i = 0; i < count; i += 1) {
    const anywhere = prng.between(first, entries.length)
    const isBeside = prng.chance(0.5) && rare.length > 0
    const beside = isBeside ? prng.pick(rare) + prng.between(0, 4) : anywhere
    moments.push(Math.min(entries.length, beside))
  }
  return moments.sort((a, b) => a - b)
}

function isRare(entry: TraceEntry): boolean {
  return entry.kind === 'begin' && entry.what.kind !== 'write' && entry.what.kind !== 'sync'
}
