/** Memory and descriptors of the servers of a soak, and whether they grow. */
import { readFileSync, readdirSync, readlinkSync } from 'node:fs'
import { MIB } from '../../src/base/units.ts'

interface Sample {
  rssBytes: number
  /** But for segments. */
  fdCount: number
}

/** A trend is only one over so many seconds of one server's life. */
const TREND_SAMPLE_COUNT_MIN = 90
const RSS_GROWTH_BYTES_MAX: number = 96 * MIB
const FD_GROWTH_MAX = 16

export interface MeterReport {
  rssMaxBytes: number
  fdMax: number
  /** From the middle third of a server's life to its last, the largest of all lives. */
  rssGrowthBytes: number
  fdGrowth: number
  /** Lives that were long enough to tell. */
  judgedLifeCount: number
}

export class Meter {
  readonly #lives: Sample[][] = []
  #timer: NodeJS.Timeout | null = null

  /** Begins to look at a new server once a second. */
  watch(pid: number): void {
    this.stop()
    const samples: Sample[] = []
    this.#lives.push(samples)
    this.#timer = setInterval(() => {
      const sample = trySample(pid)
      if (sample !== null) samples.push(sample)
    }, 1000)
  }

  stop(): void {
    if (this.#timer !== null) clearInterval(this.#timer)
    this.#timer = null
  }

  report(): MeterReport {
    const all = this.#lives.flat()
    const judged = this.#lives.filter((life) => life.length >= TREND_SAMPLE_COUNT_MIN)
    const growth = (key: 'rssBytes' | 'fdCount'): number =>
      Math.max(0, ...judged.map((life) => growthOf(life.map((sample) => sample[key]))))
    return {
      rssMaxBytes: Math.max(0, ...all.map(({ rssBytes }) => rssBytes)),
      fdMax: Math.max(0, ...all.map(({ fdCount }) => fdCount)),
      rssGrowthBytes: growth('rssBytes'),
      fdGrowth: growth('fdCount'),
      judgedLifeCount: judged.length,
    }
  }
}

export function leaksOf({ rssGrowthBytes, fdGrowth }: MeterReport): string[] {
  const leaks: string[] = []
  if (rssGrowthBytes > RSS_GROWTH_BYTES_MAX) leaks.push(`memory grew by ${rssGrowthBytes} bytes`)
  if (fdGrowth > FD_GROWTH_MAX) leaks.push(`${fdGrowth} descriptors more`)
  return leaks
}

/** Median of the last third less that of the one before. */
function growthOf(values: readonly number[]): number {
  const third = Math.floor(values.length / 3)
  return medianOf(values.slice(2 * third)) - medianOf(values.slice(third, 2 * third))
}

function medianOf(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]
}

/** Of a segment that is there: files of those are kept open, as many as a cache holds. */
function isCached(pid: number, fd: string): boolean {
  try {
    return readlinkSync(`/proc/${pid}/fd/${fd}`).endsWith('.seg')
  } catch {
    return true
  }
}

/** Null: it has ended. */
function trySample(pid: number): Sample | null {
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8')
    const rssKib = Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1] ?? 0)
    const fdCount = readdirSync(`/proc/${pid}/fd`).filter((fd) => !isCached(pid, fd)).length
    return { rssBytes: rssKib * 1024, fdCount }
  } catch {
    return null
  }
}
