/**
 * Running the host's own programs. Never through a shell, never found by the caller's PATH, with
 * nothing of the caller's environment, and always with an end.
 */
import { spawn } from 'node:child_process'
import { OperatingError } from './errors.ts'

/**
 * Where programs are looked for. Not the caller's PATH: it may lead anywhere, what runs may be
 * root, and looking for a program happens on our thread while a folder of that path could lie on a
 * disk that we serve.
 */
export const TOOL_FOLDERS: readonly string[] = [
  '/usr/local/sbin',
  '/usr/local/bin',
  '/usr/sbin',
  '/usr/bin',
  '/sbin',
  '/bin',
]

/** All that a child of ours is told by its environment; messages come in English. */
export function toolEnvironment(more: Record<string, string> = {}): Record<string, string> {
  return { PATH: TOOL_FOLDERS.join(':'), LC_ALL: 'C', ...more }
}

export interface ToolResult {
  exitCode: number
  stdout: string
  stderr: string
}

/** Of each of the two outputs; nothing that is read here is longer. */
const OUTPUT_BYTES_MAX = 1048576

/**
 * Resolves whatever the exit code. Rejects `unsupported` when the tool is not installed, `io` when
 * it does not end in time: a tool that touches a device of ours can hang for as long as we do not
 * serve it, so it is given up and not waited for. It is asked to end by SIGKILL and goes when the
 * kernel lets it. `debianPackage`: what holds the tool.
 */
export function runHostTool(
  tool: string,
  debianPackage: string,
  args: readonly string[],
  timeoutMs: number,
): Promise<ToolResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(tool, args, {
      // The mounts of this process may come and go below its folder.
      cwd: '/',
      env: toolEnvironment(),
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
      reject(error.code === 'ENOENT' ? missing(tool, debianPackage) : cannotRun(tool, error))
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

function missing(tool: string, debianPackage: string): OperatingError {
  return new OperatingError('unsupported', `${tool} is not installed`, {
    hint: `apt-get install ${debianPackage}`,
    details: { tool },
  })
}

function cannotRun(tool: string, error: Error): OperatingError {
  return new OperatingError('io', `${tool} cannot be run: ${error.message}`, { cause: error })
}

function gaveUp(tool: string, args: readonly string[], timeoutMs: number): OperatingError {
  const words = [tool, ...args].join(' ')
  return new OperatingError('io', `no answer in ${timeoutMs / 1000} s: ${words}`, {
    hint: 'Look at the log of the kernel, then at `varve doctor`.',
    details: { tool },
  })
}
