/** The one place that knows how the simulator is started and what it says. */
import { spawn } from 'node:child_process'
import { join } from 'node:path'

/** A seed takes a third of a second on a quiet core; what never ends is caught, too. */
const SEED_TIMEOUT_MS = 3000
const START_TIMEOUT_MS = 60_000
const SAID_BYTES_MAX = 2 ** 20
const EXIT_USAGE = 2

export interface Verdict {
  isCaught: boolean
  /** The first seed that fails; null when none does, or when a process died without a word. */
  seed: number | null
  /** The first line of what the simulator says is wrong; empty when nothing is. */
  complaint: string
  durationMs: number
}

interface Ended {
  /** Null: it was killed. */
  exitCode: number | null
  stderr: string
}

/**
 * Runs seeds 1 to `seedCount` of the compiled tree at `root`, up to the first that fails. Rejects
 * when the simulator does not understand.
 */
export async function simulate(root: string, seedCount: number): Promise<Verdict> {
  const startMs = performance.now()
  const program = join(root, 'test/sim/run-seeds.js')
  const timeoutMs = START_TIMEOUT_MS + seedCount * SEED_TIMEOUT_MS
  const { exitCode, stderr } = await runGroup([program, '--seeds', `${seedCount}`], timeoutMs)
  if (exitCode === EXIT_USAGE) throw new Error(stderr.trim())
  const isCaught = exitCode !== 0
  return {
    isCaught,
    seed: isCaught ? failedSeedOf(stderr) : null,
    complaint: exitCode === null ? 'it does not end' : isCaught ? complaintOf(stderr) : '',
    durationMs: performance.now() - startMs,
  }
}

/** With all the processes that it starts: one that hangs would outlive its parent. */
function runGroup(args: readonly string[], timeoutMs: number): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, args, {
      stdio: ['ignore', 'ignore', 'pipe'],
      detached: true,
    })
    const killGroup = (): void => {
      if (child.pid !== undefined) killQuietly(-child.pid)
    }
    process.once('exit', killGroup)
    const timer = setTimeout(killGroup, timeoutMs)
    let stderr = ''
    child.stderr.on('data', (chunk: Buffer) => {
      stderr = (stderr + chunk.toString()).slice(-SAID_BYTES_MAX)
    })
    child.once('error', reject)
    child.once('close', (exitCode) => {
      clearTimeout(timer)
      process.removeListener('exit', killGroup)
      resolve({ exitCode, stderr })
    })
  })
}

function killQuietly(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {
    // It has ended by itself.
  }
}

function failedSeedOf(said: string): number | null {
  const found = /\bseed (\d+) failed/.exec(said)
  return found === null ? null : Number(found[1])
}

/** What comes before it is the run's log and the disk's events. */
function complaintOf(said: string): string {
  const lines = said.split('\n')
  const from = lines.indexOf('events:') + 1
  const index = lines.findIndex((line, at) => at >= from && /^\w*(Error|Violation)\b/.test(line))
  if (index < 0) return lines.find((line) => line.trim() !== '') ?? 'it says nothing'
  const [first, second] = lines.slice(index)
  return first.endsWith(':') && second !== undefined ? `${first} ${second.trim()}` : first
}
