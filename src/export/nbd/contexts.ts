/**
 * Metadata contexts (proto.md, "Metadata querying"). Two are offered:
 *
 * - `base:allocation`, as the protocol defines it;
 * - `varve:changed-since:SNAPSHOT`, one for each snapshot of the volume: status bit 0 is set where
 *   the disk may differ from that snapshot, and clear where it is known to be the same.
 *
 * Queries: an exact name; `base:`, `varve:` and `varve:changed-since:` match all names that begin
 * so, when listing only.
 */
import type { ExportTarget, ExtentContext } from '../target.ts'

const ALLOCATION_NAME = 'base:allocation'
const CHANGED_SINCE_PREFIX = 'varve:changed-since:'
const WILDCARDS: readonly string[] = ['base:', 'varve:', CHANGED_SINCE_PREFIX]

export interface SelectedContext {
  /** Sent with every chunk that describes it; unique on its connection. */
  readonly id: number
  readonly name: string
  readonly context: ExtentContext
}

/** Names of the contexts of `target` that any of `queries` asks to see; all when there is none. */
export function listContexts(target: ExportTarget, queries: readonly string[]): string[] {
  const names = [ALLOCATION_NAME, ...target.snapshots().map((name) => CHANGED_SINCE_PREFIX + name)]
  if (queries.length === 0) return names
  // A query may come thousands of times, and there may be thousands of snapshots.
  const exact = new Set(queries)
  const wildcards = WILDCARDS.filter((wildcard) => exact.has(wildcard))
  return names.filter(
    (name) => exact.has(name) || wildcards.some((query) => name.startsWith(query)),
  )
}

/** The contexts that `queries` name exactly, each once; what is not known is ignored. */
export function selectContexts(
  target: ExportTarget,
  queries: readonly string[],
): SelectedContext[] {
  const snapshots = new Set(target.snapshots())
  const selected: SelectedContext[] = []
  for (const name of new Set(queries)) {
    const context = contextOf(name, snapshots)
    if (context !== null) selected.push({ id: selected.length + 1, name, context })
  }
  return selected
}

function contextOf(name: string, snapshots: ReadonlySet<string>): ExtentContext | null {
  if (name === ALLOCATION_NAME) return { kind: 'allocation' }
  if (!name.startsWith(CHANGED_SINCE_PREFIX)) return null
  const snapshot = name.slice(CHANGED_SINCE_PREFIX.length)
  return snapshots.has(snapshot) ? { kind: 'changed-since', snapshot } : null
}
