/** Seeds shared out among processes, a seed at a time, so that none waits for another. */
import { fork } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { addCounts, newReport } from './report.ts'
import type { SimReport } from './report.ts'

export interface JobsRequest {
  first: number
  last: number
  jobCount: number
  stopAfterMs: number
  passed(seedCount: number, seed: number): void
}

export interface JobsOutcome {
  total: SimReport
  coverage: Record<string, number>
  /** Processor time of all seeds that passed. */
  cpuMs: number
  /** Of the lowest seed that failed. */
  failure: { seed: number; message: string } | null
}

interface PassedSeed {
  report: SimReport
  coverage: Record<string, number>
  cpuMs: number
}

/** What a child says of a seed. */
export type SeedOutcome =
  | { kind: 'ready' }
  | ({ kind: 'passed'; seed: number } & PassedSeed)
  | { kind: 'failed'; seed: number; message: string }

const CHILD_PATH = fileURLToPath(new URL('./seed-child.js', import.meta.url))

/** Begins no more seeds after the first failure or the time limit; those begun are ended. */
export function runJobs(request: JobsRequest): Promise<JobsOutcome> {
  return new Promise((resolve) => {
    new Jobs(request, resolve).start()
  })
}

class Jobs {
  readonly #request: JobsRequest
  readonly #ended: (outcome: JobsOutcome) => void
  readonly #outcome: JobsOutcome = {
    total: newReport(),
    coverage: {},
    cpuMs: 0,
    failure: null,
  }
  readonly #startMs: number = performance.now()
  readonly #seeds = new Map<ChildProcess, number>()
  #next: number
  #liveCount = 0

  constructor(request: JobsRequest, ended: (outcome: JobsOutcome) => void) {
    this.#request = request
    this.#ended = ended
    this.#next = request.first
  }

  start(): void {
    for (let index = 0; index < this.#request.jobCount; index += 1) {
      const child = fork(CHILD_PATH, { serialization: 'advanced' })
      this.#liveCount += 1
      child.on('message', (outcome) => this.#told(child, outcome as SeedOutcome))
      child.on('exit', (code, signal) => this.#left(child, code, signal))
    }
  }

  #told(child: ChildProcess, outcome: SeedOutcome): void {
    if (outcome.kind === 'passed') {
      addCounts(this.#outcome.total, outcome.report)
      addCounts(this.#outcome.coverage, outcome.coverage)
      this.#outcome.cpuMs += outcome.cpuMs
      this.#request.passed(this.#outcome.total.seedCount, outcome.seed)
    } else if (outcome.kind === 'failed') this.#failed(outcome.seed, outcome.message)
    this.#seeds.delete(child)
    this.#giveSeed(child)
  }

  #giveSeed(child: ChildProcess): void {
    const { last, stopAfterMs } = this.#request
    const isOver = performance.now() - this.#startMs >= stopAfterMs
    if (isOver || this.#outcome.failure !== null || this.#next > last) {
      child.disconnect()
      return
    }
    this.#seeds.set(child, this.#next)
    child.send(this.#next)
    this.#next += 1
  }

  #failed(seed: number, message: string): void {
    const { failure } = this.#outcome
    if (failure === null || seed < failure.seed) this.#outcome.failure = { seed, message }
  }

  #left(child: ChildProcess, code: number | null, signal: string | null): void {
    const seed = this.#seeds.get(child)
    if (seed !== undefined) this.#failed(seed, `the process ended: ${signal ?? String(code)}`)
    this.#liveCount -= 1
    if (this.#liveCount === 0) this.#ended(this.#outcome)
  }
}
