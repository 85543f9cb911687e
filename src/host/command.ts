/**
 * Running the host's own tools. Never through a shell, always with an end: a tool that touches a
 * device of ours can hang for as long as we do not serve it, so it is given up after its time and
 * not waited for. It is asked to end by SIGKILL and goes when the kernel lets it.
 */
import { spawn } from 'node:child_process'
import { OperatingError } from '../base/errors.ts'

export interface CommandResult {
  exitCode: number
  stdout: string
  stderr: string
}

/**
 * Resolves whatever the exit code. Rejects `unsupported` when the tool is not installed, `io` when
 * it does not end in time.
 */
export type RunCommand = (
  tool: Tool,
  args: readonly string[],
  timeoutMs: number,
) => Promise<CommandResult>

/** The tools and the Debian packages that hold them. */
const PACKAGES = {
  losetup: 'mount',
  mount: 'mount',
  umount: 'mount',
  blkid: 'util-linux',
  partx: 'util-linux',
  realpath: 'coreutils',
  stat: 'coreutils',
  ls: 'coreutils',
  dd: 'coreutils',
  btrfs: 'btrfs-progs',
  'mkfs.ext4': 'e2fsprogs',
  'mkfs.xfs': 'xfsprogs',
  'mkfs.btrfs': 'btrfs-progs',
  'nbd-client': 'nbd-client',
} as const

export type Tool = keyof typeof PACKAGES

/**
 * Not the caller's PATH: looking for a program happens before the child runs, on our thread, and
 * a folder of that path could lie on a disk that we serve.
 */
const TOOL_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
/** Of each of the two outputs; nothing that is read here is longer. */
const OUTPUT_BYTES_MAX = 1048576

export const runCommand: RunCommand = (tool, args, timeoutMs) => {
  return new Promise((resolve, reject) => {
    const child = spawn(tool, args, {
      // The mounts of this process may come and go below its folder.
      cwd: '/',
      env: { PATH: TOOL_PATH, LC_ALL: 'C' },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    const stdout = collect(child.stdout)
    const stderr = collect(child.stderr)
    const timer = setTimeout(() => {
      child.kill('SIGKILL')
      child.stdout.destroy()
      child.stderr.destroy()
      child.unref()
      reject(gaveUp(tool, args, timeoutMs))
    }, timeoutMs)
    child.on('error', (error: NodeJS.ErrnoException) => {
      clearTimeout(timer)
      reject(error.code === 'ENOENT' ? missing(tool) : cannotRun(tool, error))
    })
    child.on('close', (code) => {
      clearTimeout(timer)
      // Killed by a signal: whatever it was, it is not done.
      resolve({ exitCode: code ?? -1, stdout: stdout(), stderr: stderr() })
    })
  })
}

function collect(stream: NodeJS.ReadableStream): () => string {
  const chunks: Buffer[] = []
  let lengthBytes = 0
  stream.on('data', (chunk: Buffer) => {
    if (lengthBytes < OUTPUT_BYTES_MAX) chunks.push(chunk)
    lengthBytes += chunk.length
  })
  return () => Buffer.concat(chunks).toString('utf8', 0, OUTPUT_BYTES_MAX)
}

function missing(tool: Tool): OperatingError {
  return new OperatingError('unsupported', `${tool} is not installed`, {
    hint: `apt-get install ${PACKAGES[tool]}`,
    details: { tool },
  })
}

function cannotRun(tool: Tool, error: Error): OperatingError {
  return new OperatingError('io', `${tool} cannot be run: ${error.message}`, { cause: error })
}

function gaveUp(tool: Tool, args: readonly string[], timeoutMs: number): OperatingError {
  const words = [tool, ...args].join(' ')
  return new OperatingError('io', `no answer in ${timeoutMs / 1000} s: ${words}`, {
    hint: 'Look at the log of the kernel, then at `varve doctor`.',
    details: { tool },
  })
}

/** What a tool said went wrong, in one line. */
export function complaintOf(tool: Tool, result: CommandResult): string {
  const lines = result.stderr.split('\n').map((line) => line.trim())
  const said = lines.filter((line) => line !== '' && !line.startsWith('dmesg(1)')).slice(0, 3)
  return said.length > 0 ? said.join('; ') : `${tool} exits ${result.exitCode}`
}

/** As `run`, and rejects `io` with what the tool said unless it exits 0. */
export async function mustRun(
  run: RunCommand,
  tool: Tool,
  args: readonly string[],
  timeoutMs: number,
): Promise<string> {
  const result = await run(tool, args, timeoutMs)
  if (result.exitCode === 0) return result.stdout
  throw new OperatingError('io', complaintOf(tool, result), {
    details: { tool, exitCode: result.exitCode },
  })
}
