/** The server's eye on the disk under its pool, which others fill too. */
import type { Fill } from '../api/shapes.ts'
import { formatSize } from '../base/units.ts'
import type { Pool } from '../pool/pool.ts'
import type { ControlLog } from './control-server.ts'

const LOOK_INTERVAL_MS = 10_000

/** Looks now and then, also while nobody writes. The returned function ends it. */
export function watchSpace(pool: Pool, log: ControlLog): () => Promise<void> {
  let looking: Promise<void> = Promise.resolve()
  const timer = setInterval(() => {
    looking = pool.watchSpace().catch((error: unknown) => {
      log.error({ error: String(error) }, 'cannot see how full the disk under the pool is')
    })
  }, LOOK_INTERVAL_MS)
  timer.unref()
  return () => {
    clearInterval(timer)
    return looking
  }
}

/** One line for each change. */
export function reportFill(
  log: ControlLog,
  fill: Fill,
  before: Fill['state'],
  freeBytes: number,
): void {
  const { state, percent, warnPercent } = fill
  const fields = { fill: state, before, percent, warnPercent, freeBytes }
  const wayOut = 'free it: remove volumes or snapshots, then run "varve reclaim"'
  if (state === 'full') log.error(fields, `the pool is full, guests get "no space left"; ${wayOut}`)
  else if (state === 'warn') {
    log.warn(fields, `the pool is ${percent}% full, ${formatSize(freeBytes)} left; ${wayOut}`)
  } else log.info(fields, `the pool has room again: ${formatSize(freeBytes)}`)
}
