import type { Cli } from './context.ts'
import { API_VERSION } from './output.ts'
import type { ProgressMode } from './progress.ts'

export interface PhaseProgress {
  phase: string
  done: number
  total: number
}

/** With one of these, work ends. */
const LAST_PHASES: readonly string[] = ['sweep', 'settle', 'segments', 'heal']

/** Shows work whose phases have no common measure: one line that is written over. */
export function phaseWriter(cli: Cli, mode: ProgressMode): (progress: PhaseProgress) => void {
  if (mode === 'none' || (mode === 'auto' && !cli.terminal.stderr)) return () => undefined
  if (mode === 'json') {
    return (progress) => {
      cli.stderr.write(`${JSON.stringify({ apiVersion: API_VERSION, progress })}\n`)
    }
  }
  return ({ phase, done, total }) => {
    const isEnd = LAST_PHASES.includes(phase) && done === total
    cli.stderr.write(`\r\u001b[K${phase} ${done} of ${total}${isEnd ? '\n' : ''}`)
  }
}
