/** Starts a job of bit flips and takes what it found. */
import { spawn } from 'node:child_process'
import { join } from 'node:path'

const JOB_PATH = join(import.meta.dirname, 'bit-flip-job.js')

export interface FlipJob {
  isSettled: boolean
  flipCount: number
  /** Of the first flip; each has one of its own, counted up from here. */
  seed: number
}

export interface FlipTally {
  flipCount: number
  /** Flips by the kind of page they hit, and by what became of them. */
  counts: Record<string, number>
  /** What must never be, with the seed that repeats it. */
  failures: string[]
}

/** Rejects when the job dies. */
export function runFlips(job: FlipJob): Promise<FlipTally> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [JOB_PATH, JSON.stringify(job)], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    let said = ''
    child.stdout.on('data', (bytes: Buffer) => (said += bytes.toString()))
    child.once('error', reject)
    child.once('close', (code, signal) => {
      if (code === 0 && said !== '') resolve(JSON.parse(said) as FlipTally)
      else reject(new Error(`${JSON.stringify(job)}: ${signal ?? `exit code ${code}, no report`}`))
    })
  })
}
