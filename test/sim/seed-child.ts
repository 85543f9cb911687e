/** One of the processes of `jobs.ts`: runs the seeds it is given, and tells what came of each. */
import { Coverage, watchPool } from './coverage.ts'
import type { SeedOutcome } from './jobs.ts'
import { runSeed } from './pool-seeds.ts'

function tell(outcome: SeedOutcome): void {
  process.send?.(outcome)
}

process.on('message', (seed: number) => {
  const coverage = new Coverage()
  const unwatch = watchPool(coverage)
  const before = process.cpuUsage()
  void runSeed({ seed, coverage })
    .then(
      (report) => {
        const { user, system } = process.cpuUsage(before)
        const cpuMs = (user + system) / 1000
        tell({ kind: 'passed', seed, report, coverage: coverage.counts(), cpuMs })
      },
      (error: unknown) => {
        tell({ kind: 'failed', seed, message: (error as Error).message })
      },
    )
    .finally(unwatch)
})
tell({ kind: 'ready' })
