/** Starts jobs and takes their reports. */
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { OperatingError } from '../../src/base/errors.ts'
import type { JobOptions, JobReport } from './job-options.ts'

const JOB_PATH = join(import.meta.dirname, 'fuzz-job.js')

/**
 * Rejects with an OperatingError `io` that names targets and seed when the job ends without a
 * report: killed by its watch, or by a native decoder.
 */
export function runJob(options: JobOptions): Promise<JobReport[]> {
  return new Promise((resolve, reject) => {
    const job = spawn(process.execPath, [JOB_PATH, JSON.stringify(options)], {
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let said = ''
    let complaint = ''
    job.stdout.on('data', (bytes: Buffer) => (said += bytes.toString()))
    job.stderr.on('data', (bytes: Buffer) => (complaint += bytes.toString()))
    job.once('error', reject)
    job.once('close', (code, signal) => {
      const reports = code === 0 ? tryReports(said) : null
      if (reports !== null) {
        resolve(reports)
        return
      }
      const how = signal ?? `exit code ${code}, no report`
      reject(
        new OperatingError(
          'io',
          `${options.targets.join(', ')}, seed ${options.seed}: ${how}\n${complaint}`,
        ),
      )
    })
  })
}

function tryReports(said: string): JobReport[] | null {
  try {
    return JSON.parse(said) as JobReport[]
  } catch (error) {
    if (error instanceof SyntaxError) return null
    throw error
  }
}
