/** Asking before something is lost; only a person at a terminal is asked. */
import { createInterface } from 'node:readline'
import { OperatingError } from '../base/errors.ts'
import type { Cli } from './context.ts'

/** Rejects `canceled` unless the answer is yes, `-y` was given, or nobody is there to ask. */
export async function confirm(cli: Cli, question: string, yes: boolean): Promise<void> {
  if (yes || !cli.terminal.stdin || !cli.terminal.stderr) return
  const lines = createInterface({ input: cli.stdin, output: cli.stderr })
  const answer = await new Promise<string>((resolve) => {
    lines.on('close', () => resolve(''))
    lines.question(`${question} [y/N] `, resolve)
  })
  lines.close()
  if (/^y(es)?$/i.test(answer.trim())) return
  throw new OperatingError('canceled', 'nothing was changed')
}
