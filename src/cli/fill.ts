/** What people are told of a pool that has, or nearly has, no room left. */
import type { Fill } from '../api/shapes.ts'
import type { Cli } from './context.ts'

export function fillText({ state, percent, warnPercent }: Fill): string {
  if (state === 'full') return `${percent}%, FULL: guests get "no space left"`
  return state === 'warn' ? `${percent}%, NEARLY FULL (from ${warnPercent}%)` : `${percent}%`
}

/** On stderr, with the way out; nothing while there is room. */
export function warnOfFill(cli: Cli, fill: Fill): void {
  if (fill.state === 'ok') return
  const fact =
    fill.state === 'full'
      ? 'the pool is FULL: guests get "no space left"'
      : `the pool is nearly full: ${fill.percent}%`
  cli.stderr.write(
    `varve: ${fact}\n` +
      '  Remove volumes or snapshots (`varve rm`), then give their space back (`varve reclaim`).\n',
  )
}
