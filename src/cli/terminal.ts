/** The world as a real process sees it. */
import { fstatSync, readFileSync } from 'node:fs'
import type { Cli } from './context.ts'

const STDIN_FD = 0

export function processCli(): Cli {
  return {
    stdin: process.stdin,
    stdout: process.stdout,
    stderr: process.stderr,
    terminal: {
      stdin: process.stdin.isTTY === true,
      stdout: process.stdout.isTTY === true,
      stderr: process.stderr.isTTY === true,
    },
    environment: process.env,
    stdinSizeBytes,
    loadBackend: () => import('../daemon/embedded.ts'),
    onSignal: (name, listener) => {
      process.on(name, listener)
      return () => {
        process.off(name, listener)
      }
    },
    exitNow: (code) => process.exit(code),
  }
}

/** From where it stands: whoever started us may have read some of it. */
function stdinSizeBytes(): number | null {
  const stats = fstatSync(STDIN_FD)
  if (!stats.isFile()) return null
  const position = /^pos:\s*(\d+)/m.exec(readFileSync('/proc/self/fdinfo/0', 'ascii'))
  return position === null ? null : Math.max(0, stats.size - Number(position[1]))
}
