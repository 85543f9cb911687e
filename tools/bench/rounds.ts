/**
 * Rounds that alternate A B C A B C, so that a slow minute of the machine hits everybody, and what
 * each run cost beside what it did.
 */
import { run, type Server } from '../command.ts'
import { deviceCounters } from './device-counters.ts'
import { RAMP_MS, type FioLimits, type FioResult, type Workload } from './fio.ts'
import { cpuShare, sampleCpu } from './process-cost.ts'
import { median } from './statistics.ts'

/** From the start of a client until its load begins, and from the end of that until its own. */
const CLIENT_START_MS = 300
const CLIENT_END_MS = 150

export interface Subject {
  /** Unique among those compared. */
  name: string
  /** Of those with the same family, the best counts. */
  family: string
  /** Null: the kernel does it. */
  server: Server | null
  /** Puts a workload on it, once. */
  load: (workload: Workload, limits: FioLimits) => Promise<FioResult>
}

export interface Run extends FioResult {
  /** CPUs that the server kept busy on average; null: no server. */
  cpuCount: number | null
  /** CPU time of the server for each operation. */
  cpuUsPerOperation: number | null
  /** What the disk below had to read and write meanwhile; null: no block device. */
  device: { readBytes: number; writtenBytes: number } | null
}

/** Runs by workload, then by the subject's name, one for each round. */
export type Measured = Map<Workload, Map<string, Run[]>>

export interface Plan {
  workloads: readonly Workload[]
  rounds: number
  /** Everything compared is on the same filesystem. */
  folder: string
  /** Null: this subject does not take part in this workload. */
  limitsOf(workload: Workload, round: number, subject: Subject): FioLimits | null
  say: (message: string) => void
  /** After all rounds of a workload. */
  whenMeasured(workload: Workload, measured: Measured): Promise<void>
}

export async function measureRounds(subjects: readonly Subject[], plan: Plan): Promise<Measured> {
  const measured: Measured = new Map()
  for (const workload of plan.workloads) {
    const byName = new Map<string, Run[]>()
    for (let round = 0; round < plan.rounds; round += 1) {
      plan.say(`${workload.name}, round ${round + 1} of ${plan.rounds}`)
      for (const subject of subjects) {
        const limits = plan.limitsOf(workload, round, subject)
        if (limits === null) continue
        // What the one before has left dirty is not written out in the time of the next.
        if (workload.pattern.includes('write')) await run('sync', ['-f', plan.folder])
        const runs = byName.get(subject.name) ?? []
        runs.push(await measureOnce(subject, workload, limits, plan.folder))
        byName.set(subject.name, runs)
        subject.server?.mustRun()
      }
    }
    measured.set(workload, byName)
    await plan.whenMeasured(workload, measured)
  }
  return measured
}

async function measureOnce(
  subject: Subject,
  workload: Workload,
  limits: FioLimits,
  folder: string,
): Promise<Run> {
  const before = deviceCounters(folder)
  const load = (): Promise<FioResult> => subject.load(workload, limits)
  const { result, cpuCount } = await withCpu(subject.server, limits, load)
  const after = deviceCounters(folder)
  const device =
    before === null || after === null
      ? null
      : {
          readBytes: after.readBytes - before.readBytes,
          writtenBytes: after.writtenBytes - before.writtenBytes,
        }
  const cpuUsPerOperation = cpuCount === null ? null : (cpuCount / result.iops) * 1e6
  return { ...result, cpuCount, cpuUsPerOperation, device }
}

async function withCpu(
  server: Server | null,
  limits: FioLimits,
  load: () => Promise<FioResult>,
): Promise<{ result: FioResult; cpuCount: number | null }> {
  if (server === null) return { result: await load(), cpuCount: null }
  const { result, samples } = await sampleCpu(server.pid, load)
  const [first, last] = [samples[0], samples[samples.length - 1]]
  if (limits.seconds === undefined) {
    // Everything it did belongs to what was moved; the time is the load's own.
    const loadMs = (result.operationCount / result.iops) * 1000
    return { result, cpuCount: (last.cpuMs - first.cpuMs) / loadMs }
  }
  const fromMs = CLIENT_START_MS + RAMP_MS
  return { result, cpuCount: cpuShare(samples, fromMs, last.elapsedMs - CLIENT_END_MS) }
}

/** By the request's size: bytes or operations a second. */
export function isBulk(workload: Workload): boolean {
  return !workload.blockSizes.startsWith('4k')
}

export function unitOf(workload: Workload): string {
  return isBulk(workload) ? 'MB/s' : 'kIOPS'
}

/** MB/s or thousands of operations a second. */
export function rateOf(workload: Workload, result: FioResult): number {
  return isBulk(workload) ? result.bytesPerSecond / 1e6 : result.iops / 1e3
}

/** The member of a family that did best in a workload; null when none took part. */
export function bestOf(
  family: string,
  subjects: readonly Subject[],
  workload: Workload,
  byName: ReadonlyMap<string, Run[]>,
): { subject: Subject; runs: Run[] } | null {
  let best: { subject: Subject; runs: Run[]; rate: number } | null = null
  for (const subject of subjects) {
    const runs = byName.get(subject.name)
    if (subject.family !== family || runs === undefined) continue
    const rate = median(runs.map((each) => rateOf(workload, each)))
    if (best === null || rate > best.rate) best = { subject, runs, rate }
  }
  return best
}
