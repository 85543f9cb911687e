/** The real program as a child process: commands, and a server that can be killed. */
import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { fileURLToPath } from 'node:url'

/** The command line's program, for whoever starts it otherwise. */
export const MAIN: string = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url))
const READY_TIMEOUT_MS = 30_000

export interface CommandResult {
  code: number | null
  stdout: string
  stderr: string
}

/** Runs `varve ARGS` on a pool to its end. */
export async function varve(poolPath: string, ...args: string[]): Promise<CommandResult> {
  const child = spawn(process.execPath, [MAIN, '--pool', poolPath, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const result: CommandResult = { code: null, stdout: '', stderr: '' }
  child.stdout.on('data', (bytes: Buffer) => (result.stdout += bytes.toString()))
  child.stderr.on('data', (bytes: Buffer) => (result.stderr += bytes.toString()))
  result.code = await new Promise((resolve) => child.on('close', resolve))
  return result
}

/** The same, but anything but exit code 0 is an error. */
export async function mustVarve(poolPath: string, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await varve(poolPath, ...args)
  if (code !== 0) throw new Error(`varve ${args.join(' ')} exits ${code}: ${stderr}`)
  return stdout
}

/** `varve serve` on a pool, ready for clients. */
export class ServedPool {
  readonly socketPath: string
  readonly #child: ChildProcess
  readonly #exited: Promise<number | null>

  private constructor(poolPath: string, child: ChildProcess, exited: Promise<number | null>) {
    this.socketPath = `${poolPath}/nbd.sock`
    this.#child = child
    this.#exited = exited
  }

  static async start(poolPath: string, ...args: string[]): Promise<ServedPool> {
    const child = spawn(
      process.execPath,
      [MAIN, '--pool', poolPath, 'serve', '--log-level', 'error', ...args],
      { stdio: ['ignore', 'pipe', 'pipe'] },
    )
    let stderr = ''
    child.stderr.on('data', (bytes: Buffer) => (stderr += bytes.toString()))
    const exited = new Promise<number | null>((resolve) => child.on('exit', resolve))
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error('serve is not ready')), READY_TIMEOUT_MS)
      let stdout = ''
      child.stdout.on('data', (bytes: Buffer) => {
        stdout += bytes.toString()
        if (!stdout.includes('ready:')) return
        clearTimeout(timer)
        resolve()
      })
      void exited.then((code) => reject(new Error(`serve exits ${code}: ${stderr}`)))
    })
    return new ServedPool(poolPath, child, exited)
  }

  /** Hears each line of the log from now on; what level is logged is an argument of the start. */
  onLog(listener: (line: string) => void): void {
    let rest = ''
    this.#child.stderr?.on('data', (bytes: Buffer) => {
      const lines = (rest + bytes.toString()).split('\n')
      rest = lines.pop() ?? ''
      for (const line of lines) listener(line)
    })
  }

  get pid(): number {
    return this.#child.pid ?? 0
  }

  /** Ends it as a power cut ends a process; resolves when it is gone. */
  async kill(): Promise<void> {
    this.#child.kill('SIGKILL')
    await this.#exited
  }

  /** Asks it to drain; resolves to the exit code. */
  stop(): Promise<number | null> {
    this.#child.kill('SIGTERM')
    return this.#exited
  }
}
