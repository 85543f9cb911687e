/** What is typed, parsed; commander turns an InvalidArgumentError into a usage error. */
import { InvalidArgumentError } from 'commander'
import type { Command } from 'commander'
import { OperatingError } from '../base/errors.ts'
import { tryParseSize } from '../base/units.ts'
import type { IoKind } from '../daemon/host.ts'
import type { Cli } from './context.ts'
import { EXIT_CODE_HELP } from './exit-codes.ts'

export function parseSize(text: string): number {
  const bytes = tryParseSize(text)
  if (bytes !== null && bytes > 0) return bytes
  throw new InvalidArgumentError('A size is like 10G, 512M or 4096 (K and KiB are 1024).')
}

/** `85` or `85%`. */
export function parsePercent(text: string): number {
  const match = /^(\d{1,2})%?$/.exec(text)
  if (match !== null && Number(match[1]) > 0) return Number(match[1])
  throw new InvalidArgumentError('A percentage is like 85 or 85%, from 1 to 99.')
}

/** 0: never. */
export function parseDays(text: string): number {
  const days = /^\d{1,4}$/.test(text) ? Number(text) : -1
  if (days >= 0) return days
  throw new InvalidArgumentError('A number of days is like 30; 0 is never.')
}

/** In a timer of node. */
const TIMEOUT_SECONDS_MAX = 2_000_000

export function parseSeconds(text: string): number {
  const seconds = /^\d+$/.test(text) ? Number(text) : 0
  if (seconds >= 1 && seconds <= TIMEOUT_SECONDS_MAX) return seconds
  throw new InvalidArgumentError('A time limit is a number of seconds.')
}

/** `--label key=value`, collected. */
export function parseLabel(
  text: string,
  labels: Record<string, string> = {},
): Record<string, string> {
  const at = text.indexOf('=')
  if (at <= 0) throw new InvalidArgumentError('A label is like owner=alice.')
  return { ...labels, [text.slice(0, at)]: text.slice(at + 1) }
}

/** `HOST:PORT`, `[::1]:PORT`. */
export function parseTcpAddress(text: string): { host: string; port: number } {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]]+)):(\d{1,5})$/.exec(text)
  const port = Number(match?.[3])
  if (match === null || port > 65535) {
    throw new InvalidArgumentError('An address is like 127.0.0.1:10809 or [::1]:10809.')
  }
  return { host: match[1] ?? match[2], port }
}

export interface GlobalOptions {
  pool?: string
  io: IoKind
}

export function globalOptions(command: Command): GlobalOptions {
  return command.optsWithGlobals()
}

/** The pool that is meant; rejects `usage` when none is named. */
export function mustPoolPath(cli: Cli, command: Command): string {
  const path = tryPoolPath(cli, command)
  if (path !== null) return path
  throw new OperatingError('usage', 'no pool is named', {
    hint: 'Name it with --pool DIR or in VARVE_POOL.',
  })
}

export function tryPoolPath(cli: Cli, command: Command): string | null {
  const path = globalOptions(command).pool ?? cli.environment.VARVE_POOL
  return path === undefined || path === '' ? null : path
}

/** Examples and exit codes under a command's help. */
export function addHelp(
  command: Command,
  examples: readonly string[],
  exitCodes: string = EXIT_CODE_HELP,
): Command {
  const lines = examples.map((example) => `  $ ${example}`).join('\n')
  return command.addHelpText('after', `\nExamples:\n${lines}\n\n${exitCodes}`)
}
