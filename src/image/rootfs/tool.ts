/** Programs of the host, never through a shell, killed when the work is given up. */
import { spawn } from 'node:child_process'
import type { ChildProcess, StdioOptions } from 'node:child_process'
import { OperatingError } from '../../base/errors.ts'
import { toolEnvironment } from '../../base/host-tool.ts'

/** The programs and the Debian packages that hold them. */
const PACKAGES = {
  mke2fs: 'e2fsprogs',
  debugfs: 'e2fsprogs',
  xz: 'xz-utils',
  zstd: 'zstd',
} as const

export type RootfsTool = keyof typeof PACKAGES

/** Of what it complains about; an archive can make it complain without end. */
const COMPLAINT_BYTES_MAX = 65536

export interface RunningTool {
  readonly child: ChildProcess
  /** Resolves to its exit code, -1 when it was killed; rejects when it cannot be run. */
  readonly ended: Promise<number>
  complaint(): string
}

export function startTool(
  tool: RootfsTool,
  args: readonly string[],
  stdio: StdioOptions,
  environment: Record<string, string>,
  signal: AbortSignal,
): RunningTool {
  const env = toolEnvironment({ TZ: 'UTC', ...environment })
  const child = spawn(tool, [...args], { env, stdio, signal, killSignal: 'SIGKILL' })
  let complaint = ''
  child.stderr?.on('data', (bytes: Buffer) => {
    if (complaint.length < COMPLAINT_BYTES_MAX) complaint += bytes.toString('utf8')
  })
  const ended = new Promise<number>((resolve, reject) => {
    child.on('error', (error: NodeJS.ErrnoException) => reject(cannotRun(tool, error)))
    child.on('close', (code) => resolve(code ?? -1))
  })
  // Whoever gives up on the data does not wait for the end.
  ended.catch(() => undefined)
  return { child, ended, complaint: () => complaint.trim() }
}

function cannotRun(tool: RootfsTool, error: NodeJS.ErrnoException): OperatingError {
  if (error.name === 'AbortError') return new OperatingError('canceled', 'canceled')
  if (error.code === 'ENOENT') {
    return new OperatingError('unsupported', `${tool} is not installed`, {
      hint: `apt-get install ${PACKAGES[tool]}`,
      details: { tool },
    })
  }
  return new OperatingError('io', `${tool} cannot be run: ${error.message}`, { cause: error })
}
