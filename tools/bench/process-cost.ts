/** What a process took of the machine, as /proc tells. */
import { readFileSync } from 'node:fs'

/** Linux counts in hundredths of a second towards programs, whatever the kernel's own clock. */
const TICK_MS = 10
const SAMPLE_INTERVAL_MS = 50

/** Time of all its threads, those that have ended included, on all CPUs. */
export function cpuMsOf(pid: number): number {
  return parseCpuMs(readFileSync(`/proc/${pid}/stat`, 'utf8'))
}

/** Of the text of /proc/PID/stat: user and system time. */
export function parseCpuMs(stat: string): number {
  // The program's name is in parentheses and may hold anything, blanks and parentheses too.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  const cpuMs = (Number(fields[11]) + Number(fields[12])) * TICK_MS
  if (!Number.isFinite(cpuMs)) throw new Error(`no line of /proc/PID/stat: ${stat}`)
  return cpuMs
}

export interface Memory {
  residentBytes: number
  /** The most there ever was. */
  peakBytes: number
}

export function memoryOf(pid: number): Memory {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8')
  const field = (name: string): number => {
    const match = new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status)
    if (match === null) throw new Error(`process ${pid} has no ${name}`)
    return Number(match[1]) * 1024
  }
  return { residentBytes: field('VmRSS'), peakBytes: field('VmHWM') }
}

export interface CpuSample {
  elapsedMs: number
  cpuMs: number
}

/** Samples of the process's CPU time from before the action until after it. */
export async function sampleCpu<T>(
  pid: number,
  action: () => Promise<T>,
): Promise<{ result: T; samples: CpuSample[] }> {
  const startMs = performance.now()
  const samples: CpuSample[] = []
  const sample = (): void => {
    samples.push({ elapsedMs: performance.now() - startMs, cpuMs: cpuMsOf(pid) })
  }
  sample()
  const timer = setInterval(sample, SAMPLE_INTERVAL_MS)
  try {
    const result = await action()
    sample()
    return { result, samples }
  } finally {
    clearInterval(timer)
  }
}

/**
 * How many CPUs the process kept busy on average between two moments of the samples' time; of all
 * samples when they have less than a tenth of a second between those.
 */
export function cpuShare(samples: readonly CpuSample[], fromMs: number, toMs: number): number {
  const inside = samples.filter(({ elapsedMs }) => elapsedMs >= fromMs && elapsedMs <= toMs)
  const isEnough =
    inside.length > 1 && inside[inside.length - 1].elapsedMs - inside[0].elapsedMs > 100
  const used = isEnough ? inside : samples
  const [first, last] = [used[0], used[used.length - 1]]
  return (last.cpuMs - first.cpuMs) / (last.elapsedMs - first.elapsedMs)
}
